"""Lanes over the reference broker that fail as a test's script decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.engine import worker
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Advance, Claim, Partition
from backlog_clearer.options.run import RunOptions

RUN = RunOptions(
    workers=2, stop_when_empty=True, batch_size=100, stall_seconds=30, quiet_seconds=1, max_seconds=60
)
ONE = RUN.model_copy(update={"workers": 1})
P = [Partition("t", number) for number in range(8)]
ALL_TAKEN = "the subscription has reached its maximum of consumers"


def worker_threads() -> set[threading.Thread]:
    """The threads of drains that run now; other tests' servers and clients may have any others."""
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("worker-") or thread.name == "spare worker"
    }


class ScriptedLane(MemoryLane):
    """A lane that asks its source's script before it is opened and before each read."""

    def __init__(self, source: ScriptedSource, claims: Sequence[Claim]) -> None:
        self.partitions = frozenset(claim.partition for claim in claims)
        self.script = source
        self.closed = False
        source.opening(self)
        if not source.places.acquire(blocking=False):
            source.turned_away.release()
            raise BrokerError(ALL_TAKEN)
        super().__init__(source, claims)
        source.opened.append(self.partitions)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Read unless the script raises."""
        self.script.reading(self)
        return super().read(max_wait_s, max_messages)

    def close(self) -> None:
        """Close, and be no lane of the source any more."""
        super().close()
        if not self.closed:
            self.closed = True
            self.script.places.release()


class ScriptedSource(MemorySource):
    """A source whose lanes fail as the functions `opening` and `reading` decide."""

    def __init__(self, *counts: int, competing: bool = False, places: int = 100) -> None:
        broker = MemoryBroker()
        broker.create("t", len(counts), size=10)
        for number, count in enumerate(counts):
            broker.produce("t", number, count)
        super().__init__(broker, "t", "g", competing=competing, batch_size=100)
        self.opening: Callable[[ScriptedLane], None] = lambda _: None
        self.reading: Callable[[ScriptedLane], None] = lambda _: None
        self.opened: list[frozenset[Partition]] = []  # the partitions of each lane so far
        self.places = threading.Semaphore(places)  # lanes that may be open at the same time
        self.turned_away = threading.Semaphore(0)

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """A scripted lane."""
        return ScriptedLane(self, claims)

    def claims(self, *, frozen: bool = True) -> list[Claim]:
        """Claims on everything."""
        return [Claim(state, None, state.end if frozen else None) for state in self.survey().partitions]

    def stored(self) -> list[int | None]:
        """The position of each partition, on the broker."""
        return [self.broker.position("g", partition) for partition in sorted(self.broker.logs)]


@contextmanager
def short_waits() -> Iterator[None]:
    """A block in which retries wait for milliseconds, so that tests can use many."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker, "BACKOFF_FIRST_S", 0.01)
        patched.setattr(worker, "BACKOFF_LAST_S", 0.08)
        patched.setattr(worker, "TRIAL_S", 0.2)
        patched.setattr(worker, "TOGETHER_S", 0.0)
        yield

"""The reference broker passes the contract, as a log and as a queue with competing lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.model import Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.bench import Faults

PASSWORD = "correct-horse"
WRONG = "battery-staple"


class MemoryFaults:
    """Disturbs the way to a broker in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.address = broker.address

    @property
    def connections(self) -> int:
        """Every request is one."""
        return self._broker.requests

    def cut(self) -> None:
        """Each client's next request fails."""
        self._broker.cuts += 1

    def refuse(self) -> None:
        """Requests fail at once."""
        self._broker.way = "refused"

    def stall(self) -> None:
        """Requests fail after the client's timeout."""
        self._broker.way = "stalled"

    drip = stall

    def heal(self) -> None:
        """Requests are answered."""
        self._broker.way = "open"


class MemoryBench(Bench):
    """A topic of three partitions in memory."""

    system = "memory"
    missing_name = "no-such-topic"
    secrets = (PASSWORD, WRONG)
    call_limit_s = 1.0
    wait_slack_s = 0.3
    patience_s = 3.0
    attempts = 1
    cuts_by_time = cuts_by_count = shows_age = True
    notices_silence = True
    stall_s = 2.0

    def __init__(self, *, competing: bool = False, figures: bool = True) -> None:
        self.broker = MemoryBroker()
        self.broker.password = PASSWORD
        self.broker.create("orders", self.partitions)
        self.broker.figures = figures
        self.competing = competing
        self.has_figures = figures

    def open(
        self, run: RunOptions, topic: str = "orders", group: str = "billing", password: str = PASSWORD
    ) -> Source:
        """A source on any group."""
        return MemorySource(
            self.broker,
            topic,
            group,
            competing=self.competing,
            batch_size=run.batch_size,
            password=password,
        )

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return self.open(run)

    def missing_source(self, run: RunOptions) -> Source:
        return self.open(run, topic=self.missing_name)

    def other_source(self, run: RunOptions) -> Source:
        return self.open(run, group="shipping")

    def denied_source(self, run: RunOptions) -> Source:
        return self.open(run, password=WRONG)

    def produce(self, number: int, count: int) -> None:
        self.broker.produce("orders", number, count)

    def left(self) -> dict[int, int]:
        broker, found = self.broker, {}
        for partition, log in broker.logs.items():
            position = broker.retained("billing", partition)
            queue = broker.queues.get(("billing", partition))
            acked = sum(last - first for first, last in queue.acked) if queue else 0
            found[partition.number] = log.end - position - acked
        return found

    def exists(self, name: str) -> bool:
        return any(partition.topic == name for partition in self.broker.logs)

    @contextmanager
    def attach(self) -> Iterator[None]:
        self.broker.members["billing"] = ("consumer-1",)
        yield
        del self.broker.members["billing"]

    @contextmanager
    def faults(self) -> Iterator[tuple[Faults, Callable[[RunOptions], Source]]]:
        yield MemoryFaults(self.broker), self.source

    def abandon(self, count: int) -> None:
        self.broker.abandon("billing", Partition("orders", 0), count)

    def advance(self, number: int, to: int) -> None:
        self.broker.advance("billing", Partition("orders", number), to)

    def forget(self, number: int, to: int) -> None:
        self.broker.forget("billing", Partition("orders", number), to)

    def recreate(self) -> None:
        self.broker.delete("orders")
        self.broker.create("orders", self.partitions)

    @contextmanager
    def breaking(self, number: int) -> Iterator[Callable[[], None]]:
        broken = {Partition("orders", number): "the partition was deleted"}
        yield lambda: self.broker.broken.update(broken)
        self.broker.broken.clear()

    def half_missing_source(self, run: RunOptions) -> Source:
        return self.open(run, topic=f"orders,{self.missing_name}")

    @contextmanager
    def limited_consumers(self) -> Iterator[str]:
        self.broker.places = 1
        yield "allows 1 consumer"
        self.broker.places = None

    def add_partition(self) -> int:
        self.broker.add_partition("orders")
        return sum(partition.topic == "orders" for partition in self.broker.logs) - 1

    @contextmanager
    def throttling(self) -> Iterator[None]:
        self.broker.throttle_s = 0.1
        yield
        self.broker.throttle_s = 0.0

    @contextmanager
    def small_answers(self) -> Iterator[None]:
        self.broker.largest_answer = 1000
        yield
        self.broker.largest_answer = None

    @contextmanager
    def refusing(self, number: int) -> Iterator[None]:
        self.broker.refused[Partition("orders", number)] = "the position is locked"
        yield
        self.broker.refused.clear()

    def options(self, tmp_path: Path, **changes: Any) -> RunOptions:
        return super().options(tmp_path, **{"quiet_seconds": 0.5, **changes})


class TestLog(Contract):
    """Positions are offsets."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A log with figures."""
        yield MemoryBench()


class TestQueue(Contract):
    """Lanes compete, acknowledgements are per message."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A queue with figures."""
        yield MemoryBench(competing=True)


class TestBlind(Contract):
    """Lanes compete, and nothing reports how much is left."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A queue without figures."""
        yield MemoryBench(competing=True, figures=False)

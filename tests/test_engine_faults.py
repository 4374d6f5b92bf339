"""Random faults in scripted lanes: whatever happens in whatever order, the drain ends and adds up."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.engine import worker
from backlog_clearer.engine.drain import drain
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled, StopReason
from backlog_clearer.options.run import RunOptions
from tests.scripted import worker_threads

EACH = 300
PATIENT = RunOptions(
    stop_when_empty=True, max_retries=1000, max_seconds=300, quiet_seconds=300, stall_seconds=300
)
"""Ends for no lack of time, however busy the machine is."""


class Chaos:
    """Decides which call fails, and how; deleted partitions fail for good."""

    def __init__(self, seed: int, partitions: int, rate: float, retiring: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 not a secret
        self._lock = threading.Lock()
        self._rate = rate
        self._mortal = {Partition("t", number) for number in range(partitions) if number % 4 == 3}
        self._retiring = retiring  # clients that may fail for good
        self.deleted: set[Partition] = set()

    def strike(self, partitions: Sequence[Partition]) -> None:
        """Perhaps raise."""
        with self._lock:
            for partition in partitions:
                if partition in self.deleted:
                    raise BrokerError(f"{partition} was deleted", partition)
            chance = self._random.random()
            one = self._random.choice(partitions)
            if chance < self._rate / 20 and self._retiring:
                self._retiring -= 1
                raise BrokerError("this client is refused")
            if chance < self._rate / 10 and one in self._mortal:
                self.deleted.add(one)
                raise BrokerError(f"{one} was deleted", one)
            if chance < self._rate / 2:
                raise TransientError(f"{one} has no leader", one)
            if chance < self._rate:
                raise TransientError("the connection is lost")


class ChaosLane(MemoryLane):
    """A lane whose every call may fail."""

    def __init__(self, source: ChaosSource, claims: Sequence[Claim]) -> None:
        self.chaos = source.chaos
        self.partitions = [claim.partition for claim in claims]
        self.chaos.strike(self.partitions)
        super().__init__(source, claims)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Read, or fail."""
        self.chaos.strike(self.partitions)
        return super().read(max_wait_s, max_messages)

    def settle(self) -> Sequence[Settled]:
        """Settle, or fail."""
        self.chaos.strike(self.partitions)
        return super().settle()


class ChaosSource(MemorySource):
    """A source whose lanes' calls may fail."""

    def __init__(self, chaos: Chaos, partitions: int, *, competing: bool) -> None:
        broker = MemoryBroker()
        broker.create("t", partitions, size=10)
        for number in range(partitions):
            broker.produce("t", number, EACH)
        super().__init__(broker, "t", "g", competing=competing, batch_size=20)
        self.chaos = chaos

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """A lane that may fail."""
        return ChaosLane(self, claims)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(worker, "BACKOFF_LAST_S", 0.01)
    monkeypatch.setattr(worker, "TRIAL_S", 0.02)
    monkeypatch.setattr(worker, "TOGETHER_S", 0.0)
    monkeypatch.setattr(worker, "GATHER_S", 0.001)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    partitions=st.integers(1, 12),
    workers=st.integers(1, 6),
    rate=st.sampled_from([0.02, 0.1, 0.3]),
    limit=st.one_of(st.none(), st.integers(1, 4000)),
)
def test_every_partition_is_cleared_or_has_its_error(
    seed: int, partitions: int, workers: int, rate: float, limit: int | None
) -> None:
    """Counts equal positions, only deleted partitions end with an error, and all others are cleared."""
    before = worker_threads()
    chaos = Chaos(seed, partitions, rate, retiring=min(2, workers - 1, partitions - 1))
    source = ChaosSource(chaos, partitions, competing=False)
    run = PATIENT.model_copy(update={"workers": workers, "max_messages": limit})
    claims = [Claim(state, None, state.end) for state in source.survey().partitions]
    done = drain(source, claims, run)
    stored = {claim.partition: source.broker.position("g", claim.partition) or 0 for claim in claims}
    assert {key: item.messages for key, item in done.partitions.items()} == stored
    failed = {key for key, item in done.partitions.items() if item.error}
    if limit is None or limit > partitions * EACH:
        assert failed <= chaos.deleted
        assert all(stored[key] == EACH for key in stored if key not in failed)
        assert done.reason is (StopReason.FAILED if failed else StopReason.EMPTY)
    else:
        assert sum(stored.values()) <= limit
        assert done.reason is StopReason.LIMIT or failed
    assert worker_threads() <= before


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 6), rate=st.sampled_from([0.02, 0.1]))
def test_competing_lanes_acknowledge_everything_once(seed: int, workers: int, rate: float) -> None:
    """Lanes that compete for one partition acknowledge every message, whichever of them fail."""
    chaos = Chaos(seed, 1, rate, retiring=workers - 1)
    source = ChaosSource(chaos, 1, competing=True)
    run = PATIENT.model_copy(update={"workers": workers})
    claims = [Claim(state, None, state.end) for state in source.survey().partitions]
    done = drain(source, claims, run)
    assert done.reason is StopReason.EMPTY
    assert source.broker.position("g", Partition("t", 0)) == EACH
    assert sum(item.messages for item in done.partitions.values()) == EACH

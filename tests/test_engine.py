"""The engine over the reference broker, with every fault it must survive or report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource, lost_connection
from backlog_clearer.engine.drain import Drain, Halt, Snapshot, drain, spread
from backlog_clearer.engine.share import Budget
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Advance, Claim, Partition, PartitionState, StopReason
from backlog_clearer.options.run import RunOptions
from tests.scripted import worker_threads

RUN = RunOptions(
    workers=2, stop_when_empty=True, batch_size=100, stall_seconds=1, quiet_seconds=1, max_seconds=30
)


def filled(*counts: int, competing: bool = False) -> tuple[MemoryBroker, MemorySource]:
    """A topic with so many messages a partition."""
    broker = MemoryBroker()
    broker.create("t", len(counts), size=10)
    for number, count in enumerate(counts):
        broker.produce("t", number, count)
    return broker, MemorySource(broker, "t", "g", competing=competing, batch_size=100)


def claims(source: MemorySource, *, frozen: bool = True) -> list[Claim]:
    """Claims on everything."""
    return [Claim(state, None, state.end if frozen else None) for state in source.survey().partitions]


def positions(broker: MemoryBroker) -> list[int | None]:
    """What the broker has stored."""
    return [broker.position("g", partition) for partition in sorted(broker.logs)]


def counted(done: Drain) -> int:
    """Messages acknowledged by a drain."""
    return sum(item.messages for item in done.partitions.values())


@pytest.mark.parametrize("competing", [False, True])
@pytest.mark.parametrize("faults", [1, 3])
def test_lost_connections_are_retried_and_counted_once(faults: int, competing: bool) -> None:
    """Transient errors in reads and settles neither lose nor repeat a message in the count."""
    broker, source = filled(5000, 3000, competing=competing)
    broker.read_faults.extend(lost_connection() for _ in range(faults))
    broker.settle_faults.extend(lost_connection() for _ in range(faults))
    done = drain(source, claims(source), RUN)
    assert done.reason is StopReason.EMPTY
    assert positions(broker) == [5000, 3000]
    assert counted(done) == 8000
    assert done.retries >= faults


def test_retries_are_bounded() -> None:
    """An error that never passes ends the drain as failed, after the allowed retries."""
    broker, source = filled(1000)
    broker.read_faults.extend(lost_connection() for _ in range(100))
    done = drain(source, claims(source), RUN.model_copy(update={"max_retries": 2, "workers": 1}))
    assert done.reason is StopReason.FAILED
    assert done.retries == 2
    assert positions(broker) == [None]
    assert "lose this connection" in (done.error or "")


def test_one_failure_names_its_partition_and_leaves_the_rest() -> None:
    """A fatal error in one partition is reported with it; the others are cleared."""
    broker, source = filled(100_000, 100_000)
    source.open_lane = _failing(source, 1)  # type: ignore[method-assign,assignment] # one lane alone
    done = drain(source, claims(source), RUN)
    assert done.reason is StopReason.FAILED
    assert done.partitions[Partition("t", 1)].error == "the disk is gone"
    assert done.partitions[Partition("t", 0)].error is None
    assert positions(broker)[0] == 100_000 == done.partitions[Partition("t", 0)].messages


class _Failing(MemoryLane):
    """A lane whose every read fails for good."""

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        raise BrokerError("the disk is gone", Partition("t", 1))


def _failing(source: MemorySource, number: int) -> Callable[[Sequence[Claim]], MemoryLane]:
    def open_lane(claims: Sequence[Claim]) -> MemoryLane:
        mine = any(claim.partition.number == number for claim in claims)
        return (_Failing if mine else MemoryLane)(source, claims)

    return open_lane


def test_refused_partition_carries_its_error() -> None:
    """A position that the broker refuses to store is reported as that partition's error."""
    broker, source = filled(1000, 1000)
    broker.refused[Partition("t", 0)] = "not authorised"
    done = drain(source, claims(source), RUN)
    assert done.reason is StopReason.FAILED
    assert done.partitions[Partition("t", 0)].error == "not authorised"
    assert done.partitions[Partition("t", 0)].unacknowledged == 1000
    assert positions(broker) == [None, 1000]


def test_stall_is_reported() -> None:
    """Backlog that never arrives ends as STALLED, and the broker's figure shows it."""
    broker, source = filled(1000, 500)
    broker.silent.add(Partition("t", 0))
    done = drain(source, claims(source), RUN)
    assert done.reason is StopReason.STALLED
    assert positions(broker) == [None, 500]


def test_a_drain_without_figures_ends_quiet() -> None:
    """Without figures the drain ends as QUIET, never as EMPTY."""
    broker, source = filled(1000, competing=True)
    wanted = [Claim(claims(source)[0].state, None, 1000)]
    broker.figures = False
    done = drain(source, wanted, RUN)
    assert done.reason is StopReason.QUIET
    assert positions(broker) == [1000]


def test_competing_lanes_end_by_the_brokers_figures() -> None:
    """Lanes that compete cannot see the end; the broker's figure of 0 ends them as EMPTY."""
    broker, source = filled(5000, competing=True)
    done = drain(source, claims(source), RUN.model_copy(update={"workers": 4}))
    assert done.reason is StopReason.EMPTY
    assert (positions(broker), counted(done)) == ([5000], 5000)


def test_follow_continues_past_the_end_until_signalled() -> None:
    """Following reads messages that arrive later, and a signal ends it with everything settled."""
    broker, source = filled(1000)
    halt = Halt()

    def observe(seen: Snapshot) -> None:
        if seen.messages == 1000:
            broker.produce("t", 0, 500)
        if seen.messages == 1500:
            halt.signal()

    run = RUN.model_copy(update={"stop_when_empty": False, "follow": True})
    done = drain(source, claims(source, frozen=False), run, halt=halt, observe=observe)
    assert done.reason is StopReason.SIGNAL
    assert (positions(broker), counted(done)) == ([1500], 1500)


def test_follow_with_stop_when_empty_ends_at_the_live_end() -> None:
    """Following with --stop-when-empty ends once the broker itself reports that nothing is left."""
    broker, source = filled(1000)
    late = iter([300, 200])

    def observe(seen: Snapshot) -> None:
        if seen.left == 0:
            broker.produce("t", 0, next(late, 0))

    run = RUN.model_copy(update={"follow": True})
    done = drain(source, claims(source, frozen=False), run, observe=observe)
    assert done.reason is StopReason.EMPTY
    assert positions(broker) == [1500]


def test_max_seconds_ends_a_drain() -> None:
    """A drain ends after --max-seconds."""
    broker, source = filled(10)
    broker.silent.add(Partition("t", 0))
    done = drain(source, claims(source), RUN.model_copy(update={"max_seconds": 0.3}))
    assert done.reason is StopReason.DEADLINE
    assert positions(broker) == [None]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_limit_is_shared_and_exact(workers: int) -> None:
    """--max-messages is neither missed nor exceeded, however many workers share it."""
    broker, source = filled(1000, 1000, 1000)
    run = RUN.model_copy(update={"max_messages": 1234, "workers": workers})
    done = drain(source, claims(source), run)
    assert done.reason is StopReason.LIMIT
    assert counted(done) == 1234 == sum(position or 0 for position in positions(broker))


def test_bug_in_an_adapter_ends_the_run() -> None:
    """An unexpected exception ends the drain as FAILED instead of hanging it."""
    _, source = filled(10)

    def broken(claims: Sequence[Claim]) -> MemoryLane:
        raise ZeroDivisionError(f"a bug with {claims}")

    source.open_lane = broken  # type: ignore[method-assign] # the bug
    done = drain(source, claims(source), RUN)
    assert done.reason is StopReason.FAILED
    assert "ZeroDivisionError" in (done.error or "")


def test_no_threads_are_left_behind() -> None:
    """Every worker has ended when a drain returns."""
    before = worker_threads()
    _, source = filled(1000, 1000)
    drain(source, claims(source), RUN)
    assert worker_threads() <= before


def _claim(number: int, backlog: int | None) -> Claim:
    return Claim(PartitionState(Partition("t", number), None, 0, backlog, backlog), None, backlog)


@given(
    backlogs=st.lists(st.one_of(st.none(), st.integers(0, 10**9)), max_size=40),
    workers=st.integers(1, 50),
    competing=st.booleans(),
)
def test_every_claim_has_exactly_one_lane(
    backlogs: list[int | None], workers: int, competing: bool
) -> None:
    """Every claim has exactly one lane (or more where lanes compete), and every lane has a claim."""
    wanted = [_claim(number, backlog) for number, backlog in enumerate(backlogs)]
    lanes = spread(wanted, workers, competing=competing)
    dealt = [claim.partition.number for lane in lanes for claim in lane]
    assert set(dealt) == set(range(len(backlogs)))
    assert all(lanes)
    if competing and backlogs:
        assert len(lanes) == workers
    else:
        assert sorted(dealt) == list(range(len(backlogs)))
        assert len(lanes) == min(workers, len(backlogs))


@given(limit=st.integers(1, 10_000), workers=st.integers(1, 20))
def test_budget_never_grants_more_than_the_limit(limit: int, workers: int) -> None:
    """All grants together are exactly the limit."""
    budget = Budget(limit, workers)
    granted = 0
    while grant := budget.take():
        granted += grant
    assert granted == limit


class _Idle(MemoryLane):
    """A lane to which nothing is delivered."""

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Wait in vain."""
        time.sleep(max_wait_s)
        return ()


class _OneIdle(MemorySource):
    """A source whose first lane gets nothing."""

    lanes = 0

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """An idle lane first, then real ones."""
        lane = super().open_lane(claims)
        self.lanes += 1
        if self.lanes == 1:
            lane.__class__ = _Idle
        return lane


def test_an_idle_lane_does_not_keep_the_last_of_a_limit() -> None:
    """The rest of max_messages reaches the lane that has messages, whichever lane asks first."""
    broker, _ = filled(5000, competing=True)
    source = _OneIdle(broker, "t", "g", competing=True, batch_size=100)
    done = drain(source, claims(source), RUN.model_copy(update={"max_messages": 333}))
    assert (done.reason, counted(done)) == (StopReason.LIMIT, 333)
    assert broker.position("g", Partition("t", 0)) == 333

"""Errors in the engine over scripted lanes: each costs the partition or the client that it concerns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from backlog_clearer.brokers.memory.source import lost_connection
from backlog_clearer.engine.drain import Halt, Snapshot, drain
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Partition, StopReason
from backlog_clearer.testing.support import wait_until
from tests.scripted import (
    ALL_TAKEN,
    ONE,
    RUN,
    P,
    ScriptedLane,
    ScriptedSource,
    short_waits,
    worker_threads,
)


@pytest.fixture(autouse=True)
def _short_waits() -> Iterator[None]:
    with short_waits():
        yield


def alive(name: str) -> bool:
    """Whether a worker's thread runs."""
    return any(thread.name == name for thread in worker_threads())


def meet(reached: threading.Event, other: threading.Event, most_s: float = 20) -> None:
    """Report one event, and wait for another one."""
    reached.set()
    other.wait(most_s)


def broken(
    partition: Partition, kind: type[BrokerError] = BrokerError
) -> Callable[[ScriptedLane], None]:
    """A script: every lane with this partition fails, naming it."""

    def fail(lane: ScriptedLane) -> None:
        if partition in lane.partitions:
            raise kind(f"{partition} was deleted", partition)

    return fail


@pytest.mark.parametrize("moment", ["opening", "reading"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_final_error_of_one_partition_ends_only_that_one(workers: int, moment: str) -> None:
    """The partition that an error names carries it; all others are cleared, whatever lane they share."""
    source = ScriptedSource(1000, 1000, 1000, 1000)
    setattr(source, moment, broken(P[1]))
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": workers}))
    assert source.stored() == [1000, None, 1000, 1000]
    assert done.reason is StopReason.FAILED
    assert {key: item.error for key, item in done.partitions.items() if item.error} == {
        P[1]: "t[1] was deleted"
    }
    assert done.error == "t[1] was deleted"


def test_many_broken_partitions_end_each_with_its_error() -> None:
    """Four broken partitions of one lane end one by one, and the fifth is cleared."""
    source = ScriptedSource(*[500] * 5)

    def fail(lane: ScriptedLane) -> None:
        for partition in sorted(lane.partitions - {P[3]}):
            raise BrokerError(f"{partition} is gone", partition)

    source.opening = fail
    done = drain(source, source.claims(), ONE)
    assert source.stored() == [None, None, None, 500, None]
    assert [done.partitions[p].error for p in P[:5]] == [
        *[f"t[{number}] is gone" for number in range(3)],
        None,
        "t[4] is gone",
    ]


def test_a_partition_that_breaks_midway_keeps_what_was_acknowledged() -> None:
    """What was read before the error is settled and counted; the position is where that ended."""
    source = ScriptedSource(100_000, 3000)

    def fail(lane: ScriptedLane) -> None:
        if P[0] in lane.partitions and source.broker.reads >= 20:
            raise BrokerError("t[0] was deleted", P[0])

    source.reading = fail
    done = drain(source, source.claims(), ONE)
    first, second = source.stored()
    assert second == 3000
    assert 0 < (first or 0) == done.partitions[P[0]].messages < 100_000
    assert done.partitions[P[0]].unacknowledged == 0


def test_others_drain_while_one_partition_is_retried() -> None:
    """A partition without a leader neither ends nor delays the others, and ends after its retries."""
    source = ScriptedSource(2000, 2000, 2000)
    ended: list[list[int | None]] = []

    def fail(lane: ScriptedLane) -> None:
        if P[0] in lane.partitions:
            ended.append(source.stored())
            time.sleep(0.05)  # a slow failure: others must not wait for it
            raise TransientError("t[0] has no leader", P[0])

    source.opening = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"max_retries": 6}))
    assert source.stored() == [None, 2000, 2000]
    assert done.reason is StopReason.FAILED
    assert done.partitions[P[0]].error == "t[0] has no leader"
    assert len(ended) == 1 + 6
    assert done.retries == 6
    assert ended[-1] == [None, 2000, 2000], "the others waited for the partition that is retried"
    assert source.opened == [{P[1], P[2]}], "the lane of the others was opened again"


def test_a_partition_whose_leader_returns_is_cleared() -> None:
    """Retries of one partition end well once its leader is back, and nothing is counted twice."""
    source = ScriptedSource(5000, 5000, 5000)
    faults = [TransientError("t[0] has no leader", P[0]) for _ in range(4)]

    def fail(lane: ScriptedLane) -> None:
        if P[0] in lane.partitions and faults:
            raise faults.pop()

    source.reading = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"max_retries": 100}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [5000, 5000, 5000])
    assert sum(item.messages for item in done.partitions.values()) == 15_000
    assert done.retries > 2


@pytest.mark.parametrize("names_partition", [True, False])
def test_progress_renews_the_retries(*, names_partition: bool) -> None:
    """A partition that fails after each batch, far more often than is retried in a row, is cleared."""
    source = ScriptedSource(2000, 2000)
    reads = 0

    def fail(_: ScriptedLane) -> None:
        nonlocal reads
        reads += 1
        if reads % 3 == 0:
            raise TransientError("the connection is lost", P[0] if names_partition else None)

    source.reading = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"max_retries": 3}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [2000, 2000])
    assert done.retries >= 10


def test_a_limit_on_consumers_means_fewer_lanes() -> None:
    """Where the broker allows one consumer, one worker clears everything, and the broker's sentence is kept."""
    source = ScriptedSource(*[3000] * 4, places=1)

    def wait(_: ScriptedLane) -> None:
        if source.broker.reads == 0:  # so that the first lane has not ended before the others are tried
            assert all(source.turned_away.acquire(timeout=300) for _ in range(3))

    source.reading = wait
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": 4}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [3000] * 4)
    assert done.error is None
    assert [note for note in done.notes if ALL_TAKEN in note]
    assert any("of 4 workers could not continue" in note for note in done.notes)


def test_many_workers_for_one_consumer_clear_everything() -> None:
    """However many workers are refused, and in whatever order, no partition is lost on the way."""
    for _ in range(5):
        source = ScriptedSource(*[500] * 24, places=1)
        source.opening = lambda _: time.sleep(0.002)
        done = drain(source, source.claims(), RUN.model_copy(update={"workers": 24}))
        assert (done.reason, source.stored()) == (StopReason.EMPTY, [500] * 24)


def test_a_claim_handed_over_is_not_blamed_where_a_place_was_taken() -> None:
    """Workers that lose the only place to each other, with a claim of another one, clear everything."""
    source = ScriptedSource(20_000, 20_000, 20_000, places=1)
    lanes: dict[str, list[ScriptedLane]] = {f"worker-{number}": [] for number in range(3)}
    first_reads, first_closed, second_reads, refused, asked_again, third_open = (
        threading.Event() for _ in range(6)
    )

    def first_is_read() -> None:
        first_reads.set()
        wait_until(lambda: bool(lanes["worker-1"]) and not alive("worker-1"), "a claim handed over")

    def third_is_read() -> None:
        third_open.set()
        if asked_again.is_set():
            assert all(source.turned_away.acquire(timeout=20) for _ in range(3))

    opening: dict[tuple[str, int], Callable[[], object]] = {
        ("worker-0", 2): partial(meet, first_closed, second_reads),
        ("worker-0", 3): partial(meet, refused, asked_again, 1),  # worker-2 may get the claim
        ("worker-1", 1): lambda: first_reads.wait(20),
        ("worker-2", 1): lambda: first_closed.wait(20),
        ("worker-2", 2): partial(meet, asked_again, third_open, 2),
    }
    reading: dict[tuple[str, int], Callable[[], object]] = {
        ("worker-0", 1): first_is_read,
        ("worker-0", 3): third_is_read,
        ("worker-2", 1): partial(meet, second_reads, refused),
    }

    def open_in_turn(lane: ScriptedLane) -> None:
        name = threading.current_thread().name
        lanes[name].append(lane)
        opening.get((name, len(lanes[name])), lambda: None)()

    def read_in_turn(_: ScriptedLane) -> None:
        name = threading.current_thread().name
        if (name, len(lanes[name])) in reading:
            reading.pop((name, len(lanes[name])))()

    source.opening, source.reading = open_in_turn, read_in_turn
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": 3}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [20_000] * 3)
    assert not any(item.error for item in done.partitions.values())


def test_competing_lanes_continue_without_the_one_that_fails() -> None:
    """Where lanes compete, the others clear what a lane leaves that fails for good."""
    source = ScriptedSource(5000, competing=True, places=2)
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": 4}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [5000])
    assert done.partitions[P[0]].error is None


@pytest.mark.parametrize("competing", [False, True])
def test_a_client_that_always_fails_ends_the_drain(*, competing: bool) -> None:
    """Where no client works, every partition has the error, and each worker tries only a few times."""
    source = ScriptedSource(100, 100, 100, 100, competing=competing)
    tried: list[frozenset[Partition]] = []

    def fail(lane: ScriptedLane) -> None:
        tried.append(lane.partitions)
        raise BrokerError("access denied")

    source.opening = fail
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": 4}))
    assert (done.reason, done.error) == (StopReason.FAILED, "access denied")
    assert {item.error for item in done.partitions.values()} <= {"access denied", None}
    assert len(tried) <= 8
    assert done.notes == ()


def test_an_unreachable_broker_ends_after_the_retries_of_each_worker() -> None:
    """Claims of clients that failed too often are not retried as often again by every other client."""
    source = ScriptedSource(100, 100, 100, 100)
    tried = 0

    def fail(_: ScriptedLane) -> None:
        nonlocal tried
        tried += 1
        raise lost_connection()

    source.opening = fail
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": 4, "max_retries": 5}))
    assert done.reason is StopReason.FAILED
    assert tried <= 4 * 6 + 4


@pytest.mark.parametrize("kind", [BrokerError, TransientError])
def test_an_error_that_names_nothing_does_not_end_other_lanes(kind: type[BrokerError]) -> None:
    """What one lane cannot read, another one tries and gives back: it never costs what that one had."""
    source = ScriptedSource(1000, 200_000, 1000, 1000)

    def fail(lane: ScriptedLane) -> None:
        if P[0] in lane.partitions:
            raise kind("a bug of the server")

    source.reading = fail
    done = drain(source, source.claims(), RUN.model_copy(update={"max_retries": 2}))
    assert source.stored()[1] == 200_000
    assert done.partitions[P[0]].error == "a bug of the server"
    assert done.partitions[P[1]].error is None
    assert done.reason is StopReason.FAILED


def test_partitions_of_a_client_that_breaks_midway_are_cleared_by_others() -> None:
    """A worker whose client fails for good after a while leaves the rest of its partitions to the others."""
    source = ScriptedSource(*[20_000] * 4)
    victim: dict[str, str] = {}

    def fail(_: ScriptedLane) -> None:
        here = threading.current_thread().name
        if victim.setdefault("thread", here) == here and source.broker.reads > 50:
            raise BrokerError("the certificate has expired")

    source.reading = fail
    done = drain(source, source.claims(), RUN)
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [20_000] * 4)
    assert sum(item.messages for item in done.partitions.values()) == 80_000
    assert any("1 of 2 workers could not continue" in note for note in done.notes)


def test_following_continues_without_the_partition_that_ended() -> None:
    """With --follow, a deleted partition does not end the others, and is not taken for a stall."""
    source = ScriptedSource(1000, 1000)
    source.reading = broken(P[0])
    halt = Halt()
    run = RUN.model_copy(update={"stop_when_empty": False, "follow": True, "stall_seconds": 0.3})
    quiet: list[float] = []

    def observe(seen: Snapshot) -> None:
        if seen.messages == 1000:
            quiet.append(seen.seconds)
            if seen.seconds - quiet[0] > 1:
                source.broker.produce("t", 1, 500)
        if seen.messages >= 1500:
            halt.signal()

    done = drain(source, source.claims(frozen=False), run, halt=halt, observe=observe)
    assert done.reason is StopReason.SIGNAL
    assert (source.stored()[1] or 0) >= 1500
    assert done.partitions[P[0]].error == "t[0] was deleted"


def test_an_unacknowledged_end_is_the_partitions_error() -> None:
    """Messages whose last acknowledgement fails when a drain is stopped are counted as such, with the error."""
    source = ScriptedSource(100_000)
    halt = Halt()

    def observe(seen: Snapshot) -> None:
        if seen.messages and not source.broker.settle_faults:
            # A settle before the last one may meet the first fault.
            source.broker.settle_faults += [lost_connection() for _ in range(20)]
            halt.signal()

    run = ONE.model_copy(update={"stop_when_empty": False, "follow": True})
    done = drain(source, source.claims(frozen=False), run, halt=halt, observe=observe)
    item = done.partitions[P[0]]
    assert done.reason is StopReason.SIGNAL
    assert item.unacknowledged > 0
    assert item.messages == (source.stored()[0] or 0)
    assert item.error is not None


def test_no_thread_is_left_where_a_spare_worker_was_needed() -> None:
    """The worker that retries a partition apart from the others ends with the drain."""
    before = worker_threads()
    source = ScriptedSource(100, 100)
    source.opening = broken(P[0], TransientError)
    drain(source, source.claims(), ONE.model_copy(update={"max_retries": 5}))
    assert worker_threads() <= before


class _BadlyClosedLane(ScriptedLane):
    """A lane that breaks its promise never to raise when it is closed."""

    def close(self) -> None:
        """Close, and raise."""
        super().close()
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lane_that_fails_to_close_does_not_hang_the_drain(workers: int) -> None:
    """A bug in `close` ends the drain as failed or cleared, in time, and the acknowledged messages count."""
    source = ScriptedSource(500, 500)
    source.open_lane = lambda claims: _BadlyClosedLane(source, claims)  # type: ignore[method-assign] # the bug
    done = drain(source, source.claims(), RUN.model_copy(update={"workers": workers}))
    assert source.stored() == [500, 500]
    assert sum(item.messages for item in done.partitions.values()) == 1000
    assert done.seconds < 20


class _SilentLane(ScriptedLane):
    """A lane that receives nothing, as from a partition without a leader."""

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Wait, and receive nothing."""
        time.sleep(max_wait_s)
        return ()


def test_a_partition_that_falls_silent_after_a_lost_acknowledgement_is_a_stall() -> None:
    """What was read to its end and not acknowledged is backlog again: a drain that gets it no more stalls."""
    source = ScriptedSource(100)
    lanes = iter((ScriptedLane, _SilentLane))
    source.open_lane = lambda claims: next(lanes)(source, claims)  # type: ignore[method-assign] # the silence
    source.broker.settle_faults.append(lost_connection())
    run = ONE.model_copy(update={"stall_seconds": 0.5, "max_seconds": 10})
    done = drain(source, source.claims(), run)
    assert source.stored() == [None]
    assert done.reason is StopReason.STALLED

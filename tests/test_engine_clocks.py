"""Time in the engine over scripted lanes: stalls, throttling, waits, and partitions that join."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from backlog_clearer.brokers.memory.source import MemoryLane, lost_connection
from backlog_clearer.engine import worker
from backlog_clearer.engine.drain import Halt, Snapshot, drain
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Claim, StopReason
from tests.scripted import ONE, RUN, P, ScriptedLane, ScriptedSource, short_waits


@pytest.fixture(autouse=True)
def _short_waits() -> Iterator[None]:
    with short_waits():
        yield


def test_partitions_that_join_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims that `grow` returns are cleared like the first ones, with a worker more if allowed."""
    monkeypatch.setattr("backlog_clearer.engine.drain.GROW_S", 0.2)
    source = ScriptedSource(1000, 1000)
    halt = Halt()
    known = 2

    def grow() -> list[Claim]:
        nonlocal known
        source.broker.add_partition("t", size=10)
        source.broker.produce("t", known, 700)
        found = source.claims(frozen=False)[known:]
        known += 1
        return found

    def observe(seen: Snapshot) -> None:
        if seen.messages >= 2000 + 3 * 700:
            halt.signal()

    run = RUN.model_copy(update={"workers": 3, "stop_when_empty": False, "follow": True})
    done = drain(source, source.claims(frozen=False), run, halt=halt, observe=observe, grow=grow)
    assert done.reason is StopReason.SIGNAL
    assert source.stored()[:5] == [1000, 1000, 700, 700, 700]
    assert [claim.partition for claim in done.joined][:3] == P[2:5]
    assert done.workers == 3


def test_a_failing_look_for_new_partitions_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker does not answer `grow`, the drain continues with what it has."""
    monkeypatch.setattr("backlog_clearer.engine.drain.GROW_S", 0.05)
    source = ScriptedSource(1000)
    asked = threading.Event()

    def grow() -> list[Claim]:
        asked.set()
        raise lost_connection()

    source.reading = lambda _: time.sleep(0.03)
    run = RUN.model_copy(update={"follow": True})
    done = drain(source, source.claims(frozen=False), run, grow=grow)
    assert asked.is_set()
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [1000])


def test_a_reconnect_starts_the_stall_time_again() -> None:
    """Connections that die one after the other before the stall time do not end the drain as stalled."""
    source = ScriptedSource(1000)
    source.broker.silent.add(P[0])
    begun = time.monotonic()
    opened_at: dict[int, float] = {}

    def fail(lane: ScriptedLane) -> None:
        now = time.monotonic()
        if now - begun > 2.5:
            source.broker.silent.clear()
        elif now - opened_at.setdefault(id(lane), now) > 0.4:
            raise lost_connection()

    source.reading = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"stall_seconds": 1.5}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [1000])


def test_a_lane_may_open_more_slowly_than_the_quiet_time() -> None:
    """Without figures, one worker's slow connection does not end the drain before it has read."""
    source = ScriptedSource(500, 500, competing=True)
    source.broker.figures = False
    first = threading.Event()

    def opening(_: ScriptedLane) -> None:
        if first.is_set():
            time.sleep(0.6)
        first.set()

    source.opening = opening
    wanted = [Claim(claim.state, None, 500) for claim in source.claims()]
    done = drain(source, wanted, RUN.model_copy(update={"quiet_seconds": 0.2}))
    assert done.reason is StopReason.QUIET
    assert source.stored() == [500, 500]


def test_a_retry_is_no_stall() -> None:
    """While a partition is retried, its silence is not a stall, however long its lane takes to open."""
    source = ScriptedSource(1000)
    tried: list[float] = []

    def fail(_: ScriptedLane) -> None:
        tried.append(time.monotonic())
        if len(tried) <= 3:
            time.sleep(0.5)
            raise TransientError("t[0] has no leader", P[0])

    source.opening = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"stall_seconds": 0.8}))
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [1000])


def test_throttling_is_shown_and_is_no_stall() -> None:
    """Time that the broker asked a lane to wait is in the progress and the result, and is not a stall."""
    source = ScriptedSource(1000)
    source.broker.silent.add(P[0])
    seen: list[float] = []
    begun = time.monotonic()

    def throttle(lane: ScriptedLane) -> None:
        lane.throttled_s = time.monotonic() - begun
        if lane.throttled_s > 2.5:
            source.broker.silent.clear()

    source.reading = throttle
    done = drain(
        source,
        source.claims(),
        ONE.model_copy(update={"stall_seconds": 0.8}),
        observe=lambda moment: seen.append(moment.throttled_s),
    )
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [1000])
    assert max(seen) > 1
    assert any("throttled this run" in note for note in done.notes)


def test_silence_without_throttling_is_a_stall() -> None:
    """A lane that was throttled once, and then receives nothing, is still stalled."""
    source = ScriptedSource(1000)
    source.broker.silent.add(P[0])

    def throttle(lane: ScriptedLane) -> None:
        lane.throttled_s = 0.5

    source.reading = throttle
    done = drain(source, source.claims(), ONE.model_copy(update={"stall_seconds": 0.8}))
    assert done.reason is StopReason.STALLED
    assert done.seconds > 1.2


def test_backoff_grows_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits double from 0.2 to 8 s, half of each by chance, so that workers do not retry in step."""
    monkeypatch.setattr(worker, "BACKOFF_FIRST_S", 0.2)
    monkeypatch.setattr(worker, "BACKOFF_LAST_S", 8.0)
    assert [worker.backoff_s(0), worker.backoff_s(-0)] == [0.2, 0.2]
    for failures, longest in ((1, 0.4), (2, 0.8), (3, 1.6), (4, 3.2), (5, 6.4), (6, 8.0), (1000, 8.0)):
        waits = [worker.backoff_s(failures) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


class _EarlierLane:
    """A lane as adapters wrote them before lanes reported throttling."""

    def __init__(self, lane: MemoryLane) -> None:
        self.read, self.settle, self.close = lane.read, lane.settle, lane.close


def test_a_lane_without_a_time_of_throttling_is_read() -> None:
    """An adapter outside this repository whose lanes have no `throttled_s` works as before."""
    source = ScriptedSource(500)
    source.open_lane = lambda claims: _EarlierLane(ScriptedLane(source, claims))  # type: ignore[method-assign,assignment,return-value] # no member
    done = drain(source, source.claims(), ONE)
    assert (done.reason, source.stored()) == (StopReason.EMPTY, [500])


def test_slow_failures_of_many_partitions_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many partitions fail slowly, their retries end after the time that one of them would need."""
    monkeypatch.setattr(worker, "ATTEMPT_LAST_S", 0.02)
    source = ScriptedSource(*[100] * 12)

    def fail(lane: ScriptedLane) -> None:
        broken = sorted(lane.partitions - {P[0]})
        if broken:
            time.sleep(0.05)
            raise TransientError(f"{broken[0]} has no leader", broken[0])

    source.opening = fail
    done = drain(source, source.claims(), ONE.model_copy(update={"max_retries": 50}))
    assert source.stored() == [100] + [None] * 11
    assert done.retries < 11 * 50 / 4

"""Bounds and ages on real Kafka, on messages with known times, judged by Kafka's own client."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from confluent_kafka import Producer

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode
from backlog_clearer.run.report import RunResult
from tests.real.kafka_case import Case

BOUND = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
BOUND_MS = 1_767_323_045_678
MODES = (Mode.CONSUME, Mode.SKIP)


def created(case: Case, partitions: int = 1, **config: Any) -> None:
    """A topic that keeps messages however old they are."""
    case.create(partitions, retention_ms=-1, **config)


def publish(case: Case, number: int, times: Sequence[int], **settings: Any) -> None:
    """One message for each time, in milliseconds, in this order."""
    producer = Producer({**case.judge.settings, **settings})
    for time in times:
        producer.produce(case.topic, b"x", partition=number, timestamp=time)
        if "linger.ms" not in settings:
            producer.flush(30)  # one batch each
    assert producer.flush(30) == 0


def acknowledged(case: Case, number: int) -> tuple[list[int], list[int]]:
    """The times of the messages before and behind the committed offset, as a plain consumer reads them."""
    committed = case.committed()[number] or 0
    times = [
        (item.offset() or 0, item.timestamp()[1]) for item in case.judge.records(case.topic, number)
    ]
    return (
        [time for offset, time in times if offset < committed],
        [time for offset, time in times if offset >= committed],
    )


def cleared(case: Case, mode: Mode, **run: Any) -> RunResult:
    """A run that is verified."""
    result = case.clear(mode=mode, **run)
    assert result.cleared
    return result


@pytest.mark.parametrize("mode", MODES)
def test_the_boundary_is_exact_to_the_millisecond(case: Case, mode: Mode) -> None:
    """Messages one millisecond before the bound are acknowledged, and those at the bound stay."""
    created(case, 3)
    publish(case, 0, [BOUND_MS - 2, BOUND_MS - 1, BOUND_MS, BOUND_MS + 1])
    publish(case, 1, [BOUND_MS - 1] * 5 + [BOUND_MS] * 7, **{"linger.ms": 500})  # in one batch
    publish(case, 2, [BOUND_MS - 3])  # none is younger
    result = cleared(case, mode, until=BOUND)
    assert acknowledged(case, 0) == ([BOUND_MS - 2, BOUND_MS - 1], [BOUND_MS, BOUND_MS + 1])
    assert acknowledged(case, 1) == ([BOUND_MS - 1] * 5, [BOUND_MS] * 7)
    assert acknowledged(case, 2) == ([BOUND_MS - 3], [])
    assert result.totals.backlog == 8
    assert result.totals.messages == (8 if mode is Mode.CONSUME else 0)


def test_a_bound_between_milliseconds_keeps_nothing_older(case: Case) -> None:
    """A bound with microseconds acknowledges the message of the millisecond before it."""
    created(case)
    publish(case, 0, [BOUND_MS, BOUND_MS + 1])
    cleared(case, Mode.CONSUME, until=BOUND + timedelta(microseconds=1))
    assert acknowledged(case, 0) == ([BOUND_MS], [BOUND_MS + 1])


def test_times_that_go_backwards_stay_behind_the_first_young_message(case: Case) -> None:
    """Where producers' times go backwards, nothing at or behind the first young message is acknowledged."""
    created(case)
    times = [BOUND_MS - 5, BOUND_MS + 9, BOUND_MS - 4, BOUND_MS - 3, BOUND_MS + 10]
    publish(case, 0, times)
    result = cleared(case, Mode.CONSUME, until=BOUND)
    assert acknowledged(case, 0) == (times[:1], times[1:])
    assert any("backwards" in note for note in result.notes)


def test_log_append_time_is_the_brokers_own(case: Case) -> None:
    """With LogAppendTime the broker's time decides, whatever the producer set."""
    created(case, message_timestamp_type="LogAppendTime")
    publish(case, 0, [BOUND_MS + 60_000] * 3)
    stored = acknowledged(case, 0)[1]
    publish(case, 0, [BOUND_MS - 60_000] * 2)
    all_times = acknowledged(case, 0)[1]
    assert min(all_times[3:]) > max(stored), "the broker's clock did not move between the two"
    until = datetime.fromtimestamp(all_times[3] / 1000, timezone.utc)
    result = cleared(case, Mode.CONSUME, until=until)
    assert acknowledged(case, 0) == (all_times[:3], all_times[3:])
    assert result.totals.oldest == datetime.fromtimestamp(stored[0] / 1000, timezone.utc)


def test_a_group_that_is_past_the_time_is_left_alone(case: Case) -> None:
    """A committed offset behind the bound's is not lowered, and the partition counts as cleared."""
    created(case)
    publish(case, 0, [BOUND_MS - 1, BOUND_MS, BOUND_MS + 1])
    case.judge.commit(case.topic, case.group, {0: 2})
    for mode in MODES:
        result = cleared(case, mode, until=BOUND)
        assert case.committed() == {0: 2}
        assert result.totals.backlog == 0


def test_an_empty_partition_has_no_age_and_ends_at_its_end(case: Case) -> None:
    """Empty partitions are cleared with any bound, and have no age."""
    created(case, 2)
    publish(case, 1, [BOUND_MS - 1])
    result = cleared(case, Mode.CONSUME, until=BOUND)
    assert case.committed() == {0: None, 1: 1}
    assert [item.oldest for item in result.partitions] == [None, BOUND - timedelta(milliseconds=1)]


def test_a_retained_log_that_begins_later_is_noted(case: Case) -> None:
    """Where everything before the bound is deleted already, nothing is cleared, and a note states that."""
    created(case)
    publish(case, 0, [BOUND_MS - 1, BOUND_MS, BOUND_MS + 1])
    case.judge.delete_before(case.topic, 0, 1)
    result = cleared(case, Mode.CONSUME, until=BOUND)
    assert case.committed() == {0: None}
    assert any("is retained any more" in note for note in result.notes)


def test_status_shows_the_part_and_its_age(case: Case) -> None:
    """`status` with a bound counts only what would be cleared, and has the time of the oldest message."""
    created(case, 2)
    publish(case, 0, [BOUND_MS - 9, BOUND_MS - 8, BOUND_MS])
    publish(case, 1, [BOUND_MS - 7, BOUND_MS + 1])
    case.judge.commit(case.topic, case.group, {0: 1})
    result = case.status(until=BOUND)
    assert [item.backlog for item in result.partitions] == [1, 1]
    times = [item.oldest for item in result.partitions]
    assert times == [BOUND - timedelta(milliseconds=ms) for ms in (8, 7)]
    assert result.totals.oldest == times[0]
    assert case.committed() == {0: 1, 1: None}


def test_a_bounded_run_is_undone(case: Case) -> None:
    """`restore` brings back the positions of before a bounded run."""
    created(case)
    publish(case, 0, [BOUND_MS - 2, BOUND_MS - 1, BOUND_MS])
    case.judge.commit(case.topic, case.group, {0: 1})
    result = cleared(case, Mode.SKIP, until=BOUND)
    assert case.committed() == {0: 2}
    assert case.restore(result).cleared
    assert case.committed() == {0: 1}


def test_slices_have_the_same_bound(case: Case) -> None:
    """Each slice clears its partitions up to the bound, and leaves the others."""
    created(case, 4)
    for number in range(4):
        publish(case, number, [BOUND_MS - 1, BOUND_MS])
    cleared(case, Mode.CONSUME, until=BOUND, slice="0/2")
    assert case.committed() == {0: 1, 1: None, 2: 1, 3: None}
    cleared(case, Mode.CONSUME, until=BOUND, slice="1/2")
    assert case.committed() == {0: 1, 1: 1, 2: 1, 3: 1}


def test_following_a_bound_is_wrong_use(case: Case) -> None:
    """`--follow` and two bounds at once are refused before anything is asked."""
    created(case)
    for more in ({"follow": True}, {"keep_last": 1}):
        with pytest.raises(ValueError, match="--older-than"):
            case.clear(until=BOUND, **more)


def test_a_topic_that_does_not_exist_is_refused_with_a_bound(case: Case) -> None:
    """A bound does not change what a missing topic is."""
    case.topic = "no-such-topic-for-a-bound"
    with pytest.raises(UsageError, match="no-such-topic-for-a-bound"):
        case.clear(until=BOUND)

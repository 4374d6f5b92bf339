"""Bounds and ages on real Pulsar, on messages with known publish times, judged by Pulsar's own client."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pulsar
import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode
from backlog_clearer.testing.servers.pulsar_judge import KEPT, SUBSCRIPTION, Case, Judge, unique
from backlog_clearer.testing.support import wait_until

MODES = (Mode.CONSUME, Mode.SKIP)
KINDS = ("failover", "shared")


@pytest.fixture
def timed(pulsar_judge: Judge, tmp_path: Path) -> Case:
    """A topic with its subscription."""
    case = Case(pulsar_judge, tmp_path)
    case.create()
    return case


def at(milliseconds: int) -> datetime:
    """A publish time."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)


def times(case: Case) -> list[int]:
    """The publish times of all messages of the topic, in order, as Pulsar's reader gets them."""
    reader = case.judge.client.create_reader(case.topic, pulsar.MessageId.earliest)
    found: list[int] = []
    try:
        while reader.has_message_available():
            found.append(reader.read_next(10_000).publish_timestamp())
    finally:
        reader.close()
    return found


def open_times(case: Case) -> list[int]:
    """The publish times of the messages that the subscription still delivers."""
    consumer = case.judge.client.subscribe(case.topic, SUBSCRIPTION, pulsar.ConsumerType.Shared)
    found: list[int] = []
    try:
        while len(found) < case.judge.backlog(case.topic):
            found.append(consumer.receive(10_000).publish_timestamp())
    finally:
        consumer.close()
    return sorted(found)


def _later_than(time: datetime) -> None:
    wait_until(lambda: datetime.now(timezone.utc) > time, "a millisecond")


def publish_apart(case: Case, *counts: int) -> list[int]:
    """Publish groups of messages, each later by a millisecond at least; all publish times."""
    for count in counts:
        _later_than(at(max(times(case), default=0) + 1))
        case.judge.produce(case.topic, count)
    return times(case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_boundary_is_the_first_entry_of_its_time(timed: Case, mode: Mode, kind: str) -> None:
    """Entries before the publish time are acknowledged, the one of that time and all later ones stay."""
    timed.changes = {"subscription_type": kind}
    published = publish_apart(timed, 7, 5)
    result = timed.clear(mode=mode, until=at(published[7]))
    assert result.cleared
    assert open_times(timed) == published[7:]
    assert result.totals.backlog == 7
    assert result.totals.messages == (7 if mode is Mode.CONSUME else 0)
    assert result.totals.oldest == at(published[0])


def test_the_boundary_may_be_the_start_of_a_ledger(timed: Case) -> None:
    """A bound between two ledgers acknowledges all of the first, and nothing of the second."""
    publish_apart(timed, 4)
    timed.judge.reload(timed.topic)
    published = publish_apart(timed, 3)
    assert timed.clear(until=at(published[4])).cleared
    assert open_times(timed) == published[4:]


def test_shared_consumers_end_before_many_young_messages(timed: Case) -> None:
    """A Shared subscription with far more young messages than old ones is cleared up to the bound."""
    timed.changes = {"subscription_type": "shared"}
    published = publish_apart(timed, 50, 12_000)
    result = timed.clear(until=at(published[50]), workers=2)
    assert (result.cleared, result.totals.messages) == (True, 50)
    assert timed.judge.backlog(timed.topic) == 12_000


def test_a_batch_is_cleared_or_left_as_a_whole(timed: Case) -> None:
    """The bound separates batches: each has one publish time."""
    timed.judge.produce(timed.topic, 20, batch=10)
    _later_than(at(max(times(timed)) + 1))
    until = datetime.now(timezone.utc)
    timed.judge.produce(timed.topic, 30, batch=10)
    result = timed.clear(until=until)
    assert (result.cleared, result.totals.messages) == (True, 20)
    assert timed.judge.received(timed.topic) == 30


def test_partitions_are_cut_one_by_one(pulsar_judge: Judge, tmp_path: Path) -> None:
    """Each partition has its own boundary; an empty one, and one without young messages, end at the end."""
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{KEPT}/{unique('cut')}"
    case.create(3)
    old, mixed = (f"{case.topic}-partition-{number}" for number in (0, 1))
    pulsar_judge.produce(old, 6)
    pulsar_judge.produce(mixed, 4)
    _later_than(datetime.now(timezone.utc) + timedelta(milliseconds=5))
    until = datetime.now(timezone.utc)
    pulsar_judge.produce(mixed, 3)
    shown = case.status(until=until)
    assert [item.backlog for item in shown.partitions] == [6, 4, 0]
    result = case.clear(until=until)
    assert (result.cleared, result.totals.messages) == (True, 10)
    assert (pulsar_judge.backlog(old), pulsar_judge.backlog(mixed)) == (0, 3)


def test_keeping_the_last_entries_over_ledgers(timed: Case) -> None:
    """--keep-last counts entries back over the ends of ledgers."""
    for count in (3, 4, 2):
        timed.judge.produce(timed.topic, count)
        timed.judge.reload(timed.topic)
    assert timed.clear(keep_last=5).cleared
    assert timed.judge.backlog(timed.topic) == 5


def test_without_the_admin_api_a_bound_is_refused(timed: Case) -> None:
    """Without --admin-url the option is refused in one sentence, and nothing is acknowledged."""
    timed.judge.produce(timed.topic, 3)
    timed.changes = {"admin_url": None, "assume_exists": True}
    with pytest.raises(UsageError, match="--admin-url"):
        timed.clear(older_than="1s")
    assert timed.judge.backlog(timed.topic) == 3

"""The group is protected, and put back exactly, on real Apache Kafka."""

from __future__ import annotations

import re

import pytest

from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.testing.servers.kafka_judge import unique
from tests.real.kafka_case import Case

PROTOCOLS = ("classic", "consumer")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_live_group_is_refused_by_name(case: Case, protocol: str) -> None:
    """A group with a member of either protocol is refused, names the member, and stays as it is."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    with case.judge.member(topic, case.group, group_protocol=protocol):
        for mode in ("consume", "skip"):
            with pytest.raises(RefusedError, match=r"test-member at /127\.0\.0\.1"):
                case.clear(mode=mode)
        assert case.committed() == {0: None}
    assert not list(case.folder.rglob("*.json"))


def test_dry_run_shows_members_and_is_not_refused(case: Case) -> None:
    """A dry run on a live group names its members and its backlog."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    with case.judge.member(topic, case.group):
        result = case.clear(dry_run=True)
    assert result.totals.backlog == 10
    assert any("test-member" in note for note in result.notes)
    assert case.committed() == {0: None}


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_force_does_not_hide_that_kafka_refuses(case: Case, mode: str) -> None:
    """With --force on a live group Kafka itself refuses the commit; that is reported, not hidden."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    with case.judge.member(topic, case.group):
        result = case.clear(mode=mode, force=True)
        assert case.committed() == {0: None}
    assert (result.cleared, result.verified, result.totals.messages) == (False, False, 0)
    assert "consumers attached" in (result.partitions[0].error or "")


def test_a_mistyped_topic_is_never_created(case: Case) -> None:
    """Although the broker creates topics by itself, a mistyped one is refused with similar names."""
    right = case.create()
    case.topic = right[:-1]
    for run in (case.clear, case.status):
        with pytest.raises(UsageError, match=re.escape(f"Did you mean {right!r}")):
            run()
    assert case.topic not in case.judge.topics()


def test_never_committed_group_is_restored_by_forgetting_it(case: Case) -> None:
    """A group that had nothing committed has nothing committed again after a restore."""
    topic = case.create(2)
    case.judge.produce(topic, 0, 10)
    case.judge.produce(topic, 1, 10)
    first = case.clear(partitions="0")
    second = case.clear(partitions="1", mode="skip")
    assert case.committed() == {0: 10, 1: 10}
    back = case.restore(first, second)
    assert case.committed() == {0: None, 1: None}
    assert (back.cleared, back.verified) == (True, True)


def test_never_committed_partition_of_a_used_group_is_told_beforehand(case: Case) -> None:
    """A commit that cannot be removed is announced before the run, and refused by a restore."""
    other = case.create()
    case.judge.produce(other, 0, 10)
    case.judge.commit(other, case.group, {0: 3})
    topic = case.create(2)
    case.judge.produce(topic, 0, 10)
    case.judge.produce(topic, 1, 10)
    case.judge.commit(topic, case.group, {1: 4})
    result = case.clear()
    assert [bool(item.undo) for item in result.partitions] == [True, False]
    back = case.restore(result)
    assert case.committed() == {0: 10, 1: 4}
    assert [bool(item.error) for item in back.partitions] == [True, False]
    assert not back.cleared
    assert case.judge.committed(other, case.group) == {0: 3}


def test_restore_brings_back_an_offset_that_is_not_retained_any_more(case: Case) -> None:
    """The old offset is restored to the digit although its records are gone."""
    topic = case.create()
    case.judge.produce(topic, 0, 100)
    case.judge.commit(topic, case.group, {0: 10})
    result = case.clear()
    case.judge.delete_before(topic, 0, 60)
    case.restore(result)
    assert case.committed() == {0: 10}


def test_restore_refuses_another_cluster_topic_or_group(case: Case) -> None:
    """A receipt is of one group and topic: on another one it is refused, and nothing moves."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    result = case.clear()
    case.group, right = unique("other"), case.group
    with pytest.raises(RefusedError, match="group_id"):
        case.restore(result)
    assert case.judge.committed(topic, right) == {0: 10}
    assert case.committed() == {0: None}


def test_restore_refuses_a_live_group(case: Case) -> None:
    """Offsets are not put back under the feet of a consumer."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    result = case.clear()
    with (
        case.judge.member(topic, case.group),
        pytest.raises(RefusedError, match="test-member"),
    ):
        case.restore(result)
    assert case.committed() == {0: 10}

"""The group is protected, and put back exactly, on real Apache Kafka."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition

from backlog_clearer.brokers.kafka.commits import IdCommits
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.source import open_source
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
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


def test_a_partition_without_an_offset_has_none_again_after_a_restore(case: Case) -> None:
    """Exactly the partitions without an offset have none again; other topics of the group keep theirs."""
    other = case.create()
    case.judge.produce(other, 0, 10)
    case.judge.commit(other, case.group, {0: 3})
    topic = case.create(3)
    for number in range(3):
        case.judge.produce(topic, number, 10)
    case.judge.commit(topic, case.group, {1: 4})
    result = case.clear()
    assert [item.undo for item in result.partitions] == [None] * 3
    back = case.restore(result)
    assert case.committed() == {0: None, 1: 4, 2: None}
    assert (back.cleared, back.verified) == (True, True)
    assert case.judge.committed(other, case.group) == {0: 3}


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_metadata_and_leader_epoch_come_back(case: Case, mode: str) -> None:
    """A restore brings back the text and the leader epoch that were committed with an offset."""
    topic = case.create(2)
    for number in range(2):
        case.judge.produce(topic, number, 10)
    first = TopicPartition(topic, 0, 4, "host-7;2026-11-25", 0)
    second = TopicPartition(topic, 1, 10, "", 0)
    case.judge.store(case.group, first, second)
    result = case.clear(mode=mode)
    assert case.committed() == {0: 10, 1: 10}
    assert result.partitions[0].before == {
        "offset": 4,
        "metadata": "host-7;2026-11-25",
        "leader_epoch": 0,
    }
    back = case.restore(result)
    assert back.verified is True
    assert case.judge.stored(topic, case.group) == {
        0: (4, "host-7;2026-11-25", 0),
        1: (10, "", 0),
    }


def test_the_text_of_an_offset_is_read_to_its_end_and_no_further(case: Case) -> None:
    """A survey has exactly the text that was committed, of whatever length, each time."""
    topic = case.create(20)
    texts = ["x" * 16 * number for number in range(20)]
    stored = [TopicPartition(topic, n, 0, text) for n, text in enumerate(texts)]
    case.judge.store(case.group, *stored)
    for _ in range(20):
        with closing(open_source(case.options(), RunOptions(), "run")) as source:
            positions = [state.position for state in source.survey().partitions]
        assert positions[0] == 0
        assert [p["metadata"] for p in positions[1:] if isinstance(p, Mapping)] == texts[1:]


def test_a_commit_by_name_keeps_the_text_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commits have no topic ids, a restore adds nothing to the text that was committed."""
    monkeypatch.setattr(IdCommits, "applies", lambda *_: False)
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    case.judge.store(case.group, TopicPartition(topic, 0, 4, "host-7", 0))
    back = case.restore(case.clear())
    assert back.verified is True
    assert case.judge.stored(topic, case.group) == {0: (4, "host-7", 0)}


def test_a_pending_offset_of_a_transaction_does_not_delay_a_run(case: Case) -> None:
    """A transaction with an offset pending is named, and the group is cleared at once."""
    topic = case.create()
    case.judge.produce(topic, 0, 20)
    name = unique("payments")
    with case.judge.pending_offset(topic, case.group, 5, transactional_id=name):
        result = case.clear()
        assert case.committed() == {0: 20}
    assert (result.cleared, result.totals.messages) == (True, 20)
    (note,) = [note for note in result.notes if "transaction" in note]
    assert f"{topic}[0]" in note
    assert name in note


@pytest.mark.parametrize("name", [" billing", "billing "])
def test_a_group_id_with_blanks_around_it_is_refused(name: str) -> None:
    """Blanks around the name are refused: librdkafka strips them in one kind of request only."""
    values = {"bootstrap_servers": "127.0.0.1:9092", "topic": "orders", "group_id": name}
    with pytest.raises(UsageError, match="--group-id: the name begins or ends with a blank"):
        build(KafkaOptions, values)


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

"""A name is not an identity: topics made anew, offsets that others moved, names that are new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.cimpl import NewPartitions

from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.library import OffsetCommitRequest
from backlog_clearer.brokers.kafka.metadata import SharedMetadata
from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.brokers.kafka.shared_offsets import SharedOffsets
from backlog_clearer.brokers.kafka.source import KafkaSource
from backlog_clearer.engine import drain
from backlog_clearer.errors import RefusedError
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.receipt import checksum
from backlog_clearer.run.report import RunResult
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.real.conftest import Three
from tests.real.kafka_case import Case
from tests.real.kafka_relay import KafkaRelay

MODES = ("consume", "skip")


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_topic_made_anew_while_it_is_drained_is_left_alone(
    three: Three, reader: Reader, tmp_path: Path
) -> None:
    """Deleted, created and refilled past the position in mid-drain: nothing of the new topic is touched."""
    three.relay.heal()
    judge = Judge(three.cluster.bootstrap())
    case = Case(judge, tmp_path, reader)
    topic = case.create()
    judge.produce(topic, 0, 30_000, compression="none")
    done: list[int] = []

    def replace(seen: Any) -> None:
        if seen.messages and not done:
            done.append(seen.messages)
            judge.recreate(topic)
            judge.produce(topic, 0, 40_000)

    result = case.clear(Callbacks(progress=replace), max_retries=3)
    assert done[0] < 30_000
    assert (result.cleared, result.verified) == (False, None)
    assert "created again since the survey" in (result.partitions[0].error or "")
    assert case.committed() == {0: None}
    assert judge.left(topic, case.group) == {0: 40_000}


@pytest.mark.parametrize("mode", MODES)
def test_an_offset_beyond_the_end_is_lowered_on_request(case: Case, mode: str) -> None:
    """With --lower-to-end an offset beyond the end is set to it, and consumers get what comes next."""
    topic = case.create(2)
    case.judge.produce(topic, 0, 5)
    case.judge.produce(topic, 1, 5)
    case.judge.commit(topic, case.group, {0: 50, 1: 2})
    assert not case.clear(mode=mode, partitions="0").cleared
    assert case.committed() == {0: 50, 1: 2}
    case.more = {"lower_to_end": True}
    result = case.clear(mode=mode)
    assert case.committed() == {0: 5, 1: 5}
    assert (result.cleared, result.verified) == (True, True)
    assert "beyond the end" in (result.partitions[0].undo or "")
    case.judge.produce(topic, 0, 1)
    assert case.judge.left(topic, case.group) == {0: 1, 1: 0}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", ["deleted", "lowered"])
def test_an_offset_that_another_process_moved_back_is_left_alone(
    case: Case, mode: str, change: str
) -> None:
    """An offset that vanished or was lowered after the survey ends its partition; the other is cleared."""
    topic = case.create(2)
    for number in range(2):
        case.judge.produce(topic, number, 100)
    case.judge.commit(topic, case.group, {0: 40, 1: 40})

    def meddle(_: object) -> bool:
        if change == "lowered":
            case.judge.commit(topic, case.group, {0: 10})
        else:
            case.judge.admin.delete_consumer_groups([case.group])[case.group].result(30)
            case.judge.commit(topic, case.group, {1: 40})
        return True

    result = case.clear(Callbacks(confirm=meddle), mode=mode, workers=2)
    assert case.committed()[0] == (10 if change == "lowered" else None)
    assert not result.cleared
    assert "by another process" in (result.partitions[0].error or "")


def test_two_runs_on_one_group_never_lower_an_offset(case: Case) -> None:
    """What another run cleared meanwhile stays cleared, and is not counted twice."""
    topic = case.create()
    case.judge.produce(topic, 0, 100)
    inner: list[RunResult] = []

    def other_run(_: object) -> bool:
        case.judge.produce(topic, 0, 50)
        inner.append(case.clear())
        return True

    outer = case.clear(Callbacks(confirm=other_run))
    assert case.committed() == {0: 150}
    assert (inner[0].totals.messages, outer.totals.messages) == (150, 0)
    assert outer.verified is True


@pytest.mark.parametrize("mode", MODES)
def test_a_mistyped_group_is_refused_with_the_name_that_is_in_use(case: Case, mode: str) -> None:
    """A name under which nothing is stored, like one that has offsets here, changes nothing without --new."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    right = case.group
    case.judge.commit(topic, right, {0: 4})
    case.group = f"{right}x"
    with pytest.raises(RefusedError, match=f"'{right}' has a position there.*--new"):
        case.clear(mode=mode)
    assert case.committed() == {0: None}
    assert not list(case.folder.rglob("*.json"))
    (note,) = [note for note in case.status().notes if note.startswith("Nothing was ever stored")][:1]
    assert f"'{right}' (6 offsets)" in note
    result = case.clear(mode=mode, new=True)
    assert (result.cleared, case.committed()) == (True, {0: 10})


def test_a_new_group_is_cleared_and_the_result_states_that_it_is_new(case: Case) -> None:
    """Where no name is similar, a new group is cleared; plan and result name the groups with a backlog here."""
    topic = case.create()
    case.judge.produce(topic, 0, 10)
    case.judge.commit(topic, "0-shipping", {0: 7})  # among the first names of a broker with many groups
    other = case.create()
    case.judge.produce(other, 0, 10)
    case.judge.commit(other, "backlog-cleaner", {0: 1})  # similar, but elsewhere
    case.topic, case.group = topic, unique("backlog-clearer")
    result = case.clear()
    assert (result.cleared, case.committed()) == (True, {0: 10})
    (note,) = [note for note in result.notes if note.startswith("Nothing was ever stored")]
    assert "'0-shipping' (3 offsets)" in note
    assert "backlog-cleaner" not in note


def test_a_receipt_with_an_offset_beyond_the_end_is_not_written(case: Case) -> None:
    """A restore writes no offset beyond the end, and none that Kafka cannot store; others come back."""
    topic = case.create(3)
    for number in range(3):
        case.judge.produce(topic, number, 10)
    case.judge.commit(topic, case.group, {0: 1, 1: 2, 2: 3})
    result = case.clear()
    path = Path(result.receipt or "")
    value = json.loads(path.read_text())
    value["partitions"][0]["position"] = 2**63 - 2
    value["partitions"][1]["position"] = {"offset": "2"}
    value["checksum"] = checksum(value)
    path.write_text(json.dumps(value))
    back = case.restore(result)
    assert case.committed() == {0: 10, 1: 10, 2: 3}
    assert [bool(item.error) for item in back.partitions] == [True, True, False]
    assert not back.cleared


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_topic_deleted_in_mid_drain_does_not_end_another_one(
    three: Three, reader: Reader, tmp_path: Path
) -> None:
    """Of two topics one is deleted while both are drained: the other is cleared to its last message."""
    three.relay.heal()
    judge = Judge(three.cluster.bootstrap())
    case = Case(judge, tmp_path, reader)
    doomed, healthy = case.create(2), case.create(2)
    for topic in (doomed, healthy):
        for number in range(2):
            judge.produce(topic, number, 20_000, compression="none")
    case.topic = f"{doomed},{healthy}"
    done: list[int] = []

    def delete(seen: Any) -> None:
        if seen.messages and not done:
            done.append(seen.messages)
            judge.delete(doomed)

    result = case.clear(Callbacks(progress=delete), workers=2)
    assert done[0] < 80_000
    rows = {(item.topic, item.partition): item for item in result.partitions}
    assert judge.committed(healthy, case.group) == {0: 20_000, 1: 20_000}
    assert all(rows[healthy, number].verified for number in range(2))
    assert all(rows[healthy, number].messages == 20_000 for number in range(2))
    assert all("deleted" in (rows[doomed, number].error or "") for number in range(2))
    assert not result.cleared


def test_partitions_added_meanwhile_are_read_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --follow, partitions that are added during the run are read; nothing is left in them."""
    monkeypatch.setattr(drain, "GROW_S", 1.0)
    topic = case.create(1)
    case.judge.produce(topic, 0, 50)
    done: list[int] = []

    def grow(seen: Any) -> None:
        if seen.messages >= 50 and not done:
            done.append(seen.messages)
            case.judge.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
            for number in range(1, 3):
                wait_until(lambda: 2 in case.judge.leaders(topic), "new partitions")
                case.judge.produce(topic, number, 50)

    result = case.clear(
        Callbacks(progress=grow), follow=True, stop_when_empty=False, max_messages=150, max_seconds=60
    )
    assert result.totals.messages == 150
    assert case.committed() == {0: 50, 1: 50, 2: 50}


def _replace_before(
    patch: pytest.MonkeyPatch, case: Case, owner: type, method: str, *, of: type = object
) -> list[str]:
    """Delete, create and refill the topic once, right before a call that writes offsets is made."""
    made_anew: list[str] = []
    write: Callable[..., Any] = getattr(owner, method)

    def written(self: object, request: object, *args: object, **more: object) -> Any:
        if not made_anew and isinstance(request, of):
            made_anew.append(case.topic)
            case.judge.recreate(case.topic)
            case.judge.produce(case.topic, 0, 300)
        return write(self, request, *args, **more)

    patch.setattr(owner, method, written)
    return made_anew


@pytest.mark.parametrize("mode", MODES)
def test_the_broker_refuses_a_commit_for_a_topic_made_anew_after_the_last_check(
    case: Case, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """OffsetCommit v10 has the topic id: nothing is written to the new topic; the other one is cleared."""
    first, topic = case.create(), case.create()
    for each in (first, topic):
        case.judge.produce(each, 0, 100)
    case.topic = f"{first},{topic}"
    with monkeypatch.context() as patch:
        anew = Case(case.judge, case.folder, case.reader)
        anew.topic = topic
        made = _replace_before(patch, anew, Connection, "call", of=OffsetCommitRequest)
        result = case.clear(mode=mode)
    rows = {item.topic: item for item in result.partitions}
    assert made == [topic]
    assert case.judge.committed(topic, case.group) == {0: None}
    assert case.judge.committed(first, case.group) == {0: 100}
    assert (result.cleared, rows[first].verified, rows[topic].verified) == (False, True, None)
    assert "deleted and created again since the survey" in (rows[topic].error or "")


def test_the_broker_refuses_a_restore_to_a_topic_made_anew_after_the_last_check(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt's topic id goes to the broker: the offset is not written to the new topic."""
    topic = case.create()
    case.judge.produce(topic, 0, 100)
    case.judge.commit(topic, case.group, {0: 40})
    result = case.clear(mode="skip")
    made = _replace_before(monkeypatch, case, Connection, "call", of=OffsetCommitRequest)
    back = case.restore(result)
    assert (made, case.committed()) == ([topic], {0: None})
    assert (back.cleared, back.partitions[0].verified) == (False, None)
    assert "deleted and created again since the receipt" in (back.partitions[0].error or "")


@pytest.mark.parametrize(
    ("mode", "owner", "method"), [("consume", GroupOffsets, "commit"), ("skip", SharedOffsets, "write")]
)
def test_where_commits_have_no_topic_ids_a_topic_made_anew_is_not_reported_as_cleared(
    case: Case, monkeypatch: pytest.MonkeyPatch, mode: str, owner: type, method: str
) -> None:
    """Before Kafka 4.2 the offset is written by name, and the verification finds another topic."""
    monkeypatch.setattr(SharedMetadata, "commits_by_id", lambda _: False)
    topic = case.create()
    case.judge.produce(topic, 0, 100)
    owner = SharedOffsets if (owner, case.reader) == (GroupOffsets, Reader.HEADERS) else owner
    made = _replace_before(monkeypatch, case, owner, method)
    result = case.clear(mode=mode)
    assert (made, case.committed()) == ([topic], {0: 100})
    assert (result.cleared, result.verified) == (False, None)
    assert "created again since the survey" in (result.partitions[0].error or "")


def test_undo_works_through_any_address_of_the_cluster(three: Three, tmp_path: Path) -> None:
    """The receipt is of the cluster: another node, host name or list of servers undoes the run."""
    three.relay.heal()
    first, second, third = (node.ports["PLAINTEXT"] for node in three.cluster.nodes)
    case = Case(Judge(three.cluster.bootstrap()), tmp_path, Reader.HEADERS)
    topic = case.create(2)
    case.judge.produce(topic, 0, 20)
    case.judge.commit(topic, case.group, {0: 7})
    for others in (f"localhost:{third}", f"127.0.0.1:{second},PLAINTEXT://localhost:{third}"):
        case.more = {"bootstrap_servers": f"127.0.0.1:{first}"}
        result = case.clear(mode="skip")
        assert case.committed()[0] == 20
        case.more = {"bootstrap_servers": others}
        back = case.restore(result)
        assert (back.verified, case.committed()) == (True, {0: 7, 1: None})


def test_undo_is_refused_where_the_same_address_leads_to_another_cluster(
    three: Three, kafka: KafkaCluster, tmp_path: Path
) -> None:
    """Same spelling, topic and group on another cluster: refused by the cluster's id, and nothing moves."""
    three.relay.heal()
    with KafkaRelay() as address:
        address.broker = kafka.nodes[0].ports["PLAINTEXT"]
        case = Case(Judge(kafka.bootstrap()), tmp_path, Reader.HEADERS)
        other = Judge(three.cluster.bootstrap())
        topic = case.create()
        other.create(topic)
        for judge in (case.judge, other):
            judge.produce(topic, 0, 20)
            judge.commit(topic, case.group, {0: 7})
        case.more = {"bootstrap_servers": f"127.0.0.1:{address.port}"}
        result = case.clear()
        assert case.committed() == {0: 20}
        other.commit(topic, case.group, {0: 15})
        address.broker = three.cluster.nodes[0].ports["PLAINTEXT"]
        with pytest.raises(RefusedError, match="cluster_id"):
            case.restore(result)
        assert (case.committed(), other.committed(topic, case.group)) == ({0: 20}, {0: 15})


def test_a_topic_made_anew_with_fewer_partitions_is_named_in_each_row(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the verification it is deleted and created with one partition: the other has that reason, too."""
    case = Case(judge, tmp_path, Reader.HEADERS)
    topic = case.create(2)
    for number in range(2):
        judge.produce(topic, number, 10)
    remaining = KafkaSource.remaining

    def late(self: KafkaSource, targets: Any) -> Any:
        if len(judge.leaders(topic)) > 1:
            assert case.committed() == {0: 10, 1: 10}
            judge.recreate(topic, 1)
        return remaining(self, targets)

    monkeypatch.setattr(KafkaSource, "remaining", late)
    result = case.clear(mode="skip")
    assert (result.cleared, result.verified) == (False, None)
    for row in result.partitions:
        assert "deleted and created again since the survey" in (row.error or "")

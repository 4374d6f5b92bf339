"""Undo on brokers that cannot forget single offsets, and what a receipt does not allow."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from backlog_clearer.brokers.kafka import undo
from backlog_clearer.brokers.kafka.commits import IdCommits
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.metadata import TopicNow
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition, PartitionState, Position, Recorded

ONE, TWO = Partition("orders", 0), Partition("orders", 1)


def options(**more: Any) -> KafkaOptions:
    """A group's options."""
    return KafkaOptions(bootstrap_servers=("a:1",), topic=("orders",), group_id="billing", **more)


class Admin:
    """A group's admin client that notes what is written and deleted."""

    def __init__(self, topic: str | None = "id") -> None:
        self.topic = topic
        self.written: dict[Partition, Any] = {}
        self.deleted = False

    def log_end(self, partitions: Sequence[Partition]) -> tuple[dict[Partition, int], dict[Any, Any]]:
        """Every log ends at 100."""
        return dict.fromkeys(partitions, 100), {}

    def topics(self, names: set[str]) -> Mapping[str, TopicNow]:
        """The topic's id, unless it is gone."""
        return {} if self.topic is None else dict.fromkeys(names, TopicNow(self.topic, {}, {}))

    def cut(self, doubts: Mapping[Partition, Any]) -> Mapping[Partition, BrokerError]:
        """Nothing is read before a restore."""
        assert not doubts
        return {}

    def alter(self, offsets: Mapping[Partition, Any]) -> Mapping[Partition, str | None]:
        """Write offsets."""
        self.written.update(offsets)
        return dict.fromkeys(offsets)

    def delete_group(self) -> None:
        """Delete the group."""
        self.deleted = True


def restore(
    admin: Admin, given: KafkaOptions, positions: Mapping[Partition, Position | None]
) -> dict[Partition, str | None]:
    """Restore partitions of a topic with the id "id"; both have an offset now."""
    recorded = [Recorded(partition, position, "id") for partition, position in positions.items()]
    stored = {ONE: 50, TWO: 50}
    logs = Incarnations(admin)  # type: ignore[arg-type]
    commits = IdCommits(given, logs, lambda: False)
    outcomes = undo.restored(
        given,
        admin,  # type: ignore[arg-type]
        commits,
        recorded,
        (stored, {}),
        by_name=admin.alter,
    )
    return {item.partition: item.error for item in outcomes}


@pytest.fixture
def old_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker without OffsetDelete."""
    monkeypatch.setattr(undo, "forget", lambda *_: None)
    monkeypatch.setattr(undo, "cannot_forget", lambda _: "")
    monkeypatch.setattr(undo, "committed_anywhere", lambda _: {ONE})


def test_a_connection_that_breaks_is_not_recorded_as_what_cannot_be_undone() -> None:
    """Where the coordinator cannot be asked for now, the survey fails for now; no receipt rules undo out."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    given = options().model_copy(update={"bootstrap_servers": (f"127.0.0.1:{port}",)})
    with pytest.raises(TransientError, match=str(port)):
        undo.undo_fault(given)


@pytest.mark.usefixtures("old_broker")
def test_a_group_is_deleted_only_on_request() -> None:
    """On a broker before 2.4 a group is deleted only with --delete-group, which the plan names before."""
    state = PartitionState(ONE, None, 0, 100, 100)
    fault = undo.undo_fault(options())
    assert "--delete-group" in (undo.with_undo(state, fault).undo or "")
    admin = Admin()
    assert "--delete-group" in (restore(admin, options(), {ONE: None})[ONE] or "")
    assert not admin.deleted
    given = options(delete_group=True)
    assert undo.undo_fault(given) is None
    (note,) = undo.undo_notes(given)
    assert "deletes group billing" in note
    assert restore(admin, given, {ONE: None}) == {ONE: None}
    assert admin.deleted


@pytest.mark.usefixtures("old_broker")
def test_a_group_with_other_offsets_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of other partitions that can be seen keep the group, even with --delete-group."""
    monkeypatch.setattr(undo, "committed_anywhere", lambda _: {ONE, Partition("bills", 3)})
    admin = Admin()
    errors = restore(admin, options(delete_group=True), {ONE: None, TWO: 7})
    assert "other offsets" in (errors[ONE] or "")
    assert (errors[TWO], [*admin.written], admin.deleted) == (None, [TWO], False)


def test_settings_that_only_librdkafka_supports_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no connection for the request can be opened, the partition has the reason as its error."""

    def refused(*_: Any) -> None:
        raise HeadersUnsupportedError("only librdkafka supports SASL GSSAPI")

    monkeypatch.setattr(undo, "forget", refused)
    errors = restore(Admin(), options(), {ONE: None, TWO: 7})
    assert "GSSAPI" in (errors[ONE] or "")
    assert errors[TWO] is None


@pytest.mark.parametrize(("topic", "fault"), [(None, "deleted"), ("another", "created again")])
def test_another_topic_of_the_same_name_is_not_written(
    monkeypatch: pytest.MonkeyPatch, topic: str | None, fault: str
) -> None:
    """Neither offsets nor their absence are restored where the topic is gone or another one."""
    forget = Mock()
    monkeypatch.setattr(undo, "forget", forget)
    admin = Admin(topic=topic)
    errors = restore(admin, options(), {ONE: None, TWO: 7})
    assert all(fault in (error or "") for error in errors.values())
    assert not admin.written
    assert not forget.called


def test_a_receipt_does_not_keep_what_was_allowed_once() -> None:
    """Lowering offsets and deleting a group have to be allowed in each call; a receipt does not do that."""
    public = options(delete_group=True, lower_to_end=True).public()
    assert public.keys() == {"bootstrap_servers", "topic", "group_id"}

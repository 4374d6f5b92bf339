"""Commits with topic ids, by the answers that a real coordinator gives only while brokers start or differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka import commits
from backlog_clearer.brokers.kafka.commits import IdCommits, LaneCommits
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.fetch_wire import topic_id
from backlog_clearer.brokers.kafka.figures import Stored
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.leaders import Address
from backlog_clearer.brokers.kafka.library import OffsetCommitRequest, OffsetCommitResponse
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition
from tests.brokers.test_kafka_offsets import Cluster

ONE, TWO = Partition("orders", 0), Partition("bills", 3)
IDS = {ONE: "AAAAAAAAAAAAAAAAAAAAAQ", TWO: "AAAAAAAAAAAAAAAAAAAAAg"}
OPTIONS = KafkaOptions(bootstrap_servers=("a:1",), topic=("orders", "bills"), group_id="billing")


class Coordinator:
    """Takes commits, and answers with the error codes that a test sets; also by name, as librdkafka does."""

    def __init__(self) -> None:
        self.newest = 10
        self.codes: dict[Partition, int] = {}
        self.silent: set[Partition] = set()
        self.broken: BrokerError | HeadersUnsupportedError | None = None
        self.by_id: dict[tuple[str, int], tuple[int, str, int]] = {}
        self.by_name: dict[Partition, int] = {}
        self.found = self.opened = self.closed = 0

    def offers(self, request: Any, version: int) -> bool:
        """See `Connection`."""
        assert request is OffsetCommitRequest
        return version <= self.newest

    def call(self, request: Any, response: Any, version: int, *, least_s: float) -> Any:
        """Decode the bytes of a request, and answer as it arrives at the client."""
        assert least_s > 5  # until then a coordinator may still write
        if isinstance(self.broken, BrokerError):
            raise self.broken
        request.API_VERSION = version
        got = OffsetCommitRequest.decode(request.encode(), version=version)
        assert (got.group_id, got.generation_id_or_member_epoch, got.member_id) == ("billing", -1, "")
        named = {topic_id(text): partition for partition, text in IDS.items()}
        topic_of = OffsetCommitResponse.OffsetCommitResponseTopic
        topics = []
        for topic in got.topics:
            partition, (part,) = named[topic.topic_id], topic.partitions
            if not self.codes.get(partition):
                self.by_id[partition.topic, part.partition_index] = (
                    part.committed_offset,
                    part.committed_metadata,
                    part.committed_leader_epoch,
                )
            answered = topic_of.OffsetCommitResponsePartition(
                version=version,
                partition_index=part.partition_index,
                error_code=self.codes.get(partition, 0),
            )
            if partition not in self.silent:
                topics.append(topic_of(version=version, topic_id=topic.topic_id, partitions=[answered]))
        answer = response(version=version, throttle_time_ms=0, topics=topics)
        return response.decode(answer.encode(), version=version)

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """See `GroupOffsets`."""
        self.by_name.update(offsets)
        return dict.fromkeys(offsets)

    def close(self) -> None:
        """Count it."""
        self.closed += 1


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """The group's coordinator, as the module under test reaches it."""
    made = Coordinator()

    def find(*_: object) -> Address:
        made.found += 1
        if isinstance(made.broken, HeadersUnsupportedError):
            raise made.broken
        return Address("a", 1)

    def connect(*_: object) -> Coordinator:
        made.opened += 1
        return made

    monkeypatch.setattr(commits, "find_coordinator", find)
    monkeypatch.setattr(commits, "open_connection", connect)
    return made


def by_id(*, topics: Mapping[str, str] | None = None, offered: bool = True) -> IdCommits:
    """Commits with the ids that brokers have of these topics at present."""
    now = {partition.topic: text for partition, text in IDS.items()} if topics is None else topics
    return IdCommits(OPTIONS, Incarnations(Cluster(now)), lambda: offered)


def lane(shared: IdCommits, coordinator: Coordinator) -> LaneCommits:
    """The commits of a lane on both partitions."""
    return LaneCommits(shared, coordinator, IDS)  # type: ignore[arg-type]


def test_offset_metadata_and_epoch_go_to_the_topic_with_the_id(coordinator: Coordinator) -> None:
    """What is written is what was given, in one request, on a connection that is closed again."""
    wanted = {ONE: Stored(7, "host-7", 4), TWO: Stored(9)}
    assert by_id().write(wanted, IDS) == {ONE: None, TWO: None}
    assert coordinator.by_id == {("orders", 0): (7, "host-7", 4), ("bills", 3): (9, "", -1)}
    assert (coordinator.opened, coordinator.closed) == (1, 1)


def test_a_topic_that_was_created_again_is_the_error_of_its_partition(coordinator: Coordinator) -> None:
    """The other partition is committed, and the reason is that of the check of ids."""
    coordinator.codes = {ONE: KafkaError.UNKNOWN_TOPIC_ID}
    outcomes = by_id(topics={"orders": "other", "bills": IDS[TWO]}).write(
        {ONE: Stored(7), TWO: Stored(9)}, IDS, "since the receipt"
    )
    assert outcomes is not None
    assert "deleted and created again since the receipt" in (outcomes.pop(ONE) or "")
    assert outcomes == {TWO: None}


def test_a_topic_that_is_gone_holds_back_a_lane_for_a_moment_and_no_skip(
    coordinator: Coordinator,
) -> None:
    """A skip names the deleted topic at once; a lane asks again, since a broker may have just started."""
    coordinator.codes = {ONE: KafkaError.UNKNOWN_TOPIC_ID}
    shared = by_id(topics={"bills": IDS[TWO]})
    outcomes = shared.write({ONE: Stored(7), TWO: Stored(9)}, IDS)
    assert outcomes is not None
    assert "its topic was deleted" in (outcomes.pop(ONE) or "")
    assert outcomes == {TWO: None}
    with pytest.raises(TransientError, match="do not have the topic orders at present"):
        lane(shared, coordinator).commit({ONE: 7})


def test_a_coordinator_that_has_just_started_is_asked_again(coordinator: Coordinator) -> None:
    """An id that it does not have yet, while other brokers do, is a failure that passes."""
    coordinator.codes = {ONE: KafkaError.UNKNOWN_TOPIC_ID}
    with pytest.raises(TransientError, match=r"does not have the topic id of orders\[0\] yet"):
        by_id().write({ONE: Stored(7)}, IDS)


def test_members_of_the_group_are_named_as_the_reason(coordinator: Coordinator) -> None:
    """A commit that the coordinator refuses because of members says so, as it does by name."""
    coordinator.codes = {ONE: KafkaError.UNKNOWN_MEMBER_ID, TWO: KafkaError.UNKNOWN_MEMBER_ID}
    outcomes = lane(by_id(), coordinator).commit({ONE: 7, TWO: 9})
    assert all("has consumers attached" in (text or "") for text in outcomes.values())
    assert coordinator.by_name == {}


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])
def test_a_coordinator_that_moved_is_looked_for_again(coordinator: Coordinator, code: int) -> None:
    """The commit may be tried again, on a new connection to wherever the coordinator is then."""
    mine = lane(by_id(), coordinator)
    coordinator.codes = {ONE: code}
    with pytest.raises(TransientError):
        mine.commit({ONE: 7})
    coordinator.codes = {}
    assert mine.commit({ONE: 7}) == {ONE: None}
    assert mine.commit({ONE: 8}) == {ONE: None}
    assert (coordinator.found, coordinator.opened, coordinator.closed) == (2, 2, 1)


def test_a_broken_connection_is_not_used_again(coordinator: Coordinator) -> None:
    """After a failure the next commit opens another connection; lanes share where the coordinator is."""
    shared = by_id()
    first, second = lane(shared, coordinator), lane(shared, coordinator)
    first.commit({ONE: 7})
    second.commit({TWO: 9})
    assert (coordinator.found, coordinator.opened) == (1, 2)
    coordinator.broken = TransientError("cut")
    with pytest.raises(TransientError, match="cut"):
        first.commit({ONE: 8})
    coordinator.broken = None
    assert first.commit({ONE: 8}) == {ONE: None}
    assert (coordinator.found, coordinator.opened, coordinator.closed) == (2, 3, 1)


def test_a_connection_that_was_idle_is_replaced(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker or a network may have cut meanwhile is not tried, so that no retry is spent on it."""
    mine = lane(by_id(), coordinator)
    for offset in (7, 8):
        mine.commit({ONE: offset})
    assert (coordinator.opened, coordinator.closed) == (1, 0)
    monkeypatch.setattr(commits, "IDLE_S", -1.0)
    assert mine.commit({ONE: 9}) == {ONE: None}
    assert (coordinator.found, coordinator.opened, coordinator.closed) == (1, 2, 1)


def test_an_answer_without_a_partition_is_not_taken_for_written(coordinator: Coordinator) -> None:
    """What the coordinator does not answer for is a failure that passes, and names the partition."""
    coordinator.silent = {TWO}
    with pytest.raises(TransientError, match=r"bills\[3\]"):
        by_id().write({ONE: Stored(7), TWO: Stored(9)}, IDS)


@pytest.mark.parametrize("lacks", ["the brokers", "the coordinator", "the settings", "the receipt"])
def test_offsets_are_written_by_name_where_ids_cannot_be_sent(
    coordinator: Coordinator, lacks: str
) -> None:
    """Older brokers, settings that only librdkafka supports, an unknown id: all offsets go by name."""
    shared = by_id(offered=lacks != "the brokers")
    coordinator.newest = 9 if lacks == "the coordinator" else 10
    coordinator.broken = HeadersUnsupportedError("GSSAPI") if lacks == "the settings" else None
    ids = {**IDS, TWO: None} if lacks == "the receipt" else IDS
    assert shared.write({ONE: Stored(7), TWO: Stored(9)}, ids) is None
    mine = LaneCommits(shared, coordinator, ids)  # type: ignore[arg-type]
    for _ in range(2):
        assert mine.commit({ONE: 7, TWO: 9}) == {ONE: None, TWO: None}
    assert (coordinator.by_id, coordinator.by_name) == ({}, {ONE: 7, TWO: 9})
    assert coordinator.found <= 1  # it is asked once, not at each commit
    assert coordinator.opened == coordinator.closed <= 1

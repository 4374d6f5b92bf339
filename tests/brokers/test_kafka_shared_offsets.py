"""Commits of header lanes, by the answers that a coordinator gives only while it moves, or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka import shared_offsets
from backlog_clearer.brokers.kafka.commits import IdCommits
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.fetch_wire import topic_id
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.leaders import Address
from backlog_clearer.brokers.kafka.library import OffsetCommitRequest, OffsetFetchRequest
from backlog_clearer.brokers.kafka.metadata import COMMIT_BY_ID
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.shared_offsets import LaneOfShared, SharedOffsets
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition
from tests.brokers.test_kafka_offsets import Cluster

ONE, TWO = Partition("orders", 0), Partition("bills", 3)
IDS = {ONE: "AAAAAAAAAAAAAAAAAAAAAQ", TWO: "AAAAAAAAAAAAAAAAAAAAAg"}
NAMES = {topic_id(text): partition.topic for partition, text in IDS.items()}
OPTIONS = KafkaOptions(bootstrap_servers=("a:1",), topic=("orders", "bills"), group_id="billing")


class Coordinator:
    """Stores offsets, and answers with the error codes that a test sets, in the bytes of the protocol."""

    def __init__(self) -> None:
        self.newest = 9
        self.at = 0  # which broker it is
        self.codes: dict[Partition, int] = {}
        self.left_out: set[Partition] = set()
        self.stored: dict[Partition, tuple[int, str, int]] = {}
        self.silent: TransientError | None = None
        self.opened: list[Link] = []
        self.looked = 0
        self.written: list[int] = []  # versions of the commits

    def find(self, *_: object) -> Address:
        """See `coordinator.find_coordinator`."""
        self.looked += 1
        return Address("a", self.at)

    def open(self, address: Address, *_: object) -> Link:
        """See `leaders.open_connection`."""
        self.opened.append(Link(self, f"{address.host}:{address.port}"))
        return self.opened[-1]


class Link:
    """A connection to the coordinator."""

    buffered = False

    def __init__(self, of: Coordinator, name: str) -> None:
        self.of, self.name, self.closed, self.timeout_s = of, name, False, 0.0

    def version(self, request: Any, lowest: int, highest: int) -> int:
        """See `Connection`."""
        if lowest > self.of.newest:
            raise HeadersUnsupportedError("too old")
        return min(self.of.newest, highest)

    def offers(self, request: Any, version: int) -> bool:
        """See `Connection`."""
        assert request is OffsetCommitRequest
        return version <= self.of.newest

    def call(
        self,
        request: Any,
        response: Any,
        version: int,
        *,
        most: int | None = None,
        least_s: float = 0.0,
    ) -> Any:
        """Decode the bytes of a request, and answer as it arrives at the client."""
        assert most is None or most > 0
        if self.of.silent:
            raise self.of.silent
        request.API_VERSION = version
        got = type(request).decode(request.encode(), version=version)
        assert got.group_id == "billing"
        write = isinstance(request, OffsetCommitRequest)
        if write:
            self.of.written.append(version)
            assert (got.generation_id_or_member_epoch, got.member_id) == (-1, "")
            assert least_s > 5  # until then a coordinator may still write
        else:
            assert isinstance(request, OffsetFetchRequest)
            assert not got.require_stable
        answer = response(
            version=version,
            topics=[self.topic(response, version, each, write=write) for each in got.topics],
        )
        if not write:
            answer.error_code = 0
        return response.decode(answer.encode(), version=version)

    def topic(self, response: Any, version: int, asked: Any, *, write: bool) -> Any:
        """The part of an answer about one topic."""
        topic_of = response.OffsetCommitResponseTopic if write else response.OffsetFetchResponseTopic
        part_of = (
            topic_of.OffsetCommitResponsePartition if write else topic_of.OffsetFetchResponsePartition
        )
        parts = []
        for each in asked.partitions if write else asked.partition_indexes:
            name = NAMES[asked.topic_id] if write and version >= COMMIT_BY_ID else asked.name
            partition = Partition(name, each.partition_index if write else each)
            code = self.of.codes.get(partition, 0)
            if write and not code:
                written = each.committed_offset, each.committed_metadata, each.committed_leader_epoch
                self.of.stored[partition] = written
            offset, metadata, epoch = self.of.stored.get(partition, (-1, "", -1))
            more = (
                {}
                if write
                else {"committed_offset": offset, "metadata": metadata, "committed_leader_epoch": epoch}
            )
            if partition not in self.of.left_out:
                parts.append(
                    part_of(version=version, partition_index=partition.number, error_code=code, **more)
                )
        named = (
            {"topic_id": asked.topic_id} if version >= COMMIT_BY_ID and write else {"name": asked.name}
        )
        return topic_of(version=version, partitions=parts, **named)

    def close(self) -> None:
        """Close it."""
        self.closed = True


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """A coordinator that is found, and connected to."""
    found = Coordinator()
    monkeypatch.setattr(shared_offsets, "find_coordinator", found.find)
    monkeypatch.setattr(shared_offsets, "open_connection", found.open)
    monkeypatch.setattr(shared_offsets, "wait", lambda *_: [])
    return found


@pytest.fixture
def offsets(coordinator: Coordinator) -> Iterator[SharedOffsets]:
    """Offsets that it stores."""
    found = SharedOffsets(OPTIONS)
    yield found
    found.close()
    assert all(link.closed for link in coordinator.opened)


@pytest.mark.parametrize("newest", [2, 5, 7, 9])
def test_offsets_are_written_and_read_back_in_every_version(
    coordinator: Coordinator, offsets: SharedOffsets, newest: int
) -> None:
    """All partitions go in one request over one connection, as librdkafka writes them."""
    coordinator.newest = newest
    offsets.warm_up()
    assert offsets.committed([ONE, TWO]) == ({}, {})
    assert offsets.commit({ONE: 5, TWO: 7}) == {ONE: None, TWO: None}
    assert offsets.committed([ONE, TWO]) == ({ONE: 5, TWO: 7}, {})
    assert coordinator.stored == {ONE: (5, "", -1), TWO: (7, "", -1)}
    assert (len(coordinator.opened), coordinator.looked) == (1, 1)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ],
)
@pytest.mark.parametrize("write", [True, False], ids=["commit", "fetch"])
def test_a_coordinator_that_moved_is_looked_for_at_the_next_request(
    coordinator: Coordinator, offsets: SharedOffsets, code: int, *, write: bool
) -> None:
    """The request fails for now; the next one goes to the broker that is the coordinator then."""
    coordinator.codes = {ONE: code, TWO: code}
    with pytest.raises(TransientError, match="of group billing"):
        offsets.commit({ONE: 5, TWO: 7}) if write else offsets.committed([ONE, TWO])
    assert coordinator.opened[0].closed
    coordinator.codes, coordinator.at = {}, 1
    assert offsets.commit({ONE: 5}) == {ONE: None}
    assert [link.name for link in coordinator.opened] == ["a:0", "a:1"]


def test_a_connection_that_broke_is_not_asked_again(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """A lost answer is a failure that may pass, and the offsets are asked for over another connection."""
    coordinator.silent = TransientError("no whole answer")
    with pytest.raises(TransientError, match="no whole answer"):
        offsets.commit({ONE: 5})
    coordinator.silent = None
    assert offsets.committed([ONE], 3.0) == ({}, {})
    assert [link.closed for link in coordinator.opened] == [True, True]
    assert coordinator.looked == 2


def test_a_group_with_members_refuses_each_partition(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """The answer to a commit from outside while consumers are attached is each partition's error."""
    coordinator.codes = {ONE: KafkaError.UNKNOWN_MEMBER_ID, TWO: KafkaError.UNKNOWN_MEMBER_ID}
    refused = offsets.commit({ONE: 5, TWO: 7})
    assert all("has consumers attached" in str(refused[partition]) for partition in (ONE, TWO))
    assert coordinator.stored == {}


def test_what_is_refused_for_one_partition_is_its_error(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """A partition that may not be written or read is named; the others are written and read."""
    coordinator.codes = {ONE: KafkaError.TOPIC_AUTHORIZATION_FAILED}
    refused = offsets.commit({ONE: 5, TWO: 7})
    assert refused[TWO] is None
    assert "TOPIC_AUTHORIZATION_FAILED" in str(refused[ONE])
    stored, errors = offsets.committed([ONE, TWO])
    assert (stored, set(errors), type(errors[ONE])) == ({TWO: 7}, {ONE}, BrokerError)
    with pytest.raises(BrokerError, match="does not allow committing offsets"):
        offsets.commit({ONE: 5})


def test_a_partition_that_an_answer_lacks_is_not_taken_for_done(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """Neither written nor without an offset: it is not known."""
    coordinator.left_out = {TWO}
    with pytest.raises(TransientError, match=r"committed offset of bills\[3\] is missing"):
        offsets.commit({ONE: 5, TWO: 7})
    stored, errors = offsets.committed([ONE, TWO])
    assert (stored, set(errors), type(errors[TWO])) == ({ONE: 5}, {TWO}, TransientError)


def test_a_coordinator_that_is_too_old_is_named(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """The first lane finds out, before anything is read."""
    coordinator.newest = 1
    with pytest.raises(HeadersUnsupportedError):
        offsets.warm_up()


@pytest.mark.parametrize("newest", [9, 10])
def test_lanes_send_topic_ids_over_the_shared_connection_where_they_are_taken(
    coordinator: Coordinator, offsets: SharedOffsets, newest: int
) -> None:
    """Several lanes use one connection; a coordinator without version 10 gets names, and is asked once."""
    coordinator.newest = newest
    logs = Incarnations(Cluster({partition.topic: text for partition, text in IDS.items()}))
    by_id = IdCommits(OPTIONS, logs, lambda: True)
    for number, partition in enumerate((ONE, TWO, ONE)):
        lane = LaneOfShared(offsets, by_id, IDS)
        lane.warm_up()
        assert lane.commit({partition: number}) == {partition: None}
    assert offsets.committed([ONE, TWO]) == ({ONE: 2, TWO: 1}, {})
    assert coordinator.written == [newest] * 3
    assert (len(coordinator.opened), coordinator.looked) == (1, 1)


def test_a_topic_made_anew_is_refused_by_the_coordinator(
    coordinator: Coordinator, offsets: SharedOffsets
) -> None:
    """Nothing is written for the partition whose topic id is not known any more."""
    by_id = IdCommits(
        OPTIONS, Incarnations(Cluster({"orders": "other", "bills": IDS[TWO]})), lambda: True
    )
    coordinator.newest = 10
    coordinator.codes = {ONE: KafkaError.UNKNOWN_TOPIC_ID}
    refused = LaneOfShared(offsets, by_id, IDS).commit({ONE: 5, TWO: 7})
    assert "deleted and created again since the survey" in str(refused[ONE])
    assert (refused[TWO], coordinator.stored) == (None, {TWO: (7, "", -1)})

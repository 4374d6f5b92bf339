"""One request for the topics of many lanes, and what leaders answer about what was read."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from backlog_clearer.brokers.kafka import leader_epochs, metadata
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.leader_epochs import Doubt, ReadUpTo
from backlog_clearer.brokers.kafka.leaders import Address
from backlog_clearer.brokers.kafka.library import MetadataResponse
from backlog_clearer.brokers.kafka.metadata import SharedMetadata, TopicNow, described_leaders
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition
from backlog_clearer.testing.support import wait_until

OPTIONS = KafkaOptions(bootstrap_servers=("127.0.0.1:1",), topic=("orders",), group_id="billing")
ONE = Partition("orders", 0)
CALLERS = 16


class Broker:
    """Answers about topics: the first when it is let, with the time at which each was asked."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.let = threading.Event()
        self.failure: BrokerError | None = None

    def answer(self, names: Sequence[str]) -> dict[str, TopicNow]:
        """As `SharedMetadata._ask`."""
        self.sent.append(time.monotonic())
        number = len(self.sent) - 1
        assert self.let.wait(30)
        if self.failure is not None:
            raise self.failure
        return {name: TopicNow(str(number), {}, {}) for name in names}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> tuple[SharedMetadata, Broker]:
    """A question that many threads ask, and the broker."""
    broker = Broker()
    asked = SharedMetadata(OPTIONS, Mock())
    monkeypatch.setattr(asked, "_ask", broker.answer)
    return asked, broker


def test_lanes_share_an_answer_that_was_asked_for_after_each_of_them_began(
    shared: tuple[SharedMetadata, Broker],
) -> None:
    """Of many threads that come while a request is under way all take the next one, which has all names."""
    asked, broker = shared
    found: dict[int, tuple[float, str]] = {}

    def ask(number: int) -> None:
        begun = time.monotonic()
        now = asked.topics([f"topic-{number}"])[f"topic-{number}"]
        found[number] = (begun, now.incarnation or "")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
    threads[0].start()
    wait_until(lambda: bool(broker.sent), "the first request")
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(asked._names) == CALLERS, "all threads to wait")
    broker.let.set()
    for thread in threads:
        thread.join(30)
    assert len(found) == CALLERS
    assert len(broker.sent) == 2
    assert all(broker.sent[int(answer)] >= begun for begun, answer in found.values())


def test_a_failed_request_is_the_error_of_all_that_wait_for_it(
    shared: tuple[SharedMetadata, Broker],
) -> None:
    """An error is raised as it is, and the next call asks again."""
    asked, broker = shared
    broker.let.set()
    broker.failure = TransientError("no answer")
    with pytest.raises(TransientError, match="no answer"):
        asked.topics(["orders"])
    broker.failure = None
    assert asked.topics(["orders"])["orders"].incarnation == "1"


def test_where_only_librdkafka_can_connect_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection of this module, the ids come from librdkafka, and no leader epoch is known."""

    def unsupported(_: object) -> None:
        raise HeadersUnsupportedError("only librdkafka supports SASL GSSAPI")

    monkeypatch.setattr(metadata, "socket_settings", unsupported)
    admin = Mock()
    admin.incarnations.return_value = {"orders": "id"}
    asked = SharedMetadata(OPTIONS, admin)
    assert asked.topics(["orders"]) == {"orders": TopicNow("id", {}, {})}
    assert asked.cut({ONE: Doubt(ReadUpTo(1, 1), 2, None)}) == {}


def described(leaders: Sequence[tuple[int, int]]) -> dict[str, TopicNow]:
    """A topic as in a Metadata answer with so many partitions, by error code and leader; node 1 is there."""
    topic_of, version = MetadataResponse.MetadataResponseTopic, 8
    parts = [
        topic_of.MetadataResponsePartition(
            version=version, error_code=error, partition_index=number, leader_id=leader, leader_epoch=4,
            replica_nodes=[1], isr_nodes=[1], offline_replicas=[],
        )
        for number, (error, leader) in enumerate(leaders)
    ]  # fmt: skip
    broker = MetadataResponse.MetadataResponseBroker(
        version=version, node_id=1, host="one", port=9092, rack=None
    )
    topic = topic_of(version=version, error_code=0, name="orders", is_internal=False, partitions=parts)
    connection = Mock()
    connection.version.return_value = version
    connection.call.return_value = MetadataResponse(version=version, brokers=[broker], topics=[topic])
    return dict(SharedMetadata(OPTIONS, Mock())._described(connection, ["orders"]))


def test_leaders_are_taken_from_the_answer_that_describes_the_topics() -> None:
    """A partition whose leader is missing or unknown is named with the broker's reason; the others are read."""
    topics = described([(0, 1), (5, -1), (0, 7), (9, 1)])
    parts = [Partition("orders", number) for number in range(5)]
    found = described_leaders(topics, parts, OPTIONS)
    assert found is not None
    assert found.leaders == {parts[0]: 1, parts[3]: 1}
    assert found.nodes == {1: Address("one", 9092)}
    assert set(found.lacking) == {parts[1], parts[2], parts[4]}
    assert "leader" in str(found.lacking[parts[1]]).lower()
    assert topics["orders"].leader(0) == Address("one", 9092)
    assert topics["orders"].leader(2) is None


def test_an_answer_without_any_leader_passes() -> None:
    """While no partition has a leader, the lane is not opened, and may be later."""
    with pytest.raises(TransientError):
        described_leaders(described([(5, -1)]), [ONE], OPTIONS)


def test_leaders_are_not_known_where_only_librdkafka_answered() -> None:
    """An answer without brokers names no leader, so that the lane asks for them itself."""
    assert described_leaders({"orders": TopicNow("id", {}, {})}, [ONE], OPTIONS) is None


@pytest.mark.parametrize(
    ("answer", "seen", "fault"),
    [
        ((0, 3, 60), True, None),
        ((0, 3, 61), True, None),
        ((0, 3, 59), True, "cut off"),  # the log ends this epoch before what was read
        ((0, 2, 90), True, "cut off"),  # it has no batch of this epoch
        ((0, -1, -1), True, "cut off"),  # it has no epoch so late
        ((0, 2, 60), False, None),  # nothing was read: an epoch without a batch leaves no trace
        ((0, 2, 59), False, "cut off"),
        ((75, -1, -1), True, "UNKNOWN_LEADER_EPOCH"),
        ((6, -1, -1), True, "NOT_LEADER"),
        (None, True, "LEADER_NOT_AVAILABLE"),
    ],
)
def test_a_leader_confirms_what_was_read_or_it_is_not_committed(
    monkeypatch: pytest.MonkeyPatch, answer: Any, seen: bool, fault: str | None
) -> None:
    """A log that no longer has what was read is final, an answer that decides nothing passes."""
    connection = Mock()
    connection.version.return_value = 4
    parts = []
    if answer is not None:
        error, epoch, end = answer
        parts = [Mock(partition=0, error_code=error, leader_epoch=epoch, end_offset=end)]
    connection.call.return_value = Mock(topics=[Mock(topic="orders", partitions=parts)])
    monkeypatch.setattr(leader_epochs, "open_connection", lambda *_: connection)
    doubt = Doubt(ReadUpTo(60, 3, seen), 4, Address("a", 1))
    found = leader_epochs.cut_logs(OPTIONS, Mock(), {ONE: doubt})
    if fault is None:
        assert not found
        return
    assert fault in str(found[ONE])
    assert isinstance(found[ONE], TransientError) == (fault != "cut off")


def test_a_partition_without_a_leader_is_in_doubt() -> None:
    """While no leader can confirm what was read, it is not committed, and that may pass."""
    fault = leader_epochs.cut_logs(OPTIONS, Mock(), {ONE: Doubt(ReadUpTo(60, 3), 4, None)})[ONE]
    assert isinstance(fault, TransientError)
    assert fault.partition == ONE

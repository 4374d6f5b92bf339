"""What the brokers have of topics at present, asked for by one request for all lanes that wait for it.

Metadata v7 and later have leader epochs (KIP-320), v10 and later topic ids (KIP-516). librdkafka's calls
return no leader epochs, so the request is sent on a separate connection; where only librdkafka can connect,
it is asked for the ids instead, and the epochs are unknown.
"""

from __future__ import annotations

import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.connection import MOST_DECODED, Connection
from backlog_clearer.brokers.kafka.errors import (
    DENIED,
    NO_SUCH_TOPIC,
    HeadersUnsupportedError,
    translate,
)
from backlog_clearer.brokers.kafka.leader_epochs import Doubt, cut_logs
from backlog_clearer.brokers.kafka.leaders import (
    Address,
    Leaders,
    leaders_among,
    open_connection,
    parse_address,
)
from backlog_clearer.brokers.kafka.library import (
    MetadataRequest,
    MetadataResponse,
    OffsetCommitRequest,
)
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings, socket_settings
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition
from backlog_clearer.text import listed

_EPOCHS, _IDS, _NEWEST = (
    7,
    10,
    12,
)  # versions of Metadata: with leader epochs, with topic ids, as known here
COMMIT_BY_ID = 10
"""First version of OffsetCommit with topic ids (KIP-848)."""

_APART_S = 0.025  # between two requests: lanes that come meanwhile share the second
_BUSY_S = 4.0  # how long a lane waits for the answer to another one's request
_ANOTHER_S = 2.0  # a broker that fails within this time leaves time to ask another one
_NOBODY = -1  # not a node id
_NONE: Mapping[int, int] = MappingProxyType({})
_NO_NODES: Mapping[int, Address] = MappingProxyType({})


class TopicNow(NamedTuple):
    """One topic as a broker describes it."""

    incarnation: str | None  # its id as text; None: the broker has no ids
    epochs: Mapping[int, int]  # leader epochs by partition; a partition without one is left out
    leaders: Mapping[int, int]  # node ids by partition; one without a leader is left out
    errors: Mapping[int, int] = _NONE  # Kafka's error codes, of the partitions that have one
    nodes: Mapping[int, Address] = _NO_NODES  # of the whole cluster; none: the leaders are not known
    fault: BrokerError | None = (
        None  # why the user may not see the topic, of which nothing is known then
    )

    def leader(self, number: int) -> Address | None:
        """Where the leader of a partition listens; None: it has none at present, or it is not known."""
        return self.nodes.get(self.leaders.get(number, _NOBODY))


class Describes(Protocol):
    """Asks librdkafka for topic ids (`admin.GroupAdmin`)."""

    def incarnations(self, topics: Iterable[str]) -> Mapping[str, str | BrokerError | None]:
        """The id of each topic that exists, or why the user does not get it; None: the broker has no ids."""


class SharedMetadata:
    """Asks for topics on behalf of several threads at once.

    An answer is given only to threads that began to wait before its request was sent, so that it is as
    fresh for each as its own would be.
    """

    def __init__(self, options: KafkaOptions, admin: Describes) -> None:
        self._options = options
        self._admin = admin
        self._changed = threading.Condition()
        self._names: set[str] = set()  # that any thread has asked for
        self._busy = False
        self._sent = self._answered = 0  # requests so far
        self._sent_at = float("-inf")
        self._answer: Mapping[str, TopicNow] | BrokerError = {}
        self._connection: Connection | None = None
        self._brokers: list[Address] = [parse_address(text) for text in options.bootstrap_servers]
        self._settings: SocketSettings | None = None
        self._by_client = False  # only librdkafka can ask
        self._commits_by_id = False

    def commits_by_id(self) -> bool:
        """Whether the broker that was asked last takes topic ids in commits."""
        return self._commits_by_id

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicNow]:
        """The topics that exist; more than those asked for may be there.

        Raises `TransientError` or `BrokerError` where that is not known.
        """
        until = time.monotonic() + _BUSY_S
        with self._changed:
            self._names.update(names)
            mine = self._sent + 1  # the first request that is sent after this moment
            while self._busy and self._answered < mine:
                if not self._changed.wait(until - time.monotonic()):
                    raise TransientError("Another request for topics was not answered in time.")
            if self._answered < mine:
                self._busy = True
                self._changed.wait_for(lambda: False, self._sent_at + _APART_S - time.monotonic())
                self._sent, self._sent_at = mine, time.monotonic()
                asked = sorted(self._names)
            else:
                return self._given()
        answer: Mapping[str, TopicNow] | BrokerError = TransientError("The request for topics ended.")
        try:
            answer = self._ask(asked)
        except BrokerError as failure:
            answer = failure
        finally:
            with self._changed:
                self._answer, self._answered, self._busy = answer, mine, False
                self._changed.notify_all()
        return self._given()

    def _given(self) -> Mapping[str, TopicNow]:
        answer = self._answer
        if isinstance(answer, BrokerError):
            raise type(answer)(str(answer), answer.partition)
        return answer

    def _ask(self, names: Sequence[str]) -> Mapping[str, TopicNow]:
        try:
            return self._call(names)
        except HeadersUnsupportedError:
            self._by_client = True
            found = self._admin.incarnations(names)
            return {
                name: _withheld(known) if isinstance(known, BrokerError) else TopicNow(known, {}, {})
                for name, known in found.items()
            }

    def _described(self, connection: Connection, names: Sequence[str]) -> Mapping[str, TopicNow]:
        version = connection.version(MetadataRequest, _EPOCHS, _NEWEST)
        topic_of = MetadataRequest.MetadataRequestTopic
        answer = connection.call(
            MetadataRequest(
                version=version,
                topics=[topic_of(version=version, name=name) for name in names],
                allow_auto_topic_creation=False,
            ),
            MetadataResponse,
            version,
            most=MOST_DECODED,
        )
        self._commits_by_id = connection.offers(OffsetCommitRequest, COMMIT_BY_ID)
        nodes = {broker.node_id: Address(broker.host, broker.port) for broker in answer.brokers}
        self._brokers += [address for address in nodes.values() if address not in self._brokers]
        found: dict[str, TopicNow] = {}
        for topic in answer.topics:
            error = KafkaError(topic.error_code)
            if not topic.error_code:
                found[topic.name] = _topic_now(topic, nodes, with_id=version >= _IDS)
            elif error.code() not in NO_SUCH_TOPIC:
                fault = translate(error, f"describing topic {topic.name}", self._options)
                if error.code() not in DENIED:
                    raise fault
                found[topic.name] = _withheld(fault)
        lacking = set(names) - {topic.name for topic in answer.topics}
        if lacking:
            raise TransientError(f"Kafka's answer about topics lacks {listed(sorted(lacking))}.")
        return found

    def _call(self, names: Sequence[str]) -> Mapping[str, TopicNow]:
        """The answer of the broker that was asked last, or else of the first one that is reached soon."""
        if self._by_client:
            raise HeadersUnsupportedError("only librdkafka can connect")
        self._settings = self._settings or socket_settings(self._options)
        begun = time.monotonic()
        failure: TransientError | None = None
        for address in (None, *self._brokers):
            if failure is not None and time.monotonic() - begun > _ANOTHER_S:
                break
            connection = None
            try:
                if address is None:
                    connection, self._connection = self._connection, None
                else:
                    connection = open_connection(address, self._options, self._settings)
                if connection is None:
                    continue
                answer = self._described(connection, names)
            except TransientError as error:
                failure = error
            else:
                self._connection, connection = connection, None
                return answer
            finally:
                if connection is not None:
                    connection.close()
        raise failure or TransientError("No bootstrap server is given.")

    def cut(self, doubts: Mapping[Partition, Doubt]) -> dict[Partition, BrokerError]:
        """The partitions whose leaders do not confirm what was read; see `leader_epochs.cut_logs`."""
        settings = self._settings
        return cut_logs(self._options, settings, doubts) if doubts and settings is not None else {}

    def close(self) -> None:
        """Close the connection; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _withheld(fault: BrokerError) -> TopicNow:
    return TopicNow(None, _NONE, _NONE, fault=fault)


def _topic_now(topic: Any, nodes: Mapping[int, Address], *, with_id: bool) -> TopicNow:
    """A topic of an answer; partitions with an error are kept, since they may have a leader epoch."""
    return TopicNow(
        _id_text(topic.topic_id.bytes) if with_id and topic.topic_id is not None else None,
        {
            part.partition_index: part.leader_epoch
            for part in topic.partitions
            if part.leader_epoch >= 0
        },
        {part.partition_index: part.leader_id for part in topic.partitions if part.leader_id in nodes},
        {part.partition_index: part.error_code for part in topic.partitions if part.error_code},
        nodes,
    )


def described_leaders(
    topics: Mapping[str, TopicNow], partitions: Sequence[Partition], options: KafkaOptions
) -> Leaders | None:
    """The leaders of partitions in one answer about topics: pure; None: the answer does not show them.

    Raises `TransientError` if no partition has a leader at present.
    """
    nodes: Mapping[int, Address] = _NO_NODES
    found: dict[Partition, tuple[int, int]] = {}
    for partition in partitions:
        topic = topics.get(partition.topic)
        if topic is None or not topic.nodes:
            return None
        error = topic.errors.get(partition.number, 0)
        nodes, found[partition] = topic.nodes, (error, topic.leaders.get(partition.number, _NOBODY))
    return leaders_among(nodes, found, options) if found else None


def _id_text(value: bytes) -> str | None:
    """A topic id as `fetch_wire.topic_id` takes it; None where all bits are zero: the broker has none."""
    return urlsafe_b64encode(value).decode().rstrip("=") if any(value) else None

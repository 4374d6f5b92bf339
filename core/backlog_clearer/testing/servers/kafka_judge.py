"""The state of a Kafka broker as plain clients see it, and the changes that tests make to it.

Nothing here uses the adapter under test.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ElectionType,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka import KafkaConsumer, OffsetAndMetadata
from kafka import TopicPartition as NamedPartition

from backlog_clearer.brokers.kafka import admin, librdkafka, positions, socket_settings
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.source import open_source
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench
from backlog_clearer.testing.servers.embedded_kafka import produce
from backlog_clearer.testing.support import wait_until

READERS = (Reader.HEADERS, Reader.CLIENT)
"""Every way to read; the claims of a test hold for all of them."""

NEVER = -1001  # librdkafka's figure where nothing is committed


_MOVING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,
}
_Answer = TypeVar("_Answer")


def shorten_time_outs(monkeypatch: pytest.MonkeyPatch, seconds: float = 2.0) -> None:
    """Let every request of the adapter time out early, for tests of brokers that do not answer."""
    for module in (admin, librdkafka, positions):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", seconds)
    monkeypatch.setattr(socket_settings, "TIMEOUT_S", seconds)


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def _patiently(ask: Callable[[], _Answer]) -> _Answer:
    """What a client answers, once a coordinator that is about to move has moved; raises like it after 2 min."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _MOVING or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Judge:
    """One broker, or cluster, as its plain clients see it."""

    def __init__(self, bootstrap_servers: str, settings: Mapping[str, Any] | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.settings = {"bootstrap.servers": bootstrap_servers, **(settings or {})}
        self.admin = AdminClient(self.settings)

    def create(self, topic: str, partitions: int = 1, *, copies: int = 1, **config: Any) -> str:
        """Create a topic and return its name; `config` has '_' where Kafka has '.'."""
        values = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(topic, partitions, copies, config=values)
        self.admin.create_topics([new])[topic].result(30)
        # The answer comes before every node has the topic.
        wait_until(lambda: topic in self.topics(), f"topic {topic}")
        return topic

    def topic_id(self, topic: str) -> str:
        """A topic's id; "" where the broker has none."""
        found = self.admin.describe_topics(TopicCollection([topic]))[topic].result(30)
        text = str(found.topic_id or "")
        return text if text.strip("A") else ""

    def delete(self, topic: str) -> None:
        """Delete a topic, and wait until no node has it."""
        self.admin.delete_topics([topic])[topic].result(30)
        wait_until(lambda: topic not in self.topics(), f"the end of topic {topic}")

    def recreate(self, topic: str, partitions: int = 1) -> None:
        """Delete a topic, and create it again, empty."""
        self.delete(topic)
        self.create(topic, partitions)

    def place(self, topic: str, nodes: Sequence[int], **config: Any) -> str:
        """Create a topic of one partition on these nodes, the first of which leads it."""
        values = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(topic, 1, replica_assignment=[list(nodes)], config=values)
        self.admin.create_topics([new])[topic].result(30)
        wait_until(lambda: topic in self.topics(), f"topic {topic}")
        return topic

    def in_sync(self, topic: str) -> set[int]:
        """The nodes that have all of partition 0."""
        return set(self.admin.list_topics(topic, timeout=30).topics[topic].partitions[0].isrs)

    def wait_for_coordinators(self) -> None:
        """Wait until every group's offsets can be asked for; a cluster that has just started loads them.

        By consumers: requests for groups by librdkafka's admin client abort the process where the
        coordinator moves meanwhile (librdkafka#5397).
        """
        for index in range(16):
            settings = {**self.settings, "group.id": f"warm-up-{index}"}
            with closing(Consumer(settings)) as consumer:
                wait_until(lambda: _answered(consumer), "every group coordinator")

    def groups_by_coordinator(self, count: int = 16) -> dict[int, list[str]]:
        """Fresh groups' names by the node that coordinates them."""
        names = [unique("group") for _ in range(count)]

        def nodes() -> dict[str, int]:
            described = self.admin.describe_consumer_groups(names)
            return {name: future.result(30).coordinator.id for name, future in described.items()}

        found: dict[int, list[str]] = {}
        for name, node in _patiently(nodes).items():
            found.setdefault(node, []).append(name)
        return found

    def groups(self) -> set[str]:
        """The names of all groups; raises where a node did not answer."""
        found = self.admin.list_consumer_groups().result(30)
        assert not found.errors
        return {each.group_id for each in found.valid}

    def group_coordinated_by_other_than(self, node: int) -> str:
        """A fresh group's name whose coordinator is another node; waits until there is one."""
        names: list[str] = []

        def found() -> bool:
            groups = self.groups_by_coordinator()
            names[:] = [each[0] for coordinator, each in groups.items() if coordinator != node]
            if (
                not names
            ):  # nodes that were late, or killed by an earlier test, do not lead again by themselves
                self.admin.elect_leaders(ElectionType.PREFERRED).result(30)
            return bool(names)

        wait_until(found, f"a group that node {node} does not coordinate")
        return names[0]

    def topics(self) -> set[str]:
        """The names of all topics."""
        return set(self.admin.list_topics(timeout=30).topics)

    def leaders(self, topic: str) -> dict[int, int]:
        """The node that leads each partition; -1: none."""
        found = self.admin.list_topics(topic, timeout=30).topics[topic].partitions
        return {number: partition.leader for number, partition in found.items()}

    def produce(self, topic: str, partition: int, count: int, **how: Any) -> None:
        """Publish messages and wait until they are stored; `how` as for `demo`'s `produce`."""
        produce(self.bootstrap_servers, topic, count, partition=partition, **how)

    def produce_transaction(self, topic: str, partition: int, count: int, *, commit: bool) -> None:
        """Publish messages in one transaction, commit or abort it, and wait for its marker."""
        end = self.ends(topic)[partition][1] + count + 1
        producer = Producer({**self.settings, "transactional.id": unique("tx")})
        producer.init_transactions(30)
        producer.begin_transaction()
        for index in range(count):
            producer.produce(topic, f"in transaction {index}".encode(), partition=partition)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
        wait_until(lambda: self.ends(topic)[partition][1] == end, "the transaction's marker")

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """(log start, high watermark) of every partition."""
        config = {"group.id": unique("judge"), "isolation.level": "read_uncommitted"}
        with closing(Consumer({**self.settings, **config})) as consumer:
            numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
                for number in sorted(numbers)
            }

    def committed(self, topic: str, group: str) -> dict[int, int | None]:
        """The group's committed offset in every partition; None: nothing was ever committed."""
        config = {"group.id": group, "isolation.level": "read_uncommitted"}
        with closing(Consumer({**self.settings, **config})) as consumer:
            numbers = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
            asked = [TopicPartition(topic, number) for number in numbers]
            found = _patiently(lambda: consumer.committed(asked, timeout=20))
        return {item.partition: None if item.offset == NEVER else item.offset for item in found}

    def records(self, topic: str, partition: int = 0) -> Iterator[Message]:
        """The messages that a plain consumer gets from a partition, from its start to its end."""
        config = {
            "group.id": unique("judge"),
            "isolation.level": "read_uncommitted",
            "enable.partition.eof": True,
        }
        with closing(Consumer({**self.settings, **config})) as consumer:
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            while True:
                message = consumer.poll(30)
                if message is None:
                    raise TimeoutError(f"{topic}[{partition}] was not read to its end")
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return
                yield message

    def commit(self, topic: str, group: str, offsets: Mapping[int, int]) -> None:
        """Commit offsets as the group."""
        with closing(Consumer({**self.settings, "group.id": group})) as consumer:
            wanted = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
            consumer.commit(offsets=wanted, asynchronous=False)

    def store(self, group: str, *positions: TopicPartition) -> None:
        """Commit positions, with their metadata and leader epochs, as the group.

        Not by confluent-kafka, which adds a zero to the text.
        """
        wanted = {
            NamedPartition(item.topic, item.partition): OffsetAndMetadata(
                item.offset, item.metadata or "", -1 if item.leader_epoch is None else item.leader_epoch
            )
            for item in positions
        }
        with closing(self._member_of(group)) as consumer:
            consumer.commit(wanted)

    def _member_of(self, group: str) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self.bootstrap_servers, group_id=group, enable_auto_commit=False
        )

    def stored(self, topic: str, group: str) -> dict[int, tuple[int, str, int | None]]:
        """(offset, metadata, leader epoch) of each partition where the group has committed any.

        Not by confluent-kafka, which returns more than the text that was committed now and then.
        """
        with closing(self._member_of(group)) as consumer:
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            found = {n: consumer.committed(NamedPartition(topic, n), metadata=True) for n in numbers}
        return {
            number: (item.offset, item.metadata or "", item.leader_epoch)
            for number, item in found.items()
            if item is not None
        }

    @contextmanager
    def pending_offset(
        self, topic: str, group: str, offset: int, *, transactional_id: str
    ) -> Iterator[None]:
        """A block in which an open transaction has an offset of partition 0 pending; then it is aborted."""
        producer = Producer({**self.settings, "transactional.id": transactional_id})
        producer.init_transactions(30)
        producer.begin_transaction()
        with closing(Consumer({**self.settings, "group.id": group})) as consumer:
            wanted = [TopicPartition(topic, 0, offset)]
            producer.send_offsets_to_transaction(wanted, consumer.consumer_group_metadata(), 30)
        try:
            yield
        finally:
            producer.abort_transaction(30)

    def left(self, topic: str, group: str) -> dict[int, int]:
        """Offsets between the group's position and the high watermark, retained ones only."""
        committed = self.committed(topic, group)
        return {
            number: max(0, high - max(committed[number] or 0, low))
            for number, (low, high) in self.ends(topic).items()
        }

    @contextmanager
    def member(self, topic: str, group: str, **config: Any) -> Iterator[Consumer]:
        """A consumer that has joined the group and got partitions."""
        names = {key.replace("_", "."): value for key, value in config.items()}
        consumer = Consumer(
            {**self.settings, "group.id": group, "client.id": "test-member",
             "enable.auto.commit": False, **names}
        )  # fmt: skip
        with closing(consumer):
            consumer.subscribe([topic])

            def joined() -> bool:
                message = consumer.poll(0.1)
                del message  # polling is needed only to join
                return bool(consumer.assignment())

            wait_until(joined, f"a member of {group}")
            yield consumer

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records before an offset, as retention does: the log starts there."""
        wanted = TopicPartition(topic, partition, offset)
        for future in self.admin.delete_records([wanted]).values():
            future.result(30)

    def reads_anything(self, topic: str, group: str, timeout_s: float = 3.0) -> bool:
        """Whether an ordinary member of the group is still given a message."""
        with self.member(topic, group, auto_offset_reset="earliest") as consumer:
            return consumer.poll(timeout_s) is not None


class KafkaBench(Bench):
    """A separate topic and group on a running broker."""

    system = "kafka"
    missing_name = "no-such-topic"
    endpoint: tuple[str, int]
    cuts_by_time = cuts_by_count = shows_age = True
    damaged_answers = 0
    takes_garbled = False  # librdkafka; tests/real/kafka_relay.py garbles the adapter's own requests
    attempts = 1000  # librdkafka reconnects by itself, every 0.1 to 1 s, until a request times out

    def __init__(self, judge: Judge, reader: Reader = Reader.CLIENT) -> None:
        self.judge = judge
        self.reader = reader
        self.topic = judge.create(unique("contract"), self.partitions)
        self.group = unique("group")
        host, _, port = judge.bootstrap_servers.partition(":")
        self.endpoint = (host, int(port))

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return self._open(run)

    def missing_source(self, run: RunOptions) -> Source:
        return self._open(run, topic=self.missing_name)

    def other_source(self, run: RunOptions) -> Source:
        group = unique("other")
        self.judge.commit(self.topic, group, {0: 0})
        return self._open(run, group_id=group)

    def source_via(self, run: RunOptions, host: str, port: int) -> Source:
        return self._open(run, bootstrap_servers=f"{host}:{port}")

    def readdressed(self, port: int) -> Sequence[tuple[bytes, bytes]]:
        """The broker's address in Metadata and FindCoordinator: host, then port as an INT32."""
        host, own = self.endpoint
        return ((host.encode() + struct.pack(">i", own), host.encode() + struct.pack(">i", port)),)

    def _open(self, run: RunOptions, **changes: Any) -> Source:
        values = {
            "bootstrap_servers": self.judge.bootstrap_servers,
            "topic": self.topic,
            "group_id": self.group,
            "reader": self.reader,
        }
        return open_source(KafkaOptions.model_validate({**values, **changes}), run, "contract")

    def produce(self, number: int, count: int) -> None:
        self.judge.produce(self.topic, number, count)

    def left(self) -> dict[int, int]:
        return self.judge.left(self.topic, self.group)

    def recreate(self) -> None:
        if not self.judge.topic_id(self.topic):
            self._not_offered("recreate")  # a broker without topic ids cannot distinguish two logs
        self.judge.recreate(self.topic, self.partitions)

    def exists(self, name: str) -> bool:
        return name in self.judge.topics()

    def attach(self) -> Any:
        return self.judge.member(self.topic, self.group)

    def refusing(self, number: int) -> Any:
        del number  # Kafka refuses all partitions of a group that has members
        return self.attach()

    def abandon(self, count: int) -> None:
        config = {**self.judge.settings, "group.id": self.group, "enable.auto.commit": False}
        with closing(Consumer(config)) as consumer:
            consumer.assign([TopicPartition(self.topic, 0, OFFSET_BEGINNING)])
            assert len(consumer.consume(count, 30)) == count

    def advance(self, number: int, to: int) -> None:
        self.judge.commit(self.topic, self.group, {number: to})


def _answered(consumer: Consumer) -> bool:
    """Whether the coordinator of a consumer's group answers."""
    try:
        consumer.committed([TopicPartition("warm-up", 0)], timeout=10)
    except KafkaException:
        return False
    return True

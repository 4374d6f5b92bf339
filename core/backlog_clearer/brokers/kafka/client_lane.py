"""Reading with librdkafka's consumer: supports everything that librdkafka supports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from backlog_clearer.brokers.kafka.commits import IdCommits, LaneCommits
from backlog_clearer.brokers.kafka.errors import lets_out_only_ours, translate
from backlog_clearer.brokers.kafka.figures import cut_off, not_an_offset
from backlog_clearer.brokers.kafka.incarnations import Incarnations, expected
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets
from backlog_clearer.brokers.kafka.leader_epochs import ReadUpTo
from backlog_clearer.brokers.kafka.librdkafka import Complaints, open_consumer
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.model import Advance, Claim, Partition, Settled

QUEUE_BYTES = (
    64 * 1024 * 1024
)  # payload prefetched by all lanes together; librdkafka limits each partition
QUEUE_MESSAGES = 200_000  # the same as a count, since a small message costs more than its payload
FETCH_KB = 1 * 1024  # compressed bytes asked for at a time, of all partitions together
MAX_BATCH = 10_000  # more objects at once only make Python slower


def fetch_settings(
    partitions: int,
    lanes: int,
    *,
    queue_messages: int = QUEUE_MESSAGES,
    queue_bytes: int = QUEUE_BYTES,
) -> dict[str, Any]:
    """Settings that read fast and bound the memory of all lanes together.

    librdkafka waits `fetch.queue.backoff.ms` (1 s by default) whenever a partition's queue is
    full: the largest brake on a consumer that only counts.
    """
    shares = lanes * partitions
    response = max(1024, 64 * 1024 // lanes) * 1024
    return {
        "check.crcs": True,  # else damage would be acknowledged as messages
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 10,
        "fetch.error.backoff.ms": 100,
        "fetch.wait.max.ms": 100,
        "fetch.message.max.bytes": max(16, FETCH_KB // shares) * 1024,
        "fetch.max.bytes": response,
        "queued.min.messages": max(1, queue_messages // shares)
        if queue_messages < QUEUE_MESSAGES
        else max(1000, QUEUE_MESSAGES // shares),
        "queued.max.messages.kbytes": max(64, queue_bytes // 1024 // shares),
        "message.max.bytes": min(1_000_000, response),
        "receive.message.max.bytes": 128 * 1024 * 1024,
    }


class ClientLane:
    """A lane over one consumer that is assigned its partitions and joins no group."""

    throttled_s = 0.0

    def __init__(
        self,
        options: KafkaOptions,
        claims: Sequence[Claim],
        logs: Incarnations,
        commits: IdCommits,
        *,
        batch_size: int,
        fetching: Mapping[str, Any],
        sized: bool = False,
    ) -> None:
        """`fetching`: see `fetch_settings`. `sized`: count bytes, too, which costs time for each message."""
        self._options = options
        self._batch = min(batch_size, MAX_BATCH)
        self._sized = sized
        self._offsets = LaneOffsets(claims, logs)
        self._complaints = Complaints(options)
        self._consumer: Consumer | None = open_consumer(options, self._complaints, fetching)
        offsets = GroupOffsets(options, self._consumer)
        self._stored = LaneCommits(commits, offsets, expected(claims))
        at = self._offsets.at
        self._consumer.assign(
            [
                TopicPartition(p.topic, p.number, at[p], "", self._offsets.epoch(p))
                for p in self._offsets.open
            ]
        )

    @lets_out_only_ours("reading")
    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Take the messages that librdkafka has fetched; see `source.Lane`."""
        if ready := self._offsets.ready():
            return ready
        if not self._offsets.open or self._consumer is None:
            return ()
        limit = self._batch if max_messages is None else min(self._batch, max_messages)
        messages = self._consume(limit, max_wait_s)
        ends: dict[Partition, int] = {}
        if any(map(Message.error, messages)):
            messages, ends = self._without_events(messages)
        if not messages and not ends:
            self._complain()
            return ()
        return self._advances(messages, ends)

    def _consume(self, limit: int, max_wait_s: float) -> list[Message]:
        """The messages in the queue; else the next one, since a call for more waits for a full batch."""
        assert self._consumer is not None  # noqa: S101 narrows the type; `read` has checked
        try:
            return self._consumer.consume(limit, 0.0) or self._consumer.consume(1, max_wait_s)
        except KafkaException as failure:
            raise translate(failure, "reading", self._options) from None

    def _without_events(self, events: Sequence[Message]) -> tuple[list[Message], dict[Partition, int]]:
        """The messages, and the offsets at which partitions ended; raises for any other event."""
        messages, ends = [], {}
        for event in events:
            error = event.error()
            if error is None:
                messages.append(event)
                continue
            partition = _partition_of(event)
            if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's public name
                raise translate(error, f"reading {partition or 'the topic'}", self._options, partition)
            if partition is not None:
                offset = event.offset()
                if offset is None or offset < 0:
                    raise not_an_offset(partition, offset, "log end")
                ends[partition] = offset
        return messages, ends

    def _complain(self) -> None:
        """Raise if no message came because no broker is connected or the login was refused."""
        self._complaints.raise_refusal()
        if self._complaints.down_at is not None:
            raise self._complaints.unreachable("reading")

    def _advances(self, messages: Sequence[Message], ends: Mapping[Partition, int]) -> list[Advance]:
        self._complaints.recovered()
        counts, latest = self._by_partition(messages)
        last = {partition: _offset_of(message) for partition, message in latest.items()}
        self._check_log(counts, last, ends)
        offsets, advances = self._offsets, []
        size = sum(map(len, messages)) if self._sized else 0  # of them all, with the first partition
        for partition in {**counts, **ends}:
            if partition not in offsets.open:  # was in the queue when its target was reached
                continue
            count, offset = counts.get(partition, 0), offsets.at[partition]
            offset = max(offset, last.get(partition, -1) + 1, ends.get(partition, 0))
            target = offsets.targets[partition]
            if target is not None and offset > target and count:
                count = self._below(messages, partition, target)
            read = _read_up_to(latest.get(partition))
            end = self._end(partition, target)
            advances.append(offsets.reach(partition, offset, count, end=end, read=read, size=size))
            size = 0
            if partition not in offsets.open:
                self._leave(partition)
        return advances

    def _check_log(
        self,
        counts: Mapping[Partition, int],
        last: Mapping[Partition, int],
        ends: Mapping[Partition, int],
    ) -> None:
        """Raise where messages or the end lie before the position: the log was cut off meanwhile.

        From the position to the last offset there is room for so many messages; with more, some came before.
        """
        for partition in self._offsets.open:
            at = self._offsets.at[partition]
            room = last.get(partition, at - 1) + 1 - at
            if counts.get(partition, 0) > room or ends.get(partition, at) < at:
                self._offsets.drop(partition)
                raise cut_off(partition, at)

    def _by_partition(
        self, messages: Sequence[Message]
    ) -> tuple[Mapping[Partition, int], Mapping[Partition, Message]]:
        """How many messages each partition got, and its last one."""
        if not messages:
            return {}, {}
        if len(self._offsets.at) == 1:
            (only,) = self._offsets.at
            return {only: len(messages)}, {only: messages[-1]}
        # Without a comprehension, the work per message stays inside the interpreter's C code.
        keys = list(zip(map(Message.topic, messages), map(Message.partition, messages), strict=True))
        latest = dict(zip(keys, messages, strict=True))
        counts = {_partition(*key): count for key, count in Counter(keys).items()}
        return counts, {_partition(*key): message for key, message in latest.items()}

    @staticmethod
    def _below(messages: Sequence[Message], partition: Partition, target: int) -> int:
        """How many messages of a partition lie before its target; runs once for a partition."""
        return sum(
            _partition_of(message) == partition and _offset_of(message) < target for message in messages
        )

    def _end(self, partition: Partition, target: int | None) -> int | None:
        """The end in the last answer, for a claim that follows it; None: not known."""
        if target is not None or self._consumer is None:
            return None
        marks = self._consumer.get_watermark_offsets(
            TopicPartition(partition.topic, partition.number), cached=True
        )
        return marks[1] if marks is not None and marks[1] >= 0 else None

    def _leave(self, partition: Partition) -> None:
        """Stop fetching a partition whose target is reached."""
        if self._consumer is not None:
            self._consumer.pause([TopicPartition(partition.topic, partition.number)])

    @lets_out_only_ours("committing")
    def settle(self) -> Sequence[Settled]:
        """Commit the positions reached, all in one request; see `source.Lane`."""
        return self._offsets.settle(self._stored)

    def close(self) -> None:
        """Close the consumer; see `source.Lane`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._stored.close()
            consumer.close()


def _partition(topic: str | None, number: int | None) -> Partition:
    """The partition of a message (neither part is None in one that was consumed)."""
    return Partition(topic or "", -1 if number is None else number)


def _partition_of(message: Message) -> Partition | None:
    topic, number = message.topic(), message.partition()
    return None if topic is None or number is None or number < 0 else Partition(topic, number)


def _read_up_to(message: Message | None) -> ReadUpTo | None:
    """What reading a message proves of its log; None where the broker has no leader epochs."""
    epoch = None if message is None else message.leader_epoch()
    if message is None or epoch is None or epoch < 0:
        return None
    return ReadUpTo(_offset_of(message) + 1, epoch)


def _offset_of(message: Message) -> int:
    offset = message.offset()
    return -1 if offset is None else offset

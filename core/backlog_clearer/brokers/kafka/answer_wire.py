"""Walking a Fetch response while it arrives, in pieces of any size.

The walk keeps no bytes and decides what is still needed of the response, so that the rest can be let go
of where it arrives (`inlet`). Pure and safe against any input: see `batch_wire`.
"""

from __future__ import annotations

from collections.abc import Mapping

from backlog_clearer.brokers.kafka import fetch_wire
from backlog_clearer.brokers.kafka.batch_wire import BatchWalk, Buffer, CorruptBatchError
from backlog_clearer.brokers.kafka.fetch_wire import PartitionHead, ResponseHead, TopicHead
from backlog_clearer.model import Partition


class Fetched:
    """One partition of a response, and how far its records are walked."""

    __slots__ = (
        "diverging",
        "error",
        "high_watermark",
        "partition",
        "read_replica",
        "reported",
        "size",
        "walk",
    )

    def __init__(
        self, partition: Partition, head: PartitionHead, read_replica: int, walk: BatchWalk
    ) -> None:
        self.partition = partition
        self.error = head.error
        """Kafka's error code; 0: none."""
        self.high_watermark = head.high_watermark
        self.read_replica = read_replica
        """Node id to read from instead; -1: this one."""
        self.diverging: int | None = None
        """The offset from which on the broker's log is not the one that was read; None: it is (KIP-595)."""
        self.walk = walk
        self.size = walk.left
        """Bytes of its records in this response."""
        self.reported = (0, 0)
        """Records and bytes of it that were returned already, as the lane notes."""


class AnswerWalk:
    """A walk over one response without its header, of `size` bytes.

    `wanted`: the position and the target (None: none) of every partition asked for; `names`: the topic of
    each id that the response may have instead of a name. Raises `CorruptBatchError` for a size that
    cannot be.
    """

    def __init__(
        self,
        size: int,
        version: int,
        wanted: Mapping[Partition, tuple[int, int | None]],
        names: Mapping[str, str] | None = None,
    ) -> None:
        if size < fetch_wire.SMALLEST_BYTES:
            raise CorruptBatchError(f"a Fetch response of {size} bytes")
        self.left = size
        """Bytes of the response from the place on that `feed` returned last; 0: all is walked."""
        self.budget: int | None = None
        """How many records may be counted from now on; None: any number."""
        self.found: list[Fetched] = []
        """The partitions of the response so far, in its order."""
        self.reported = 0
        """How many of them the lane has done with."""
        self.size = size
        self.last_batch_bytes = 0
        """Size of the batch seen last; 0: none yet."""
        self.throttle_ms = 0
        self.error = 0
        self._version = version
        self._wanted = dict(wanted)
        self._names = names or {}
        self._response: ResponseHead | None = None
        self._topic: TopicHead | None = None
        self._partition: PartitionHead | None = None
        self._walk: BatchWalk | None = None
        self._topics = self._partitions = 0  # that are still to come
        self._tails = 0  # tagged fields that come next: of a partition, a topic, the response

    @property
    def paused(self) -> bool:
        """Whether the budget has ended before the response."""
        return self.budget == 0 and self.left > 0

    @property
    def in_records(self) -> bool:
        """Whether a partition's records come next."""
        return self._walk is not None and self._walk.left > 0

    def feed(self, data: Buffer, at: int, end: int) -> int:
        """Walk over the bytes `data[at:end]` that come next; see `BatchWalk.feed`.

        Raises `CorruptBatchError`, also for partitions that were not asked for or come twice, or
        `OldFormatError`.
        """
        if not 0 <= at <= end <= len(data) or end - at > self.left:
            raise CorruptBatchError(
                f"bytes {at}..{end} of a {len(data)}-byte buffer, where {self.left} are left"
            )
        while True:
            before = at
            if self._walk is not None and self._walk.left:
                at = self._records(self._walk, data, at, end)
            elif not self._head_follows():
                raise CorruptBatchError(
                    f"a Fetch response of {self.size} bytes with {self.left} behind its last partition"
                )
            else:
                at = self._head(data, at, end)
            self.left -= at - before
            if self.left < 0:
                raise CorruptBatchError(
                    f"a Fetch response of {self.size} bytes points to byte {self.size - self.left}"
                )
            short = self._head_follows() if not self.left else at == before and end - at == self.left
            if short and not self.paused:
                raise CorruptBatchError(f"a Fetch response of {self.size} bytes ends within its fields")
            if at >= end or at == before:
                return at

    def _records(self, walk: BatchWalk, data: Buffer, at: int, end: int) -> int:
        counted = walk.records
        at = walk.feed(data, at, end, self.budget)
        self.last_batch_bytes = walk.last_bytes or self.last_batch_bytes
        if self.budget is not None:
            self.budget -= walk.records - counted
        return at

    def _head_follows(self) -> bool:
        return (
            self._response is None
            or self._tails > 0
            or self._partition is not None
            or self._partitions > 0
            or self._topics > 0
        )

    def _head(self, data: Buffer, at: int, end: int) -> int:
        """Read the next fields that are whole; returns where they end, or `at` if they are not there."""
        if self._response is None:
            self._response = response = fetch_wire.read_response(data, at, end, self._version)
            if response is not None:
                self.throttle_ms, self.error = response.throttle_ms, response.error
                self._topics = response.topics
                at = response.at
                self._expect_tails(0)
        elif self._tails:
            at = self._tail(data, at, end)
        elif self._partition is not None:
            at = self._start(self._partition, data, at, end)
        elif self._partitions:
            self._partition = partition = fetch_wire.read_partition(data, at, end, self._version)
            if partition is not None:
                self._partitions -= 1
                at = partition.at
        else:
            self._topic = topic = fetch_wire.read_topic(data, at, end, self._version)
            if topic is not None:
                self._topics -= 1
                self._partitions = topic.partitions
                at = topic.at
                if not topic.partitions:
                    self._expect_tails(1)
        return at

    def _expect_tails(self, inner: int) -> None:
        """Tagged fields end a partition, the last one's topic, and the last one's response.

        `inner`: of how many levels one ends here for certain.
        """
        if self._version < fetch_wire.FLEXIBLE:
            return
        ends = not self._partitions, not self._partitions and not self._topics
        self._tails = {0: ends[1], 1: 1 + ends[1], 2: 1 + sum(ends)}[inner]

    def _tail(self, data: Buffer, at: int, end: int) -> int:
        """Read one level's tagged fields; the first after records are the partition's."""
        tail = fetch_wire.read_tail(data, at, end)
        if tail is None:
            return at
        self._tails -= 1
        if self._walk is not None:
            self.found[-1].diverging, self._walk = tail.diverging, None
        return tail.at

    def _start(self, head: PartitionHead, data: Buffer, at: int, end: int) -> int:
        """Begin with the records of a partition."""
        records = fetch_wire.read_records(data, at, end, self._version)
        if records is None:
            return at
        self._partition = None
        assert self._topic is not None  # noqa: S101 narrows the type
        key = self._topic.topic
        partition = Partition(self._names.get(key, key), head.number)
        asked = self._wanted.pop(partition, None)
        if asked is None:
            raise CorruptBatchError(
                f"an answer about {partition}, which was not asked for or is there twice"
            )
        if records.at - at + records.size > self.left:
            raise CorruptBatchError(
                f"{records.size} bytes of records of {partition} in a Fetch response that has"
                f" {self.left - records.at + at} left"
            )
        skipped = records.size if head.error else 0
        self._walk = BatchWalk(records.size - skipped, *asked)
        self.found.append(Fetched(partition, head, records.read_replica, self._walk))
        self._expect_tails(2)
        return records.at + skipped

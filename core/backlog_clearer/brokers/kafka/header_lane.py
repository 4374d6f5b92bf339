"""Reading only the headers of record batches: the fastest way to clear a Kafka backlog.

A lane holds one connection to each broker that leads one of its partitions, asks each for whole
Fetch responses outside of any session, and counts by `batch_wire`. One request is in
flight on a connection; the next is sent as soon as its answer is walked, so that broker and engine
work at the same time. A lane uses one receive buffer for all answers.

Memory: lanes x `fetch_bytes(lanes)`, at most 64 MiB for up to 64 lanes;
more only where a single record batch is larger than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from confluent_kafka import KafkaError
from kafka.protocol.consumer import FetchRequest

from backlog_clearer.brokers.kafka import fetch_wire
from backlog_clearer.brokers.kafka.batch_wire import CorruptBatchError, OldFormatError, walk_batches
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, translate
from backlog_clearer.brokers.kafka.fetch_wire import Fetched, Wanted
from backlog_clearer.brokers.kafka.figures import cut_off, not_an_offset
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets
from backlog_clearer.brokers.kafka.leaders import Leaders, find_leaders, log_bounds, open_connection
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.brokers.shared.sockets import wait
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

_ALL_LANES = 64 * 1024 * 1024
_LARGEST = 8 * 1024 * 1024  # more made no lane faster (bench/README-kafka.md)
_SMALLEST = 1024 * 1024
_BATCH_LIMIT = 256 * 1024 * 1024  # a larger record batch is not accepted
_MAX_WAIT_MS = 500  # how long a broker may wait for data before it answers
_STARTING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART}
)  # also the answer of a broker that just started

GiveUp = Callable[[str], BrokerError]
"""Gets the reason why headers cannot be read; returns the error to raise, so that librdkafka reads."""


def fetch_bytes(lanes: int) -> int:
    """How much one answer may hold, in bytes."""
    return max(_SMALLEST, min(_LARGEST, _ALL_LANES // max(1, lanes)))


class HeaderLane:
    """A lane over bare Fetch requests; commits through librdkafka."""

    throttled_s = 0.0

    def __init__(
        self,
        options: KafkaOptions,
        claims: Sequence[Claim],
        settings: SocketSettings,
        logs: Incarnations,
        *,
        lanes: int,
        give_up: GiveUp,
    ) -> None:
        """Connects to the brokers that lead the claimed partitions.

        Raises like `backlog_clearer.source.Lane.read`, and `HeadersUnsupportedError` if a broker is too old.
        """
        self._options = options
        self._settings = settings
        self._give_up = give_up
        self._offsets = LaneOffsets(claims, logs)
        self._stored = GroupOffsets(options)
        self._bytes = fetch_bytes(lanes)
        self._buffer = bytearray()
        self._turn = count(1)
        self._rank = dict.fromkeys(self._offsets.at, 0)
        self._left: dict[Partition, int | None] = {}  # as last reported, of claims without target
        self._connections: dict[int, Connection] = {}
        self._versions: dict[int, int] = {}
        self._asked: dict[int, Mapping[Partition, int]] = {}  # by node: what is in flight
        self._not_before: dict[int, float] = {}  # by node: when its throttling ends
        self._failure: BrokerError | None = None
        self._leaders = Leaders({}, {})
        self._source: dict[Partition, int] = {}  # the node each partition is read from
        if self._offsets.open:
            try:
                self._stored.warm_up()
                self._leaders = find_leaders(options, settings, sorted(self._offsets.open))
                self._source = dict(self._leaders.leaders)
                for node in set(self._source.values()):
                    self._connect(node)
            except BaseException:
                self.close()
                raise

    def _connect(self, node: int) -> None:
        """Connect to a node that is not connected yet."""
        if node in self._connections:
            return
        made = open_connection(self._leaders.nodes[node], self._options, self._settings)
        self._connections[node] = made
        self._versions[node] = made.version(
            FetchRequest, fetch_wire.MIN_VERSION, fetch_wire.MAX_VERSION
        )

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Walk the answers that have arrived; see `source.Lane`."""
        if ready := self._offsets.ready():
            return ready
        self._fail()
        if not self._offsets.open:
            return ()
        for node in self._connections:
            self._ask(node)
        in_flight = {self._connections[node]: node for node in self._asked}
        if not in_flight:  # every broker throttles this client
            time.sleep(max_wait_s)
            return ()
        advances: list[Advance] = []
        for connection in wait(list(in_flight), max_wait_s):
            spent = sum(advance.messages for advance in advances)
            if max_messages is not None and spent >= max_messages:
                break
            budget = None if max_messages is None else max_messages - spent
            self._collect(in_flight[connection], connection, budget, advances)
            if self._failure is not None:
                break
        if not advances:
            self._fail()
        return advances

    def _fail(self) -> None:
        """Raise the failure that was kept, if there is one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _ask(self, node: int) -> None:
        """Send a Fetch to a node, unless one is in flight, it throttles, or it leads no open partition."""
        if node in self._asked or time.monotonic() < self._not_before.get(node, 0.0):
            return
        offsets, source = self._offsets, self._source
        wanted = sorted(
            (partition for partition in offsets.open if source[partition] == node),
            key=self._rank.__getitem__,
        )
        if not wanted:
            return
        version = self._versions[node]
        request = fetch_wire.fetch_request(
            [Wanted(partition, offsets.at[partition]) for partition in wanted],
            version=version,
            max_bytes=self._bytes,
            max_wait_ms=_MAX_WAIT_MS,
            rack=self._settings.rack,
        )
        self._connections[node].send(request, version)
        self._asked[node] = {partition: offsets.at[partition] for partition in wanted}

    def _collect(
        self, node: int, connection: Connection, budget: int | None, advances: list[Advance]
    ) -> None:
        """Receive and walk one answer, then ask for the next; a failure is kept for `read` to raise."""
        try:
            budget = self._answer(node, connection, budget, advances)
            if budget is None or budget > 0:
                self._ask(node)
        except (OldFormatError, HeadersUnsupportedError) as reason:
            self._failure = self._give_up(str(reason))
        except CorruptBatchError as reason:
            self._failure = BrokerError(
                f"Kafka at {connection.name} sent an answer that is not a valid Fetch response: {reason}."
                " --reader client may be able to read it."
            )
        except BrokerError as failure:
            self._failure = failure

    def _answer(
        self, node: int, connection: Connection, budget: int | None, advances: list[Advance]
    ) -> int | None:
        """Walk the partitions of one answer; returns the rest of the budget."""
        asked = self._asked.pop(node)
        size, self._buffer = connection.receive(self._buffer)
        version = self._versions[node]
        head = fetch_wire.response_head(self._buffer, size, version)
        if head.throttle_ms > 0:  # KIP-219: the client waits, for the broker no longer does
            self._not_before[node] = time.monotonic() + head.throttle_ms / 1000
        outside: list[Partition] = []
        for fetched in fetch_wire.response_partitions(self._buffer, head.at, size, version):
            if fetched.partition not in asked:
                raise CorruptBatchError(f"an answer about {fetched.partition}, not asked for")
            error = fetched.error or head.error
            if error == KafkaError.OFFSET_OUT_OF_RANGE:
                outside.append(fetched.partition)
            elif error:
                raise self._refused(fetched.partition, KafkaError(error))
            elif budget is None or budget > 0:
                advance = self._walk(node, connection, fetched, budget)
                if advance is not None:
                    advances.append(advance)
                    budget = None if budget is None else budget - advance.messages
        advances.extend(self._return_to_log(node, connection, outside))
        return budget

    def _refused(self, partition: Partition, error: KafkaError) -> BrokerError:
        failure = translate(error, f"reading {partition}", self._options, partition)
        return TransientError(str(failure), partition) if error.code() in _STARTING else failure

    def _walk(
        self, node: int, connection: Connection, fetched: Fetched, budget: int | None
    ) -> Advance | None:
        """Count one partition's batches; None: nothing new."""
        offsets, partition = self._offsets, fetched.partition
        if fetched.read_replica not in {-1, node}:
            self._read_from(partition, fetched.read_replica)
            return None
        position, target = offsets.at[partition], offsets.targets[partition]
        walked = walk_batches(
            self._buffer, fetched.start, fetched.end, position=position, target=target, budget=budget
        )
        end = fetched.high_watermark
        if end < 0:
            raise not_an_offset(partition, end, "log end")
        if walked.next_offset == position:
            if walked.needs > _BATCH_LIMIT:
                raise CorruptBatchError(f"a batch of {walked.needs} bytes in {partition}")
            if walked.needs:  # first in the next request, where a broker sends it whole
                self._bytes = max(self._bytes, walked.needs)
                self._rank[partition] = -1
                return None
            if target is not None or end < position:  # an end behind the position is an old figure
                return None
            left = end - position
            if self._left.get(partition, -1) == left:
                return None
            self._left[partition] = left
            return Advance(partition, 0, left)
        if target is None and walked.next_offset > end:  # it may have grown since the answer began
            _, end = log_bounds(connection, [partition], self._options)[partition]
            if walked.next_offset > end:
                raise CorruptBatchError(f"batches of {partition} reach beyond its end, {end}")
        self._rank[partition] = next(self._turn)  # the other partitions come first next time
        advance = offsets.reach(
            partition,
            walked.next_offset,
            walked.records,
            end=end,
            size=fetched.end - fetched.start,
        )
        self._left[partition] = advance.left
        return advance

    def _read_from(self, partition: Partition, node: int) -> None:
        """Continue at the replica that the leader names for this client's rack (KIP-392)."""
        if node not in self._leaders.nodes:
            raise TransientError(
                f"{partition} is to be read from broker {node}, which is not known yet."
            )
        self._connect(node)
        self._source[partition] = node

    def _return_to_log(
        self, node: int, connection: Connection, outside: Sequence[Partition]
    ) -> Sequence[Advance]:
        """Continue at the present log start: retention deleted the next messages."""
        leaders = self._leaders.leaders
        for partition in outside:
            if leaders[partition] != node:  # a replica may lag behind; ask its leader
                self._source[partition] = leaders[partition]
        lost = [partition for partition in outside if leaders[partition] == node]
        advances = []
        for partition, (start, end) in log_bounds(connection, lost, self._options).items():
            position = self._offsets.at[partition]
            if position > end:
                self._offsets.drop(partition)
                raise cut_off(partition, position)
            if start > position:
                advances.append(self._offsets.reach(partition, start, 0, end=end))
        return advances

    def settle(self) -> Sequence[Settled]:
        """Commit the positions reached, all in one request; see `source.Lane`."""
        return self._offsets.settle(self._stored)

    def close(self) -> None:
        """Close the connections and the committer; see `source.Lane`."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._asked.clear()
        self._stored.close()

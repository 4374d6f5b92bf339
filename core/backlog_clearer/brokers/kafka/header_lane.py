"""Reading only the headers of record batches: the fastest way to clear a Kafka backlog.

A lane holds one connection to each broker that leads one of its partitions, asks each for
Fetch responses outside of any session, and walks them while they arrive (`inlet`, `answer_wire`). One request
is in flight on a connection; the next is sent as soon as its answer is walked, so that broker and engine
work at the same time. A read that has to end before its answer does reports what was walked so far.

Memory: one window for each lane, of `window_bytes(lanes)`, whatever the sizes of answers and batches are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka import fetch_wire
from backlog_clearer.brokers.kafka.answer_wire import AnswerWalk, Fetched
from backlog_clearer.brokers.kafka.batch_wire import CorruptBatchError, OldFormatError
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.errors import (
    HeadersUnsupportedError,
    lets_out_only_ours,
    translate,
)
from backlog_clearer.brokers.kafka.fetch_size import LARGEST, SMALLEST, next_fetch_bytes
from backlog_clearer.brokers.kafka.fetch_wire import Wanted
from backlog_clearer.brokers.kafka.figures import cut_off, not_an_offset
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.inlet import Inlet, window
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets
from backlog_clearer.brokers.kafka.leader_epochs import ReadUpTo
from backlog_clearer.brokers.kafka.leaders import Leaders, find_leaders, log_bounds, open_connection
from backlog_clearer.brokers.kafka.library import FetchRequest
from backlog_clearer.brokers.kafka.metadata import TopicNow, described_leaders
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.shared_offsets import LaneOfShared
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.brokers.shared.sockets import wait
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

_BATCH_LIMIT = 256 * 1024 * 1024  # a larger record batch is not accepted
_MAX_WAIT_MS = 500  # how long a broker may wait for data before it answers
_WITHOUT_S = 2.0  # how long a lane reads before it names a partition whose leader it does not reach
_STARTING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        103,  # INCONSISTENT_TOPIC_ID: older versions of confluent-kafka have no name for it
    }
)  # also the answers of a broker that just started: the next lane finds out what happened to the topic

GiveUp = Callable[[str], BrokerError]
"""Gets the reason why headers cannot be read; returns the error to raise, so that librdkafka reads."""


class HeaderLane:
    """A lane over bare Fetch requests; it commits on connections that lanes share."""

    def __init__(
        self,
        options: KafkaOptions,
        claims: Sequence[Claim],
        settings: SocketSettings,
        logs: Incarnations,
        stored: LaneOfShared,
        *,
        lanes: int,
        give_up: GiveUp,
        fetch_bytes: int = LARGEST,
        topics: Mapping[str, TopicNow] | None = None,
    ) -> None:
        """Connects to the brokers that lead the claimed partitions.

        `topics`: as brokers have them at present, with the leaders; None: the lane asks for the leaders.
        Raises like `backlog_clearer.source.Lane.read`, and `HeadersUnsupportedError` if a broker is too old.
        """
        self.throttled_s = 0.0
        self._options = options
        self._settings = settings
        self._give_up = give_up
        self._offsets = LaneOffsets(claims, logs)
        self._ids = {claim.partition.topic: claim.state.incarnation or "" for claim in claims}
        self._names = {key: topic for topic, key in self._ids.items()}
        self._stored = stored
        self._window = window(lanes)
        self._bytes: dict[int, int] = {}  # by node: how much to ask for
        self._most = fetch_bytes
        self._at_least = min(SMALLEST, fetch_bytes)  # grows with a batch that is larger
        self._turn = count(1)
        self._rank = dict.fromkeys(self._offsets.at, 0)
        self._left: dict[Partition, int | None] = {}  # as last reported, of claims without target
        self._inlets: dict[int, Inlet] = {}
        self._versions: dict[int, int] = {}
        self._not_before: dict[int, float] = {}  # by node: when its throttling ends
        self._failure: BrokerError | None = None
        self._leaders = Leaders({}, {}, {})
        self._lacking: dict[Partition, TransientError] = {}  # what cannot be read by this lane
        self._until = time.monotonic() + _WITHOUT_S  # it is read without those for so long
        self._source: dict[Partition, int] = {}  # the node each partition is read from
        if self._offsets.open:
            try:
                self._stored.warm_up()
                self._leaders = self._find_leaders(topics or {})
                self._source = dict(self._leaders.leaders)
                self._lacking.update(self._leaders.lacking)
                self._connect_all()
            except BaseException:
                self.close()
                raise

    def _find_leaders(self, topics: Mapping[str, TopicNow]) -> Leaders:
        partitions = sorted(self._offsets.open)
        known = described_leaders(topics, partitions, self._options)
        return known or find_leaders(self._options, self._settings, partitions)

    def _connect_all(self) -> None:
        """Connect to every leader that can be reached; raises `TransientError` if none can be."""
        for node in sorted(set(self._source.values())):
            try:
                self._connect(node)
            except TransientError as failure:
                led = [partition for partition, leader in self._source.items() if leader == node]
                self._lacking.update({p: TransientError(str(failure), p) for p in led})
        if not self._inlets:
            raise next(iter(self._lacking.values()))

    def _connect(self, node: int) -> None:
        """Connect to a node that is not connected yet."""
        if node in self._inlets:
            return
        made = open_connection(self._leaders.nodes[node], self._options, self._settings)
        self._inlets[node] = Inlet(made)
        self._bytes[node] = min(SMALLEST, self._most)
        by_id = "" not in self._names  # then the broker itself refuses a topic that was created again
        self._versions[node] = made.version(
            FetchRequest,
            fetch_wire.MIN_VERSION,
            fetch_wire.MAX_VERSION if by_id else fetch_wire.NAMES_ONLY,
        )

    @lets_out_only_ours("reading")
    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Walk what has arrived of the answers; see `source.Lane`."""
        if ready := self._offsets.ready():
            return ready
        self._fail()
        if not self._offsets.open:
            return ()
        begun = time.monotonic()
        self._name_lacking(begun)
        for node in self._inlets:
            self._ask(node)
        in_flight = {node: inlet for node, inlet in self._inlets.items() if inlet.expecting}
        if not in_flight:  # every broker throttles this client
            time.sleep(max_wait_s)
            return ()
        advances: list[Advance] = []
        for node in self._ready(in_flight, max_wait_s):
            spent = sum(advance.messages for advance in advances)
            if max_messages is not None and spent >= max_messages:
                break
            budget = None if max_messages is None else max_messages - spent
            self._collect(node, budget, begun + max_wait_s, advances, alone=len(in_flight) == 1)
            if self._failure is not None:
                break
        seconds = time.monotonic() - begun
        for inlet in in_flight.values():
            self._failure = self._failure or inlet.late(seconds)
        if not advances:
            self._fail()
        return advances

    def _name_lacking(self, now: float) -> None:
        """Raise for a partition that this lane cannot read, once the others had their time or are read."""
        lacking = [partition for partition in self._lacking if partition in self._offsets.open]
        if lacking and (now >= self._until or len(lacking) == len(self._offsets.open)):
            raise self._lacking[lacking[0]]

    @staticmethod
    def _ready(in_flight: Mapping[int, Inlet], max_wait_s: float) -> Sequence[int]:
        """The nodes whose answer has more to walk."""
        if paused := [node for node, inlet in in_flight.items() if inlet.ready]:
            return paused
        nodes = {inlet.connection: node for node, inlet in in_flight.items()}
        return [nodes[connection] for connection in wait(list(nodes), max_wait_s)]

    def _fail(self) -> None:
        """Raise the failure that was kept, if there is one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _ask(self, node: int) -> None:
        """Send a Fetch to a node, unless one is in flight, it throttles, or it leads no open partition."""
        inlet = self._inlets[node]
        if inlet.expecting or time.monotonic() < self._not_before.get(node, 0.0):
            return
        offsets, source = self._offsets, self._source
        wanted = sorted(
            (partition for partition in offsets.open if source.get(partition) == node),
            key=self._rank.__getitem__,
        )
        if not wanted:
            return
        version = self._versions[node]
        request = fetch_wire.fetch_request(
            [Wanted(p, offsets.at[p], offsets.epoch(p)) for p in wanted],
            version=version,
            max_bytes=max(self._at_least, self._bytes[node]),
            max_wait_ms=_MAX_WAIT_MS,
            rack=self._settings.rack,
            incarnations={p.topic: self._ids[p.topic] for p in wanted}
            if version >= fetch_wire.TOPIC_IDS
            else None,
        )
        inlet.connection.send_fetch(request, version)
        positions = {p: (offsets.at[p], offsets.targets[p]) for p in wanted}
        inlet.expect(version, positions, self._names)

    def _collect(
        self, node: int, budget: int | None, until: float, advances: list[Advance], *, alone: bool
    ) -> None:
        """Walk what arrives of one answer, then ask for the next; a failure is kept for `read` to raise.

        `alone`: no other answer is awaited, so that this one may be waited for.
        """
        inlet = self._inlets[node]
        try:
            answer = inlet.receive(self._window, budget, until, patient=alone)
            if answer is None:
                return
            self._report(node, answer, advances)
            if inlet.expecting:
                return
            self._end(node, answer, advances)
            if budget is None or answer.budget:
                self._ask(node)
        except (OldFormatError, HeadersUnsupportedError) as reason:
            self._failure = self._give_up(str(reason))
        except CorruptBatchError as reason:
            self._failure = BrokerError(
                f"Kafka at {inlet.connection.name} sent an answer that is not a valid Fetch response:"
                f" {reason}. --reader client may be able to read it."
            )
        except BrokerError as failure:
            self._failure = failure

    def _report(self, node: int, answer: AnswerWalk, advances: list[Advance]) -> None:
        """What was walked since the last report."""
        for fetched in answer.found[answer.reported :]:
            advance = self._progress(node, fetched, answer.error)
            if advance is not None:
                advances.append(advance)
        answer.reported = max(0, len(answer.found) - 1)  # the last may still grow

    def _refused(self, partition: Partition, error: KafkaError) -> BrokerError:
        failure = translate(error, f"reading {partition}", self._options, partition)
        return TransientError(str(failure), partition) if error.code() in _STARTING else failure

    def _progress(self, node: int, fetched: Fetched, error: int) -> Advance | None:
        """Note how far a partition was read; None: no further than before."""
        offsets, partition, walk = self._offsets, fetched.partition, fetched.walk
        error = fetched.error or error
        if error == KafkaError.OFFSET_OUT_OF_RANGE:
            return None
        if error:
            raise self._refused(partition, KafkaError(error))
        if fetched.high_watermark < 0:
            raise not_an_offset(partition, fetched.high_watermark, "log end")
        if walk.position == offsets.at[partition] or fetched.read_replica not in {-1, node}:
            return None
        if self._is_beyond(node, fetched):
            return None  # whether the log has grown so far is asked when the connection is free
        return self._reach(fetched, fetched.high_watermark)

    def _is_beyond(self, node: int, fetched: Fetched) -> bool:
        """Whether batches reach beyond the end in the answer: the log grew, or they are damaged."""
        walk, partition = fetched.walk, fetched.partition
        if self._offsets.targets[partition] is None:
            return walk.position > fetched.high_watermark
        # A replica cannot be asked for the end, and may not have heard of it yet.
        leads = self._leaders.leaders.get(partition) == node
        return leads and walk.last_offset >= fetched.high_watermark

    def _reach(self, fetched: Fetched, end: int) -> Advance:
        partition, walk = fetched.partition, fetched.walk
        self._rank[partition] = next(self._turn)  # the other partitions come first next time
        messages, size = walk.records - fetched.reported[0], fetched.size - walk.left
        read = ReadUpTo(walk.position, walk.leader_epoch) if walk.leader_epoch >= 0 else None
        more = size - fetched.reported[1]
        advance = self._offsets.reach(partition, walk.position, messages, end=end, size=more, read=read)
        fetched.reported = (walk.records, size)
        self._left[partition] = advance.left
        return advance

    def _end(self, node: int, answer: AnswerWalk, advances: list[Advance]) -> None:
        """After the last byte of an answer: whatever needs the connection, or the whole answer."""
        inlet = self._inlets[node]
        if answer.throttle_ms > 0:  # KIP-219: the client waits, for the broker no longer does
            self.throttled_s += answer.throttle_ms / 1000
            self._not_before[node] = time.monotonic() + answer.throttle_ms / 1000
        if answer.error and not answer.found:
            raise translate(KafkaError(answer.error), "reading", self._options)
        self._bytes[node] = next_fetch_bytes(
            self._bytes[node], answer.size, time.monotonic() - inlet.begun_at, self._most
        )
        outside: list[Partition] = []
        for fetched in answer.found:
            if (fetched.error or answer.error) == KafkaError.OFFSET_OUT_OF_RANGE:
                outside.append(fetched.partition)
                continue
            advance = self._last(node, inlet.connection, fetched)
            if advance is not None:
                advances.append(advance)
        advances.extend(self._return_to_log(node, inlet.connection, outside))

    def _last(self, node: int, connection: Connection, fetched: Fetched) -> Advance | None:
        """What is left to be noted of a partition when its whole answer was walked."""
        offsets, partition, walk = self._offsets, fetched.partition, fetched.walk
        if fetched.diverging is not None:  # an unclean election cut off what was read
            offsets.drop(partition)
            raise cut_off(partition, offsets.at[partition])
        if fetched.read_replica not in {-1, node}:
            self._read_from(partition, fetched.read_replica)
            return None
        position, target, end = (
            offsets.at[partition],
            offsets.targets[partition],
            fetched.high_watermark,
        )
        if walk.position != position and (target is None or self._is_beyond(node, fetched)):
            # It may have grown since the answer began.
            _, end = log_bounds(connection, [partition], self._options)[partition]
            if max(walk.position, walk.last_offset + 1) > end:
                raise CorruptBatchError(f"batches of {partition} reach beyond its end, {end}")
            return self._reach(fetched, end)
        if walk.needs > _BATCH_LIMIT:
            raise CorruptBatchError(f"a batch of {walk.needs} bytes in {partition}")
        if walk.needs:  # first in the next request, where a broker sends it whole
            self._at_least = max(self._at_least, walk.needs)
            self._rank[partition] = -1
            return None
        if fetched.reported[1] or target is not None or end < position:
            return None  # an end behind the position is an old figure
        left = end - position
        if self._left.get(partition, -1) == left:
            return None
        self._left[partition] = left
        return Advance(partition, 0, left)

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
            self._offsets.forget_epoch(partition)
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

    @lets_out_only_ours("committing")
    def settle(self) -> Sequence[Settled]:
        """Commit the positions reached, all in one request; see `source.Lane`."""
        try:
            return self._offsets.settle(self._stored)
        except HeadersUnsupportedError as reason:  # by a coordinator that is older than the one before
            raise self._give_up(str(reason)) from None

    def close(self) -> None:
        """Close the lane's connections; see `source.Lane`."""
        for inlet in self._inlets.values():
            inlet.connection.close()
        self._inlets.clear()

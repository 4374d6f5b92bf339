"""The StreamingPull lane: leaves payloads unparsed, makes no Python object per message but the id.

Protocol: https://github.com/googleapis/googleapis/blob/master/google/pubsub/v1/pubsub.proto.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import StreamingPullRequest

from core.brokers.googlepubsub_errors import Call, error_info, translated
from core.errors import BrokerError, TransientError
from core.model import Advance, Claim, Partition, Settled
from core.options.googlepubsub import PubSubOptions

_LOG = logging.getLogger("backlog_clearer")

ACK_IDS = 1000  # of one request: an id has up to about 220 bytes, a request 512 KiB
ACK_TIMEOUT_S = 10.0
CLOSE_WAIT_S = 1.0  # for the server to end a stream that we ended
LEASE_USED = 0.9  # of a lease, after which it is not relied on any more
HEARTBEAT_S = 30.0  # an empty request, as the official clients send, keeps a quiet stream open
PERMISSION = "pubsub.subscriptions.consume"
_SERVICE = "/google.pubsub.v1.Subscriber/"


def _message_types() -> Callable[[str], Any]:
    """Wire-compatible cuts of Pub/Sub's messages, by name.

    In `Merged`, fields that repeat on the wire are declared single, and what is inside them
    repeated. A protobuf parser must merge the occurrences of a single embedded message
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so one parse in C collects the
    ids, and the seconds, of a whole response into flat lists. Ids are bytes, so that nothing
    decodes them. `Each` keeps messages apart, for responses in which some lie beyond the target.
    """
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="backlog_clearer_pubsub.proto", package="backlog_clearer", syntax="proto2"
    )

    def declare(name: str, *fields: tuple[str, int, Any, bool]) -> None:
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
            one = message.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = proto.TYPE_MESSAGE, f".backlog_clearer.{kind}"
            else:
                one.type = kind

    declare("MergedTime", ("seconds", 1, proto.TYPE_INT64, True))
    declare("MergedMessage", ("publish_time", 4, "MergedTime", False))
    declare(
        "MergedReceived", ("ack_id", 1, proto.TYPE_BYTES, True), ("message", 2, "MergedMessage", False)
    )
    declare("Merged", ("received_messages", 1, "MergedReceived", False))
    declare("MergedIds", ("ack_id", 1, proto.TYPE_BYTES, True))
    declare("Ids", ("received_messages", 1, "MergedIds", False))
    declare("Time", ("seconds", 1, proto.TYPE_INT64, False), ("nanos", 2, proto.TYPE_INT32, False))
    declare("Message", ("publish_time", 4, "Time", False))
    declare("Received", ("ack_id", 1, proto.TYPE_BYTES, False), ("message", 2, "Message", False))
    declare("Each", ("received_messages", 1, "Received", True))
    declare(
        "Acknowledge",
        ("subscription", 1, proto.TYPE_STRING, False),
        ("ack_ids", 2, proto.TYPE_BYTES, True),
    )
    declare(
        "ModifyAckDeadline",
        ("subscription", 1, proto.TYPE_STRING, False),
        ("ack_deadline_seconds", 3, proto.TYPE_INT32, False),
        ("ack_ids", 4, proto.TYPE_BYTES, True),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return lambda name: message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"backlog_clearer.{name}")
    )


_type = _message_types()
_MERGED, _IDS, _EACH = _type("Merged"), _type("Ids"), _type("Each")
_ACKNOWLEDGE, _MODIFY = _type("Acknowledge"), _type("ModifyAckDeadline")


class Instant(NamedTuple):
    """A publish time or target; compares as time does."""

    seconds: int
    nanos: int


def instant(text: str) -> Instant:
    """The instant that an RFC 3339 text in UTC names, as `PartitionState.end` spells it."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return Instant(int(moment.replace(microsecond=0).timestamp()), moment.microsecond * 1000)


def split(response: bytes, target: Instant | None) -> tuple[list[bytes], list[bytes]]:
    """The ids in a StreamingPullResponse: published before the target, and at or after it."""
    if target is None:
        return _IDS.FromString(response).received_messages.ack_id[:], []
    received = _MERGED.FromString(response).received_messages
    # Whole seconds decide for a response as a whole, but for those at the very edge of the target.
    if max(received.message.publish_time.seconds, default=target.seconds) < target.seconds:
        return received.ack_id[:], []
    before: list[bytes] = []
    beyond: list[bytes] = []
    for item in _EACH.FromString(response).received_messages:
        at = item.message.publish_time
        (before if (at.seconds, at.nanos) < target else beyond).append(item.ack_id)
    return before, beyond


class Batch(NamedTuple):
    """Messages received and not yet acknowledged."""

    ids: list[bytes]
    bytes: int  # received for them; 0 where they were counted before
    at: float  # when their lease began, by time.monotonic()


@dataclass(slots=True)
class Shared:
    """What the lanes of one source share; every use takes the lock.

    A lane that closes leaves here what it received and did not acknowledge. The next lane goes on
    with it, so that a stream reset costs no redelivery (which a dead-letter policy would count);
    the source gives back what is left at the end.
    """

    unread: list[Batch] = field(default_factory=list)
    held: list[Batch] = field(default_factory=list)  # beyond the target: kept from being redelivered
    changed_at: datetime | None = None  # when a lane last acknowledged something
    lock: threading.Lock = field(default_factory=threading.Lock)

    def leave(self, unread: list[Batch], held: list[Batch]) -> None:
        """Keep a closing lane's messages."""
        with self.lock:
            self.unread += unread
            self.held += held

    def take(self) -> tuple[list[Batch], list[Batch]]:
        """Everything left: (unread, held)."""
        with self.lock:
            unread, self.unread, held, self.held = self.unread, [], self.held, []
        return unread, held

    def changed(self) -> None:
        """Note that something was acknowledged just now."""
        with self.lock:
            self.changed_at = datetime.now(timezone.utc)


class Requests:
    """Acknowledge and ModifyAckDeadline with many ids, over a client's own channel."""

    def __init__(self, client: SubscriberClient, subscription: str) -> None:
        self.transport: Any = client.transport  # of the gRPC kind, which the client does not declare
        self.subscription = subscription
        self.metadata = (("x-goog-request-params", f"subscription={quote(subscription, safe='')}"),)
        self._acknowledge = self._method("Acknowledge")
        self._modify = self._method("ModifyAckDeadline")

    def _method(self, name: str) -> Any:
        return self.transport.grpc_channel.unary_unary(
            _SERVICE + name, request_serializer=lambda message: message.SerializeToString()
        )

    def call(self, what: str) -> Call:
        """How errors name a request."""
        return Call(what, self.subscription, PERMISSION, self.transport.host)

    def acknowledge(self, ids: Sequence[bytes]) -> list[tuple[Sequence[bytes], Exception | None]]:
        """Acknowledge all, in parallel requests; (ids, error) of each request."""
        return self._all(
            self._acknowledge,
            ids,
            lambda part: _ACKNOWLEDGE(subscription=self.subscription, ack_ids=part),
        )

    def set_deadline(
        self, ids: Sequence[bytes], seconds: int
    ) -> list[tuple[Sequence[bytes], Exception | None]]:
        """Lease all for so long from now; 0 gives them back. (ids, error) of each request."""
        return self._all(
            self._modify,
            ids,
            lambda part: _MODIFY(
                subscription=self.subscription, ack_deadline_seconds=seconds, ack_ids=part
            ),
        )

    def _all(
        self, method: Any, ids: Sequence[bytes], request: Callable[[Sequence[bytes]], Any]
    ) -> list[tuple[Sequence[bytes], Exception | None]]:
        parts = [ids[first : first + ACK_IDS] for first in range(0, len(ids), ACK_IDS)]
        futures = [
            method.future(request(part), timeout=ACK_TIMEOUT_S, metadata=self.metadata)
            for part in parts
        ]
        return [(part, future.exception()) for part, future in zip(parts, futures, strict=True)]


@dataclass(slots=True)
class Verdict:
    """What a broker said of acknowledgements."""

    confirmed: int = 0
    again: list[bytes] = field(default_factory=list)  # failed for now
    lost: int = 0  # the lease was over: these messages will be delivered again
    transient: BrokerError | None = None
    refused: BrokerError | None = None


def judge(results: Sequence[tuple[Sequence[bytes], Exception | None]], call: Call) -> Verdict:
    """Add up the answers to acknowledgements.

    With exactly-once delivery an error lists single ids (TRANSIENT_*, PERMANENT_*); the ids it does
    not list were acknowledged (https://cloud.google.com/pubsub/docs/exactly-once-delivery).
    """
    verdict = Verdict()
    for ids, error in results:
        if error is None:
            verdict.confirmed += len(ids)
            continue
        said = error_info(error)
        by_id = {
            key.encode(): value
            for key, value in said.items()
            if value.startswith(("TRANSIENT_", "PERMANENT_"))
        }
        if by_id:
            again = [one for one in ids if by_id.get(one, "").startswith("TRANSIENT_")]
            lost = sum(by_id.get(one, "").startswith("PERMANENT_") for one in ids)
            verdict.again += again
            verdict.lost += lost
            verdict.confirmed += len(ids) - len(again) - lost
            if again:
                verdict.transient = TransientError(
                    f"{call.host} put off {len(again)} acknowledgements of {call.resource}:"
                    f" {by_id[again[0]]}."
                )
            continue
        failure = translated(error, call)
        verdict.again += ids
        if isinstance(failure, TransientError):
            verdict.transient = failure
        else:
            verdict.refused = failure
    return verdict


class StreamLane:
    """One StreamingPull stream, on a channel of its own.

    A thread moves responses from gRPC, whose reads cannot time out, to `_arrived`; everything else
    happens on the lane's thread.
    """

    def __init__(
        self,
        client: SubscriberClient,
        claim: Claim,
        options: PubSubOptions,
        *,
        batch_size: int,
        max_messages: int | None,
        shared: Shared,
    ) -> None:
        self._partition: Partition = claim.partition
        self._target = instant(str(claim.target)) if claim.target is not None else None
        self._lease_s = options.stream_ack_deadline_seconds
        self._batch_size = batch_size
        self._shared = shared
        self._requests = Requests(client, options.subscription)
        unread, self._held = shared.take()
        self._unread = deque(unread)
        self._unsettled: list[Batch] = []
        self._put_off: BrokerError | None = None
        self._heartbeat_at = time.monotonic() + HEARTBEAT_S
        self._closed = False

        self._arrived: deque[tuple[float, bytes]] = deque()
        self._arrived_bytes = 0
        self._bytes_limit = options.max_outstanding_bytes
        self._end: Exception | None = None  # why the stream ended
        self._news = threading.Condition()
        self._outgoing: queue.SimpleQueue[StreamingPullRequest | None] = queue.SimpleQueue()
        outstanding = options.max_outstanding_messages
        self._outgoing.put(
            StreamingPullRequest(
                subscription=options.subscription,
                stream_ack_deadline_seconds=self._lease_s,
                # With a limit, no more is taken from other consumers than may be counted.
                max_outstanding_messages=min(outstanding, max_messages or outstanding),
                max_outstanding_bytes=options.max_outstanding_bytes,
            )
        )
        self._call = self._requests.transport.grpc_channel.stream_stream(
            _SERVICE + "StreamingPull", request_serializer=StreamingPullRequest.serialize
        )(iter(self._outgoing.get, None), metadata=self._requests.metadata)
        self._reader = threading.Thread(target=self._receive, name="streaming-pull", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        """Move responses; waits while the lane is behind, so that memory stays bounded."""
        end: Exception
        try:
            for response in self._call:
                with self._news:
                    self._arrived.append((time.monotonic(), response))
                    self._arrived_bytes += len(response)
                    self._news.notify_all()
                    while self._arrived_bytes > self._bytes_limit and not self._closed:
                        self._news.wait(1.0)
            end = TransientError(f"{self._requests.call('the stream').host} ended the stream.")
        except grpc.RpcError as error:
            end = error
        except Exception as error:  # noqa: BLE001 the lane's thread must learn of it
            end = error
        with self._news:
            self._end = end
            self._news.notify_all()

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Take what has arrived; see `core.source.Lane`."""
        if self._put_off:
            error, self._put_off = self._put_off, None
            raise error
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._outgoing.put(StreamingPullRequest())
            self._heartbeat_at = now + HEARTBEAT_S
        if self._held:
            self._hold(now)
        limit = self._batch_size if max_messages is None else min(self._batch_size, max_messages)
        messages = size = 0
        while messages < limit and self._next(0.0 if messages else max_wait_s):
            batch = self._unread.popleft()
            room = limit - messages
            if len(batch.ids) > room:
                self._unread.appendleft(Batch(batch.ids[room:], 0, batch.at))
                batch = Batch(batch.ids[:room], batch.bytes, batch.at)
            self._unsettled.append(batch)
            messages += len(batch.ids)
            size += batch.bytes
        if messages:
            return (Advance(self._partition, messages, None, size),)
        if self._end and not self._arrived:
            raise self._failure(self._end)
        return ()

    def _next(self, max_wait_s: float) -> bool:
        """Whether there is a batch to read; waits for one if need be."""
        until = time.monotonic() + max_wait_s
        while True:
            # An id whose lease ended is acknowledged in vain: the message is delivered again.
            while self._unread and self._unread[0].at + self._lease_s * LEASE_USED <= time.monotonic():
                self._unread.popleft()
            if self._unread:
                return True
            with self._news:
                if not self._arrived and not self._end:
                    self._news.wait(max(0.0, until - time.monotonic()))
                if not self._arrived:
                    return False
                at, response = self._arrived.popleft()
                self._arrived_bytes -= len(response)
                self._news.notify_all()
            self._sort(at, response)
            if not self._unread and time.monotonic() >= until:
                return False

    def _sort(self, at: float, response: bytes) -> None:
        before, beyond = split(response, self._target)
        if before:
            self._unread.append(Batch(before, len(response), at))
        if beyond:
            self._held.append(Batch(beyond, 0, at))

    def _hold(self, now: float) -> None:
        """Renew the leases of messages beyond the target, halfway through.

        Given back at once they would return at once, forever, and each time count as a delivery
        attempt. They stop the stream at `max_outstanding_messages`, which bounds them.
        """
        due = [batch for batch in self._held if batch.at + self._lease_s / 2 <= now]
        if not due:
            return
        ids = [one for batch in due for one in batch.ids]
        for part, error in self._requests.set_deadline(ids, self._lease_s):
            if error is not None:
                call = self._requests.call("lease renewal")
                _LOG.warning("%d messages: %s", len(part), translated(error, call))
        self._held = [batch for batch in self._held if batch.at + self._lease_s / 2 > now]
        self._held.append(Batch(ids, 0, now))

    def _failure(self, error: Exception) -> BrokerError:
        if isinstance(error, BrokerError):
            return error
        return translated(error, self._requests.call("StreamingPull"))

    def settle(self) -> Sequence[Settled]:
        """Acknowledge by requests that are answered, not on the stream, which confirms nothing."""
        if not self._unsettled:
            return ()
        batches, self._unsettled = self._unsettled, []
        ids = batches[0].ids if len(batches) == 1 else [one for batch in batches for one in batch.ids]
        call = self._requests.call("acknowledge")
        verdict = judge(self._requests.acknowledge(ids), call)
        if verdict.again:
            self._unsettled.append(Batch(verdict.again, 0, min(batch.at for batch in batches)))
        if verdict.confirmed:
            self._shared.changed()
        if verdict.lost:
            _LOG.warning(
                "%d messages were not acknowledged because their lease was over"
                " (PERMANENT_FAILURE_INVALID_ACK_ID); they will be delivered again",
                verdict.lost,
            )
        if verdict.refused:
            return (Settled(self._partition, verdict.confirmed, None, str(verdict.refused)),)
        if verdict.transient:
            if not verdict.confirmed:
                raise verdict.transient
            self._put_off = verdict.transient  # the rest is for a new lane: see `Shared`
        if not verdict.confirmed:
            return ()
        return (Settled(self._partition, verdict.confirmed, None),)

    def close(self) -> None:
        """End the stream and leave what is not acknowledged to `Shared`; see `core.source.Lane`."""
        if self._closed:
            return
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._outgoing.put(None)  # ends our side; what is under way to us still arrives
        self._reader.join(CLOSE_WAIT_S)
        self._call.cancel()
        self._reader.join(CLOSE_WAIT_S)
        for at, response in self._drain():
            self._sort(at, response)
        self._shared.leave([*self._unsettled, *self._unread], self._held)
        self._unsettled, self._held = [], []
        self._unread.clear()
        self._requests.transport.close()

    def _drain(self) -> Iterator[tuple[float, bytes]]:
        with self._news:
            while self._arrived:
                yield self._arrived.popleft()

"""A Pub/Sub server for the tests: leases, exactly-once, ordering, dead letters, snapshots, faults.

It speaks the real protocol over gRPC to the real client library, and the part of Cloud Monitoring
that the adapter uses. Tests assert on `PubSubServer`: its state is what was really acknowledged.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any, NoReturn

import grpc
from google.cloud.monitoring_v3 import types as monitoring
from google.protobuf import any_pb2, empty_pb2
from google.pubsub_v1 import types as pubsub
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # ships no types
from grpc_status import rpc_status
from typing_extensions import Self

PROJECT = "projects/test"
COUNT = "pubsub.googleapis.com/subscription/num_undelivered_messages"
BATCH = 50  # messages of one response at most

_PERMISSIONS = {
    "GetSubscription": "pubsub.subscriptions.get",
    "ListSubscriptions": "pubsub.subscriptions.list",
    "CreateSnapshot": "pubsub.snapshots.create",
    "GetSnapshot": "pubsub.snapshots.get",
    "ListSnapshots": "pubsub.snapshots.list",
    "DeleteSnapshot": "pubsub.snapshots.delete",
    "ListTimeSeries": "monitoring.timeSeries.list",
}


def utc_now() -> datetime:
    """The server's clock."""
    return datetime.now(timezone.utc)


@dataclass(slots=True)
class Stored:
    """A message of a subscription."""

    id: str
    data: bytes
    key: str
    published: datetime
    acked: bool = False
    attempts: int = 0  # deliveries
    ack_id: str = ""  # "" while it is not leased
    lease_until: float = 0.0


@dataclass(slots=True)
class PullStream:
    """An open StreamingPull."""

    request: Any
    leases: set[str] = field(default_factory=set)
    ended: bool = False
    sent: int = 0
    most: int = 0  # messages that were outstanding at once at most


class Sub:
    """A subscription with its messages."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.stored: dict[str, Stored] = {}
        self.ready: deque[Stored] = deque()
        self.leased: dict[str, Stored] = {}
        self.dead_letters: list[Stored] = []
        self.delivered: list[Stored] = []  # in the order of delivery, redeliveries included
        self.modacks: list[tuple[str, int]] = []
        self.confirmed: set[str] = set()  # ids of acknowledgements in time
        self.late = 0  # acknowledgements confirmed without an effect, since their lease was over
        self.seeks: list[Any] = []

    def unacked(self) -> int:
        """Messages not acknowledged, leased ones included."""
        return sum(not item.acked for item in self.stored.values())

    def take(self, room: int, room_bytes: int) -> list[Stored]:
        """The next messages to deliver: at most `room`, and at most one beyond `room_bytes`."""
        taken: list[Stored] = []
        later: list[Stored] = []
        busy = (
            {item.key for item in self.leased.values()} if self.config.enable_message_ordering else ()
        )
        policy = self.config.dead_letter_policy
        while self.ready and len(taken) < room and room_bytes > 0:
            item = self.ready.popleft()
            if item.acked or item.ack_id:
                continue
            if item.key and item.key in busy:
                later.append(item)
                continue
            if policy.dead_letter_topic and item.attempts >= policy.max_delivery_attempts:
                item.acked = True
                self.dead_letters.append(item)
                continue
            taken.append(item)
            room_bytes -= len(item.data)
            if item.key and self.config.enable_message_ordering:
                busy.add(item.key)  # type: ignore[union-attr] # a set where ordering is enabled
        self.ready.extendleft(reversed(later))
        return taken

    def release(self, item: Stored) -> None:
        """End a lease without an acknowledgement."""
        self.leased.pop(item.ack_id, None)
        item.ack_id = ""
        if item.key:
            self.ready.appendleft(item)
        else:
            self.ready.append(item)

    def expire(self) -> None:
        """Release messages whose lease is over."""
        now = time.monotonic()
        for item in [item for item in self.leased.values() if item.lease_until <= now]:
            self.release(item)

    def rebuild(self, unacked: Callable[[Stored], bool]) -> None:
        """Set every message's state, as a seek does."""
        self.ready.clear()
        self.leased.clear()
        for item in self.stored.values():
            item.ack_id = ""
            item.acked = not unacked(item)
            if not item.acked:
                self.ready.append(item)


class PubSubServer:
    """The server; `address` is what PUBSUB_EMULATOR_HOST takes. Use as a context manager."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.changed = threading.Condition()
        self.subs: dict[str, Sub] = {}
        self.snapshots: dict[str, tuple[Any, set[str], datetime]] = {}
        self.streams: list[PullStream] = []
        self.requests: list[tuple[str, Any]] = []  # every unary request
        self.metadata: list[dict[str, str]] = []  # of every request
        self.clock_s: float | None = None  # ahead of this machine; None: answers have no Date header
        self.second_s = 1.0  # how long a second of a lease lasts
        self.faults: dict[str, deque[tuple[grpc.StatusCode, dict[str, str]]]] = {}
        self.denied: set[str] = set()  # permissions
        self.reset_after: int | None = None  # responses, after which a stream breaks
        self.put_off = 0  # the next acknowledgements put off every other id (exactly-once)
        self.before_acknowledge: Callable[[list[str]], None] = lambda _: None
        self.refuse_snapshots: str | None = None
        self.sample: Callable[[str, Sub], tuple[int, datetime] | None] = lambda _metric, _sub: None
        self.other_series: list[Any] = []  # of Monitoring, before the right one
        self.execution_errors: list[Any] = []  # of Monitoring
        self._ids = itertools.count()
        self._server = grpc.server(
            ThreadPoolExecutor(64),
            options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", self._methods()),
                grpc.method_handlers_generic_handler(
                    "google.monitoring.v3.MetricService",
                    {
                        "ListTimeSeries": self._unary(
                            "ListTimeSeries", self._time_series, monitoring.ListTimeSeriesRequest
                        )
                    },
                ),
            )
        )
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    # For tests

    def now(self) -> datetime:
        """The time by the server's clock."""
        return utc_now() + timedelta(seconds=self.clock_s or 0.0)

    def delete(self, sub: Sub) -> None:
        """Delete a subscription."""
        with self.changed:
            del self.subs[sub.config.name]
            self.changed.notify_all()

    def create(self, name: str, **settings: Any) -> Sub:
        """A subscription `projects/test/subscriptions/NAME`; settings are fields of Subscription."""
        full = f"{PROJECT}/subscriptions/{name}"
        values = {"topic": f"{PROJECT}/topics/orders", "ack_deadline_seconds": 10, **settings}
        sub = self.subs[full] = Sub(pubsub.Subscription(name=full, **values))
        return sub

    def publish(self, sub: Sub, count: int, *, size: int = 10, keys: int = 0) -> None:
        """Publish to a subscription, round robin over `keys` ordering keys."""
        with self.changed:
            for number in range(count):
                key = f"key-{number % keys}" if keys else ""
                item = Stored(f"m{next(self._ids)}", bytes(size), key, self.now())
                sub.stored[item.id] = item
                sub.ready.append(item)
            self.changed.notify_all()

    def abandon(self, sub: Sub, count: int, lease_s: float) -> None:
        """Lease the next messages to a consumer that vanishes."""
        with self.changed:
            for item in sub.take(count, 1 << 62):
                item.attempts += 1
                item.ack_id = f"{item.id}-abandoned"
                item.lease_until = time.monotonic() + lease_s
                sub.leased[item.ack_id] = item

    def acknowledge_first(self, sub: Sub, count: int) -> None:
        """Acknowledge the first messages ever published, leased ones too."""
        with self.changed:
            for item in itertools.islice(sub.stored.values(), count):
                item.acked = True
                sub.leased.pop(item.ack_id, None)
                item.ack_id = ""

    def fail(self, method: str, code: grpc.StatusCode, *, times: int = 1, **info: str) -> None:
        """Make the next calls of a method fail, with this ErrorInfo metadata."""
        self.faults.setdefault(method, deque()).extend([(code, info)] * times)

    def count(self, method: str) -> int:
        """Requests of a unary method so far."""
        return sum(name == method for name, _ in self.requests)

    def truthful(self, later_s: float = 61.0) -> None:
        """Let Monitoring report the true figures, in samples dated this much later than now."""

        def sample(metric: str, sub: Sub) -> tuple[int, datetime]:
            at = self.now() + timedelta(seconds=later_s)
            left = [item.published for item in sub.stored.values() if not item.acked]
            if metric == COUNT:
                return len(left), at
            return int((at - min(left)).total_seconds()) if left else 0, at

        self.sample = sample

    # The service

    def _methods(self) -> dict[str, grpc.RpcMethodHandler]:
        unary = {
            "GetSubscription": (self._get, pubsub.GetSubscriptionRequest),
            "ListSubscriptions": (self._list, pubsub.ListSubscriptionsRequest),
            "Acknowledge": (self._acknowledge, pubsub.AcknowledgeRequest),
            "ModifyAckDeadline": (self._modify, pubsub.ModifyAckDeadlineRequest),
            "Seek": (self._seek, pubsub.SeekRequest),
            "CreateSnapshot": (self._create_snapshot, pubsub.CreateSnapshotRequest),
            "GetSnapshot": (self._get_snapshot, pubsub.GetSnapshotRequest),
            "ListSnapshots": (self._list_snapshots, pubsub.ListSnapshotsRequest),
            "DeleteSnapshot": (self._delete_snapshot, pubsub.DeleteSnapshotRequest),
        }
        methods = {name: self._unary(name, *parts) for name, parts in unary.items()}
        methods["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
            self._streaming_pull,
            pubsub.StreamingPullRequest.deserialize,
            pubsub.StreamingPullResponse.serialize,
        )
        return methods

    def _unary(self, name: str, method: Any, request_type: Any) -> grpc.RpcMethodHandler:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self._admit(name, context)
            if self.clock_s is not None:
                context.send_initial_metadata((("date", format_datetime(self.now(), usegmt=True)),))
            with self.changed:
                self.requests.append((name, request))
                answer = method(request, context)
                self.changed.notify_all()
                return answer

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_type.deserialize,
            lambda answer: (
                answer.SerializeToString()
                if isinstance(answer, empty_pb2.Empty)
                else type(answer).serialize(answer)
            ),
        )

    def _admit(self, name: str, context: grpc.ServicerContext) -> None:
        """Refuse a call that the test set up to fail."""
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        if _PERMISSIONS.get(name, "pubsub.subscriptions.consume") in self.denied:
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action."
            )
        if self.faults.get(name):
            code, info = self.faults[name].popleft()
            self._abort(context, code, "set up to fail", info)

    def _abort(
        self, context: grpc.ServicerContext, code: grpc.StatusCode, text: str, info: dict[str, str]
    ) -> NoReturn:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(domain="pubsub.googleapis.com", metadata=info))
        status = status_pb2.Status(code=code.value[0], message=text, details=[detail] if info else [])
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("abort_with_status raises")

    def _sub(self, name: str, context: grpc.ServicerContext) -> Sub:
        if name not in self.subs:
            short = name.rsplit("/", maxsplit=1)[-1]
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={short}).")
        return self.subs[name]

    def _get(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._sub(request.subscription, context).config

    def _list(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        configs = [sub.config for sub in self.subs.values()]
        return pubsub.ListSubscriptionsResponse(subscriptions=configs)

    def _streaming_pull(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        first = next(requests)
        self._admit("StreamingPull", context)
        sub = self._sub(first.subscription, context)
        if sub.config.push_config.push_endpoint:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Method not supported for push.")
        stream = PullStream(first)
        self.streams.append(stream)

        def receive() -> None:
            try:
                for _ in requests:
                    pass
            except grpc.RpcError:
                pass
            with self.changed:
                stream.ended = True
                self.changed.notify_all()

        threading.Thread(target=receive, daemon=True).start()
        while context.is_active():
            with self.changed:
                sub.expire()
                stream.leases &= sub.leased.keys()
                room = min(BATCH, first.max_outstanding_messages - len(stream.leases))
                out = sum(len(sub.leased[ack_id].data) for ack_id in stream.leases)
                room_bytes = (first.max_outstanding_bytes or 1 << 62) - out
                taken = [] if stream.ended else sub.take(room, room_bytes)
                if not taken:
                    if stream.ended:
                        return
                    self.changed.wait(0.02)
                    continue
                response = self._lease(sub, stream, taken)
            yield response
            stream.sent += 1
            if self.reset_after is not None and stream.sent >= self.reset_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "The service was unable to fulfill this.")

    def _lease(self, sub: Sub, stream: PullStream, taken: list[Stored]) -> Any:
        until = time.monotonic() + stream.request.stream_ack_deadline_seconds * self.second_s
        received = []
        for item in taken:
            item.attempts += 1
            item.ack_id = f"{item.id}-{item.attempts}-{next(self._ids)}"
            item.lease_until = until
            sub.leased[item.ack_id] = item
            sub.delivered.append(item)
            stream.leases.add(item.ack_id)
            received.append(
                pubsub.ReceivedMessage(
                    ack_id=item.ack_id,
                    delivery_attempt=item.attempts,
                    message=pubsub.PubsubMessage(
                        data=item.data,
                        message_id=item.id,
                        publish_time=item.published,
                        ordering_key=item.key,
                    ),
                )
            )
        stream.most = max(stream.most, len(stream.leases))
        return pubsub.StreamingPullResponse(received_messages=received)

    def _acknowledge(self, request: Any, context: grpc.ServicerContext) -> Any:
        sub = self._sub(request.subscription, context)
        sub.expire()
        self.before_acknowledge(list(request.ack_ids))
        lost = {}
        late = set(request.ack_ids[::2]) if self.put_off else set()
        self.put_off = max(0, self.put_off - 1)
        for ack_id in request.ack_ids:
            if ack_id in late:
                lost[ack_id] = "TRANSIENT_FAILURE_OTHER"
                continue
            item = sub.leased.pop(ack_id, None)
            if item is None:
                lost[ack_id] = "PERMANENT_FAILURE_INVALID_ACK_ID"
            else:
                item.acked = True
                item.ack_id = ""
                sub.confirmed.add(ack_id)
        if lost and sub.config.enable_exactly_once_delivery:
            self._abort(context, grpc.StatusCode.FAILED_PRECONDITION, "Some ids are invalid.", lost)
        sub.late += len(lost.keys() - sub.confirmed)
        return empty_pb2.Empty()

    def _modify(self, request: Any, context: grpc.ServicerContext) -> Any:
        sub = self._sub(request.subscription, context)
        sub.expire()
        for ack_id in request.ack_ids:
            item = sub.leased.get(ack_id)
            if item is None:
                continue
            sub.modacks.append((item.id, request.ack_deadline_seconds))
            if request.ack_deadline_seconds:
                item.lease_until = time.monotonic() + request.ack_deadline_seconds * self.second_s
            else:
                sub.release(item)
        return empty_pb2.Empty()

    def _seek(self, request: Any, context: grpc.ServicerContext) -> Any:
        sub = self._sub(request.subscription, context)
        sub.seeks.append(request)
        if "snapshot" in request:
            if request.snapshot not in self.snapshots:
                context.abort(grpc.StatusCode.NOT_FOUND, "Snapshot does not exist.")
            _, kept, at = self.snapshots[request.snapshot]
            sub.rebuild(lambda item: item.id in kept or item.published > at)
        else:
            sub.rebuild(lambda item: item.published >= request.time)
        return pubsub.SeekResponse()

    def _create_snapshot(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.refuse_snapshots:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refuse_snapshots)
        if request.name in self.snapshots:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Resource already exists in the project.")
        sub = self._sub(request.subscription, context)
        now = self.now()
        kept = {item.id for item in sub.stored.values() if not item.acked}
        expires = now + timedelta(days=7)
        snapshot = pubsub.Snapshot(
            name=request.name, topic=sub.config.topic, expire_time=expires, labels=request.labels
        )
        self.snapshots[request.name] = (snapshot, kept, now)
        return snapshot

    def _get_snapshot(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.snapshot not in self.snapshots:
            context.abort(grpc.StatusCode.NOT_FOUND, "Snapshot does not exist.")
        return self.snapshots[request.snapshot][0]

    def _list_snapshots(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        return pubsub.ListSnapshotsResponse(snapshots=[found[0] for found in self.snapshots.values()])

    def _delete_snapshot(self, request: Any, _context: grpc.ServicerContext) -> Any:
        del self.snapshots[request.snapshot]
        return empty_pb2.Empty()

    def _time_series(self, request: Any, _context: grpc.ServicerContext) -> Any:
        metric = request.filter.split('"')[1]
        one = request.filter.partition('subscription_id = "')[2].rstrip('"')
        names = [one] if one else [name.rpartition("/")[2] for name in self.subs]
        series = [found for name in names if (found := self._one_series(metric, name))]
        if one and not series:
            return monitoring.ListTimeSeriesResponse()
        return monitoring.ListTimeSeriesResponse(
            time_series=[*self.other_series, *series], execution_errors=self.execution_errors
        )

    def _one_series(self, metric: str, name: str) -> Any:
        found = self.sample(metric, self.subs[f"{PROJECT}/subscriptions/{name}"])
        if found is None:
            return None
        value, at = found
        point = monitoring.Point(
            interval=monitoring.TimeInterval(start_time=at, end_time=at),
            value=monitoring.TypedValue(int64_value=value),
        )
        labels = {"project_id": PROJECT.rpartition("/")[2], "subscription_id": name}
        resource = {"type": "pubsub_subscription", "labels": labels}
        return monitoring.TimeSeries(resource=resource, points=[point])

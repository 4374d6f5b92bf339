"""The StreamingPull lane: payloads stay unparsed, and the only Python object per message is its id."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import grpc
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import StreamingPullRequest

from backlog_clearer.brokers.googlepubsub.acks import (
    ACK_IDS,
    SERVICE,
    Answer,
    Requests,
    Sent,
    await_answers,
    sort_answers,
)
from backlog_clearer.brokers.googlepubsub.clock import ServiceClock
from backlog_clearer.brokers.googlepubsub.errors import to_broker_error
from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.brokers.googlepubsub.wire import instant, split_at_target
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled
from backlog_clearer.options.run import RunOptions

_LOG = logging.getLogger("backlog_clearer")

CLOSE_WAIT_S = 1.0  # for the server to end a stream that we ended
LEASE_USED = 0.9  # of a lease, after which its ids are not acknowledged any more
_AHEAD_S = 1.0  # of --max-rate: messages count as outstanding until they are acknowledged
HEARTBEAT_S = 30.0  # an empty request, as the official clients send, keeps a quiet stream open


class Batch(NamedTuple):
    """Messages received and not yet acknowledged."""

    ids: list[bytes]
    bytes: int  # received for them; 0 where they were counted before
    at: float  # when their lease began, by time.monotonic()


@dataclass(slots=True)
class SharedLeases:
    """Messages that the lanes of one source hand over to each other; every use takes the lock.

    A lane that closes leaves here the messages that it received and did not acknowledge. The next lane
    continues with them, so that a stream reset costs no redelivery (which a dead-letter policy would
    count); the source gives the rest back at the end.
    """

    clock: ServiceClock = field(default_factory=ServiceClock)
    unread: list[Batch] = field(default_factory=list)
    held: list[Batch] = field(default_factory=list)  # beyond the target: kept from being redelivered
    changed_at: datetime | None = None  # when a lane last acknowledged something
    doubtful: set[bytes] = field(default_factory=set)  # may be acknowledged, and are not counted
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

    def doubt(self, ids: Sequence[bytes]) -> None:
        """Keep ids whose acknowledgement had no answer."""
        with self.lock:
            self.doubtful.update(ids)

    def confirm(self, answers: Sequence[Answer]) -> None:
        """Drop ids that were in doubt and are confirmed now."""
        with self.lock:
            if self.doubtful:
                for ids, error in answers:
                    if error is None:
                        self.doubtful.difference_update(ids)

    def in_doubt(self, ids: Sequence[bytes]) -> int:
        """How many of these may be acknowledged, and are not counted."""
        with self.lock:
            return sum(one in self.doubtful for one in ids)

    def changed(self) -> None:
        """Note that something was acknowledged just now."""
        with self.lock:
            self.changed_at = self.clock.latest()


class StreamLane:
    """One StreamingPull stream, on a separate channel.

    A thread moves responses from gRPC, whose reads cannot time out, to `_arrived`; everything else
    happens on the lane's thread.
    """

    throttled_s = 0.0

    def __init__(
        self,
        client: SubscriberClient,
        claim: Claim,
        options: PubSubOptions,
        run: RunOptions,
        shared: SharedLeases,
    ) -> None:
        # With a limit, other consumers lose no more messages than may be counted.
        limit = run.max_messages
        outstanding = min(
            run.ahead_messages(options.max_outstanding_messages, ahead_s=_AHEAD_S),
            -(-limit // run.workers) if limit else options.max_outstanding_messages,
        )
        self._bytes_limit = run.ahead_bytes(options.max_outstanding_bytes, ahead_s=_AHEAD_S)
        self._outstanding, self._full = outstanding, False
        self._partition: Partition = claim.partition
        self._target = instant(str(claim.target)) if claim.target is not None else None
        self._lease_s = options.stream_ack_deadline_seconds
        self._batch_size = run.batch_size
        self._shared = shared
        self._requests = Requests(client, options.subscription)
        unread, self._held = shared.take()
        self._unread = deque(unread)
        self._gone = 0  # perhaps acknowledged, and too late to be again: read, and never settled
        self._unsettled: list[Batch] = []  # read, and not yet sent
        self._sent: list[Sent] = []  # acknowledgements under way
        self._sent_at = time.monotonic()  # when the first lease of those began
        self._put_off: BrokerError | None = None
        self._heartbeat_at = time.monotonic() + HEARTBEAT_S
        self._closed = False

        self._arrived: deque[tuple[float, bytes]] = deque()
        self._arrived_bytes = 0
        self._end: Exception | None = None  # why the stream ended
        self._news = threading.Condition()
        self._outgoing: queue.SimpleQueue[StreamingPullRequest | None] = queue.SimpleQueue()
        self._outgoing.put(
            StreamingPullRequest(
                subscription=options.subscription,
                stream_ack_deadline_seconds=self._lease_s,
                max_outstanding_messages=outstanding,
                max_outstanding_bytes=self._bytes_limit,
            )
        )
        self._call = self._requests.transport.grpc_channel.stream_stream(
            SERVICE + "StreamingPull", request_serializer=StreamingPullRequest.serialize
        )(iter(self._outgoing.get, None), metadata=self._requests.metadata)
        self._reader = threading.Thread(target=self._receive, name="streaming-pull", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        """Move responses to the lane; waits while the lane is behind, so that memory stays bounded."""
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
        except Exception as error:  # noqa: BLE001 the lane's thread must see it
            end = error
        with self._news:
            self._end = end
            self._news.notify_all()

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Return messages that have arrived; see `source.Lane`."""
        if self._put_off:
            error, self._put_off = self._put_off, None
            raise error
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._outgoing.put(StreamingPullRequest())
            self._heartbeat_at = now + HEARTBEAT_S
        if self._held:
            self._hold(now)
        self._send_unsettled(all_of_it=not self._unread and not self._arrived)
        limit = self._batch_size if max_messages is None else min(self._batch_size, max_messages)
        self._drop_late()
        messages, size = min(self._gone, limit), 0  # before all others, which are not charged yet
        self._gone -= messages
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
        """Whether there is a batch to read; waits for one up to `max_wait_s`."""
        until = time.monotonic() + max_wait_s
        while True:
            self._drop_late()
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

    def _drop_late(self) -> None:
        """Acknowledging an id after its lease has no effect: the message is delivered again."""
        while self._unread and self._unread[0].at + self._lease_s * LEASE_USED <= time.monotonic():
            self._gone += self._shared.in_doubt(self._unread.popleft().ids)

    def _sort(self, at: float, response: bytes) -> None:
        before, beyond = split_at_target(response, self._target)
        if before:
            self._unread.append(Batch(before, len(response), at))
        if beyond:
            self._held.append(Batch(beyond, 0, at))
            self._warn_if_full()

    def _warn_if_full(self) -> None:
        """Warn once where held messages leave no room for others: the service sends no more then."""
        if not self._full and sum(len(batch.ids) for batch in self._held) >= self._outstanding:
            self._full = True
            _LOG.warning(
                "%s messages beyond the target are held, as many as a stream may have: older ones may not have"
                " been delivered. Raise --max-outstanding-messages.",
                f"{self._outstanding:,}",
            )

    def _hold(self, now: float) -> None:
        """Renew the leases of messages beyond the target, halfway through.

        Given back at once they would be delivered again at once, and each delivery counts as an
        attempt. The stream stops at `max_outstanding_messages`, which bounds them.
        """
        due = [batch for batch in self._held if batch.at + self._lease_s / 2 <= now]
        if not due:
            return
        ids = [one for batch in due for one in batch.ids]
        for part, error in self._requests.set_deadline(ids, self._lease_s):
            if error is not None:
                call = self._requests.call("lease renewal")
                _LOG.warning("%d messages: %s", len(part), to_broker_error(error, call))
        self._held = [batch for batch in self._held if batch.at + self._lease_s / 2 > now]
        self._held.append(Batch(ids, 0, now))

    def _failure(self, error: Exception) -> BrokerError:
        if isinstance(error, BrokerError):
            return error
        return to_broker_error(error, self._requests.call("StreamingPull"))

    def _send_unsettled(self, *, all_of_it: bool) -> None:
        """Begin to acknowledge what earlier reads returned, so that reading does not wait for it.

        In separate requests, since acknowledgements on the stream are not answered; in full ones, unless
        the stream may be waiting for these acknowledgements.
        """
        batches = self._unsettled
        if not batches or (not all_of_it and sum(len(batch.ids) for batch in batches) < ACK_IDS):
            return
        self._unsettled = []
        began = min(batch.at for batch in batches)
        self._sent_at = min(began, self._sent_at) if self._sent else began
        ids = batches[0].ids if len(batches) == 1 else [one for batch in batches for one in batch.ids]
        self._sent += self._requests.acknowledge(ids)

    def settle(self) -> Sequence[Settled]:
        """Acknowledge the rest, and count what the service confirmed."""
        self._send_unsettled(all_of_it=True)
        if not self._sent:
            return ()
        sent, self._sent = self._sent, []
        answers = await_answers(sent)
        outcome = sort_answers(answers, self._requests.call("acknowledge"))
        self._shared.confirm(answers)
        self._shared.doubt(outcome.unanswered)
        if outcome.again:
            self._unsettled.append(Batch(outcome.again, 0, self._sent_at))
        if outcome.confirmed:
            self._shared.changed()
        if outcome.lost:
            _LOG.warning(
                "%d messages were not acknowledged because their lease was over"
                " (PERMANENT_FAILURE_INVALID_ACK_ID); they will be delivered again",
                outcome.lost,
            )
        if outcome.refused:
            return (Settled(self._partition, outcome.confirmed, None, str(outcome.refused)),)
        if outcome.transient:
            if not outcome.confirmed:
                raise outcome.transient
            self._put_off = (
                outcome.transient
            )  # the next read raises it; a new lane continues: see `SharedLeases`
        if not outcome.confirmed:
            return ()
        return (Settled(self._partition, outcome.confirmed, None),)

    def close(self) -> None:
        """End the stream and leave unacknowledged messages to `SharedLeases`; see `source.Lane`."""
        if self._closed:
            return
        with self._news:
            self._closed = True
            self._news.notify_all()
        for ids, _ in await_answers(self._sent):  # closing would cancel them
            self._shared.doubt(ids)  # no settle reports them
        self._outgoing.put(None)  # ends our side; responses under way still arrive
        self._reader.join(CLOSE_WAIT_S)
        self._call.cancel()
        self._reader.join(CLOSE_WAIT_S)
        for at, response in self._take_arrived():
            self._sort(at, response)
        self._shared.leave([*self._unsettled, *self._unread], self._held)
        self._unsettled, self._held = [], []
        self._unread.clear()
        self._requests.transport.close()

    def _take_arrived(self) -> Iterator[tuple[float, bytes]]:
        with self._news:
            while self._arrived:
                yield self._arrived.popleft()

"""Azure Event Hubs by the SDK's public client: receivers whose events `receive_batch` delivers.

`receive_batch` blocks until its client is closed, and calls back. So each partition has a client and a
thread; the callback hands its batch over, and closes the client once the receiver is stopped. The SDK
calls back at least every `_TICK_S`, with nothing if nothing came, whether it is attached or not: that a
service is silent is noticed only by the heartbeats that were asked of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from azure.eventhub.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType

from backlog_clearer.brokers.eventhubs.client import CLIENT_FAILURES, consumer_client
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import PartitionProperties, Start
from backlog_clearer.brokers.eventhubs.wire import ENQUEUED_TIME, LAST_ENQUEUED, OFFSET, SEQUENCE_NUMBER
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.brokers.shared.times import milliseconds
from backlog_clearer.errors import ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition

_TICK_S = 0.2  # between two calls of the callback
_WAITING = 2  # batches that may wait for the lane; then the callback does
_CLOSE_S = 2.0
_EVENT_S = (
    8.0  # in which a partition's last event arrives; `in_parallel` waits longer, closing included
)


class _Tally:
    """Events that were handed over and not taken yet."""

    def __init__(self) -> None:
        self.events: list[Any] = []  # the SDK's `EventData`
        self.bytes = 0


class ClientReceiver:
    """One partition, read by a client of the SDK on a thread."""

    def __init__(
        self,
        options: EventHubsOptions,
        partition: Partition,
        changed: threading.Condition,
        idle_s: int | None,
        **settings: Any,
    ) -> None:
        """`changed` guards what the threads share; `settings`: further arguments of `receive_batch`."""
        self.partition = partition
        self.tally = _Tally()
        self.error: ClearerError | None = None
        self._options = options
        self._changed = changed
        self._settings = settings
        self._batches: list[list[Any]] = []
        self._end: int | None = None  # the last sequence number of the partition, as last reported
        self._attached = False  # for certain: events came
        self._stopped = False
        self._client = consumer_client(options, idle_s)
        self._thread = threading.Thread(target=self._run, name=f"receive {partition}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether there is anything to take, or an error."""
        return bool(self._batches) or self.error is not None

    def _run(self) -> None:
        options = self._options
        try:
            self._client.receive_batch(
                self._take,
                on_error=self._failed,
                partition_id=str(self.partition.number),
                owner_level=options.owner_level,
                max_wait_time=_TICK_S,
                **self._settings,
            )
        except Exception as error:  # noqa: BLE001 it is raised where the lane reads
            self._failed(None, error)
        self._failed(None, OSError("the SDK's client was closed"))  # unless it was stopped

    def _take(self, context: Any, batch: list[Any]) -> None:
        """The SDK's callback: hand a batch over, and wait while others wait."""
        with self._changed:
            if batch and not self._stopped:
                self._attached = True
                self._batches.append(batch)
                last = context.last_enqueued_event_properties
                self._end = last.get("sequence_number") if last else None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopped or len(self._batches) < _WAITING)
            stopped = self._stopped
        if stopped:
            self._close()

    def _failed(self, _context: Any, error: BaseException) -> None:
        """The SDK's other callback; the first error counts, and ends the receiver."""
        with self._changed:
            if self.error is None and not self._stopped:
                self.error = self._described(error)
            self._stopped = True
            self._changed.notify_all()
        self._close()

    def _described(self, error: BaseException) -> ClearerError:
        partition = self.partition
        found = service_error(error, self._options, partition)
        if isinstance(found, UsageError) and self._attached:
            text = f"{partition} was deleted, or is being deleted: {found}"
            return TransientError(text, partition)
        return found

    def collect(self) -> None:
        """Take over what was handed over; the caller holds `changed`."""
        for batch in self._batches:
            self.tally.events += batch
            self.tally.bytes += sum(body_size(event.raw_amqp_message) for event in batch)
        if self._batches:
            self._batches.clear()
            self._changed.notify_all()

    def event(self, index: int) -> dict[bytes, int | bytes]:
        """See `access.EventReceiver`."""
        event = self.tally.events[index]
        found: dict[bytes, int | bytes] = {SEQUENCE_NUMBER: event.sequence_number}
        if event.offset is not None:
            found[OFFSET] = str(event.offset).encode()
        if event.enqueued_time is not None:
            found[ENQUEUED_TIME] = milliseconds(event.enqueued_time)
        if self._end is not None:
            found[LAST_ENQUEUED] = self._end
        return found

    def forget(self, count: int) -> None:
        """See `access.EventReceiver`."""
        del self.tally.events[:count]

    def stop(self) -> None:
        """Have the thread end with its next callback."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, wait_s: float) -> None:
        """Wait for the thread to end; one that hangs is abandoned."""
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _close(self) -> None:
        with contextlib.suppress(*CLIENT_FAILURES):
            self._client.close()


def body_size(message: AmqpAnnotatedMessage) -> int:
    """Bytes of a message's data; 0 for a body of values, whose encoding the SDK does not keep."""
    return sum(map(len, message.body)) if message.body_type is AmqpMessageBodyType.DATA else 0


class ClientGroup:
    """Receivers on some partitions, each with a client of the SDK; see `access.EventGroup`."""

    def __init__(
        self,
        options: EventHubsOptions,
        starts: Mapping[Partition, Start],
        *,
        credit: int,
        wanted: int = 1000,
        metric: bool = False,
        silence_s: float | None = None,
    ) -> None:
        self._changed = threading.Condition()
        idle_s = None if silence_s is None else max(1, int(silence_s))
        self.receivers = [
            ClientReceiver(
                options,
                partition,
                self._changed,
                idle_s,
                prefetch=credit,
                max_batch_size=wanted,
                starting_position=start.value,
                starting_position_inclusive=start.inclusive,
                track_last_enqueued_event_properties=metric,
            )
            for partition, start in starts.items()
        ]
        self._dropped: list[ClientReceiver] = []

    def attach(self) -> dict[Partition, ClearerError]:
        """Nothing is known yet: the SDK attaches when it receives."""
        return {}

    def start(self) -> None:
        """Begin to receive."""
        for receiver in self.receivers:
            receiver.start()

    def pump(self, wait_s: float) -> dict[Partition, ClearerError]:
        """Wait for `wait_s` at most, less if anything arrives; returns why partitions cannot be read."""
        with self._changed:
            self._changed.wait_for(lambda: any(receiver.ready for receiver in self.receivers), wait_s)
            for receiver in self.receivers:
                receiver.collect()
            return {
                receiver.partition: receiver.error
                for receiver in self.receivers
                if receiver.error is not None and not receiver.tally.events
            }

    def drop(self, partition: Partition) -> None:
        """Read a partition no more."""
        for receiver in [found for found in self.receivers if found.partition == partition]:
            receiver.stop()
            self.receivers.remove(receiver)
            self._dropped.append(receiver)

    def close(self) -> None:
        """Stop all threads; those that do not end in time are abandoned."""
        for receiver in list(self.receivers):
            self.drop(receiver.partition)
        end = time.monotonic() + _CLOSE_S
        for receiver in self._dropped:
            receiver.join(max(0.0, end - time.monotonic()))
        self._dropped.clear()


def refusals(
    options: EventHubsOptions,
    partitions: Sequence[Partition],
    found: Mapping[int, PartitionProperties],
) -> dict[Partition, ClearerError]:
    """Why partitions cannot be read beside others, by reading the last event of each.

    That an event arrives is all that the public client shows of an attached reader. So a partition without
    an event, where there is nothing to clear, is not asked.
    """
    plain = options.model_copy(update={"owner_level": None})
    full = [key for key in partitions if key.number in found and not found[key.number].empty]

    def probe(partition: Partition) -> ClearerError | None:
        return _refusal(plain, partition, found[partition.number].last)

    answers = in_parallel(full, lambda: probe, where=options.place)
    refused = {key: answer for key, answer in zip(full, answers, strict=True) if answer is not None}
    missing = [error for error in refused.values() if isinstance(error, UsageError)]
    if missing and len(missing) == len(full):  # of the consumer group, not of a partition
        return dict.fromkeys(partitions, missing[0])
    return refused


def _refusal(options: EventHubsOptions, partition: Partition, last: int) -> ClearerError | None:
    """Why the event with a sequence number cannot be read; None: it was."""
    group = ClientGroup(options, {partition: Start(last, inclusive=True)}, credit=1, wanted=1)
    try:
        group.start()
        end = time.monotonic() + _EVENT_S
        while time.monotonic() < end:
            for error in group.pump(_TICK_S).values():
                return error
            if group.receivers[0].tally.events:
                return None
    finally:
        group.close()
    return TransientError(f"{partition}: its last event did not arrive.", partition)

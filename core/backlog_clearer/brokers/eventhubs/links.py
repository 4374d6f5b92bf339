"""Azure Event Hubs over AMQP: receivers on one connection of the SDK.

The SDK opens, signs in, keeps alive, renews tokens, detaches and reports errors; `CountingTransport`
counts the events. They never pass through the SDK's link. So it keeps no delivery tags of them (which
would grow without end), and session windows and link credit are updated here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from backlog_clearer.brokers.eventhubs.connection import FAILURES, AmqpConnection
from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S, Counting
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import Start, start_after
from backlog_clearer.brokers.eventhubs.sdk import (
    ApacheFilters,
    ReceiveClient,
    ReceiverSettleMode,
    SenderSettleMode,
    Source,
    amqp_long_value,
    amqp_string_value,
)
from backlog_clearer.brokers.eventhubs.wire import Tally
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition

_EPOCH = b"com.microsoft:epoch"
_GEOREPLICATION = b"com.microsoft:georeplication"  # offsets as strings, as the SDK's own consumers ask
_METRIC = b"com.microsoft:enable-receiver-runtime-metric"  # the partition's end with each event
_U32 = 0xFFFFFFFF
_PROBES = 64  # links that look for readers over one connection


class Receiver:
    """One link of a `LinkGroup`: a partition from some position on."""

    def __init__(self, partition: Partition, client: Any, credit: int, transport: Counting) -> None:
        self.partition = partition
        self._transport = transport
        self.client = client
        self.credit = credit
        self.tally = Tally()
        self.attached = False
        self._booked = 0  # events in the tally that the link's counters include

    def book(self) -> None:
        """Book the transfers counted since the last call, and grant credit and window again."""
        session, link, tally = self.client._session, self.client._link, self.tally  # noqa: SLF001
        frames, tally.frames = tally.frames, 0
        if not frames:
            return
        session.next_incoming_id = (session.next_incoming_id + frames) & _U32
        session.remote_outgoing_window -= frames
        session.incoming_window -= frames
        messages = len(tally.events) - self._booked
        self._booked += messages
        link.delivery_count = (link.delivery_count + messages) & _U32
        link.current_link_credit -= messages
        low = session.incoming_window <= session.target_incoming_window // 2
        if link.current_link_credit <= self.credit // 2 or low:
            session.incoming_window = session.target_incoming_window
            link.flow(link_credit=self.credit)

    def event(self, index: int) -> Mapping[bytes, int | bytes]:
        """The annotations of an event that is counted and not taken yet."""
        return self._transport.event(self.tally, index)

    def forget(self, count: int) -> None:
        """Take `count` events off the tally."""
        del self.tally.events[:count]
        self._booked -= count


class LinkGroup:
    """Receivers on some partitions over one connection, on one thread."""

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
        """`silence_s`: how long the service may send nothing, not even a heartbeat; None: any time."""
        self._options = options
        self._silence_s = silence_s
        self._opened = AmqpConnection(options, None if silence_s is None else max(1, int(silence_s)))
        self._connection = self._opened.connection
        self.transport = self._opened.transport
        self.transport.wanted = wanted
        self.receivers: list[Receiver] = []
        capabilities = [_METRIC, _GEOREPLICATION] if metric else [_GEOREPLICATION]
        level = options.owner_level
        try:
            for partition, start in starts.items():
                client = ReceiveClient(
                    options.namespace,
                    self._address(partition, start.selector),
                    auth=self._opened.auth,
                    auth_timeout=TIMEOUT_S,
                    # Settled by the sender: a partition keeps no state of deliveries (so does .NET).
                    send_settle_mode=SenderSettleMode.Settled,
                    receive_settle_mode=ReceiverSettleMode.First,
                    link_credit=credit,
                    link_properties={} if level is None else {_EPOCH: amqp_long_value(level)},
                    desired_capabilities=capabilities,
                    max_message_size=None,
                    streaming_receive=True,
                )
                client.open(connection=self._connection)
                self.receivers.append(Receiver(partition, client, credit, self.transport))
        except FAILURES as error:
            self.close()
            raise service_error(error, options) from error

    def _address(self, partition: Partition, text: str) -> Source:
        options = self._options
        address = (
            f"amqps://{options.namespace}/{options.hub}/ConsumerGroups/{options.consumer_group}"
            f"/Partitions/{partition.number}"
        )
        key = ApacheFilters.selector_filter
        return Source(address=address, filters={key: (key, amqp_string_value(text.encode()))})

    def attach(self) -> dict[Partition, ClearerError]:
        """Wait until every receiver is attached or refused; returns the refusals.

        Raises `BrokerError` if the connection as a whole fails.
        """
        refused: dict[Partition, ClearerError] = {}
        self.transport.wait_s = 0.02
        for _ in range(int(TIMEOUT_S / self.transport.wait_s)):
            waiting = [r for r in self.receivers if not r.attached and r.partition not in refused]
            if not waiting:
                return refused
            for receiver in waiting:
                try:
                    receiver.attached = receiver.client.client_ready()
                except FAILURES as error:
                    refused[receiver.partition] = self._failed(error, receiver.partition)
            self._raise_for_connection()
        for receiver in waiting:
            text = f"{self._options.namespace} did not attach {receiver.partition} within {TIMEOUT_S:.0f} s."
            refused[receiver.partition] = TransientError(text, receiver.partition)
        return refused

    def settle_refusals(self) -> dict[Partition, ClearerError]:
        """Refusals that follow the attachment: the service attaches a link first, then refuses it."""
        refused = {}
        self.transport.wait_s = 0.2
        self._connection.listen(batch=len(self.receivers))
        for receiver in self.receivers:
            try:
                receiver.client.client_ready()
            except FAILURES as error:
                refused[receiver.partition] = self._failed(error, receiver.partition)
        self._raise_for_connection()
        return refused

    def start(self) -> None:
        """Begin to count, and grant the first credit; every receiver must be attached."""
        for receiver in self.receivers:
            session, link = receiver.client._session, receiver.client._link  # noqa: SLF001
            endpoints = self._connection._incoming_endpoints.items()  # noqa: SLF001 its channel
            channel = next(number for number, held in endpoints if held is session)
            self.transport.tallies[channel << 32 | link.remote_handle] = receiver.tally
            link.flow(link_credit=receiver.credit)

    def pump(self, wait_s: float) -> dict[Partition, ClearerError]:
        """Receive for `wait_s` at most, less if anything arrives; returns why links were detached.

        Raises `TransientError` or `BrokerError` if the connection as a whole fails.
        """
        refused = {}
        for receiver in self.receivers:
            try:
                receiver.client.client_ready()  # renews the token; raises if the link was detached
            except FAILURES as error:
                self._raise_for_connection()
                refused[receiver.partition] = self._detached(error, receiver.partition)
        if refused:
            return refused
        silent_s = time.time() - self.transport.received_at
        if self._silence_s is not None and silent_s > self._silence_s:
            raise TransientError(f"{self._options.place} has sent nothing for {silent_s:.0f} s.")
        # Counted events do not pass through the SDK, which would take the connection for an idle one.
        self._connection._last_frame_received_time = self.transport.received_at  # noqa: SLF001
        try:
            self.transport.wait_s = wait_s
            self._connection.listen()
            for receiver in self.receivers:
                receiver.book()
        except FAILURES as error:
            raise self._failed(error, None) from error
        return refused

    def _detached(self, error: BaseException, partition: Partition) -> ClearerError:
        failed = self._failed(error, partition)
        if isinstance(failed, UsageError):  # it existed when the link was attached
            text = f"{partition} was deleted, or is being deleted: {failed}"
            return TransientError(text, partition)
        return failed

    def _raise_for_connection(self) -> None:
        error = self._connection._error  # noqa: SLF001 raised by its next use only
        if error is not None:
            raise service_error(error, self._options) from error

    def _failed(self, error: BaseException, partition: Partition | None) -> ClearerError:
        return service_error(error, self._options, partition)

    def drop(self, partition: Partition) -> None:
        """Detach one receiver; events that are still on their way are not counted."""
        receiver = next(found for found in self.receivers if found.partition == partition)
        self.receivers.remove(receiver)
        receiver.tally.discard()
        with contextlib.suppress(*FAILURES):
            receiver.client.close()

    def close(self) -> None:
        """Close everything."""
        for receiver in list(self.receivers):
            self.drop(receiver.partition)
        self._opened.close()
        self.transport.tallies.clear()


def refused_links(
    options: EventHubsOptions, partitions: Sequence[Partition]
) -> dict[Partition, ClearerError]:
    """Why partitions cannot be read beside others, by attaching without granting any credit."""
    plain = options.model_copy(update={"owner_level": None})

    def probe(chunk: Sequence[Partition]) -> dict[Partition, ClearerError]:
        group = LinkGroup(plain, dict.fromkeys(chunk, start_after(None)), credit=0)
        try:
            refused = group.attach()
            refused.update(group.settle_refusals())
        finally:
            group.close()
        return refused

    chunks = [partitions[at : at + _PROBES] for at in range(0, len(partitions), _PROBES)]
    found: dict[Partition, ClearerError] = {}
    for chunk, answer in zip(
        chunks, in_parallel(chunks, lambda: probe, where=options.place), strict=True
    ):
        found.update(dict.fromkeys(chunk, answer) if isinstance(answer, ClearerError) else answer)
    return found

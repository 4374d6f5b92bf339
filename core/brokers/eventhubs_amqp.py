"""Azure Event Hubs over AMQP: receivers of the SDK on one connection, counted in bulk, and the lane.

The SDK opens, signs in, keeps alive, renews tokens, detaches and tells errors; `CountingTransport`
counts the events. Because they never pass through the SDK's link, it keeps no delivery tags of them
either, and the windows and credits that it would have booked are booked here.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError
from azure.eventhub._pyamqp import ReceiveClient
from azure.eventhub._pyamqp._connection import Connection
from azure.eventhub._pyamqp.constants import ReceiverSettleMode, SenderSettleMode
from azure.eventhub._pyamqp.endpoints import ApacheFilters, Source
from azure.eventhub._pyamqp.error import AMQPException
from azure.eventhub._pyamqp.utils import amqp_long_value, amqp_string_value

from core.brokers.eventhubs_checkpoints import Checkpoints
from core.brokers.eventhubs_client import TIMEOUT_S, consumer_client, translate
from core.brokers.eventhubs_wire import (
    LAST_ENQUEUED,
    OFFSET,
    SEQUENCE_NUMBER,
    CountingTransport,
    Tally,
    locate,
)
from core.errors import ClearerError, TransientError
from core.model import Advance, Claim, Partition, Position, Settled
from core.options.eventhubs import EventHubsOptions

_FRAME_SIZE = 65536  # bytes; what the service uses
_EPOCH = b"com.microsoft:epoch"
_GEOREPLICATION = b"com.microsoft:georeplication"  # offsets as strings, as the SDK's own consumers ask
_METRIC = b"com.microsoft:enable-receiver-runtime-metric"  # the partition's end with each event
_U32 = 0xFFFFFFFF
_FAILURES = (AMQPException, AzureError, OSError, ValueError, TimeoutError)
"""What the SDK's AMQP layers raise."""


def sequence_number(position: Position | None) -> int | None:
    """The sequence number of an Event Hubs position, if it has one."""
    if position is None:
        return None
    if not isinstance(position, Mapping):
        raise TypeError(f"{position!r} is no Event Hubs position")
    number = position.get("sequence_number")
    return None if number is None else int(number)


def selector(position: Position | None) -> str:
    """The filter for the events after a position; by offset where it is known, as processors do."""
    if position is None:
        return "amqp.annotation.x-opt-offset > '-1'"
    if not isinstance(position, Mapping):
        raise TypeError(f"{position!r} is no Event Hubs position")
    if position.get("offset") is not None:
        return f"amqp.annotation.x-opt-offset > '{position['offset']}'"
    return f"amqp.annotation.x-opt-sequence-number > '{position['sequence_number']}'"


class Receiver:
    """One link of a `LinkGroup`: a partition from some position on."""

    def __init__(self, partition: Partition, client: Any, credit: int) -> None:
        self.partition = partition
        self.client = client
        self.credit = credit
        self.tally = Tally()
        self.attached = False
        self._booked = 0  # of the events in the tally, how many the link was told of

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

    def forget(self, count: int) -> None:
        """Take `count` events off the tally."""
        del self.tally.events[:count]
        self._booked -= count


class LinkGroup:
    """Receivers on some partitions over one connection, on one thread."""

    def __init__(
        self,
        options: EventHubsOptions,
        filters: Mapping[Partition, str],
        *,
        credit: int,
        wanted: int = 1000,
        metric: bool = False,
    ) -> None:
        self._options = options
        host = urlsplit(f"//{options.namespace}")
        custom = urlsplit(options.custom_endpoint_address or "")
        auth = consumer_client(options)._create_auth()  # noqa: SLF001 every kind of credential
        self.transport = CountingTransport(
            host.hostname or "",
            credential=auth.sasl,
            port=host.port or 5671,
            custom_endpoint=custom.hostname,
            custom_port=custom.port,
            socket_timeout=TIMEOUT_S,
            ssl_opts={"ca_certs": options.connection_verify},
            use_tls=not options.emulated,
            network_trace_params={},
        )
        self.transport.wanted = wanted
        self.receivers: list[Receiver] = []
        self._connection = Connection(
            f"amqps://{options.namespace}",
            transport=self.transport,
            container_id=f"backlog-clearer-{uuid.uuid4()}",
            max_frame_size=_FRAME_SIZE,
        )
        capabilities = [_METRIC, _GEOREPLICATION] if metric else [_GEOREPLICATION]
        level = options.owner_level
        try:
            self._connection.open()
            for partition, text in filters.items():
                client = ReceiveClient(
                    options.namespace,
                    self._address(partition, text),
                    auth=auth,
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
                self.receivers.append(Receiver(partition, client, credit))
        except _FAILURES as error:
            self.close()
            raise translate(error, options) from error

    def _address(self, partition: Partition, text: str) -> Source:
        options = self._options
        address = (
            f"amqps://{options.namespace}/{options.hub}/ConsumerGroups/{options.consumer_group}"
            f"/Partitions/{partition.number}"
        )
        key = ApacheFilters.selector_filter
        return Source(address=address, filters={key: (key, amqp_string_value(text.encode()))})

    def attach(self, left_s: float = TIMEOUT_S) -> dict[Partition, ClearerError]:
        """Wait until every receiver is attached or refused; returns the refusals.

        Raises `BrokerError` if the connection as a whole fails.
        """
        refused: dict[Partition, ClearerError] = {}
        self.transport.wait_s = 0.02
        for _ in range(int(left_s / self.transport.wait_s)):
            waiting = [r for r in self.receivers if not r.attached and r.partition not in refused]
            if not waiting:
                return refused
            for receiver in waiting:
                try:
                    receiver.attached = receiver.client.client_ready()
                except _FAILURES as error:
                    refused[receiver.partition] = self._failed(error, receiver.partition)
            self._raise_for_connection()
        raise TransientError(
            f"{self._options.namespace} did not attach {waiting[0].partition} within {left_s:.0f} s.",
            waiting[0].partition,
        )

    def settle_refusals(self) -> dict[Partition, ClearerError]:
        """Refusals that follow the attachment: the service attaches a link first, then refuses it."""
        refused = {}
        self.transport.wait_s = 0.2
        self._connection.listen(batch=len(self.receivers))
        for receiver in self.receivers:
            try:
                receiver.client.client_ready()
            except _FAILURES as error:
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

    def pump(self, wait_s: float) -> None:
        """Receive for `wait_s` at most, less if anything arrives; raises what the service said."""
        partition = None
        try:
            for receiver in self.receivers:
                partition = receiver.partition
                receiver.client.client_ready()  # renews the token; raises if the link was detached
            partition = None
            self.transport.wait_s = wait_s
            self._connection.listen()
            for receiver in self.receivers:
                receiver.book()
        except _FAILURES as error:
            raise self._failed(error, partition) from error

    def _raise_for_connection(self) -> None:
        error = self._connection._error  # noqa: SLF001 raised by its next use only
        if error is not None:
            raise translate(error, self._options) from error

    def _failed(self, error: BaseException, partition: Partition | None) -> ClearerError:
        return translate(error, self._options, partition)

    def drop(self, receiver: Receiver) -> None:
        """Detach one receiver; what is still on its way is counted by nobody."""
        self.receivers.remove(receiver)
        receiver.tally.discard()
        with contextlib.suppress(*_FAILURES):
            receiver.client.close()

    def close(self) -> None:
        """Close everything."""
        for receiver in list(self.receivers):
            self.drop(receiver)
        with contextlib.suppress(*_FAILURES):
            self._connection.close()
        self.transport.tallies.clear()


class AmqpLane:
    """A lane over AMQP; see `core.source.Lane`."""

    def __init__(
        self, options: EventHubsOptions, claims: Sequence[Claim], checkpoints: Checkpoints | None, batch: int
    ) -> None:
        self._checkpoints = checkpoints
        self._claims = {claim.partition: claim for claim in claims}
        self._targets = {claim.partition: sequence_number(claim.target) for claim in claims}
        self._ends = {claim.partition: sequence_number(claim.state.end) for claim in claims}
        self._reached: list[Partition] = []  # with nothing to read, and not reported yet
        self._unsettled: dict[Partition, tuple[int, Position]] = {}
        filters = {}
        for claim in claims:
            begin = claim.resume if claim.resume is not None else claim.state.position
            if _is_reached(claim, begin):
                self._reached.append(claim.partition)
            else:
                filters[claim.partition] = selector(begin)
        follows = any(target is None for target in self._targets.values())
        self._group: LinkGroup | None = None
        if filters:
            self._group = LinkGroup(
                options, filters, credit=options.prefetch, wanted=batch, metric=follows
            )
            try:
                for error in self._group.attach().values():
                    raise error
                self._group.start()
            except ClearerError:
                self.close()
                raise

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `core.source.Lane`."""
        if self._reached:
            advances = [Advance(partition, 0, 0) for partition in self._reached]
            self._reached.clear()
            return advances
        group = self._group
        if group is None or not group.receivers:
            return ()
        if not any(receiver.tally.events for receiver in group.receivers):
            group.pump(max_wait_s)
        advances = []
        for receiver in list(group.receivers):
            if max_messages == 0:
                break
            advance = self._take(group, receiver, max_messages)
            if advance is not None:
                advances.append(advance)
                if max_messages is not None:
                    max_messages -= advance.messages
        group.receivers[:] = group.receivers[1:] + group.receivers[:1]  # a limit shall not favour one
        return advances

    def _take(self, group: LinkGroup, receiver: Receiver, limit: int | None) -> Advance | None:
        """Report what has arrived on one link, up to the target and the limit."""
        tally, partition = receiver.tally, receiver.partition
        held = len(tally.events)
        count = held if limit is None else min(held, limit)
        if not count:
            return None

        def number(index: int) -> int:
            return int(group.transport.event(tally, index)[SEQUENCE_NUMBER])

        last = group.transport.event(tally, count - 1)
        at, target = int(last[SEQUENCE_NUMBER]), self._targets[partition]
        size = tally.bytes * count // held
        tally.bytes -= size
        if target is not None and at >= target:
            if at > target:
                count = locate(number, count, target)
            position = self._claims[partition].target
            assert position is not None  # noqa: S101 it has a sequence number
            left: int | None = 0
            group.drop(receiver)
        else:
            offset = last[OFFSET]
            position = {
                "offset": offset.decode() if isinstance(offset, bytes) else str(offset),
                "sequence_number": at,
            }
            end = last.get(LAST_ENQUEUED) if target is None else target
            left = None if end is None else max(0, int(end) - at)
            receiver.forget(count)
        before, _ = self._unsettled.get(partition, (0, None))
        self._unsettled[partition] = (before + count, position)
        return Advance(partition, count, left, size)

    def settle(self) -> Sequence[Settled]:
        """Write the checkpoints; without a checkpoint store nothing is written, only counted."""
        done = []
        for partition, (count, position) in self._unsettled.items():
            refusal = None
            if self._checkpoints is not None:
                try:
                    self._checkpoints.write(partition.number, position)
                except TransientError:
                    raise
                except ClearerError as error:
                    refusal = str(error)
            done.append(
                Settled(partition, 0, None, refusal)
                if refusal
                else Settled(partition, count, position)
            )
        self._unsettled.clear()
        return done

    def close(self) -> None:
        """See `core.source.Lane`."""
        group, self._group = self._group, None
        if group is not None:
            group.close()
        if self._checkpoints is not None:
            self._checkpoints.close()


def _is_reached(claim: Claim, begin: Position | None) -> bool:
    """Whether a claim's target lies at or before where it begins."""
    target = sequence_number(claim.target)
    if target is None:
        return False
    starts = [sequence_number(begin), sequence_number(claim.state.start)]
    return any(number is not None and number >= target for number in starts)


def position_of(options: EventHubsOptions, partition: Partition, number: int) -> Position:
    """The position of the event with a sequence number: asks the service for that event alone.

    Raises `TransientError` if it does not come.
    """
    text = f"amqp.annotation.x-opt-sequence-number >= '{number}'"
    group = LinkGroup(options, {partition: text}, credit=1)
    try:
        for error in group.attach().values():
            raise error
        group.start()
        receiver = group.receivers[0]
        for _ in range(int(TIMEOUT_S / 0.25)):
            group.pump(0.25)
            if receiver.tally.events:
                found = group.transport.event(receiver.tally, 0)
                offset = found[OFFSET]
                return {
                    "offset": offset.decode() if isinstance(offset, bytes) else str(offset),
                    "sequence_number": int(found[SEQUENCE_NUMBER]),
                }
    finally:
        group.close()
    raise TransientError(f"{partition}: the event with sequence number {number} did not come.", partition)

"""Azure Event Hubs over AMQP: one connection of the SDK, and what this project opens on it.

The SDK opens, signs in, keeps alive, renews tokens, detaches and tells errors; `CountingTransport`
counts the events. Because they never pass through the SDK's link, it keeps no delivery tags of them
either (which would grow without end), and the windows and credits it would have booked are booked here.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import certifi
from azure.core.exceptions import AzureError
from azure.eventhub._pyamqp import AMQPClient, ReceiveClient
from azure.eventhub._pyamqp._connection import Connection
from azure.eventhub._pyamqp.constants import ReceiverSettleMode, SenderSettleMode
from azure.eventhub._pyamqp.endpoints import ApacheFilters, Source
from azure.eventhub._pyamqp.error import AMQPException
from azure.eventhub._pyamqp.message import Message
from azure.eventhub._pyamqp.utils import amqp_long_value, amqp_string_value

from backlog_clearer.brokers.eventhubs.client import TIMEOUT_S, consumer_client, translate
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.wire import OFFSET, SEQUENCE_NUMBER, CountingTransport, Tally
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Partition, Position

FRAME_SIZE = 65536
"""Bytes; what the service uses."""

_EPOCH = b"com.microsoft:epoch"
_GEOREPLICATION = b"com.microsoft:georeplication"  # offsets as strings, as the SDK's own consumers ask
_METRIC = b"com.microsoft:enable-receiver-runtime-metric"  # the partition's end with each event
_U32 = 0xFFFFFFFF
_ERRORS_FROM = 400  # of the management node's status codes, which are HTTP's
_REQUESTS = 32  # asked one after the other over one connection; more get a connection of their own
_FAILURES = (AMQPException, AzureError, OSError, ValueError, TimeoutError)
"""What the SDK's AMQP layers raise."""


class AmqpConnection:
    """A connection of the SDK's over `CountingTransport`; belongs to one thread.

    Raises `BrokerError` if nobody answers, or refuses.
    """

    def __init__(self, options: EventHubsOptions) -> None:
        self.options = options
        host = urlsplit(f"//{options.namespace}")
        custom = urlsplit(options.custom_endpoint_address or "")
        self.auth = consumer_client(options)._create_auth()  # noqa: SLF001 every kind of credential
        self.transport = CountingTransport(
            host.hostname or "",
            credential=self.auth.sasl,
            port=host.port or 5671,
            custom_endpoint=custom.hostname,
            custom_port=custom.port,
            socket_timeout=TIMEOUT_S,
            ssl_opts={"ca_certs": options.connection_verify or certifi.where()},
            use_tls=not options.emulated,
            network_trace_params={},
        )
        self.connection = Connection(
            f"amqps://{options.namespace}",
            transport=self.transport,
            container_id=f"backlog-clearer-{uuid.uuid4()}",
            max_frame_size=FRAME_SIZE,
        )
        try:
            self.connection.open()
        except _FAILURES as error:
            self.close()
            raise translate(error, options) from error

    def close(self) -> None:
        """Close it, whatever state it is in."""
        with contextlib.suppress(*_FAILURES):
            self.connection.close()


class PartitionProperties(NamedTuple):
    """What the management node says of one partition."""

    begin: int  # first sequence number retained
    last: int  # sequence number of the last event enqueued; -1: never any
    offset: str  # its offset; "-1": never any
    empty: bool  # nothing is retained


class Management:
    """Requests to the management node over one connection."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._link = AmqpConnection(options)
        auth = self._link.auth
        self._client = AMQPClient(options.namespace, auth=auth, auth_timeout=TIMEOUT_S)

    def partition_numbers(self) -> list[int]:
        """The partitions of the Event Hub; raises `UsageError` if it does not exist."""
        found = self._ask("com.microsoft:eventhub", None)
        return sorted(int(name) for name in found[b"partition_ids"])

    def properties(self, number: int) -> PartitionProperties:
        """The properties of one partition."""
        found = self._ask("com.microsoft:partition", number)
        return PartitionProperties(
            begin=int(found[b"begin_sequence_number"]),
            last=int(found[b"last_enqueued_sequence_number"]),
            offset=found[b"last_enqueued_offset"].decode(),
            empty=bool(found[b"is_partition_empty"]),
        )

    def _ask(self, kind: str, number: int | None) -> Mapping[bytes, Any]:
        options = self._options
        partition = None if number is None else Partition(options.hub, number)
        self._link.transport.give_up_at = time.monotonic() + TIMEOUT_S
        try:
            self._client.open(connection=self._link.connection)
            while not self._client.client_ready():  # ends at `give_up_at`
                pass
            about = {"name": options.hub, "security_token": self._link.auth.get_token().token}
            if number is not None:
                about["partition"] = str(number)
            status, text, answer = self._client.mgmt_request(
                Message(application_properties=about),
                operation="READ",
                operation_type=kind,
                status_code_field=b"status-code",
                status_description_field=b"status-description",
            )
            if int(status) >= _ERRORS_FROM:
                said = text.decode() if isinstance(text, bytes) else text
                raise ValueError(f"Status code: {status}, {said}")
        except _FAILURES as error:
            raise translate(error, options, partition) from error
        found: Mapping[bytes, Any] = answer.value
        return found

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(*_FAILURES):
            self._client.close()
        self._link.close()


def read_partition_numbers(options: EventHubsOptions) -> list[int]:
    """The partitions of the Event Hub; raises `UsageError` if it does not exist."""
    with contextlib.closing(Management(options)) as management:
        return management.partition_numbers()


def read_partitions(
    options: EventHubsOptions, numbers: Sequence[int]
) -> dict[int, PartitionProperties | ClearerError]:
    """The properties of each partition, or the error that stood in their place."""

    def ask(chunk: Sequence[int]) -> dict[int, PartitionProperties | ClearerError]:
        found: dict[int, PartitionProperties | ClearerError] = {}
        with contextlib.closing(Management(options)) as management:
            for number in chunk:
                try:
                    found[number] = management.properties(number)
                except ClearerError as error:
                    found[number] = error
        return found

    chunks = [numbers[at : at + _REQUESTS] for at in range(0, len(numbers), _REQUESTS)]
    found: dict[int, PartitionProperties | ClearerError] = {}
    for chunk, answer in zip(chunks, in_parallel(chunks, lambda: ask), strict=True):
        found.update(dict.fromkeys(chunk, answer) if isinstance(answer, ClearerError) else answer)
    return found


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


def position_from(annotations: Mapping[bytes, int | bytes]) -> Position:
    """The position of an event."""
    offset = annotations[OFFSET]
    return {
        "offset": offset.decode() if isinstance(offset, bytes) else str(offset),
        "sequence_number": int(annotations[SEQUENCE_NUMBER]),
    }


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
        self._opened = AmqpConnection(options)
        self._connection = self._opened.connection
        self.transport = self._opened.transport
        self.transport.wanted = wanted
        self.receivers: list[Receiver] = []
        capabilities = [_METRIC, _GEOREPLICATION] if metric else [_GEOREPLICATION]
        level = options.owner_level
        try:
            for partition, text in filters.items():
                client = ReceiveClient(
                    options.namespace,
                    self._address(partition, text),
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
        self._opened.close()
        self.transport.tallies.clear()


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
                return position_from(group.transport.event(receiver.tally, 0))
    finally:
        group.close()
    raise TransientError(
        f"{partition}: the event with sequence number {number} did not come.", partition
    )

"""Lookups of the brokers that serve a topic, and consumers there."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.brokers import TopicEnd, new_name
from backlog_clearer.brokers.pulsar.connection import Connection
from backlog_clearer.brokers.pulsar.errors import (
    RefusalError,
    deleted_meanwhile,
    refusals_translated,
)
from backlog_clearer.brokers.pulsar.options import PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Place
from backlog_clearer.brokers.pulsar.service_url import Address, addresses
from backlog_clearer.brokers.pulsar.wire import EARLIEST, REDIRECT, Kind, frame
from backlog_clearer.brokers.shared.sockets import wait
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition
from backlog_clearer.options.base import MOST_PARTITIONS

_MAX_REDIRECTS = 20  # as Pulsar's Java client
_CLOSE_S = 2.0  # for the answers to closing: a stop takes less than 5 s
_SUB_TYPES = {
    SubscriptionType.EXCLUSIVE: 0,
    SubscriptionType.SHARED: 1,
    SubscriptionType.FAILOVER: 2,
    SubscriptionType.KEY_SHARED: 3,
}
_EXISTS = "Durable subscription with the same name already exists"
_numbers = itertools.count(secrets.randbelow(1 << 31))
"""Numbers of consumers: unique on a connection for Pulsar, on a topic over all processes for pulsar-lite."""


class Consumer(NamedTuple):
    """A consumer of one partition."""

    connection: Connection
    number: int

    def send(self, kind: Kind, **fields: Any) -> None:
        """Send a command about it, without waiting for an answer."""
        self.connection.send(frame(kind, consumer_id=self.number, **fields))

    def give(self, permits: int) -> None:
        """Let the broker send this many messages more."""
        self.send(Kind.FLOW, message_permits=permits)

    def request_again(self) -> None:
        """Request everything again that was delivered and is not acknowledged."""
        self.send(Kind.REDELIVER_UNACKNOWLEDGED)

    def acknowledge(self, kind: int, places: Sequence[Place]) -> None:
        """Acknowledge whole entries, `INDIVIDUAL` or (one) `CUMULATIVE`; the broker does not answer."""
        ids = [{"ledger": ledger, "entry": entry} for ledger, entry in places]
        self.send(Kind.ACK, ack_type=kind, message_id=ids)


class Cluster:
    """Connections to one cluster's brokers, opened when they are needed; for one thread.

    Methods raise `TransientError` or `BrokerError`.
    """

    def __init__(
        self, options: PulsarOptions, access: Access, run_id: str, *, ping_s: float | None = None
    ) -> None:
        """`ping_s`: see `Connection`."""
        self._options = options
        self._ping_s = ping_s
        self._access = access
        self._run_id = run_id
        self._home: Connection | None = None
        self._connections: dict[tuple[Address, str | None], Connection] = {}
        self._failures: dict[tuple[Address, str | None], TransientError] = {}
        self._consumers: list[Consumer] = []

    @property
    def connections(self) -> list[Connection]:
        """All open connections."""
        return list(self._connections.values())

    def arrived(self, max_wait_s: float) -> Sequence[Connection]:
        """Receive on the connections on which something arrives within the time."""
        ready = wait(self.connections, max_wait_s)
        for connection in ready:
            connection.receive()
        for connection in self.connections if not ready else ():
            connection.check()
        return ready

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: it is not partitioned, or does not exist."""
        with refusals_translated(self._options.service_url, None):
            found = self._at_home().ask(
                Kind.PARTITIONED_METADATA, topic=topic, metadata_auto_creation_enabled=False
            )
        if not found.HasField("partitions") or not 0 <= found.partitions <= MOST_PARTITIONS:
            raise TransientError(
                f"{self._options.service_url} returned no number of partitions of {topic} that is possible."
            )
        return int(found.partitions)

    def subscribe(self, partition: Partition, topic: str, kind: SubscriptionType) -> Consumer:
        """A new consumer of one partition's topic, on the broker that owns it, without permits yet."""
        with refusals_translated(self._options.service_url, partition):
            return self._subscribe(topic, kind)

    def probe(self, partition: Partition, topic: str, kind: SubscriptionType) -> Consumer | None:
        """Ask whether a subscription exists, and create nothing that lasts; None: it exists.

        A subscription that is not durable, and so ends with its only consumer, may not have the name of a
        durable one, as the broker states when it refuses (PersistentTopic.getNonDurableSubscription). Where
        there is none, the result is that consumer: `end` ends it.
        """
        with refusals_translated(self._options.service_url, partition):
            try:
                return self._subscribe(topic, kind, durable=False)
            except RefusalError as error:
                if error.name == "NotAllowedError" and _EXISTS in error.message:
                    return None
                raise

    def subscribe_existing(self, partition: Partition, topic: str, kind: SubscriptionType) -> Consumer:
        """Like `subscribe`, but raises `BrokerError` where that would create the subscription."""
        found = self.probe(partition, topic, kind)
        if found is not None:
            self.end(found, partition)
            raise deleted_meanwhile(partition, self._options.subscription)
        return self.subscribe(partition, topic, kind)

    def end(self, consumer: Consumer, partition: Partition) -> None:
        """Close a consumer now, and with one of `probe` its subscription."""
        self._consumers.remove(consumer)
        with refusals_translated(self._options.service_url, partition):
            consumer.connection.ask(Kind.CLOSE_CONSUMER, consumer_id=consumer.number)

    def _subscribe(self, topic: str, kind: SubscriptionType, *, durable: bool = True) -> Consumer:
        connection = self._owner(topic)
        consumer = Consumer(connection, next(_numbers))
        connection.ask(
            Kind.SUBSCRIBE,
            topic=topic,
            subscription=self._options.subscription,
            sub_type=_SUB_TYPES[kind],
            consumer_id=consumer.number,
            consumer_name=new_name(self._run_id),
            durable=durable,
            initial_position=EARLIEST,
            force_topic_creation=False,
        )
        self._consumers.append(consumer)
        return consumer

    def last(self, consumer: Consumer, partition: Partition) -> TopicEnd:
        """The end of a consumer's topic, and the position of its subscription."""
        with refusals_translated(self._options.service_url, partition):
            answer = consumer.connection.ask(Kind.GET_LAST_MESSAGE_ID, consumer_id=consumer.number)
        last = _place(answer, "last_message_id")
        if last is None:
            raise TransientError(
                f"{self._options.service_url}, {partition}: the broker returned no last entry.",
                partition,
            )
        return TopicEnd(last, _place(answer, "consumer_mark_delete_position"))

    def backlog(self, consumer: Consumer, partition: Partition) -> int | None:
        """Entries in the backlog of a consumer's subscription, as the broker counts them; None: not reported.

        This is the figure that the broker keeps up to date, not one that it counts afresh.
        """
        with refusals_translated(self._options.service_url, partition):
            answer = consumer.connection.ask(Kind.CONSUMER_STATS, consumer_id=consumer.number)
        return int(answer.entries) if answer.HasField("entries") else None

    def seek(self, consumer: Consumer, partition: Partition, after: Place) -> None:
        """Move a consumer's subscription so that the next entry is the one after this place."""
        ledger, entry = after
        with refusals_translated(self._options.service_url, partition):
            consumer.connection.ask(
                Kind.SEEK,
                consumer_id=consumer.number,
                message_id={"ledger": ledger, "entry": entry + 1},
            )

    def _at_home(self) -> Connection:
        """A connection to the service URL: to the first of its hosts that answers."""
        if self._home is None:
            failed = None
            for address in addresses(self._options.service_url):
                try:
                    self._home = self._connect(address, None)
                except TransientError as error:
                    failed = error
                    continue
                break
            if self._home is None:
                raise failed or BrokerError("--service-url does not name a host.")
        return self._home

    def _connect(self, address: Address, through: str | None) -> Connection:
        key = address, through
        if key in self._failures:  # waiting again for each partition would take too long
            raise self._failures[key]
        if key not in self._connections:
            try:
                self._connections[key] = Connection(
                    address, self._access, through=through, ping_s=self._ping_s
                )
            except TransientError as error:
                self._failures[key] = error
                raise
        return self._connections[key]

    def _owner(self, topic: str) -> Connection:
        """A connection to the broker that serves a topic, through the proxy where there is one."""
        home = asked = self._at_home()
        tls, authoritative = home.address.tls, False
        listener = self._options.listener_name
        named = {"advertised_listener_name": listener} if listener else {}
        for _ in range(_MAX_REDIRECTS):
            answer = asked.ask(Kind.LOOKUP, topic=topic, authoritative=authoritative, **named)
            url = answer.broker_service_url_tls if tls else answer.broker_service_url
            if not url:
                name = "pulsar+ssl" if tls else "pulsar"
                raise BrokerError(
                    f"{self._options.service_url} returned no {name}:// address of {topic}."
                )
            try:
                owner = addresses(url)[0]
            except ValueError as error:
                raise BrokerError(
                    f"{self._options.service_url} returned an address of {topic} that is not valid: {error}."
                ) from None
            if answer.proxy_through_service_url:
                found = self._connect(home.address, str(owner))
            else:
                found = self._connect(owner, None)
            if answer.response != REDIRECT:
                return found
            asked, authoritative = found, answer.authoritative
        raise TransientError(
            f"{self._options.service_url} redirects from broker to broker without end for {topic}."
        )

    def close(self) -> bool:
        """Close consumers, so that the broker has processed everything sent before, then connections.

        Returns whether it has answered that for each of them.
        """
        asked, answered, consumers = [], 0, len(self._consumers)
        until = time.monotonic() + _CLOSE_S
        for connection, number in self._consumers:
            with suppress(BrokerError):
                if number not in connection.lost:
                    request = connection.request(Kind.CLOSE_CONSUMER, consumer_id=number)
                    asked.append((connection, request))
        for connection, request in asked:
            with suppress(BrokerError, RefusalError):
                connection.wait_for(request, until)
                answered += 1
        for connection in self._connections.values():
            connection.close()
        self._connections, self._consumers, self._home = {}, [], None
        return answered == consumers


def _place(answer: Any, name: str) -> Place | None:
    """A position in an answer, in which -1 is sent as the unsigned number of the same bits.

    None: not there, or not a position; "-1:-1" is the start of a topic.
    """
    found = getattr(answer, name)
    if not (answer.HasField(name) and found.HasField("ledger") and found.HasField("entry")):
        return None
    ledger, entry = (
        value - (1 << 64) if value >> 63 else value for value in (found.ledger, found.entry)
    )
    valid = entry >= -1 and (ledger >= 0 or (ledger, entry) == (-1, -1))
    return Place(ledger, entry) if valid else None

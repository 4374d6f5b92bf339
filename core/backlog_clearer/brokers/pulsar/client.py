"""Reading with Pulsar's client library (pulsar-client): supports every login that it supports.

The library connects again by itself, and would then create a subscription that was deleted meanwhile; so a
consumer that is not connected counts as lost as soon as that is seen, and its lane is closed.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import methodcaller
from queue import Empty, SimpleQueue
from typing import Any

import pulsar

from backlog_clearer.brokers.pulsar.auth import Access, Bearer
from backlog_clearer.brokers.pulsar.brokers import TopicEnd, new_name
from backlog_clearer.brokers.pulsar.errors import RefusalError, refusal_meaning
from backlog_clearer.brokers.pulsar.login import checked_athenz, plugin_kind
from backlog_clearer.brokers.pulsar.options import PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Place
from backlog_clearer.brokers.pulsar.wire import CUMULATIVE, EntryHead, FrameError, parse_identifier
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Partition
from backlog_clearer.redaction.redact import remember

_ANSWER_S = 10  # for an answer; the library tries again within this time
_LATE_S = 5  # for the library's own time-out to arrive
_CONNECT_MS = 5000
_QUEUE = 5000  # messages that the library fetches in advance, for each consumer
_QUEUE_BYTES = 16 * 1024 * 1024
_FILL_MS = 10  # how long a batch of messages is waited for once one has arrived
_LOOK_S = 0.02  # between two looks at the connections of consumers: the library reconnects after 0.1 s
_WATCHED_S = 2.0  # for a look that is under way as a lane is closed
_POLL_S = 0.05  # the longest wait for one consumer
_WHOLE_S = 0.25  # silence after which the rest of a batch of messages is taken for acknowledged
_CHUNKED = 1000  # chunked messages that arrive at the same time
_MESSAGE_ID, _LENGTH = methodcaller("message_id"), methodcaller("length")
_LEDGER, _ENTRY = methodcaller("ledger_id"), methodcaller("entry_id")
_INDEX = methodcaller("batch_index")
_KINDS = {
    SubscriptionType.EXCLUSIVE: pulsar.ConsumerType.Exclusive,
    SubscriptionType.SHARED: pulsar.ConsumerType.Shared,
    SubscriptionType.FAILOVER: pulsar.ConsumerType.Failover,
    SubscriptionType.KEY_SHARED: pulsar.ConsumerType.KeyShared,
}
_NAMES = {"TopicTerminated": "TopicTerminatedError"}  # where the library's names are not Pulsar's
_FINAL = frozenset({"InvalidConfiguration", "InvalidUrl"})
_REFUSALS = frozenset(
    {
        *("AuthenticationError", "AuthorizationError", "TopicNotFound", "SubscriptionNotFound"),
        *("InvalidTopicName", "IncompatibleSchema", "UnsupportedVersionError", "NotAllowedError"),
        *("TopicTerminated", "ConsumerBusy"),
    }
)
_REPORTED = {
    "": "as Pulsar's client library reports it",
    "NotAllowedError": "as Pulsar's client library reports it; perhaps topic or namespace do not allow this"
    " --subscription-type",
}
_CLOSED: list[pulsar.Consumer] = []
"""Closed consumers, kept because destroying one whose connection broke can abort the process.

See https://github.com/apache/pulsar-client-python/issues/103.
"""
_numbers = itertools.count(1)

# The library's own log goes to stdout, and may hold what a server answers. The first client of a process sets
# it for good, and has to precede logins, which log, too.
_SILENT = pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)
pulsar.Client("pulsar://127.0.0.1", logger=_SILENT).close()


class _ResultError(Exception):
    """A result of the library that is not OK; its text is the result's name."""


def _answer(ask: Callable[[Callable[..., None]], None]) -> Any:
    """The value of one of the library's calls with a callback; None: it has none.

    Its calls without one return as if the broker had answered, with an empty value, where the connection broke
    meanwhile: `Result` has no member for the C++ client's ResultDisconnected, and such a result raises nothing.
    Raises `_ResultError`.
    """
    arrived: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    ask(lambda *answer: arrived.put(answer))
    try:
        result, *value = arrived.get(timeout=_ANSWER_S + _LATE_S)
    except Empty:
        raise _ResultError("Timeout") from None
    if result != pulsar.Result.Ok:
        known = pulsar.Result.__members__.items()
        raise _ResultError(next((name for name, each in known if each == result), "Disconnected"))
    return value[0] if value else None


def _last_of(consumer: pulsar.Consumer) -> Any:
    return _answer(consumer._consumer.get_last_message_id_async)  # noqa: SLF001 no such public method


class _Tokens:
    """Tokens for the library, which calls this from a thread in which nothing may be raised."""

    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer
        self._last = bearer()

    def __call__(self) -> str:
        with suppress(ClearerError):
            self._last = self._bearer()
        return self._last


def _authentication(options: PulsarOptions, access: Access) -> pulsar.Authentication | None:
    """The login as the library takes it; raises like `Bearer`, and `UsageError` for parameters."""
    login = access.login
    if access.bearer:
        return pulsar.AuthenticationToken(_Tokens(access.bearer))
    if login.basic:
        user, _, password = login.basic.partition(":")
        return pulsar.AuthenticationBasic(user, password)
    name = options.auth_plugin
    kind = plugin_kind(name) if name else None
    if name and kind in (None, "athenz"):
        params = options.auth_params.get_secret_value() if options.auth_params else ""
        remember(params)
        if kind:
            return pulsar.AuthenticationAthenz(checked_athenz(params))
        return pulsar.Authentication(name, params)
    if login.certificate:
        return pulsar.AuthenticationTLS(login.certificate, login.certificate_key or login.certificate)
    return None


class _Pulse:
    """Whether a silent connection still answers; asked from another thread, since the library waits long."""

    def __init__(self, answer_s: float | None) -> None:
        """`answer_s`: seconds of silence after which a connection counts as dead; None: never."""
        self._answer_s = answer_s
        self._heard_at = self._asked_at = time.monotonic()
        self._asking: threading.Thread | None = None

    def heard(self) -> None:
        """Note that something arrived."""
        self._heard_at = time.monotonic()

    def silent(self, consumer: pulsar.Consumer) -> bool:
        """Whether the time is over; after half of it, something is asked that the broker has to answer."""
        if self._answer_s is None:
            return False
        now, half = time.monotonic(), self._answer_s / 2
        if now - self._heard_at < half:
            return False
        if self._asking is None or not self._asking.is_alive():
            self._asked_at = now
            self._asking = threading.Thread(target=self._ask, args=(consumer,))
            self._asking.start()
        return now - self._asked_at > half

    def _ask(self, consumer: pulsar.Consumer) -> None:
        with suppress(pulsar.PulsarException, _ResultError):
            _last_of(consumer)
            self.heard()

    def end(self) -> None:
        """Wait for the thread, whose question has ended with the client."""
        if self._asking is not None:
            self._asking.join(_ANSWER_S)


class ClientFeed:
    """One consumer of the library, and the entries that it has received."""

    def __init__(self, consumer: pulsar.Consumer, number: int, pulse: _Pulse) -> None:
        self.number = number
        self.pulse = pulse
        self.lost: set[int] = set()
        self.broken_by: TransientError | None = None
        self.consumer = consumer
        self._consumer = consumer._consumer  # noqa: SLF001 without a Python object for each message
        self._heads: deque[EntryHead] = deque()
        self._ids: dict[Place, Any] = {}  # identifiers of messages that are not batches
        self._part: _Partial | None = None  # of a batch that may not be complete
        self._last: tuple[int, int] | None = None  # the last entry, complete or not

    def next(self) -> EntryHead | None:
        """See `Feed`."""
        return self._heads.popleft() if self._heads else None

    @property
    def waiting(self) -> bool:
        """Whether entries are here."""
        return bool(self._heads)

    def look(self) -> None:
        """Close a consumer that is not connected, so that the library does not connect it again."""
        if not self.lost and not self._consumer.is_connected():
            self.lost.add(self.number)
            with suppress(pulsar.PulsarException):
                self._consumer.close()

    def collect(self, wait_s: float) -> None:
        """Take what the library has received, or what it receives within the time."""
        if self.lost:
            return
        try:
            first = self._consumer.receive(int(wait_s * 1000))
            rest = self._consumer.batch_receive()
        except pulsar.AlreadyClosed:
            pass
        except pulsar.Timeout:
            if self._part and time.monotonic() - self._part.at > _WHOLE_S:
                self._complete()
            if self.pulse.silent(self.consumer):
                self.broken_by = TransientError(
                    "A broker of Pulsar does not answer the client library: check that it is up."
                )
        else:
            self.pulse.heard()
            self._take([first, *rest])

    def _take(self, messages: Sequence[Any]) -> None:
        ids = list(map(_MESSAGE_ID, messages))
        keys = list(zip(map(_LEDGER, ids), map(_ENTRY, ids), strict=True))
        indexes, sizes = list(map(_INDEX, ids)), list(map(_LENGTH, messages))
        start = 0
        for key, run in itertools.groupby(keys):
            end = start + sum(1 for _ in run)
            self._add(key, set(indexes[start:end]), sum(sizes[start:end]), ids[end - 1])
            start = end
        part = self._part
        if part and (max(part.indexes) < 0 or part.size_of_batch() <= max(part.indexes) + 1):
            self._complete()

    def _add(self, key: tuple[int, int], indexes: set[int], size: int, last: Any) -> None:
        if self._part and self._part.key == key:
            self._part.indexes |= indexes
            self._part.size += size
            self._part.last, self._part.at = last, time.monotonic()
            return
        self._complete()
        self._part = _Partial(key, indexes, size, last)

    def _complete(self) -> None:
        """Pass an entry on whole."""
        part, self._part = self._part, None
        if part is None:
            return
        (ledger, entry), count = part.key, len(part.indexes)
        if self._last != (ledger, entry - 1) and max(part.indexes) < 0:
            self._add_chunks(ledger, entry, part)
        self._last = part.key
        if max(part.indexes) < 0:
            self._ids[Place(ledger, entry)] = part.last
        self._heads.append(EntryHead(self.number, ledger, entry, 0, count, part.size))

    def _add_chunks(self, ledger: int, entry: int, part: _Partial) -> None:
        """The entries of a message's earlier chunks, which the library has received, too."""
        first = parse_identifier(part.last.serialize()).first_chunk
        if first is None or first[0] != ledger:
            return
        start = first[1]
        if self._last and self._last[0] == ledger:
            start = max(start, self._last[1] + 1)
        self._heads.extend(EntryHead(self.number, ledger, at, 0, 0, 0) for at in range(start, entry))

    def identifier(self, at: Place) -> Any:
        """The library's identifier of an entry that was received; of a chunked message, of all its chunks."""
        return self._ids.pop(at, None) or pulsar.MessageId(-1, at.ledger, at.entry, -1)

    def forget(self, up_to: Place) -> None:
        """Drop identifiers that are not needed any more."""
        self._ids = {at: found for at, found in self._ids.items() if at > up_to}


class _Partial:
    """Messages of one entry."""

    def __init__(self, key: tuple[int, int], indexes: set[int], size: int, last: Any) -> None:
        self.key, self.indexes, self.size, self.last = key, indexes, size, last
        self.at = time.monotonic()

    def size_of_batch(self) -> int:
        """Messages in the entry."""
        return parse_identifier(self.last.serialize()).batch_size


class ClientConsumer:
    """A consumer of one partition."""

    def __init__(self, feed: ClientFeed) -> None:
        self.connection = feed
        self.number = feed.number

    def give(self, permits: int) -> None:
        """See `EntryConsumer`; the library fetches by itself."""

    def request_again(self) -> None:
        """See `EntryConsumer`."""
        self.connection.consumer.redeliver_unacknowledged_messages()

    def acknowledge(self, kind: int, places: Sequence[Place]) -> None:
        """See `EntryConsumer`; the library sends acknowledgements within 0.1 s, and when it is closed."""
        feed = self.connection
        try:
            if kind == CUMULATIVE:
                (at,) = places
                feed.consumer.acknowledge_cumulative(pulsar.MessageId(-1, at.ledger, at.entry, -1))
                feed.forget(at)
                return
            for at in places:
                feed.consumer.acknowledge(feed.identifier(at))
        except pulsar.PulsarException as error:
            raise TransientError(f"Pulsar's client library could not acknowledge: {error}.") from None


class ClientCluster:
    """One client of the library; for one thread."""

    def __init__(
        self, options: PulsarOptions, access: Access, run_id: str, *, answer_s: float | None
    ) -> None:
        """`answer_s`: seconds of silence after which a connection counts as dead; None: as in the library."""
        self._options = options
        self._answer_s = answer_s
        self._access = access
        self._run_id = run_id
        self._client: pulsar.Client | None = None
        self._feeds: list[ClientFeed] = []
        self._closing = threading.Event()
        self._watching: threading.Thread | None = None

    @property
    def connections(self) -> Sequence[ClientFeed]:
        """See `Brokers`."""
        return self._feeds

    def arrived(self, max_wait_s: float) -> Sequence[ClientFeed]:
        """See `Brokers`."""
        until = time.monotonic() + max_wait_s
        with self._translated(None):
            while True:
                pause = max(0.0, min(_POLL_S, until - time.monotonic()))
                alone = pause if len(self._feeds) == 1 else 0.0
                for feed in self._feeds:
                    feed.collect(alone)
                ready = [feed for feed in self._feeds if feed.waiting]
                ended = any(feed.lost or feed.broken_by for feed in self._feeds)
                if ready or ended or not pause:
                    return ready
                if not alone:
                    time.sleep(min(pause, _POLL_S / 5))

    def partitions(self, topic: str) -> int:
        """See `Brokers`."""
        with self._translated(None):
            names = self._opened().get_topic_partitions(topic)
            if not names:  # see `_answer`
                raise _ResultError("Disconnected")
        return 0 if names == [topic] else len(names)

    def _opened(self) -> pulsar.Client:
        if self._client is None:
            options, login = self._options, self._access.login
            self._client = pulsar.Client(
                options.service_url,
                authentication=_authentication(options, self._access),
                operation_timeout_seconds=_ANSWER_S,
                connection_timeout_ms=_CONNECT_MS,
                stats_interval_in_seconds=0,
                logger=_SILENT,
                listener_name=options.listener_name,
                tls_trust_certs_file_path=options.tls_trust_certs,
                tls_validate_hostname=options.tls_validate_hostname,
                tls_certificate_file_path=login.certificate,
                tls_private_key_file_path=login.certificate_key or login.certificate,
            )
        return self._client

    def subscribe(self, partition: Partition, topic: str, kind: SubscriptionType) -> ClientConsumer:
        """See `Brokers`."""
        with self._translated(partition):
            consumer = self._opened().subscribe(
                topic,
                self._options.subscription,
                _KINDS[kind],
                consumer_name=new_name(self._run_id),
                receiver_queue_size=_QUEUE,
                initial_position=pulsar.InitialPosition.Earliest,
                max_pending_chunked_message=_CHUNKED,
                batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(_QUEUE, _QUEUE_BYTES, _FILL_MS),
                crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME,
            )
        feed = ClientFeed(consumer, next(_numbers), _Pulse(self._answer_s))
        self._feeds.append(feed)
        if len(self._feeds) == 1:
            self._watching = threading.Thread(target=self._watch, args=(self._closing,), daemon=True)
            self._watching.start()
        return ClientConsumer(feed)

    def _watch(self, closing: threading.Event) -> None:
        """Look at all consumers until the lane is closed."""
        while not closing.wait(_LOOK_S):
            for feed in tuple(self._feeds):
                feed.look()

    def probe(self, partition: Partition, topic: str, kind: SubscriptionType) -> None:
        """See `Brokers`; the library cannot ask, so it is assumed, as --assume-exists states."""

    def subscribe_existing(
        self, partition: Partition, topic: str, kind: SubscriptionType
    ) -> ClientConsumer:
        """See `probe`."""
        return self.subscribe(partition, topic, kind)

    def end(self, consumer: ClientConsumer, partition: Partition) -> None:
        """See `Brokers`."""
        feed = consumer.connection
        self._feeds.remove(feed)
        _CLOSED.append(feed.consumer)
        with self._translated(partition):
            feed.consumer.close()

    def backlog(self, consumer: ClientConsumer, partition: Partition) -> None:
        """See `Brokers`; the library does not report it."""

    def last(self, consumer: ClientConsumer, partition: Partition) -> TopicEnd:
        """See `Brokers`; the library does not report the position."""
        with self._translated(partition):
            found = _last_of(consumer.connection.consumer)
        at = Place(found.ledger_id(), found.entry_id())
        return TopicEnd(at if at.ledger >= 0 else Place(-1, -1), None)

    def seek(self, consumer: ClientConsumer, partition: Partition, after: Place) -> None:
        """See `Brokers`; for a consumer's last call.

        The broker disconnects the consumer, and the library waits until it has connected it again: `look` must
        not close it.
        """
        feed = consumer.connection
        self._feeds.remove(feed)
        _CLOSED.append(feed.consumer)
        with self._translated(partition):
            at = pulsar.MessageId(-1, after.ledger, after.entry + 1, -1)
            seek = feed.consumer._consumer.seek_async  # noqa: SLF001 no such public method
            _answer(partial(seek, getattr(at, "_msg_id", at)))

    @contextmanager
    def _translated(self, partition: Partition | None) -> Iterator[None]:
        """Raise the library's errors as this project's; it gives their names, not the broker's sentences."""
        url = self._options.service_url
        try:
            yield
        except FrameError as error:
            raise TransientError(
                f"{url}: Pulsar's client library returned {error}.", partition
            ) from None
        except (pulsar.PulsarException, _ResultError) as error:
            name = str(error) if isinstance(error, _ResultError) else type(error).__name__
            if name in _REFUSALS:
                refusal = RefusalError(_NAMES.get(name, name), _REPORTED.get(name, _REPORTED[""]))
                raise refusal_meaning(refusal, url, partition) from None
            where = f"{url}{f', {partition}' if partition else ''}"
            text = f"{where}: Pulsar's client library reports {name}."
            if name in _FINAL:
                raise BrokerError(f"{text} Check --service-url and the login.", partition) from None
            raise TransientError(
                f"{text} Check --service-url, that the broker is up, and for TLS --tls-trust-certs.",
                partition,
            ) from None

    def close(self) -> bool:
        """See `Brokers`."""
        client, self._client = self._client, None
        self._closing.set()
        self._closing = threading.Event()
        watching, self._watching = self._watching, None
        if watching is not None:  # two threads must not close a consumer at once
            watching.join(_WATCHED_S)
        feeds, self._feeds = self._feeds, []
        _CLOSED.extend(feed.consumer for feed in feeds)
        for feed in feeds:
            feed.look()
        answered = not any(feed.lost or feed.broken_by for feed in feeds)
        if client is not None:
            try:
                client.close()
            except pulsar.PulsarException:
                answered = False
        for feed in feeds:
            feed.pulse.end()
        return answered

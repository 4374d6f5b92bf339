"""The group's offsets for header lanes, read and written over a few connections to its coordinator.

A client of librdkafka for each lane takes 0.7 MB, several threads and connections, and more time to start
than a small backlog takes to be read. Commits are those of a simple consumer: without member and generation,
which Kafka accepts as long as the group has no members.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.commits import (
    ANSWERED_S,
    IDLE_S,
    IdCommits,
    Incarnation,
    commit_codes,
    commit_request,
)
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.coordinator import fetched_offsets, find_coordinator
from backlog_clearer.brokers.kafka.errors import is_transient, translate
from backlog_clearer.brokers.kafka.figures import OffsetFigures, Stored, checked, not_an_offset
from backlog_clearer.brokers.kafka.leaders import Address, open_connection
from backlog_clearer.brokers.kafka.library import OffsetCommitRequest, OffsetCommitResponse
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import commit_outcomes, partition_error, refused_commit
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings, socket_settings
from backlog_clearer.brokers.shared.sockets import wait
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

CONNECTIONS = 8
"""To the coordinator, at most: requests of more lanes than that wait for one."""

_WAIT_S = 10.0  # for a connection that other lanes use
_OLDEST, _NEWEST = 2, 9  # versions of OffsetCommit: Kafka 0.9 and later; from 10 on with topic ids only
_NOTHING = -1  # the offset of a partition for which the group has stored none
_MOVED = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
"""Answers after which the coordinator is looked for again."""


class _Idle(NamedTuple):
    connection: Connection
    since: float


class SharedOffsets:
    """A group's offsets for lanes of several threads; see `lane_offsets.StoredOffsets`.

    Every method raises `TransientError`, `BrokerError`, or `HeadersUnsupportedError` for settings and brokers
    that only librdkafka supports. A connection that failed is not used again, and the coordinator is looked for
    anew.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._settings: SocketSettings | None = None
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._idle: list[_Idle] = []
        self._address: Address | None = None
        self._closed = False

    def warm_up(self) -> None:
        """Connect to the coordinator, unless a lane did; where it does not answer, the first request does."""
        if self._address is not None:
            return
        with suppress(TransientError), self.connection() as connection:
            connection.version(OffsetCommitRequest, _OLDEST, _NEWEST)

    def committed(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> OffsetFigures:
        """What the group has committed now, of the partitions for which it has anything.

        `timeout_s`: seconds for a separate connection and its answer, as after a lost answer.
        """
        found, errors = self.stored(partitions, timeout_s)
        return {partition: item.offset for partition, item in found.items()}, errors

    def stored(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> tuple[dict[Partition, Stored], dict[Partition, BrokerError]]:
        """As `committed`, with the text and the leader epoch that were committed with an offset."""
        asked = list(partitions)
        if not asked:
            return {}, {}
        options = self._options
        with self.connection(timeout_s) as connection:
            found = fetched_offsets(connection, options.group_id, asked, options, stable=False)
            self._raise_moved({p: item.error for p, item in found.items()}, "fetching the offsets")
        failures: dict[Partition, BrokerError] = {}
        for partition in asked:
            if partition not in found:
                failures[partition] = not_an_offset(partition, None, "committed offset")
            elif code := found[partition].error:
                error = KafkaError(code)
                kind = TransientError if is_transient(error) else BrokerError
                failures[partition] = kind(partition_error(error, options), partition)
        kept = [p for p in asked if p not in failures and found[p].offset != _NOTHING]
        offsets, errors = checked({p: found[p].offset for p in kept}, "committed offset")
        stored = {
            p: Stored(offset, found[p].metadata, found[p].leader_epoch) for p, offset in offsets.items()
        }
        return stored, {**errors, **failures}

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Write next offsets, all in one request; by partition, why it was refused, or None.

        Raises `TransientError` if it may succeed when tried again: then any part may be written.
        """
        return self.write({partition: Stored(offset) for partition, offset in offsets.items()})

    def write(self, offsets: Mapping[Partition, Stored]) -> Mapping[Partition, str | None]:
        """As `commit`, with the text and the leader epoch of each offset."""
        if not offsets:
            return {}
        with self.connection() as connection:
            codes = self._written(connection, offsets)
            self._raise_moved(codes, "committing offsets")
        errors = {p: KafkaError(code) if code else None for p, code in codes.items()}
        whole = set(codes.values())
        if len(whole) == 1 and (error := next(iter(errors.values()))) is not None:
            return refused_commit(offsets, error, self._options)
        return commit_outcomes(offsets, errors, self._options)

    def _written(
        self, connection: Connection, offsets: Mapping[Partition, Stored]
    ) -> dict[Partition, int]:
        """The error code of each partition in the answer to a commit."""
        version = connection.version(OffsetCommitRequest, _OLDEST, _NEWEST)
        request = commit_request(self._options.group_id, offsets, version, {})
        answer = connection.call(request, OffsetCommitResponse, version, least_s=ANSWERED_S)
        return commit_codes(answer, offsets, version, {})

    def _raise_moved(self, codes: Mapping[Partition, int], doing: str) -> None:
        """Raise where the broker is not the coordinator, or not yet: the next request looks for it."""
        for partition, code in codes.items():
            if KafkaError(code).code() in _MOVED:
                doing = f"{doing} of group {self._options.group_id}"
                raise translate(KafkaError(code), doing, self._options, partition)

    @contextmanager
    def connection(self, timeout_s: float | None = None) -> Iterator[Connection]:
        """A connection to the coordinator that no other lane uses meanwhile, for a `with` block.

        `timeout_s`: seconds for a new one, beyond the limit, and for the answer on it.
        """
        until = time.monotonic() + (timeout_s or _WAIT_S)
        if timeout_s is not None:
            with closing(self._opened(until)) as connection:
                connection.timeout_s = _left(until)
                yield connection
            return
        if not self._slots.acquire(timeout=_WAIT_S):
            raise TransientError(
                "The group's coordinator does not answer the requests of other workers."
            )
        try:
            connection = self._unused() or self._opened(until)
            try:
                yield connection
            except BaseException as error:
                connection.close()
                if isinstance(error, TransientError):
                    self._forget()
                raise
            self._put_back(connection)
        finally:
            self._slots.release()

    def _unused(self) -> Connection | None:
        """The connection that was used last, unless it may be broken."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            # Nothing is awaited: what arrives there is its end.
            if time.monotonic() - since < IDLE_S and not wait([connection], 0):
                return connection
            connection.close()

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            kept = not self._closed and connection.name == _name(self._address)
            if kept:
                self._idle.append(_Idle(connection, time.monotonic()))
        if not kept:
            connection.close()

    def _opened(self, until: float) -> Connection:
        """A new connection; `until`: a `time.monotonic()`."""
        settings = self._settings = self._settings or socket_settings(self._options)
        if not self._looking.acquire(timeout=_left(until)):
            raise TransientError("The group's coordinator was not found in time by another worker.")
        try:
            address = self._address or find_coordinator(self._options, _within(settings, until))
            self._address = address
        finally:
            self._looking.release()
        try:
            made = open_connection(address, self._options, _within(settings, until))
        except TransientError:
            self._forget()
            raise
        made.timeout_s = settings.timeout_s
        return made

    def _forget(self) -> None:
        """Look for the coordinator at the next request; connections to the present one are closed."""
        with self._lock:
            self._address = None
            idle, self._idle = self._idle, []
        for each in idle:
            each.connection.close()

    def close(self) -> None:
        """Close the connections, those in use once they are not; idempotent."""
        self._closed = True
        self._forget()


class LaneOfShared:
    """The offsets of one lane (`lane_offsets.StoredOffsets`): with topic ids where these are taken."""

    def __init__(self, shared: SharedOffsets, by_id: IdCommits, ids: Incarnation) -> None:
        self._shared = shared
        self._by_id = by_id
        self._ids = ids
        self.warm_up = shared.warm_up
        self.committed = shared.committed

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """See `SharedOffsets.commit`, and `IdCommits.send`."""
        if offsets and self._by_id.applies(offsets, self._ids):
            with self._shared.connection() as connection:
                if self._by_id.taken_by(connection):
                    wanted = {partition: Stored(offset) for partition, offset in offsets.items()}
                    return self._by_id.send(connection, wanted, self._ids)
        return self._shared.commit(offsets)


def _left(until: float) -> float:
    """Seconds until then, or a moment if it has passed."""
    return max(0.1, until - time.monotonic())


def _within(settings: SocketSettings, until: float) -> SocketSettings:
    """The same, with time-outs that end then."""
    left = _left(until)
    return replace(
        settings,
        connect_timeout_s=min(settings.connect_timeout_s, left),
        timeout_s=min(settings.timeout_s, left),
    )


def _name(address: Address | None) -> str | None:
    """See `Connection.name`."""
    return None if address is None else f"{address.host}:{address.port}"

"""Lanes: a consumer for each partition; the heads of entries are counted, whole entries acknowledged."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backlog_clearer.brokers.pulsar.brokers import Feed
from backlog_clearer.brokers.pulsar.errors import FullError, refusals_translated
from backlog_clearer.brokers.pulsar.lane_admin import LaneAdmin
from backlog_clearer.brokers.pulsar.options import PulsarReader
from backlog_clearer.brokers.pulsar.reader import ClaimReader, LaneSettings
from backlog_clearer.brokers.pulsar.readers import open_brokers
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Settled


class PulsarLane:
    """One consumer for each claim, on as few connections as there are brokers."""

    throttled_s = 0.0

    def __init__(self, settings: LaneSettings, claims: Sequence[Claim]) -> None:
        self._settings = settings
        self._cluster = open_brokers(
            settings.options, settings.access, settings.run_id, answer_s=settings.answer_s
        )
        self._admin = _admin(settings)
        self._readers: dict[int, ClaimReader] = {}  # by consumer
        self._pending: ClaimReader | None = None  # whose last entry is counted in part
        self._failed: BrokerError | None = None  # to be raised by the next read
        self._open = True
        self._opened_at = time.monotonic()
        settings.acknowledgements.opened(1)
        try:
            if self._admin:
                self._admin.check([claim.partition for claim in claims])
            for claim in claims:
                key = claim.partition
                topic, asked = settings.topics[key], self._admin is not None
                new = asked or settings.options.assume_exists or key in settings.missing
                subscribe = self._cluster.subscribe if new else self._cluster.subscribe_existing
                consumer = subscribe(key, topic, settings.kind)
                settings.missing.discard(key)
                figures = self._admin.figures(key) if self._admin else None
                self._readers[consumer.number] = ClaimReader(claim, settings, consumer, figures)
            self._begin()  # only when all are subscribed: messages would arrive between the answers
        except FullError as error:
            self.close()
            if settings.competing and settings.acknowledgements.lanes:
                raise TransientError(str(error)) from None  # other lanes read the same partition
            raise
        except BrokerError:
            self.close()
            raise

    def _begin(self) -> None:
        for reader in self._readers.values():
            reader.acknowledge_again()
            if reader.target is not None and reader.left() == 0:
                reader.taken = [0, 0]  # reported by the first read
            else:
                reader.give(self._settings.permits)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `source.Lane`."""
        self._check()
        if self._failed:
            raise self._failed
        try:
            with refusals_translated(self._settings.options.service_url, None):
                self._receive(max_wait_s, max_messages)
        except BrokerError as error:
            advances = self._advances()
            if not advances:
                raise
            self._failed = error  # raised once what came before it is reported
            return advances
        return self._advances() or self._silences()

    def _receive(self, max_wait_s: float, limit: int | None) -> None:
        """Count what has arrived, or what arrives in time."""
        for reader in self._readers.values():
            reader.give_again()
            reader.request_missing()
        connections = self._cluster.connections
        self._look(connections, limit)
        if any(reader.taken for reader in self._readers.values()):
            return
        self._look(self._cluster.arrived(max_wait_s), limit)

    @staticmethod
    def _lost(reader: ClaimReader) -> bool:
        """Whether the broker has closed a partition's consumer."""
        return reader.consumer.number in reader.consumer.connection.lost

    def _check(self, *, settling: bool = False) -> None:
        """Raise `TransientError` for a consumer that the broker, or a broken connection, has ended.

        `settling`: only where a target was reached, and the engine would take it for settled.
        """
        for reader in self._readers.values():
            connection = reader.consumer.connection
            if connection.broken_by:
                raise connection.broken_by
            if self._lost(reader) and not (settling and not reader.owes_target):
                raise TransientError(
                    f"{self._settings.options.service_url}, {reader.partition}: the broker closed the"
                    " consumer, because the topic moves or was unloaded.",
                    reader.partition,
                )

    def _advances(self) -> Sequence[Advance]:
        found = (reader.advance() for reader in self._readers.values())
        return [advance for advance in found if advance]

    def _silences(self) -> Sequence[Advance]:
        found = (reader.silence() for reader in self._readers.values() if not reader.reached)
        return [advance for advance in found if advance]

    def _look(self, connections: Sequence[Feed], limit: int | None) -> None:
        if self._pending is not None:
            count = self._pending.count_pending(limit)
            limit = None if limit is None else limit - count
            if not self._pending.pending:
                self._pending = None
        for connection in connections:
            limit = self._walk(connection, limit)

    def _walk(self, connection: Feed, limit: int | None) -> int | None:
        """Count the entries received on one connection; returns the rest of the limit."""
        while limit is None or limit > 0:
            entry = connection.next()
            if entry is None:
                break
            reader = self._readers.get(entry.consumer)
            if (
                reader is None or reader.reached
            ):  # for no consumer here: dropped, as Pulsar's clients do
                continue
            count = reader.take(entry, limit)
            if limit is not None:
                limit -= count
                if reader.pending:
                    self._pending = reader
        return limit

    def settle(self) -> Sequence[Settled]:
        """See `source.Lane`; counts what was sent to the broker, which does not confirm acknowledgements.

        What a consumer received that the broker has closed since is left for another lane.
        """
        try:
            self._check(settling=True)
            waiting = [
                reader
                for reader in self._readers.values()
                if reader.waits_for_settle and not self._lost(reader)
            ]
            changed = (
                self._admin.changed([reader.partition for reader in waiting])
                if self._admin and waiting
                else {}
            )
        except BrokerError as failure:
            failure.unsent = True
            raise
        found = []
        for reader in waiting:
            error = changed.get(reader.partition)
            found.append(Settled(reader.partition, 0, None, error) if error else reader.settle())
        return [settled for settled in found if settled]

    def close(self) -> None:
        """See `source.Lane`."""
        answered = self._cluster.close()
        partitions = [reader.partition for reader in self._readers.values()]
        self._settings.acknowledgements.closed(partitions, self._opened_at, answered=answered)
        self._readers = {}
        if self._admin:
            self._admin.close()
        if self._open:
            self._open = False
            self._settings.acknowledgements.opened(-1)


def _admin(settings: LaneSettings) -> LaneAdmin | None:
    if settings.admin is None:
        return None
    options = settings.options
    return LaneAdmin(
        settings.admin(),
        options.subscription,
        settings.topics,
        settings.origins,
        reconnects=options.chosen_reader is PulsarReader.CLIENT,
    )

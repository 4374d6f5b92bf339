"""A subscription's backlog on Apache Pulsar.

Facts come from the admin REST API: the ledgers and the subscription's cursor say exactly which
entries are left. Messages come through Pulsar's client. Without the admin API only the last message's
identifier is known, and what this process acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import _pulsar
import pulsar

from core.brokers.pulsar_admin import Admin, NotFoundError
from core.brokers.pulsar_auth import bearer
from core.brokers.pulsar_client import open_client, subscribe, translated
from core.brokers.pulsar_lane import Ledger, PulsarLane, Setting
from core.brokers.pulsar_positions import Layout, Place, numbered, place
from core.errors import BrokerError, UsageError
from core.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    Survey,
    Traits,
)
from core.options.base import RunOptions, SystemOptions, suggestion
from core.options.pulsar import PulsarOptions, SubscriptionType

_QUEUE = 50_000  # messages held ready for one consumer, at most
_QUEUE_BYTES = 32 * 1024 * 1024  # and about so many bytes for all consumers of a lane
_BLIND = (
    "Without --admin-url these are not known: position, backlog and attached consumers;"
    " a subscription that did not exist exists now."
)
_EMPTY_UNITS = "chunks of one message and transaction markers take an entry each"


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> PulsarSource:  # noqa: ARG001 the run leaves no mark on the broker
    """Open the source; connects when it is first asked."""
    return PulsarSource(cast("PulsarOptions", options), run)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the admin API says of one partition."""

    stats: Mapping[str, Any]  # of the topic
    mine: Mapping[str, Any]  # of the subscription
    layout: Layout
    acknowledging: int | None  # open transactions with acknowledgements; None: not told


class PulsarSource:
    """One subscription; lanes are independent of it."""

    def __init__(self, options: PulsarOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._admin = (
            Admin(options.admin, bearer(options), options.tls_trust_certs) if options.admin else None
        )
        self._topics: dict[Partition, str] = {}
        self._layouts: dict[Partition, Layout] = {}
        self._kind = options.subscription_type
        self._ledger = Ledger()
        self._message_bytes: float | None = None

    @property
    def traits(self) -> Traits:
        """See `core.source.Source`; whether lanes compete is known after the survey."""
        competing = self._kind in (SubscriptionType.SHARED, SubscriptionType.KEY_SHARED)
        return Traits(
            unit="entries",
            empty_units=_EMPTY_UNITS,
            competing=competing,
            # A broker stops sending once too many messages of a consumer are unacknowledged.
            settle_interval_s=0.0 if competing else 1.0,
        )

    def survey(self) -> Survey:
        """See `core.source.Source`."""
        return self._survey(self._admin) if self._admin else self._survey_blind()

    def _name(self, topics: Sequence[tuple[int, str]]) -> dict[Partition, str]:
        self._topics = {Partition(self._options.topic, number): name for number, name in topics}
        return self._topics

    def _missing_topic(self, admin: Admin) -> UsageError:
        topic = self._options.topic
        try:
            near = suggestion(topic, admin.topics(topic))
        except BrokerError:
            near = ""
        return UsageError(f"There is no topic {topic} at {admin.url}; nothing was created.{near}")

    def _survey(self, admin: Admin) -> Survey:
        options = self._options
        try:
            count = admin.partitions(options.topic)
        except NotFoundError:
            raise self._missing_topic(admin) from None
        looks: dict[Partition, _Look | str] = {}
        acknowledging: int | None = 0
        for partition, topic in self._name(numbered(options.topic, count)).items():
            try:
                stats = admin.stats(topic)
            except NotFoundError:
                if not count:
                    raise self._missing_topic(admin) from None
                looks[partition] = f"The partition's topic {topic} does not exist."
                continue
            names = stats.get("subscriptions", {})
            if options.subscription not in names:
                raise UsageError(
                    f"There is no subscription {options.subscription!r} on {topic}; nothing was"
                    f" created.{suggestion(options.subscription, list(names))}"
                )
            mine = names[options.subscription]
            if acknowledging is not None:  # one broker that does not tell is not asked again
                acknowledging = admin.acknowledging(topic, options.subscription)
            layout = admin.layout(topic, options.subscription)
            looks[partition] = _Look(stats, mine, layout, acknowledging)
        found = {key: look for key, look in looks.items() if isinstance(look, _Look)}
        self._layouts = {key: look.layout for key, look in found.items()}
        self._message_bytes = _message_bytes(found.values())
        self._kind = _kind(options.subscription_type, found.values())
        undo = _undo(admin.retention(options.topic))
        states = tuple(
            PartitionState(key, None, None, None, None, error=look)
            if isinstance(look, str)
            else _state(key, look, undo)
            for key, look in sorted(looks.items())
        )
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=states,
            live=tuple(
                f"{item.get('consumerName') or 'unnamed'} at {item.get('address', 'unknown address')}"
                for look in found.values()
                for item in look.mine.get("consumers", ())
            ),
            notes=tuple(_notes(self._kind, found)),
        )

    def _survey_blind(self) -> Survey:
        """What can be known without the admin API: partitions, and the last message of each."""
        options = self._options
        if self._kind is SubscriptionType.AUTO:
            self._kind = SubscriptionType.FAILOVER
        with self._client() as client:
            with translated(options, None):
                names = client.get_topic_partitions(options.topic)
            split = names != [options.topic]
            topics = numbered(options.topic, len(names) if split else 0)
            states = []
            for partition, topic in self._name(topics).items():
                with self._consumer(client, partition, topic, self._kind) as consumer:
                    last = consumer.get_last_message_id()
                end = Place(last.ledger_id(), last.entry_id())
                states.append(
                    PartitionState(
                        partition,
                        position=None,
                        start=None,
                        end=str(end),
                        backlog=0 if end.entry < 0 else None,
                        undo="Without the admin API the position is not known: it cannot be put back.",
                    )
                )
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=tuple(states),
            notes=(_BLIND,),
        )

    @contextmanager
    def _client(self) -> Iterator[pulsar.Client]:
        client = open_client(self._options)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def _consumer(
        self, client: pulsar.Client, partition: Partition, topic: str, kind: SubscriptionType
    ) -> Iterator[Any]:
        """A consumer that is asked to do something else than to receive."""
        with translated(self._options, partition):
            consumer = subscribe(client, self._options, topic, kind, queue=1, batch=1, wait_ms=10)
            try:
                yield consumer
            finally:
                consumer.close()

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: the receipt's positions suffice, as far as retention keeps messages."""

    def open_lane(self, claims: Sequence[Claim]) -> PulsarLane:
        """See `core.source.Source`."""
        # Where no size is known, two reads of a lane are held ready: the user can make them smaller.
        size = self._message_bytes
        held = int(_QUEUE_BYTES / size) if size else 2 * self._run.batch_size
        queue = max(2, min(_QUEUE, held // max(1, len(claims))))
        return PulsarLane(
            Setting(
                self._options,
                self._kind,
                self._topics,
                self._layouts,
                batch=max(1, min(self._run.batch_size, queue // 2)),
                queue=queue,
                ledger=self._ledger,
            ),
            claims,
        )

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `core.source.Source`; without the admin API, by what was acknowledged in order."""
        if self._admin is None:
            return [self._acknowledged(key, target) for key, target in targets.items()]
        found = []
        for partition, target in targets.items():
            try:
                now = self._admin.layout(self._topics[partition], self._options.subscription)
            except BrokerError as error:
                found.append(Remaining(partition, None, None, str(error)))
                continue
            left = now.left(now.end if target is None else place(target))
            found.append(Remaining(partition, _position(now), left))
        return found

    def _acknowledged(self, partition: Partition, target: Position | None) -> Remaining:
        done = self._ledger.acked.get(partition)
        if target is not None and place(target).entry < 0:
            return Remaining(partition, None, 0)
        proven = done is not None and target is not None and done >= place(target)
        return Remaining(partition, str(done) if done else None, 0 if proven else None)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `core.source.Source`: moves to the frozen target, which `skip_all` would overshoot."""
        return [self._moved(claim.partition, claim.target, forward=True) for claim in claims]

    def restore(self, positions: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
        """See `core.source.Source`."""
        return [self._moved(key, position, forward=False) for key, position in positions.items()]

    def _moved(self, partition: Partition, position: Position | None, *, forward: bool) -> Outcome:
        if position is None:
            return Outcome(partition, None, "The receipt has no position for it.")
        after, topic = place(position), self._topics[partition]
        try:
            if self._admin:
                now = self._admin.layout(topic, self._options.subscription)
                if not forward or now.left(after):
                    self._admin.reset(topic, self._options.subscription, after)
            elif forward:
                self._acknowledge_up_to(partition, topic, after)
            else:
                return Outcome(partition, None, "Undo needs the admin API: give --admin-url.")
        except BrokerError as error:
            return Outcome(partition, None, str(error))
        return Outcome(partition, position)

    def _acknowledge_up_to(self, partition: Partition, topic: str, last: Place) -> None:
        """Skip without the admin API: acknowledge cumulatively what was not received."""
        kind = SubscriptionType.FAILOVER if self.traits.competing else self._kind
        with (
            self._client() as client,
            self._consumer(client, partition, topic, kind) as consumer,
        ):
            if last.entry >= 0:
                consumer.acknowledge_cumulative(_pulsar.MessageId(-1, *last, -1))
        self._ledger.reach(partition, last)

    def close(self) -> None:
        """See `core.source.Source`."""
        if self._admin:
            self._admin.close()


def _position(layout: Layout) -> str | None:
    return None if layout.mark_delete is None else str(layout.canonical(layout.mark_delete))


def _state(partition: Partition, look: _Look, undo: str | None) -> PartitionState:
    found = look.layout
    first = found.ledgers[0][0] if found.ledgers else None
    size = look.mine.get("backlogSize")
    return PartitionState(
        partition,
        position=_position(found),
        start=None if first is None else str(Place(first, -1)),
        end=str(found.canonical(found.end)),
        backlog=found.left(found.end),
        backlog_bytes=size if isinstance(size, int) and size >= 0 else None,
        undo=undo,
    )


def _undo(retention: tuple[int, int] | None) -> str | None:
    """Why messages may be gone when they are wanted back; None: they are kept."""
    if retention is None:
        return "The retention policy may not be read: acknowledged messages may be deleted at once."
    if 0 in retention:
        return (
            "No retention is set: acknowledged messages that no other subscription needs may be"
            " deleted at once, and cannot be brought back."
        )
    return None


def _kind(asked: SubscriptionType, looks: Iterator[_Look] | Any) -> SubscriptionType:
    """The type asked for, else the one that the broker reports, else Failover."""
    if asked is not SubscriptionType.AUTO:
        return asked
    told = {str(look.mine.get("type") or "").lower() for look in looks}
    for kind in (SubscriptionType.KEY_SHARED, SubscriptionType.SHARED, SubscriptionType.EXCLUSIVE):
        if kind in told:
            return kind
    return SubscriptionType.FAILOVER


def _message_bytes(looks: Any) -> float | None:
    """The mean size of a message as far as the broker has counted; None: unknown.

    Messages published since the topic was loaded, else whole entries of the backlog.
    """
    looks = list(looks)
    count = sum(look.stats.get("msgInCounter", 0) for look in looks)
    size = sum(look.stats.get("bytesInCounter", 0) for look in looks)
    if count:
        return float(size / count)
    entries = sum(look.mine.get("msgBacklog", 0) for look in looks)
    stored = sum(max(0, look.mine.get("backlogSize", 0)) for look in looks)
    return float(stored / entries) if entries else None


def _notes(kind: SubscriptionType, looks: Mapping[Partition, _Look]) -> Iterator[str]:
    """What the user must know first."""
    yield f"Reads as {kind}. An entry is one message, or a batch of them as its producer made it."
    delayed = sum(look.mine.get("msgDelayed", 0) for look in looks.values())
    if delayed:
        yield (
            f"{delayed:,} messages are delayed: skip clears them; consume gets them before their time"
            " only with --subscription-type exclusive or failover."
        )
    pending = sum(look.stats.get("ongoingTxnCount", 0) for look in looks.values())
    if pending:
        yield (
            f"Open transactions with messages: {pending:,}. Until they end, consume stalls before the"
            " first of those messages; skip passes over them, so that they are never delivered."
        )
    acknowledging = sum(look.acknowledging or 0 for look in looks.values())
    if acknowledging:
        yield (
            f"Open transactions with acknowledgements: {acknowledging:,}. Until they end, consume does"
            " not get what they acknowledged, and stalls; skip passes over it."
        )
    with_holes = [str(key) for key, look in looks.items() if look.layout.holes]
    if with_holes:
        yield (
            f"Messages ahead of the position are acknowledged one by one in {', '.join(with_holes[:5])}:"
            " restore brings those back, too, for a position cannot express them."
        )
    if any(look.mine.get("isReplicated") or look.mine.get("replicated") for look in looks.values()):
        yield "The subscription is replicated: other clusters follow what is acknowledged here."

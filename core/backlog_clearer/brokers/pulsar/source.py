"""A subscription's backlog on Apache Pulsar.

Facts come from the admin REST API: the ledgers and the subscription's cursor say exactly which
entries are left. Messages come over Pulsar's binary protocol. Without the admin API that protocol tells
the last entry and the mark-delete position: enough to prove that nothing is left, not how much is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from backlog_clearer.brokers.pulsar.admin import Admin, NotFoundError, SilentError
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.cluster import Cluster, is_of
from backlog_clearer.brokers.pulsar.lane import Ledger, PulsarLane, Setting
from backlog_clearer.brokers.pulsar.options import COMPETING, PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Layout, Place, numbered, place
from backlog_clearer.brokers.pulsar.wire import CUMULATIVE
from backlog_clearer.errors import BrokerError, ClearerError, UsageError
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    Survey,
    Traits,
    completed,
)
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state

_BATCHES = 25  # of --batch-size messages: so many are under way for one consumer
_BLIND = (
    "Without --admin-url these are not known: backlog and attached consumers; a subscription that did not"
    " exist exists now."
)
_UNKNOWN_RETENTION = (
    "The retention policy may not be read: acknowledged messages may be deleted at once."
)
_NO_POSITION = "Neither the admin API nor the broker tells the position: it cannot be put back."
_EMPTY_UNITS = "chunks of one message and transaction markers take an entry each"


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> PulsarSource:
    """Open the source; connects when it is first asked. Consumers have the run's id in their names."""
    return PulsarSource(cast("PulsarOptions", options), run, run_id)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the admin API says of one partition."""

    stats: Mapping[str, Any]  # of the topic
    mine: Mapping[str, Any]  # of the subscription
    layout: Layout
    acknowledging: int | None  # open transactions with acknowledgements; None: not told


class PulsarSource:
    """One subscription; lanes are independent of it."""

    def __init__(self, options: PulsarOptions, run: RunOptions, run_id: str) -> None:
        self._options = options
        self._run = run
        self._run_id = run_id
        self._access = access(options)
        self._admin = Admin(options.admin, options, self._access.bearer) if options.admin else None
        self._topics: dict[Partition, str] = {}
        self._layouts: dict[Partition, Layout] = {}
        self._kind = options.subscription_type
        self._ledger = Ledger()

    @property
    def traits(self) -> Traits:
        """See `source.Source`; whether lanes compete is known after the survey."""
        competing = self._kind in COMPETING
        return Traits(
            unit="entries",
            empty_units=_EMPTY_UNITS,
            competing=competing,
            # A broker stops sending once too many messages of a consumer are unacknowledged.
            settle_interval_s=0.0 if competing else 1.0,
        )

    def survey(self) -> Survey:
        """See `source.Source`."""
        if self._admin:
            return self._survey(self._admin)
        try:
            return self._survey_blind()
        except NotFoundError:
            raise self._missing_topic(self._options.service_url) from None

    def _name(self, topics: Sequence[tuple[int, str]]) -> dict[Partition, str]:
        self._topics = {Partition(self._options.topic, number): name for number, name in topics}
        return self._topics

    def _missing_topic(self, where: str, admin: Admin | None = None) -> UsageError:
        topic, near = self._options.topic, ""
        with suppress(BrokerError):
            near = suggestion(topic, admin.topics(topic)) if admin else ""
        return UsageError(f"There is no topic {topic} at {where}; nothing was created.{near}")

    def _survey(self, admin: Admin) -> Survey:
        options = self._options
        try:
            count = admin.partitions(options.topic)
        except NotFoundError:
            raise self._missing_topic(admin.url, admin) from None
        topics = self._name(numbered(options.topic, count))
        looks = self._looks(admin, self._run.choose(topics))
        if not count and any(isinstance(look, NotFoundError) for look in looks.values()):
            raise self._missing_topic(admin.url, admin)
        found = {key: look for key, look in looks.items() if isinstance(look, _Look)}
        self._layouts = {key: look.layout for key, look in found.items()}
        self._kind = _kind(options.subscription_type, found.values())
        undo = _undo(admin.retention(options.topic))
        states = [_state(key, look, undo) for key, look in looks.items()]
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=completed(states, topics),
            live=tuple(_attached(found, self._run_id)),
            notes=tuple(_notes(self._kind, found)),
        )

    def _looks(
        self, admin: Admin, partitions: Sequence[Partition]
    ) -> dict[Partition, _Look | BrokerError]:
        """What is said of each partition, or why nothing is; raises what concerns them all."""
        first = admin.each(partitions[:1], self._look)
        # A broker that does not tell of transactions is not asked again.
        untold = any(isinstance(look, _Look) and look.acknowledging is None for look in first)
        ask = partial(self._look, transactions=not untold)
        answers = first + admin.each(partitions[1:], ask)
        looks: dict[Partition, _Look | BrokerError] = {}
        for partition, answer in zip(partitions, answers, strict=True):
            if isinstance(answer, SilentError) or not isinstance(answer, _Look | BrokerError):
                raise answer
            looks[partition] = answer
        errors = [look for look in looks.values() if isinstance(look, BrokerError)]
        others = [error for error in errors if not isinstance(error, NotFoundError)]
        if others and len(errors) == len(looks):
            raise others[0]
        return looks

    def _look(self, admin: Admin, partition: Partition, *, transactions: bool = True) -> _Look:
        topic, subscription = self._topics[partition], self._options.subscription
        try:
            stats = admin.stats(topic)
        except NotFoundError:
            raise NotFoundError(f"The partition's topic {topic} does not exist.") from None
        names = stats.get("subscriptions", {})
        if subscription not in names:
            raise UsageError(
                f"There is no subscription {subscription!r} on {topic}; nothing was created."
                f"{suggestion(subscription, list(names))}"
            )
        acknowledging = admin.acknowledging(topic, subscription) if transactions else None
        return _Look(stats, names[subscription], admin.layout(topic, subscription), acknowledging)

    def _survey_blind(self) -> Survey:
        """What can be known without the admin API: partitions, and the last message of each."""
        options = self._options
        if self._kind is SubscriptionType.AUTO:
            self._kind = SubscriptionType.FAILOVER
        states = []
        with self._cluster() as cluster:
            topics = self._name(numbered(options.topic, cluster.partitions(options.topic)))
            for partition in self._run.choose(topics):
                consumer = cluster.subscribe(partition, topics[partition], self._kind)
                last = cluster.last(consumer, partition)
                seen = _by_position(partition, last.mark_delete, last.end)
                states.append(
                    PartitionState(
                        partition,
                        position=seen.position,
                        start=None,
                        end=str(last.end),
                        backlog=seen.left,
                        undo=_NO_POSITION if seen.position is None else _UNKNOWN_RETENTION,
                    )
                )
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=completed(states, topics),
            notes=(_BLIND,),
        )

    @contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        cluster = Cluster(self._options, self._access, self._run_id)
        try:
            yield cluster
        finally:
            cluster.close()

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: the receipt's positions suffice, as far as retention keeps messages."""

    def open_lane(self, claims: Sequence[Claim]) -> PulsarLane:
        """See `source.Source`."""
        return PulsarLane(
            Setting(
                self._options,
                self._access,
                self._run_id,
                self._kind,
                self._topics,
                self._layouts,
                permits=_BATCHES * self._run.batch_size,
                ledger=self._ledger,
            ),
            claims,
        )

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`."""
        if self._admin is None:
            return self._remaining_blind(targets)
        partitions, subscription = list(targets), self._options.subscription
        answers = self._admin.each(
            partitions, lambda admin, partition: admin.layout(self._topics[partition], subscription)
        )
        found = []
        for partition, now in zip(partitions, answers, strict=True):
            if isinstance(now, ClearerError):
                found.append(Remaining(partition, None, None, str(now)))
                continue
            target = targets[partition]
            left = now.left(now.end if target is None else place(target))
            found.append(Remaining(partition, _position(now), left))
        return found

    def _remaining_blind(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        # To ask, one must be a consumer, which takes another's turn, but where all share alike.
        if self._ledger.lanes and self._kind is not SubscriptionType.SHARED:
            return [self._acknowledged(key, target) for key, target in targets.items()]
        found = []
        with self._cluster() as cluster:
            for partition, target in targets.items():
                try:
                    consumer = cluster.subscribe(partition, self._topics[partition], self._kind)
                    last = cluster.last(consumer, partition)
                except BrokerError as error:
                    found.append(Remaining(partition, None, None, str(error)))
                    continue
                if last.mark_delete is None:
                    found.append(self._acknowledged(partition, target))
                    continue
                goal = last.end if target is None else place(target)
                found.append(_by_position(partition, last.mark_delete, goal))
        return found

    def _acknowledged(self, partition: Partition, target: Position | None) -> Remaining:
        """What is left by what this process acknowledged in order."""
        done = self._ledger.acked.get(partition)
        return _by_position(partition, done, None if target is None else place(target))

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`: moves to the frozen target, which `skip_all` would overshoot."""
        return self._move({claim.partition: claim.target for claim in claims}, forward=True)

    def restore(self, positions: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._move(positions, forward=False)

    def _move(
        self, positions: Mapping[Partition, Position | None], *, forward: bool
    ) -> Sequence[Outcome]:
        known = {key: place(position) for key, position in positions.items() if position is not None}
        move = partial(self._move_by_admin, self._admin) if self._admin else self._move_blind
        errors = dict(zip(known, move(known, forward=forward), strict=True))
        outcomes = []
        for partition, position in positions.items():
            error = errors.get(partition)
            if position is None:
                outcomes.append(Outcome(partition, None, "The receipt has no position for it."))
            elif error is not None:
                outcomes.append(Outcome(partition, None, str(error)))
            else:
                outcomes.append(Outcome(partition, position))
        return outcomes

    def _move_by_admin(
        self, admin: Admin, places: Mapping[Partition, Place], *, forward: bool
    ) -> Sequence[ClearerError | None]:
        def move(one: Admin, partition: Partition) -> None:
            topic, subscription = self._topics[partition], self._options.subscription
            after = places[partition]
            if not forward or one.layout(topic, subscription).left(after):
                one.reset(topic, subscription, after)

        return admin.each(list(places), move)

    def _move_blind(
        self, places: Mapping[Partition, Place], *, forward: bool
    ) -> Iterator[BrokerError | None]:
        for partition, after in places.items():
            topic, error = self._topics[partition], None
            try:
                if not forward:
                    with self._cluster() as cluster:
                        consumer = cluster.subscribe(partition, topic, self._kind)
                        cluster.seek(consumer, partition, after)
                elif after.entry >= 0:
                    self._acknowledge_up_to(partition, topic, after)
            except BrokerError as failure:
                error = failure
            yield error

    def _acknowledge_up_to(self, partition: Partition, topic: str, last: Place) -> None:
        """Skip without the admin API: acknowledge cumulatively what was not received."""
        kind = SubscriptionType.FAILOVER if self.traits.competing else self._kind
        with self._cluster() as cluster:
            cluster.subscribe(partition, topic, kind).acknowledge(CUMULATIVE, [last])
        self._ledger.reach(partition, last)

    def close(self) -> None:
        """See `source.Source`."""
        if self._admin:
            self._admin.close()


def _by_position(partition: Partition, position: Place | None, target: Place | None) -> Remaining:
    """What is left up to a target by a mark-delete position alone: nothing, or nobody knows how much."""
    nothing = target is not None and (target.entry < 0 or (position is not None and position >= target))
    return Remaining(partition, None if position is None else str(position), 0 if nothing else None)


def _position(layout: Layout) -> str | None:
    return None if layout.mark_delete is None else str(layout.canonical(layout.mark_delete))


def _state(partition: Partition, look: _Look | BrokerError, undo: str | None) -> PartitionState:
    if isinstance(look, BrokerError):
        return failed_state(partition, look)
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


def _attached(looks: Mapping[Partition, _Look], run_id: str) -> Iterator[str]:
    """Consumers of the subscription but this run's own."""
    for look in looks.values():
        for item in look.mine.get("consumers", ()):
            name = str(item.get("consumerName") or "unnamed")
            if not is_of(run_id, name):
                yield f"{name} at {item.get('address', 'unknown address')}"


def _undo(retention: tuple[int, int] | None) -> str | None:
    """Why messages may be gone when they are wanted back; None: they are kept."""
    if retention is None:
        return _UNKNOWN_RETENTION
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
        stalls = "consume stalls before it; skip passes"
        passes = stalls if kind in COMPETING else "consume and skip pass"
        yield (
            f"Open transactions with acknowledgements: {acknowledging:,}. Until they end, nobody gets what"
            f" they acknowledged: {passes} over it, so that it does not come back if they abort."
        )
    with_holes = [str(key) for key, look in looks.items() if look.layout.holes]
    if with_holes:
        yield (
            f"Messages ahead of the position are acknowledged one by one in {', '.join(with_holes[:5])}:"
            " restore brings those back, too, for a position cannot express them."
        )
    if any(look.mine.get("isReplicated") or look.mine.get("replicated") for look in looks.values()):
        yield "The subscription is replicated: other clusters follow what is acknowledged here."

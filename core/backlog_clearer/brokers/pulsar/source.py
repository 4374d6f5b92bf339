"""A subscription's backlog on Apache Pulsar.

Facts come from the admin REST API: the ledgers and the subscription's cursor show exactly which
entries are left. Messages come over Pulsar's binary protocol. Without the admin API, that protocol returns
the last entry and the mark-delete position: enough to prove that nothing is left, not how much is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import cast

from backlog_clearer.brokers.pulsar.acknowledgements import Acknowledgements
from backlog_clearer.brokers.pulsar.admin import Admin, missing_topic
from backlog_clearer.brokers.pulsar.admin_connection import AdminHosts
from backlog_clearer.brokers.pulsar.auth import Access, access
from backlog_clearer.brokers.pulsar.blind import Blind
from backlog_clearer.brokers.pulsar.cuts import bound_note, cut_topics, publish_times
from backlog_clearer.brokers.pulsar.errors import (
    NoSubscriptionError,
    NotFoundError,
    UnreachableError,
    deleted_meanwhile,
)
from backlog_clearer.brokers.pulsar.facts import (
    PartitionFacts,
    attached_consumers,
    chosen_type,
    missing_subscription,
    partition_state,
    recreation,
    stored_position,
    survey_notes,
    system_cursor,
    undo_obstacle,
)
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.lane import PulsarLane
from backlog_clearer.brokers.pulsar.lasting import store_now, warn_of_unstored
from backlog_clearer.brokers.pulsar.letters import letter_notes
from backlog_clearer.brokers.pulsar.options import COMPETING, PulsarOptions
from backlog_clearer.brokers.pulsar.positions import Layout, Place, numbered, parse_place
from backlog_clearer.brokers.pulsar.reader import LaneSettings
from backlog_clearer.brokers.pulsar.readers import reader_notes
from backlog_clearer.brokers.pulsar.service_url import admin_addresses
from backlog_clearer.brokers.pulsar.unchanged import dated_layout, unchanged_layout
from backlog_clearer.errors import BrokerError, ClearerError, RefusedError, UsageError
from backlog_clearer.model import (
    Bound,
    Claim,
    Cut,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Remaining,
    Survey,
    Traits,
    completed,
)
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.text import counted

_BATCHES = 25  # of --batch-size messages: the permits of one consumer
# A move waits until the broker has stored a position; those of one moment are stored together.
_MOVES_AT_ONCE = 32
_AHEAD_S = 0.4  # of --max-rate: permits are renewed once half of them are used up
_EMPTY_UNITS = "chunks of one message and transaction markers take an entry each"


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> PulsarSource:
    """Open the source; it connects on first use. Consumers have the run's id in their names."""
    return PulsarSource(cast("PulsarOptions", options), run, run_id)


class PulsarSource:
    """One subscription; lanes are independent of it."""

    def __init__(self, options: PulsarOptions, run: RunOptions, run_id: str) -> None:
        self._options = options
        self._run = run
        self._run_id = run_id
        self._access = access(options)
        self._admin = _admin(options, self._access)
        self._topics: dict[Partition, str] = {}
        self._layouts: dict[Partition, Layout] = {}
        self._origins: dict[Partition, Origins] = {}
        self._expired_before: dict[Partition, int | None] = {}  # entries, when it was surveyed first
        self._kind = options.subscription_type
        self._acknowledgements = Acknowledgements(ahead=self._admin is not None)
        self._blind = Blind(options, run, run_id, self._access, self._acknowledgements)
        self._missing: set[Partition] = set()  # partitions that do not have the subscription yet

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
            found = self._blind.survey()
        except NotFoundError:
            raise missing_topic(self._options.topic, self._options.service_url) from None
        self._kind, self._topics, self._missing = found.kind, found.topics, found.missing
        return self._surveyed(
            found.states, notes=(*found.notes, *self._missing_notes(), *reader_notes(self._options))
        )

    def _surveyed(
        self,
        states: Sequence[PartitionState],
        *,
        live: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Survey:
        topic, subscription = self._options.topic, self._options.subscription
        return Survey(
            subscription=f"subscription {subscription} on {topic}",
            identity={"topic": topic, "subscription": subscription},
            partitions=completed(states, self._topics),
            live=tuple(live),
            notes=tuple(notes),
        )

    def _name(self, topics: Sequence[tuple[int, str]]) -> dict[Partition, str]:
        self._topics = {Partition(self._options.topic, number): name for number, name in topics}
        return self._topics

    def _survey(self, admin: Admin) -> Survey:
        options = self._options
        try:
            count = admin.partitions(options.topic)
        except NotFoundError:
            raise missing_topic(options.topic, admin.url, admin) from None
        topics = self._name(numbered(options.topic, count))
        looks = self._looks(admin, self._run.choose(topics, competing=True))
        if not count and any(isinstance(look, NotFoundError) for look in looks.values()):
            raise missing_topic(options.topic, admin.url, admin)
        found = {key: look for key, look in looks.items() if isinstance(look, PartitionFacts)}
        self._layouts = {key: look.layout for key, look in found.items()}
        self._origins = {key: look.origins for key, look in found.items()}
        expired = {key: look.stats.expired for key, look in found.items()}
        self._expired_before = {**expired, **self._expired_before}
        self._kind = chosen_type(
            options.subscription_type, found.values(), lambda: admin.allowed_types(options.topic)
        )
        undo = undo_obstacle(admin.retention(options.topic))
        states = [partition_state(key, look, undo) for key, look in looks.items()]
        self._missing = {key for key, look in found.items() if not look.stats.exists}
        notes = (
            *survey_notes(self._kind, found),
            *letter_notes(admin, options.topic, options.subscription),
            *self._system_notes(),
            *self._missing_notes(),
            *reader_notes(self._options),
        )
        return self._surveyed(states, live=[*attached_consumers(found, self._run_id)], notes=notes)

    def _looks(
        self, admin: Admin, partitions: Sequence[Partition]
    ) -> dict[Partition, PartitionFacts | BrokerError]:
        """The facts of each partition, or its error; raises an error that concerns all of them."""
        first = admin.each(partitions[:1], self._look)
        # A broker that does not report transactions is not asked again.
        unreported = any(
            isinstance(look, PartitionFacts) and look.acknowledging is None for look in first
        )
        ask = partial(self._look, transactions=not unreported)
        answers = first + admin.each(partitions[1:], ask)
        looks: dict[Partition, PartitionFacts | BrokerError] = {}
        for partition, answer in zip(partitions, answers, strict=True):
            if isinstance(answer, UnreachableError) or not isinstance(
                answer, PartitionFacts | BrokerError
            ):
                raise answer
            looks[partition] = answer
        missing = [look for look in looks.values() if isinstance(look, NoSubscriptionError)]
        if missing and len(missing) == len(looks):
            raise UsageError(str(missing[0]))
        errors = [look for look in looks.values() if isinstance(look, BrokerError)]
        others = [error for error in errors if not isinstance(error, NotFoundError)]
        if others and len(errors) == len(looks):
            raise others[0]
        return looks

    def _look(self, admin: Admin, partition: Partition, *, transactions: bool = True) -> PartitionFacts:
        topic, subscription = self._topics[partition], self._options.subscription
        new = self._run.new
        try:
            stats = admin.stats(topic, subscription, missing_ok=new)
        except NoSubscriptionError as error:
            text = missing_subscription(subscription, topic, error.names)
            raise NoSubscriptionError(topic, error.names, text) from None
        except NotFoundError:
            raise NotFoundError(f"The partition's topic {topic} does not exist.") from None
        acknowledging = admin.acknowledging(topic, subscription) if transactions else None
        fast = self._run.mode is Mode.SKIP
        origins, layout = dated_layout(admin, topic, subscription, fast=fast, missing_ok=new)
        return PartitionFacts(stats, layout, origins, acknowledging)

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create for an undo: the receipt's positions suffice, as far as retention keeps messages.

        Creates the subscription where it does not exist, which the survey allowed only with --new. Raises
        `RefusedError` for one of Pulsar's own cursors, unless the run is forced.
        """
        del mode
        notes = self._system_notes()
        if notes and not self._run.force:
            raise RefusedError(f"{notes[0]} Nothing was changed; use --force to proceed.")
        missing = [partition for partition in partitions if partition in self._missing]
        if self._admin is None or not missing:  # without the admin API, a lane creates it
            return
        for partition, created in zip(missing, self._admin.each(missing, self._create), strict=True):
            if isinstance(created, ClearerError):
                raise created
            self._origins[partition] = created
            self._missing.discard(partition)

    def _create(self, admin: Admin, partition: Partition) -> Origins:
        topic, subscription = self._topics[partition], self._options.subscription
        admin.create(topic, subscription)
        created = admin.origins(topic, subscription)
        other = recreation(partition, self._origins.get(partition), created)
        if other:
            raise other
        return created

    def _missing_notes(self) -> Sequence[str]:
        if not self._missing:
            return ()
        partitions = counted(len(self._missing), "partition")
        name = repr(self._options.subscription)
        return (
            f"Subscription {name} does not exist in {partitions}: a run creates it, at the first message.",
        )

    def _system_notes(self) -> Sequence[str]:
        lost = system_cursor(self._options.subscription)
        if lost is None:
            return ()
        return (f"{self._options.subscription} is one of Pulsar's own cursors: if it moves, {lost}.",)

    @property
    def _consumers(self) -> int:
        """How many consumers a run has at most."""
        shares = self._run.workers if self._kind in COMPETING else 1
        return max(1, shares, len(self._topics))

    def open_lane(self, claims: Sequence[Claim]) -> PulsarLane:
        """See `source.Source`."""
        return PulsarLane(
            LaneSettings(
                self._options,
                self._access,
                self._run_id,
                self._kind,
                self._topics,
                self._layouts,
                self._origins,
                answer_s=self._run.answer_seconds,
                permits=self._run.ahead_messages(
                    _BATCHES * self._run.batch_size, self._consumers, ahead_s=_AHEAD_S
                ),
                acknowledgements=self._acknowledgements,
                admin=self._admin.another if self._admin else None,
                missing=self._missing,
            ),
            claims,
        )

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`.

        After the lanes are closed, the broker is made to store a position up to which all is acknowledged.
        """
        if self._admin is None:
            return self._blind.remaining(targets)
        partitions = list(targets)
        self._acknowledgements.shown = {}
        answers = self._admin.each(partitions, self._left)
        found = []
        for partition, answer in zip(partitions, answers, strict=True):
            if isinstance(answer, ClearerError):
                found.append(Remaining(partition, None, None, str(answer)))
                continue
            now, incarnation, expired = answer
            self._acknowledgements.shown[partition] = now
            target = targets[partition]
            goal = now.end if target is None else parse_place(target)
            if now.beyond_end(goal):
                found.append(Remaining(partition, stored_position(now), None, _beyond_end(goal, now)))
            else:
                left = self._lasting(self._admin, partition, now, now.left(goal))
                gone = self._gone(partition, now, goal) if expired is None else expired
                found.append(Remaining(partition, stored_position(now), left, None, incarnation, gone))
        return found

    def _lasting(self, admin: Admin, partition: Partition, now: Layout, left: int) -> int | None:
        """What is left; None where it is 0 only until the broker is killed. Asked once no lane is open."""
        done = self._acknowledgements
        if left or done.lanes or partition not in done.unstored:
            return left
        topic, subscription = self._topics[partition], self._options.subscription
        stored = done.stored_since(partition, now.stored)
        reason = None if stored else store_now(admin, topic, subscription, now)
        if reason is None:
            done.note_stored(partition)
            return 0
        if done.first_unstored(partition):
            warn_of_unstored(partition, reason)
        return None

    def _gone(self, partition: Partition, now: Layout, target: Place) -> int | None:
        """How much of the backlog was gone before lanes that read in order came to it.

        These acknowledge everything up to a position: beyond it, nothing of what is done was done by this run.
        """
        surveyed, done = self._layouts.get(partition), self._acknowledgements
        if surveyed is None or done.lanes or self.traits.competing or self._run.mode is Mode.SKIP:
            return None
        reached = max(surveyed.mark_delete, done.acked.get(partition, surveyed.mark_delete))
        passed = min(now.mark_delete, target)
        passed_unread = surveyed.missing(reached, Place(passed.ledger, passed.entry + 1))
        return (done.gone.get(partition, 0) + passed_unread) or None

    def _expired(self, admin: Admin, partition: Partition) -> int | None:
        """How much has expired since the survey, by the broker's count, where lanes share messages.

        None: not known, as after the topic was moved, which begins the count again; or not asked.
        """
        before, done = self._expired_before.get(partition), self._acknowledgements
        alone = self.traits.competing and self._run.mode is Mode.CONSUME and self._run.slice is None
        if before is None or done.lanes or not alone or partition not in self._layouts:
            return None
        surveyed = self._layouts[partition]
        now = admin.stats(self._topics[partition], self._options.subscription).expired
        if now is None or now <= before:
            return None
        return min(now - before, surveyed.left(surveyed.end)) or None

    def _left(self, admin: Admin, partition: Partition) -> tuple[Layout, str | None, int | None]:
        """Positions, incarnation and what expired; raises `BrokerError` if it is not the survey's topic."""
        topic, subscription = self._topics[partition], self._options.subscription
        try:
            # Positions before creation: those of a topic created anew never come with the former creation.
            new = partition in self._missing
            layout = admin.layout(topic, subscription, missing_ok=new)
            origins = self._origins.get(partition)
            surveyed = self._layouts.get(partition)
            if origins is None or surveyed is None or not surveyed.same(layout):
                origins = admin.origins(topic, subscription, missing_ok=new)
        except NoSubscriptionError:
            raise deleted_meanwhile(partition, subscription) from None
        other = recreation(partition, self._origins.get(partition), origins)
        if other:
            raise other
        return layout, origins.topic, None if new else self._expired(admin, partition)

    def partitions(self) -> Sequence[Partition]:
        """See `source.Enumerable`: one request."""
        topic = self._options.topic
        count = self._admin.partitions(topic) if self._admin else self._blind.partitions()
        return [Partition(topic, number) for number, _ in numbered(topic, count)]

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """Unknown where an acknowledgement failed, or may be lost; see `source.Accountable`."""
        self._acknowledgements.keep(stored)
        return dict.fromkeys(self._acknowledgements.doubted())

    def returned(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """By what was acknowledged, and what `remaining` found last; see `source.Revisable`."""
        self._acknowledgements.keep(stored)
        return {key: found.messages for key, found in self._acknowledgements.returned().items()}

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`: one request a partition for a time, none for a number of entries."""
        partitions = [state.partition for state in states]
        return cut_topics(self._admin, self._topics, self._layouts, partitions, bound)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        return (bound_note(bound),)

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`: the broker reads an entry of each partition."""
        present = (state.partition for state in states if state.partition not in self._missing)
        topics = {partition: self._topics[partition] for partition in present}
        return publish_times(self._admin, topics, self._options.subscription)

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """Entries, by the ledgers as the last survey found them; see `source.Countable`."""
        one, other, layout = parse_place(first), parse_place(last), self._layouts.get(partition)
        if one.ledger == other.ledger:
            return other.entry - one.entry
        gone = layout is None or min(one.ledger, other.ledger) < layout.ledgers[0][0]
        return None if layout is None or gone else layout.before(other) - layout.before(one)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`: moves to the frozen target, which `skip_all` would pass."""
        moves = [Recorded(item.partition, item.target, item.state.incarnation) for item in claims]
        return self._move(moves, forward=True)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._move(recorded, forward=False)

    def _move(self, moves: Sequence[Recorded], *, forward: bool) -> Sequence[Outcome]:
        positions = {item.partition: item.position for item in moves}
        errors: dict[Partition, ClearerError | None] = {}
        known: dict[Partition, Place] = {}
        for partition, position in positions.items():
            try:
                if position is not None:
                    known[partition] = parse_place(position)
            except ValueError as fault:
                errors[partition] = BrokerError(f"The receipt's position cannot be used: {fault}.")
        incarnations = {item.partition: item.incarnation for item in moves}
        move = (
            partial(self._move_by_admin, self._admin, incarnations) if self._admin else self._blind.move
        )
        errors |= dict(zip(known, move(known, forward=forward), strict=True))
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
        self,
        admin: Admin,
        incarnations: Mapping[Partition, str | None],
        places: Mapping[Partition, Place],
        *,
        forward: bool,
    ) -> Sequence[ClearerError | None]:
        def move(one: Admin, partition: Partition) -> None:
            topic, subscription = self._topics[partition], self._options.subscription
            after = places[partition]
            surveyed = self._origins.get(partition, Origins(None, None))
            before = replace(surveyed, topic=incarnations[partition] or surveyed.topic)
            if forward:
                layout = self._layouts.get(partition) if before == surveyed else None
                now = unchanged_layout(one, partition, topic, subscription, (before, layout))
                if now.beyond_end(after):
                    raise BrokerError(_beyond_end(after, now), partition)
                if not now.left(after):
                    return
            else:
                other = recreation(partition, before, one.origins(topic, subscription))
                if other:
                    raise other
            one.reset(topic, subscription, after)

        return admin.each(list(places), move, at_once=_MOVES_AT_ONCE)

    def close(self) -> None:
        """See `source.Source`."""
        if self._admin:
            self._admin.close()


def _admin(options: PulsarOptions, login: Access) -> Admin | None:
    if options.admin is None:
        return None
    return Admin(AdminHosts(admin_addresses(options.admin)), options, login)


def _beyond_end(target: Place, now: Layout) -> str:
    return (
        f"The target {target} is beyond the topic's last entry {now.end}: the topic was truncated, or was"
        " deleted and created again. Start a new run, under another run id."
    )

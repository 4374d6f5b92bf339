"""A subscription's backlog on Apache Pulsar.

Facts come from the admin REST API: the ledgers and the subscription's cursor show exactly which
entries are left. Messages come over Pulsar's binary protocol. Without the admin API, that protocol returns
the last entry and the mark-delete position: enough to prove that nothing is left, not how much is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import cast

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.cluster import Cluster
from backlog_clearer.brokers.pulsar.cuts import bound_note, cut_topics, publish_times
from backlog_clearer.brokers.pulsar.errors import (
    NoSubscriptionError,
    NotFoundError,
    UnreachableError,
)
from backlog_clearer.brokers.pulsar.facts import (
    UNKNOWN_RETENTION,
    PartitionFacts,
    attached_consumers,
    chosen_type,
    partition_state,
    recreation,
    stored_position,
    survey_notes,
    system_cursor,
    undo_obstacle,
)
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.lane import PulsarLane
from backlog_clearer.brokers.pulsar.lasting import stored_now, warn_of_unstored
from backlog_clearer.brokers.pulsar.options import COMPETING, PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Layout, Place, numbered, parse_place
from backlog_clearer.brokers.pulsar.reader import Acknowledgements, LaneSettings
from backlog_clearer.brokers.pulsar.wire import CUMULATIVE
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
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state

_BATCHES = 25  # of --batch-size messages: the permits of one consumer
_BLIND = (
    "Without --admin-url, the backlog and attached consumers are not known, and a subscription that did not"
    " exist was created by this survey. A topic or subscription that is deleted and created again during the"
    " run is not noticed."
)
_NO_POSITION = "Neither the admin API nor the broker reports the position: it cannot be restored."
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
        self._admin = Admin(options.admin, options, self._access) if options.admin else None
        self._topics: dict[Partition, str] = {}
        self._layouts: dict[Partition, Layout] = {}
        self._origins: dict[Partition, Origins] = {}
        self._kind = options.subscription_type
        self._acknowledgements = Acknowledgements()

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

    def _missing_subscription(self, topic: str, names: Sequence[str]) -> str:
        wanted = self._options.subscription
        return (
            f"There is no subscription {wanted!r} on {topic}; nothing was created."
            f"{suggestion(wanted, list(names))}"
        )

    def _survey(self, admin: Admin) -> Survey:
        options = self._options
        try:
            count = admin.partitions(options.topic)
        except NotFoundError:
            raise self._missing_topic(admin.url, admin) from None
        topics = self._name(numbered(options.topic, count))
        looks = self._looks(admin, self._run.choose(topics, competing=True))
        if not count and any(isinstance(look, NotFoundError) for look in looks.values()):
            raise self._missing_topic(admin.url, admin)
        found = {key: look for key, look in looks.items() if isinstance(look, PartitionFacts)}
        self._layouts = {key: look.layout for key, look in found.items()}
        self._origins = {key: look.origins for key, look in found.items()}
        self._kind = chosen_type(
            options.subscription_type, found.values(), lambda: admin.allowed_types(options.topic)
        )
        undo = undo_obstacle(admin.retention(options.topic))
        states = [partition_state(key, look, undo) for key, look in looks.items()]
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=completed(states, topics),
            live=tuple(attached_consumers(found, self._run_id)),
            notes=(*survey_notes(self._kind, found), *self._system_notes()),
        )

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
        try:
            stats = admin.stats(topic, subscription)
        except NoSubscriptionError as error:
            raise NoSubscriptionError(
                topic, error.names, self._missing_subscription(topic, error.names)
            ) from None
        except NotFoundError:
            raise NotFoundError(f"The partition's topic {topic} does not exist.") from None
        acknowledging = admin.acknowledging(topic, subscription) if transactions else None
        # Creation before positions: a topic created anew in between is then found by its creation later.
        origins = admin.origins(topic, subscription)
        return PartitionFacts(stats, admin.layout(topic, subscription), origins, acknowledging)

    def _survey_blind(self) -> Survey:
        """A survey without the admin API: the partitions, and the last entry of each."""
        options = self._options
        if self._kind is SubscriptionType.AUTO:
            self._kind = SubscriptionType.FAILOVER
        states = []
        with self._cluster() as cluster:
            topics = self._name(numbered(options.topic, cluster.partitions(options.topic)))
            failed: list[BrokerError] = []
            for partition in self._run.choose(topics, competing=True):
                try:
                    states.append(self._state_blind(cluster, partition))
                except BrokerError as error:
                    failed.append(error)
                    states.append(failed_state(partition, error))
        if failed and len(failed) == len(states):
            raise failed[0]
        return Survey(
            subscription=f"subscription {options.subscription} on {options.topic}",
            identity={"topic": options.topic, "subscription": options.subscription},
            partitions=completed(states, topics),
            notes=(_BLIND,),
        )

    def _state_blind(self, cluster: Cluster, partition: Partition) -> PartitionState:
        consumer = cluster.subscribe(partition, self._topics[partition], self._kind)
        last = cluster.last(consumer, partition)
        seen = _by_position(partition, last.mark_delete, last.end)
        return PartitionState(
            partition,
            position=seen.position,
            start=None,
            end=str(last.end),
            backlog=seen.left,
            undo=_NO_POSITION if seen.position is None else UNKNOWN_RETENTION,
        )

    @contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        cluster = Cluster(self._options, self._access, self._run_id)
        try:
            yield cluster
        finally:
            cluster.close()

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: the receipt's positions suffice, as far as retention keeps messages.

        Raises `RefusedError` for one of Pulsar's own cursors, unless the run is forced.
        """
        del partitions, mode
        notes = self._system_notes()
        if notes and not self._run.force:
            raise RefusedError(f"{notes[0]} Nothing was changed; use --force to proceed.")

    def _system_notes(self) -> Sequence[str]:
        lost = system_cursor(self._options.subscription)
        if lost is None:
            return ()
        return (f"{self._options.subscription} is one of Pulsar's own cursors: if it moves, {lost}.",)

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
                permits=_BATCHES * self._run.batch_size,
                acknowledgements=self._acknowledgements,
            ),
            claims,
        )

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`.

        After the lanes are closed, the broker is made to store a position up to which all is acknowledged.
        """
        if self._admin is None:
            return self._remaining_blind(targets)
        partitions = list(targets)
        answers = self._admin.each(partitions, self._left)
        found = []
        for partition, answer in zip(partitions, answers, strict=True):
            if isinstance(answer, ClearerError):
                found.append(Remaining(partition, None, None, str(answer)))
                continue
            now, incarnation = answer
            target = targets[partition]
            goal = now.end if target is None else parse_place(target)
            if now.beyond_end(goal):
                found.append(Remaining(partition, stored_position(now), None, _beyond_end(goal, now)))
            else:
                left = self._lasting(self._admin, partition, now, now.left(goal))
                found.append(Remaining(partition, stored_position(now), left, None, incarnation))
        return found

    def _lasting(self, admin: Admin, partition: Partition, now: Layout, left: int) -> int | None:
        """What is left; None where it is 0 only until the broker is killed. Asked once no lane is open."""
        done = self._acknowledgements
        if left or done.lanes or partition not in done.unstored:
            return left
        topic, subscription = self._topics[partition], self._options.subscription
        if done.stored_since(partition, now.stored) or stored_now(admin, topic, subscription, now):
            done.note_stored(partition)
            return 0
        warn_of_unstored(partition)
        return None

    def _left(self, admin: Admin, partition: Partition) -> tuple[Layout, str | None]:
        """Positions and incarnation; raises `BrokerError` where they are not those of the survey's topic."""
        topic, subscription = self._topics[partition], self._options.subscription
        try:
            # Positions before creation: those of a topic created anew never come with the former creation.
            layout = admin.layout(topic, subscription)
            origins = admin.origins(topic, subscription)
        except NoSubscriptionError:
            raise UsageError(self._missing_subscription(topic, ())) from None
        other = recreation(partition, self._origins.get(partition), origins)
        if other:
            raise other
        return layout, origins.topic

    def _remaining_blind(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        # Asking takes a consumer, which would displace a lane's, except where all share messages.
        if self._acknowledgements.lanes and self._kind is not SubscriptionType.SHARED:
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
                goal = last.end if target is None else parse_place(target)
                found.append(_by_position(partition, last.mark_delete, goal))
        return found

    def _acknowledged(self, partition: Partition, target: Position | None) -> Remaining:
        """What is left, by what this process acknowledged in order."""
        done = self._acknowledgements.acked.get(partition)
        return _by_position(partition, done, None if target is None else parse_place(target))

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`: one request a partition for a time, none for a number of entries."""
        partitions = [state.partition for state in states]
        return cut_topics(self._admin, self._topics, self._layouts, partitions, bound)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        return (bound_note(bound),)

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`: the broker reads an entry of each partition."""
        topics = {state.partition: self._topics[state.partition] for state in states}
        return publish_times(self._admin, topics, self._options.subscription)

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
            partial(self._move_by_admin, self._admin, incarnations) if self._admin else self._move_blind
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
            before = self._origins.get(partition, Origins(None, None))
            before = replace(before, topic=incarnations[partition] or before.topic)
            other = recreation(partition, before, one.origins(topic, subscription))
            if other:
                raise other
            if forward:
                now = one.layout(topic, subscription)
                if now.beyond_end(after):
                    raise BrokerError(_beyond_end(after, now), partition)
                if not now.left(after):
                    return
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
        """Skip without the admin API: acknowledge cumulatively, without receiving."""
        kind = SubscriptionType.FAILOVER if self.traits.competing else self._kind
        with self._cluster() as cluster:
            cluster.subscribe(partition, topic, kind).acknowledge(CUMULATIVE, [last])
        self._acknowledgements.reach(partition, last)

    def close(self) -> None:
        """See `source.Source`."""
        if self._admin:
            self._admin.close()


def _by_position(partition: Partition, position: Place | None, target: Place | None) -> Remaining:
    """What is left up to a target, by a mark-delete position only: 0 or unknown."""
    nothing = target is not None and (target.entry < 0 or (position is not None and position >= target))
    return Remaining(partition, None if position is None else str(position), 0 if nothing else None)


def _beyond_end(target: Place, now: Layout) -> str:
    return (
        f"The target {target} is beyond the topic's last entry {now.end}: the topic was truncated, or was"
        " deleted and created again. Start a new run, under another run id."
    )

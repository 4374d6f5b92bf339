"""A subscription without the admin API: what the binary protocol reports, proves and moves.

It reports a topic's last entry, a consumer's mark-delete position, and how many entries the backlog of its
subscription has. So the end can be proved, and the position moved by a seek; what lies ahead of the position
acknowledged one by one, which consumers are attached, and whether a topic was created again cannot be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from backlog_clearer.brokers.pulsar.acknowledgements import Acknowledgements
from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.brokers import Brokers, EntryConsumer, TopicEnd
from backlog_clearer.brokers.pulsar.errors import NoSubscriptionError, TypeNotAllowedError
from backlog_clearer.brokers.pulsar.facts import (
    NO_UNDO,
    PREFERRED_TYPES,
    UNKNOWN_RETENTION,
    missing_subscription,
)
from backlog_clearer.brokers.pulsar.lasting import warn_of_unconfirmed, warn_of_unstored
from backlog_clearer.brokers.pulsar.options import COMPETING, PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Layout, Place, numbered, parse_place
from backlog_clearer.brokers.pulsar.readers import open_brokers
from backlog_clearer.brokers.pulsar.wire import CUMULATIVE
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Partition, PartitionState, Position, Remaining
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state

_UNKNOWN = (
    "Without the admin API, attached consumers and what was acknowledged one by one ahead of the position are"
    " not known, and a topic that is deleted and created again during the run is not noticed."
)
_ASSUMED = (
    "With --assume-exists, a subscription that did not exist was created by this survey, and the backlog is not"
    " known."
)
_NO_POSITION = "Neither the admin API nor the broker reports the position: it cannot be restored."
_T = TypeVar("_T")


class BlindSurvey(NamedTuple):
    """What a survey without the admin API found."""

    kind: SubscriptionType  # as lanes are to subscribe
    topics: dict[Partition, str]
    states: list[PartitionState]
    notes: tuple[str, ...]
    missing: set[Partition]  # without the subscription, which the run may create


class Blind:
    """One subscription, by the binary protocol only; for one thread."""

    def __init__(
        self,
        options: PulsarOptions,
        run: RunOptions,
        run_id: str,
        access: Access,
        acknowledgements: Acknowledgements,
    ) -> None:
        self._options = options
        self._run = run
        self._run_id = run_id
        self._access = access
        self._done = acknowledgements
        self._topics: dict[Partition, str] = {}
        self._kind = options.subscription_type
        self._missing: set[Partition] = set()

    @contextmanager
    def _cluster(self) -> Iterator[Brokers]:
        cluster = open_brokers(self._options, self._access, self._run_id)
        try:
            yield cluster
        finally:
            cluster.close()

    def survey(self) -> BlindSurvey:
        """Ask for the partitions, and the last entry of each; raises like `Source.survey`."""
        topic = self._options.topic
        self._missing.clear()
        with self._cluster() as cluster:
            names = numbered(topic, cluster.partitions(topic))
            self._topics = {Partition(topic, number): name for number, name in names}
            states: list[PartitionState] = []
            failed: list[BrokerError] = []
            for partition in self._run.choose(self._topics, competing=True):
                try:
                    state = self._state(cluster, partition)
                except BrokerError as error:
                    failed.append(error)
                    state = failed_state(partition, error)
                states.append(state)
                if state.undo == NO_UNDO:
                    self._missing.add(partition)
        if failed and len(failed) == len(states):
            if all(isinstance(error, NoSubscriptionError) for error in failed):
                raise UsageError(str(failed[0]))
            raise failed[0]
        notes = (_UNKNOWN, _ASSUMED) if self._options.assume_exists else (_UNKNOWN,)
        return BlindSurvey(self._kind, self._topics, states, notes, self._missing)

    def partitions(self) -> int:
        """How many partitions the topic has now; 0: it is not partitioned."""
        with self._cluster() as cluster:
            return cluster.partitions(self._options.topic)

    def _state(self, cluster: Brokers, partition: Partition) -> PartitionState:
        topic = self._topics[partition]
        if not self._options.assume_exists:
            probe = self._as_allowed(lambda kind: cluster.probe(partition, topic, kind))
            if probe is not None:
                return self._as_new(cluster, partition, probe)
        consumer = self._as_allowed(lambda kind: cluster.subscribe(partition, topic, kind))
        last = cluster.last(consumer, partition)
        seen = by_position(partition, last.mark_delete, last.end)
        backlog = seen.left
        if backlog is None and not self._options.assume_exists:
            # The broker's running count: 0 cannot be true where the position is not at the end.
            backlog = cluster.backlog(consumer, partition) or None
        return PartitionState(
            partition,
            position=seen.position,
            start=None,
            end=str(last.end),
            backlog=backlog,
            undo=_NO_POSITION if seen.position is None else UNKNOWN_RETENTION,
        )

    def _as_new(self, cluster: Brokers, partition: Partition, probe: EntryConsumer) -> PartitionState:
        """The state of a partition that has no such subscription, as a new one at its start would have it."""
        last, entries = cluster.last(probe, partition), cluster.backlog(probe, partition)
        cluster.end(probe, partition)
        if not self._run.new:
            text = missing_subscription(self._options.subscription, self._topics[partition], ())
            raise NoSubscriptionError(self._topics[partition], (), text)
        backlog = 0 if last.end.entry < 0 else entries
        return PartitionState(partition, None, None, str(last.end), backlog, undo=NO_UNDO)

    def _as_allowed(self, act: Callable[[SubscriptionType], _T]) -> _T:
        """Act as the type to subscribe as, which is the first that the broker allows if none was asked for."""
        if self._kind is not SubscriptionType.AUTO:
            return act(self._kind)
        refused: TypeNotAllowedError | None = None
        for kind in PREFERRED_TYPES:
            try:
                found = act(kind)
            except TypeNotAllowedError as error:
                refused = refused or error
                continue
            self._kind = kind
            return found
        raise refused or BrokerError("No type of subscription is allowed.")

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `Source.remaining`."""
        self._done.shown = {}
        # Asking takes a consumer, which would displace a lane's, except where all share messages.
        if self._done.lanes and self._kind is not SubscriptionType.SHARED:
            return [self._acknowledged(key, target) for key, target in targets.items()]
        found = []
        with self._cluster() as cluster:
            for partition, target in targets.items():
                try:
                    found.append(self._left(cluster, partition, target))
                except BrokerError as error:
                    found.append(Remaining(partition, None, None, str(error)))
        return found

    def _consumer(
        self, cluster: Brokers, partition: Partition, kind: SubscriptionType | None = None
    ) -> EntryConsumer:
        """A consumer of a subscription that the survey found, or assumed."""
        subscribe = cluster.subscribe if self._options.assume_exists else cluster.subscribe_existing
        return subscribe(partition, self._topics[partition], kind or self._kind)

    def _left(self, cluster: Brokers, partition: Partition, target: Position | None) -> Remaining:
        if (
            partition in self._missing
        ):  # still without the subscription: not claimed, as nothing is there
            return by_position(partition, None, None if target is None else parse_place(target))
        consumer = self._consumer(cluster, partition)
        last = cluster.last(consumer, partition)
        if last.mark_delete is None:
            self._done.mute.add(partition)
            cluster.end(consumer, partition)
            return self._unreported(cluster, partition, target)
        self._done.shown[partition] = Layout((), last.end, last.mark_delete)
        goal = last.end if target is None else parse_place(target)
        found = by_position(partition, last.mark_delete, goal)
        done = self._done
        if found.left != 0 or done.lanes or partition not in done.unstored:
            return found
        cluster.end(consumer, partition)
        if self._lasts(partition, self._store(cluster, partition, last), warn_of_unstored):
            return found
        return found._replace(left=None)

    def _lasts(
        self, partition: Partition, reason: str | None, warn: Callable[[Partition, str], None]
    ) -> bool:
        """Whether acknowledgements were made to last; `reason`: why not, for one warning."""
        if reason is None:
            self._done.note_stored(partition)
        elif self._done.first_unstored(partition):
            warn(partition, reason)
        return reason is None

    def _unreported(self, cluster: Brokers, partition: Partition, target: Position | None) -> Remaining:
        """What is left where the broker does not report the position.

        An acknowledgement that was sent may be lost with its connection, and has no answer: it proves nothing.
        A seek has one. To the end of the topic, it repeats what was acknowledged, and lowers nothing.
        """
        if not self._options.assume_exists:
            return Remaining(partition, None, None)
        done = self._done
        found = self._acknowledged(partition, target)
        reached = done.acked.get(partition)
        if reached is None or done.lanes or partition not in done.unstored:
            return found
        if self._lasts(partition, self._repeat(cluster, partition, reached), warn_of_unconfirmed):
            return found
        return Remaining(partition, None, None)

    def _repeat(self, cluster: Brokers, partition: Partition, reached: Place) -> str | None:
        """Acknowledge again by a seek; returns why not, None: the broker has confirmed it.

        Only at the end of the topic, with an exclusive consumer: nothing after it can be acknowledged then.
        """
        try:
            alone = self._consumer(cluster, partition, SubscriptionType.EXCLUSIVE)
            if cluster.last(alone, partition).end > reached:
                return "messages have arrived since"
            cluster.seek(alone, partition, reached)
        except BrokerError as error:
            return f"only an exclusive consumer shows that no other one is attached, and {error}"
        return None

    def _store(self, cluster: Brokers, partition: Partition, last: TopicEnd) -> str | None:
        """Have the broker store the position, by a seek to where it is; see `lasting.store_now`.

        Only where nothing can lie ahead of it acknowledged one by one, and no other consumer is attached, which
        an exclusive one shows.
        """
        if last.mark_delete is None or last.mark_delete < last.end:
            return "without the admin API, what is acknowledged ahead of the position is not known"
        try:
            alone = self._consumer(cluster, partition, SubscriptionType.EXCLUSIVE)
            cluster.seek(alone, partition, last.mark_delete)
        except BrokerError as error:
            return f"only an exclusive consumer shows that no other one is attached, and {error}"
        return None

    def _acknowledged(self, partition: Partition, target: Position | None) -> Remaining:
        """What is left, by what this process acknowledged in order."""
        done = self._done.acked.get(partition)
        return by_position(partition, done, None if target is None else parse_place(target))

    def move(self, places: Mapping[Partition, Place], *, forward: bool) -> Iterator[BrokerError | None]:
        """Move each partition's position to a place; yields an error for each that was not moved."""
        for partition, after in places.items():
            error = None
            try:
                if not forward:
                    self._seek(partition, after)
                elif after.entry >= 0:
                    self._skip(partition, after)
            except BrokerError as failure:
                error = failure
            yield error

    def _seek(self, partition: Partition, after: Place) -> None:
        with self._cluster() as cluster:
            cluster.seek(self._consumer(cluster, partition), partition, after)

    def _skip(self, partition: Partition, last: Place) -> None:
        """Acknowledge cumulatively, without receiving: this never moves a position back."""
        kind = SubscriptionType.FAILOVER if self._kind in COMPETING else self._kind
        with self._cluster() as cluster:
            if partition in self._missing:
                consumer = cluster.subscribe(partition, self._topics[partition], kind)
                self._missing.discard(partition)
            else:
                consumer = self._consumer(cluster, partition, kind)
            known = cluster.last(consumer, partition).mark_delete is not None
            if not known and not self._options.assume_exists:
                raise BrokerError(
                    f"{partition}: this broker does not report the position over the binary protocol, so a skip"
                    " could not be verified. Use --mode consume, or give --admin-url.",
                    partition,
                )
            consumer.acknowledge(CUMULATIVE, [last])
        self._done.reach(partition, last)


def by_position(partition: Partition, position: Place | None, target: Place | None) -> Remaining:
    """What is left up to a target, by a mark-delete position only: 0 or unknown."""
    nothing = target is not None and (target.entry < 0 or (position is not None and position >= target))
    return Remaining(partition, None if position is None else str(position), 0 if nothing else None)

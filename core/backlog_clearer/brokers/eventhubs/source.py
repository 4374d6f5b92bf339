"""A consumer group's backlog on Azure Event Hubs.

The service keeps no acknowledgement: the position of a consumer group is a checkpoint blob for each
partition, and clearing the backlog means writing those. A position is `{"offset": …,
"sequence_number": …}` of the last event consumed. Sequence numbers count events one by one; offsets
are opaque to clients, and processors resume by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from backlog_clearer.brokers.eventhubs.access import find_readers, layers_fault
from backlog_clearer.brokers.eventhubs.admin import HubWatch, read_hub, read_partitions
from backlog_clearer.brokers.eventhubs.amqp_lane import AmqpLane
from backlog_clearer.brokers.eventhubs.blobs import Blobs, Held
from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.brokers.eventhubs.cuts import BY_TIME, cut_events, enqueued_times
from backlog_clearer.brokers.eventhubs.kafka_lane import KafkaEndpoint
from backlog_clearer.brokers.eventhubs.ledger import Ledger
from backlog_clearer.brokers.eventhubs.notes import (
    NO_STORE,
    doubt_of,
    exclusive_readers,
    fallback_notes,
    live_processors,
    never_notes,
    notes_of,
    older_notes,
    reason_for_amqp,
    undo_of,
    unprobed_notes,
    without_options,
)
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventReader
from backlog_clearer.brokers.eventhubs.positions import (
    PartitionProperties,
    anomaly,
    backlog,
    incarnation_of,
    left_up_to,
    sequence_number,
)
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.brokers.shared.sent import SentPositions
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
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
from backlog_clearer.source import Lane, failed_state

_Item = TypeVar("_Item")

_SINCE_RECEIPT = "since the receipt"
# A blob is written for each partition and interval.
_TRAITS = Traits(unit="events", repeats=True, settle_interval_s=5.0)

_UNKNOWN = "nothing was cleared, and what is left is unknown, because there is no checkpoint store"


class EventHubsSource:
    """One consumer group of one Event Hub."""

    def __init__(self, options: EventHubsOptions, run: RunOptions, run_id: str) -> None:
        self._options = options
        self._run = run
        self._run_id = run_id
        self._checkpoints = self._opened()
        self._folder = f"{options.namespace}/{options.hub}/{options.consumer_group}/".lower()
        self._kafka: KafkaEndpoint | None = None
        self._properties: dict[int, PartitionProperties] = {}  # at the survey
        self._by_number: set[Partition] = set()  # whose offsets the service refused to a lane
        self._sent = SentPositions()
        self._gaps: set[tuple[Partition, int, int]] = set()  # events that did not arrive once

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return replace(_TRAITS, counts_only=self._options.checkpoint_store is None)

    def survey(self) -> Survey:
        """Partitions, checkpoints, ownerships, readers; see `source.Source`."""
        options = self._options
        blobs = self._checkpoints.look() if self._checkpoints else Blobs({}, {}, (), {}, self._folder)
        self._folder = blobs.folder
        hub = read_hub(options)
        partitions = [Partition(options.hub, number) for number in hub.numbers]
        mine = self._run.choose(partitions)
        found = read_partitions(options, [partition.number for partition in mine])
        for number, item in found.items():
            if isinstance(item, PartitionProperties) and item.created_ms != hub.created_ms:
                found[number] = TransientError("The Event Hub was created again during the survey.")
        self._properties = {
            number: item for number, item in found.items() if isinstance(item, PartitionProperties)
        }
        # Only these: Event Hubs allows five readers of one partition, and slices survey at the same time.
        refused = find_readers(options, mine, self._properties)
        live = (
            *live_processors(blobs.owners, options.ownership_expiration),
            *exclusive_readers(refused),
        )
        states = [
            replace(self._state(number, item, blobs), incarnation=self._incarnation(hub.created_ms))
            for number, item in found.items()
        ]
        store = self._checkpoints
        notes = notes_of(options, states, blobs, store.container if store else None, live)
        notes += older_notes(blobs, hub.created_ms)
        if store and blobs.nothing:
            notes += never_notes(options, blobs, found)
        notes += unprobed_notes(refused)
        notes += fallback_notes(options, layers_fault())
        if self._run.mode is Mode.CONSUME:
            notes.append(self._choose_reader(states, found))
        return Survey(
            subscription=f"consumer group {options.consumer_group} on Event Hub {options.hub}",
            identity=self._identity(),
            partitions=completed(states, partitions),
            live=live,
            notes=tuple(notes),
            doubt=doubt_of(options, blobs, store.container) if store else None,
        )

    def partitions(self) -> Sequence[Partition]:
        """See `source.Enumerable`: one request."""
        return [Partition(self._options.hub, number) for number in read_hub(self._options).numbers]

    def _opened(self) -> Checkpoints | None:
        """Another client of the checkpoint store, if there is one."""
        has_store = self._options.checkpoint_store is not None
        return Checkpoints(self._options, self._run_id) if has_store else None

    def _identity(self) -> dict[str, str]:
        options = self._options
        identity = {
            "fully_qualified_namespace": options.namespace,
            "eventhub_name": options.hub,
            "consumer_group": options.consumer_group,
        }
        if self._checkpoints:
            identity["checkpoints"] = self._checkpoints.location
        return identity

    def _state(
        self, number: int, found: PartitionProperties | ClearerError, blobs: Blobs
    ) -> PartitionState:
        partition = Partition(self._options.hub, number)
        position = blobs.positions.get(number)
        if isinstance(found, ClearerError):
            return replace(
                failed_state(partition, found, position), undo=undo_of(blobs.faults.get(number))
            )
        fault = blobs.faults.get(number)
        error = fault or anomaly(found, position, None)
        return PartitionState(
            partition,
            position,
            start={"offset": None, "sequence_number": found.begin - 1},
            end={"offset": found.offset, "sequence_number": found.last},
            backlog=None if error else backlog(found, position),
            undo=undo_of(fault),
            error=error,
        )

    def _choose_reader(
        self, states: Sequence[PartitionState], found: Mapping[int, PartitionProperties | ClearerError]
    ) -> str:
        """Choose the protocol to read by, and return the reason; the Kafka endpoint only if it fits.

        Raises `UsageError` or `BrokerError` if --reader kafka cannot be used.
        """
        options = self._options
        if self._kafka is not None:
            self._kafka.close()
            self._kafka = None
        reason = reason_for_amqp(options, states, dry_run=self._run.dry_run)
        if reason is not None:
            return reason
        good = {number: item for number, item in found.items() if isinstance(item, PartitionProperties)}
        endpoint = KafkaEndpoint(options, self._run)
        try:
            endpoint.check(good)
        except ClearerError as error:
            endpoint.close()
            cause = without_options(str(error))
            if options.reader is EventReader.KAFKA:
                raise type(error)(cause) from error
            return f"Reading over AMQP, because the Kafka endpoint cannot be used: {cause}"
        self._kafka = endpoint
        return f"Reading through the Kafka endpoint {endpoint.address}" + (
            ", as --reader kafka asks for."
            if options.reader is EventReader.KAFKA
            else ": it delivers in large batches."
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to prepare: a restore needs only the checkpoints in the receipt."""

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """See `source.Source`."""
        ledger = Ledger(self._options, self._opened(), claims, self._folder, self._sent)
        try:
            ledger.check()
        except ClearerError:
            ledger.close()
            raise
        if self._kafka is not None:
            return self._kafka.open_lane(claims, ledger)
        return AmqpLane(
            self._options,
            claims,
            ledger,
            self._run.batch_size,
            by_number=self._by_number,
            gaps=self._gaps,
            silence_s=self._run.answer_seconds,
            credit=self._run.ahead_messages(
                self._options.prefetch, self._run.workers * max(1, len(claims))
            ),
        )

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Blobs read afresh against the partitions' properties; see `source.Source`."""
        if self._checkpoints is None:
            error = None if self._options.no_checkpoint else _UNKNOWN
            return [Remaining(partition, None, None, error) for partition in targets]
        blobs = self._checkpoints.look()
        found = read_partitions(self._options, [partition.number for partition in targets])
        results = []
        for partition, target in targets.items():
            item, position = found[partition.number], blobs.positions.get(partition.number)
            if isinstance(item, ClearerError):
                results.append(Remaining(partition, position, None, str(item)))
                continue
            wanted = item.last if target is None else sequence_number(target)
            error = blobs.faults.get(partition.number) or anomaly(item, position, wanted)
            if wanted is None:
                error = error or "its target has no sequence number"
            left = None if error or wanted is None else left_up_to(item, position, wanted)
            incarnation = self._incarnation(item.created_ms)
            results.append(Remaining(partition, position, left, error, incarnation))
        return results

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """By the positions sent, and those stored; see `source.Accountable`."""
        return self._sent.unreported({p: sequence_number(at) for p, at in stored.items()})

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`."""
        return cut_events(self._options, states, self._properties, bound)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        return (BY_TIME,) if bound.until is not None else ()

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`."""
        return enqueued_times(self._options, states)

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """Sequence numbers, where both positions have one; see `source.Countable`."""
        del partition
        one, other = sequence_number(first), sequence_number(last)
        return None if one is None or other is None else other - one

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """Write a checkpoint for each partition, in parallel; see `source.Source`."""
        if self._checkpoints is None:
            raise UsageError(NO_STORE)
        blobs = self._checkpoints.look()
        others = self._others({claim.partition: claim.state.incarnation for claim in claims})

        def write(checkpoints: Checkpoints, claim: Claim) -> Position | None:
            number = claim.partition.number
            if claim.partition in others:
                raise others[claim.partition]
            if number in blobs.faults:
                raise BrokerError(blobs.faults[number], claim.partition)
            target = sequence_number(claim.target)
            if claim.target is None or target is None:
                raise BrokerError("its target has no sequence number", claim.partition)
            if target < 0:  # an empty partition has no event for a checkpoint
                return None
            return checkpoints.advance(Held(claim, checkpoints.path, blobs.folder), claim.target)

        return self._each(claims, lambda claim: claim.partition, write)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Write the old checkpoints back; delete those that this tool made. See `source.Source`."""
        if self._checkpoints is None:
            raise UsageError("Restoring needs --checkpoint-store, where the positions are.")

        blobs = self._checkpoints.look()
        others = self._others({item.partition: item.incarnation for item in recorded}, _SINCE_RECEIPT)

        def write(checkpoints: Checkpoints, item: Recorded) -> Position | None:
            partition, position, *_ = item
            number = partition.number
            if partition in others:
                raise others[partition]
            if number in blobs.faults:
                raise BrokerError(f"{blobs.faults[number]}; it is left as it is", partition)
            checkpoints.restore(number, position, blobs.names.get(number, ()))
            return position

        return self._each(recorded, lambda item: item.partition, write)

    def _incarnation(self, created_ms: int | None) -> str | None:
        return incarnation_of(self._options.namespace, self._options.hub, created_ms)

    def _others(
        self, incarnations: Mapping[Partition, str | None], since: str = "since the survey"
    ) -> dict[Partition, BrokerError]:
        """See `HubWatch.others`."""
        with closing(HubWatch(self._options)) as watch:
            return watch.others(incarnations, since)

    def _each(
        self,
        items: Sequence[_Item],
        partition_of: Callable[[_Item], Partition],
        write: Callable[[Checkpoints, _Item], Position | None],
    ) -> list[Outcome]:
        """Write for each item in parallel, each thread through its own client."""

        def open_worker() -> Callable[[_Item], Position | None]:
            checkpoints = Checkpoints(self._options, self._run_id)
            return lambda item: write(checkpoints, item)

        outcomes = []
        where = f"The checkpoint store of {self._options.place}"
        for item, result in zip(items, in_parallel(items, open_worker, where=where), strict=True):
            failed = isinstance(result, ClearerError)
            position = None if isinstance(result, ClearerError) else result
            outcomes.append(Outcome(partition_of(item), position, str(result) if failed else None))
        return outcomes

    def close(self) -> None:
        """See `source.Source`."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self._kafka is not None:
            self._kafka.close()


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> EventHubsSource:
    """Open a consumer group's source; connects at the first request.

    Raises `UsageError` where there is nothing to move: skipping needs a checkpoint store.
    """
    if not isinstance(options, EventHubsOptions):
        raise UsageError("eventhubs needs EventHubsOptions.")
    if options.checkpoint_store is None and run.mode is Mode.SKIP:
        raise UsageError(NO_STORE)
    return EventHubsSource(options, run, run_id)

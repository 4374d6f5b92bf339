"""A consumer's or a group's backlog on Apache Iggy.

The position is the stored offset: that of the last message consumed. Messages are polled by explicit
offsets, as a single consumer, also where a group's offsets are stored: polling as a group would need a
membership, and its empty answers do not distinguish an end from an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from apache_iggy import ConsumerGroupMember

from backlog_clearer.brokers.iggy.client import SdkClient, ident
from backlog_clearer.brokers.iggy.errors import is_not_found
from backlog_clearer.brokers.iggy.lane import IggyLane
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import (
    LogExtent,
    Offsets,
    as_offset_or_none,
    beyond_end,
    checked_extent,
)
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Remaining,
    Survey,
    Traits,
)
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state

# Other slices of a run are members of the group for a moment (see `Offsets.writing`): only a member at
# each of a few looks is a consumer. An exchange that `backlog_clearer.source` allows inside one call.
_LOOKS, _LOOK_AGAIN_S = 4, 0.25
FRAME_BYTES = 32 * 1024 * 1024  # of one reply at most; the protocol's own limit is 64 MiB


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> IggySource:  # noqa: ARG001 the run id is not stored on the broker
    """A source; it connects at its first request."""
    return IggySource(cast("IggyOptions", options), run)


class IggySource:
    """The offsets of one consumer or group on one topic."""

    def __init__(self, options: IggyOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._client = SdkClient(options)
        self._offsets = Offsets(self._client, options)
        self._message_bytes = 0.0
        self._stored: dict[Partition, int] = {}  # written by lanes, which share no partition
        self._topic = f"{options.stream_id}/{options.topic_id}"

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return Traits(unit="messages")

    def survey(self) -> Survey:
        """See `source.Source`."""
        options, client = self._options, self._client
        known = self._extents()
        live = self._members()
        extents = {id_: known[id_] for id_ in self._chosen(known)}
        usable = [found for found in extents.values() if isinstance(found, LogExtent)]
        count = sum(found.messages for found in usable)
        self._message_bytes = sum(found.size for found in usable) / count if count else 0.0
        states = tuple(self._state(id_, found) for id_, found in sorted(extents.items()))
        kind = "consumer" if options.group_id is None else "group"
        notes = [f"Partition ids of this server: {', '.join(map(str, sorted(known)))}."]
        if all(state.position is None and state.error is None for state in states):
            notes.append(
                f"The {kind} {options.consumer} has stored no offset here: all retained messages count as"
                " its backlog."
            )
        if options.group_id is None:
            notes.append("Iggy does not report whether a consumer is running: make sure that none is.")
        return Survey(
            subscription=f"{kind} {options.consumer} on {self._topic}",
            identity={
                "server": client.address,
                "stream": options.stream_id,
                "topic": options.topic_id,
                kind: options.consumer,
            },
            partitions=states,
            live=live,
            notes=tuple(notes),
        )

    def _extents(self) -> dict[int, LogExtent | TransientError]:
        """The topic's partitions by id, with their figures or why those cannot be used.

        Raises `UsageError` where there is no such topic. The SDK refuses an incomplete description.
        """
        options, client = self._options, self._client
        place = ident(options.stream_id), ident(options.topic_id)
        try:
            found = client.call(lambda iggy: iggy.get_topic(*place))
        except BrokerError as error:
            if not is_not_found(error):
                raise
            found = None
        if found is not None:
            extents: dict[int, LogExtent | TransientError] = {}
            for part in found.partitions:
                figures = part.current_offset, part.messages_count, part.size
                try:
                    extents[part.id] = checked_extent(Partition(self._topic, part.id), *figures)
                except TransientError as error:
                    extents[part.id] = error
            return extents
        stream = client.call(lambda iggy: iggy.get_stream(place[0]))
        if stream is None:
            streams = sorted(item.name for item in client.call(lambda iggy: iggy.get_streams()))
            raise UsageError(
                f"There is no stream {options.stream_id} at {client.address}."
                f"{suggestion(options.stream_id, streams)}"
            )
        names = sorted(topic.name for topic in stream.topics)
        raise UsageError(
            f"There is no topic {options.topic_id} in stream {options.stream_id} at {client.address}."
            f"{suggestion(options.topic_id, names)}"
        )

    def _members(self) -> tuple[str, ...]:
        """The members of the group at each of a few looks; raises `UsageError` if there is no such group."""
        options, client = self._options, self._client
        if options.group_id is None:
            return ()
        place = ident(options.stream_id), ident(options.topic_id)
        group = ident(options.group_id)
        members: dict[int, ConsumerGroupMember] = {}
        for look in range(_LOOKS):
            if look:
                time.sleep(_LOOK_AGAIN_S)
            found = client.call(lambda iggy: iggy.get_consumer_group(*place, group))
            if found is None:
                groups = client.call(lambda iggy: iggy.get_consumer_groups(*place))
                raise UsageError(
                    f"There is no consumer group {options.group_id} on {self._topic}; nothing was"
                    f" created.{suggestion(options.group_id, sorted(item.name for item in groups))}"
                )
            seen = {member.id: member for member in found.members}
            members = {id_: seen[id_] for id_ in (members if look else seen) if id_ in seen}
            if not members:
                break
        return tuple(
            f"member {id_} of partitions {', '.join(map(str, member.partitions)) or 'none'}"
            for id_, member in members.items()
        )

    def _chosen(self, known: Mapping[int, object]) -> Iterable[int]:
        asked = self._options.partition_ids
        if asked is None:
            return known
        missing = [str(id_) for id_ in asked if id_ not in known]
        if missing:
            raise UsageError(
                f"{self._topic} has no partition {', '.join(missing)}; its ids, as the server numbers"
                f" them, are {', '.join(map(str, sorted(known)))}: change --partition-ids."
            )
        return asked

    def _state(self, id_: int, extent: LogExtent | TransientError) -> PartitionState:
        partition = Partition(self._topic, id_)
        if not isinstance(extent, LogExtent):
            return failed_state(partition, extent)
        try:
            stored = self._offsets.get(partition)
        except BrokerError as error:
            return failed_state(partition, error)
        position = None if stored is None else stored.offset
        problem = beyond_end(stored, extent.current) if stored is not None else None
        if problem:
            return failed_state(partition, BrokerError(problem, partition), position)
        backlog = extent.left(position)
        return PartitionState(
            partition,
            position=position,
            start=extent.first,
            end=extent.end,
            backlog=backlog,
            backlog_bytes=None if backlog is None else round(self._message_bytes * backlog),
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: old offsets can be stored again while the topic still reaches that far."""

    def open_lane(self, claims: Sequence[Claim]) -> IggyLane:
        """See `source.Source`."""
        count = self._run.batch_size
        if self._message_bytes:
            count = max(1, min(count, int(FRAME_BYTES / self._message_bytes)))
        return IggyLane(self._options, claims, count, self._stored, self._client)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`."""
        try:
            extents = self._extents()
        except (BrokerError, UsageError) as error:
            return [Remaining(partition, None, None, str(error)) for partition in targets]
        return [
            self._remaining(partition, extents.get(partition.number), as_offset_or_none(target))
            for partition, target in targets.items()
        ]

    def _remaining(
        self, partition: Partition, extent: LogExtent | TransientError | None, target: int | None
    ) -> Remaining:
        try:
            stored = self._offsets.get(partition)
        except BrokerError as error:
            return Remaining(partition, None, None, str(error))
        position = None if stored is None else stored.offset
        if extent is None:
            return Remaining(partition, position, None, "The partition does not exist any more.")
        if not isinstance(extent, LogExtent):
            return Remaining(partition, position, None, str(extent))
        problem = beyond_end(stored, extent.current) if stored is not None else None
        left = None if problem else extent.left(position, target)
        if left is None and problem is None and (target or 0) > extent.current:
            problem = (
                f"The partition ends at offset {extent.current}, before the target {target}: the topic was"
                " purged or created again."
            )
        return Remaining(partition, position, left, problem)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._moved([(claim.partition, claim.target) for claim in claims], forward=True)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._moved([(item.partition, item.position) for item in recorded], forward=False)

    def _moved(
        self, places: Sequence[tuple[Partition, Position | None]], *, forward: bool
    ) -> Sequence[Outcome]:
        with self._offsets.writing():
            return [
                self._offsets.moved(partition, as_offset_or_none(position), forward=forward)
                for partition, position in places
            ]

    def close(self) -> None:
        """See `source.Source`."""
        self._client.close()

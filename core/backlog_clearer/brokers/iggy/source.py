"""A consumer's or a group's backlog on Apache Iggy.

The position is the stored offset: that of the last message consumed. Messages are polled by
explicit offsets, as a consumer, whoever's offsets are stored: polling as a group would need a
membership, and its empty answers do not tell an end from an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from apache_iggy import ConsumerGroupMember

from backlog_clearer.brokers.iggy.client import NOT_FOUND, Client, ident
from backlog_clearer.brokers.iggy.lane import IggyLane
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import NOTHING, Offsets, number
from backlog_clearer.errors import BrokerError, UsageError
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
)
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state

# Other slices of a run are members of the group for moments, too: see `Offsets.writing`.
_LOOKS, _LOOK_AGAIN_S = 4, 0.25
FRAME_BYTES = 32 * 1024 * 1024  # of one reply at most; the protocol's own limit is 64 MiB


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> IggySource:  # noqa: ARG001 the run leaves no mark on the broker
    """Open the source; connects when it is first asked."""
    return IggySource(cast("IggyOptions", options), run)


@dataclass(frozen=True, slots=True)
class Log:
    """What the server says of one partition."""

    current: int  # offset of the last message ever stored; 0 also where there was none
    messages: int  # retained
    size: int  # bytes of those

    @property
    def first(self) -> int:
        """Offset of the first message retained, or of the next one if there is none."""
        return self.end + 1 - self.messages

    @property
    def end(self) -> int:
        """Offset of the last message retained; -1: an empty partition may never have had any."""
        return self.current if self.messages or self.current else NOTHING

    def left(self, stored: int | None, target: int | None = None) -> int:
        """Retained messages behind a stored offset, up to a target (None: the end), inclusive."""
        last = self.end if target is None else min(target, self.end)
        begin = self.first if stored is None else max(self.first, stored + 1)
        return max(0, last + 1 - begin) if self.messages else 0


class IggySource:
    """The offsets of one consumer or group on one topic."""

    def __init__(self, options: IggyOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._client = Client(options)
        self._offsets = Offsets(self._client, options)
        self._message_bytes = 0.0
        self._stored: dict[Partition, int] = {}  # by lanes, which share no partition
        self._topic = f"{options.stream_id}/{options.topic_id}"

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return Traits(unit="messages")

    def survey(self) -> Survey:
        """See `source.Source`."""
        options, client = self._options, self._client
        known = self._logs()
        live = self._members()
        logs = {id_: known[id_] for id_ in self._chosen(known)}
        count = sum(log.messages for log in logs.values())
        self._message_bytes = sum(log.size for log in logs.values()) / count if count else 0.0
        states = tuple(self._state(id_, log) for id_, log in sorted(logs.items()))
        kind = "consumer" if options.group_id is None else "group"
        notes = [f"Partition ids of this server: {', '.join(map(str, sorted(known)))}."]
        if all(state.position is None and state.error is None for state in states):
            notes.append(
                f"The {kind} {options.consumer} has stored no offset here: everything retained counts."
            )
        if options.group_id is None:
            notes.append("Iggy does not tell whether a consumer is at work: make sure that none is.")
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

    def _logs(self) -> dict[int, Log]:
        """The topic's partitions by id; raises `UsageError` where there is no such topic."""
        options, client = self._options, self._client
        place = ident(options.stream_id), ident(options.topic_id)
        try:
            found = client.call(lambda iggy: iggy.get_topic(*place))
        except BrokerError as error:
            if NOT_FOUND not in str(error):
                raise
            found = None
        if found is not None:
            return {
                part.id: Log(part.current_offset, part.messages_count, part.size)
                for part in found.partitions
            }
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
        """Who is a member of the group at each of a few looks; refuses a group that does not exist."""
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

    def _chosen(self, known: Mapping[int, Log]) -> Iterable[int]:
        asked = self._options.partition_ids
        if asked is None:
            return known
        missing = [str(id_) for id_ in asked if id_ not in known]
        if missing:
            raise UsageError(
                f"{self._topic} has no partition {', '.join(missing)}; its ids, as the server counts"
                f" them, are {', '.join(map(str, sorted(known)))}: change --partition-ids."
            )
        return asked

    def _state(self, id_: int, log: Log) -> PartitionState:
        partition = Partition(self._topic, id_)
        try:
            stored = self._offsets.get(partition)
        except BrokerError as error:
            return failed_state(partition, error)
        backlog = log.left(stored)
        return PartitionState(
            partition,
            position=stored,
            start=log.first,
            end=log.end,
            backlog=backlog,
            backlog_bytes=round(self._message_bytes * backlog) if log.messages else None,
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: old offsets can be stored again as long as their messages exist."""

    def open_lane(self, claims: Sequence[Claim]) -> IggyLane:
        """See `source.Source`."""
        count = self._run.batch_size
        if self._message_bytes:
            count = max(1, min(count, int(FRAME_BYTES / self._message_bytes)))
        return IggyLane(self._options, claims, count, self._stored, self._client)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`."""
        try:
            logs = self._logs()
        except (BrokerError, UsageError) as error:
            return [Remaining(partition, None, None, str(error)) for partition in targets]
        found = []
        for partition, target in targets.items():
            log = logs.get(partition.number)
            try:
                stored = self._offsets.get(partition)
            except BrokerError as error:
                found.append(Remaining(partition, None, None, str(error)))
                continue
            if log is None:
                found.append(Remaining(partition, stored, None, "The partition is gone."))
            else:
                found.append(Remaining(partition, stored, log.left(stored, number(target))))
        return found

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._moved([(claim.partition, claim.target) for claim in claims], forward=True)

    def restore(self, positions: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._moved(list(positions.items()), forward=False)

    def _moved(
        self, places: Sequence[tuple[Partition, Position | None]], *, forward: bool
    ) -> Sequence[Outcome]:
        with self._offsets.writing():
            return [
                self._offsets.moved(partition, number(position), forward=forward)
                for partition, position in places
            ]

    def close(self) -> None:
        """See `source.Source`."""
        self._client.close()

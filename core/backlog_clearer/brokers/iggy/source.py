"""A consumer's or a group's backlog on Apache Iggy.

The position is the stored offset: that of the last message consumed. Messages are polled by explicit
offsets, as a single consumer, also where a group's offsets are stored: polling as a group would need a
membership, and its empty answers do not distinguish an end from an error.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import cast

from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.cuts import bound_notes, cut_partitions, stored_times
from backlog_clearer.brokers.iggy.errors import is_invalid_offset
from backlog_clearer.brokers.iggy.lane import IggyLane, LaneTools, PollSizes
from backlog_clearer.brokers.iggy.logs import TopicLogs
from backlog_clearer.brokers.iggy.offsets import LogGuard, OffsetWriter
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import (
    NOTHING,
    LogFacts,
    as_offset,
    as_offset_or_none,
    beyond_end,
    is_reached,
    left_after,
)
from backlog_clearer.brokers.iggy.topic_wire import GroupMember
from backlog_clearer.brokers.iggy.wire import StoredOffset
from backlog_clearer.brokers.shared.names import doubt, never_stored, similar
from backlog_clearer.brokers.shared.sent import SentPositions
from backlog_clearer.errors import BrokerError, UsageError
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
    total_known,
)
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import failed_state
from backlog_clearer.text import counted, listed, ranged

# Other slices of a run are members of the group for a moment (see `OffsetWriter.writing`): only a member
# at each of several looks is a consumer. Many looks, since the server uses a member's id again at once. An
# exchange that `backlog_clearer.source` allows inside one call.
_LOOKS, _LOOK_AGAIN_S = 10, 0.4
FRAME_BYTES = 32 * 1024 * 1024  # of one reply, by the average; the SDK's own limit is 64 MiB
# A group's slices are its members in turn, so each writes less often, and less so the more there are.
_GROUP_SETTLE_S, _TURN_S = 5.0, 0.5


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> IggySource:  # noqa: ARG001 the run id is not stored on the broker
    """A source; it connects at its first request."""
    return IggySource(cast("IggyOptions", options), run)


class IggySource:
    """The offsets of one consumer or group on one topic."""

    def __init__(self, options: IggyOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._client = IggyCluster(options)
        self._logs = TopicLogs(self._client, options)
        self._guard = LogGuard()
        self._sent = SentPositions()
        self._writer = OffsetWriter(self._client, options, self._logs, self._guard)
        self._sizes = PollSizes()
        self._kind = "consumer" if options.group_id is None else "group"

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        if self._options.group_id is None:
            return Traits(unit="messages", repeats=True)
        slices = self._run.slice.total if self._run.slice else 1
        interval_s = max(_GROUP_SETTLE_S, _TURN_S * slices)
        return Traits(unit="messages", repeats=True, settle_interval_s=interval_s)

    def survey(self) -> Survey:
        """See `source.Source`."""
        options, logs = self._options, self._logs
        known = logs.described()
        live = self._members()
        self._writer.forced = bool(live)
        chosen: dict[Partition, LogFacts | BrokerError] = {
            Partition(logs.title, id_): known[id_] for id_ in self._chosen(known)
        }
        states = self._states(chosen)
        notes = [f"Partition ids of this server: {ranged(known)}."]
        subscription = f"{self._kind} {logs.consumer.name} on {logs.title}"
        near: tuple[str, ...] = ()
        if all(state.position is None and state.error is None for state in states):
            backlogs = self._other_groups([state.partition for state in states], chosen)
            notes.append(never_stored(subscription, backlogs, "messages"))
            notes.append("All retained messages count as its backlog.")
            near = similar(logs.consumer.name, backlogs or ())
        if options.group_id is None:
            notes.append("Iggy does not report whether a consumer is running: make sure that none is.")
        uneven = [log for log in chosen.values() if isinstance(log, LogFacts) and log.extent.gaps]
        if uneven:
            notes.append(
                f"Offsets have gaps in {counted(len(uneven), 'partition')}, as a restarted server leaves them:"
                " the backlog there is the most that there can be."
            )
        return Survey(
            subscription=subscription,
            identity={
                "stream": logs.stream.name,
                "topic": logs.topic.name,
                self._kind: logs.consumer.name,
            },
            partitions=states,
            live=live,
            notes=tuple(notes),
            doubt=doubt(subscription, near),
        )

    def _states(self, chosen: dict[Partition, LogFacts | BrokerError]) -> tuple[PartitionState, ...]:
        """The state of each partition; fills in what first messages show."""
        usable = {key: log for key, log in chosen.items() if isinstance(log, LogFacts)}
        chosen.update(self._logs.looked_at(usable))
        stored = self._logs.stored(list(chosen))
        return tuple(self._state(key, chosen, stored[key]) for key in sorted(chosen))

    def _state(
        self,
        partition: Partition,
        chosen: dict[Partition, LogFacts | BrokerError],
        stored: StoredOffset | BrokerError | None,
    ) -> PartitionState:
        log = chosen[partition]
        if isinstance(log, BrokerError):
            return failed_state(partition, log)
        if isinstance(stored, BrokerError):
            return failed_state(partition, stored)
        extent = log.extent
        position = None if stored is None else stored.offset
        problem = beyond_end(stored, extent.current) if stored is not None else None
        if problem:
            return failed_state(partition, BrokerError(problem, partition), position)
        backlog = self._left(partition, log, position, None)
        size = extent.size / extent.messages if extent.messages else 0.0
        self._guard.survey(partition, log, position)
        most = self._run.batch_size
        self._sizes.survey(partition, max(1, min(most, int(FRAME_BYTES / size))) if size else most)
        return PartitionState(
            partition,
            position=position,
            start=extent.first,
            end=extent.end,
            backlog=backlog,
            backlog_bytes=None if backlog is None else round(size * backlog),
            incarnation=log.incarnation,
        )

    def _left(
        self, partition: Partition, log: LogFacts, stored: int | None, target: int | None
    ) -> int | None:
        """What is left; where offsets have gaps, the next message shows whether anything is."""
        left = log.extent.left(stored, target)
        if not left or stored is None or not log.extent.gaps:
            return left
        following = self._logs.after(partition, stored)
        if following.first is not None:
            return log.extent.left(following.first - 1, target)
        return left if log.extent.may_follow(stored, following.current) else 0

    def _other_groups(
        self, partitions: Sequence[Partition], chosen: Mapping[Partition, LogFacts | BrokerError]
    ) -> dict[str, int | None] | None:
        """The backlogs of other groups that have stored offsets here; None: not known, as for consumers."""
        if self._options.group_id is None:
            return None
        found: dict[str, int | None] = {}
        for group, stored in self._logs.stored_by_groups(partitions, but=self._logs.consumer.name):
            if any(isinstance(at, StoredOffset) for at in stored.values()):
                left = [left_after(log, stored[key]) for key, log in chosen.items()]
                found[group.name] = total_known(
                    item if isinstance(item, int) else None for item in left
                )
        return found

    def _members(self) -> tuple[str, ...]:
        """The members of the group at each of a few looks; raises `UsageError` if there is no such group."""
        if self._options.group_id is None:
            return ()
        members: dict[int, GroupMember] = {}
        for look in range(_LOOKS):
            if look and self._client.waits.stopping:
                break
            if look:
                time.sleep(random.uniform(0.1, _LOOK_AGAIN_S))  # noqa: S311 not a secret
            seen = {member.id: member for member in self._logs.members()}
            members = {id_: seen[id_] for id_ in (members if look else seen) if id_ in seen}
            if not members:
                break
        return tuple(
            f"member {id_} of partitions {ranged(member.partitions) or 'none'}"
            for id_, member in members.items()
        )

    def _chosen(self, known: Mapping[int, object]) -> Iterable[int]:
        asked = self._options.partition_ids
        if asked is None:
            return known
        missing = [id_ for id_ in asked if id_ not in known]
        if missing:
            raise UsageError(
                f"{self._logs.title} has no partition {listed(missing)}; its ids, as the server numbers"
                f" them, are {listed(sorted(known), 20)}: change --partition-ids."
            )
        return asked

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: old offsets can be stored again while the topic still reaches that far."""

    def open_lane(self, claims: Sequence[Claim]) -> IggyLane:
        """See `source.Source`."""
        tools = LaneTools(
            self._client,
            self._logs,
            self._guard,
            self._writer,
            self._sizes,
            self._sent,
            self._run.answer_seconds,
        )
        return IggyLane(claims, tools)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`."""
        self._client.waits.verify()
        try:
            logs = self._logs.figures(list(targets))
            stored = self._logs.stored(list(targets))
            # Where the stored offset is at the target, the first message would show nothing more.
            open_ = {
                key: log
                for key, log in logs.items()
                if isinstance(log, LogFacts)
                and not is_reached(log, stored[key], as_offset_or_none(targets[key]))
            }
            logs |= self._logs.looked_at(open_)
        except BrokerError as error:
            return [Remaining(partition, None, None, str(error)) for partition in targets]
        return [
            self._remaining(partition, logs[partition], stored[partition], as_offset_or_none(target))
            for partition, target in targets.items()
        ]

    def _remaining(
        self,
        partition: Partition,
        log: LogFacts | BrokerError,
        stored: StoredOffset | BrokerError | None,
        target: int | None,
    ) -> Remaining:
        if isinstance(stored, BrokerError):
            return Remaining(partition, None, None, str(stored))
        position = None if stored is None else stored.offset
        if isinstance(log, BrokerError):
            return Remaining(partition, position, None, str(log))
        extent = log.extent
        if target is not None and self._guard.is_cut(partition, log):
            target = min(target, extent.end)  # what the server lost cannot be cleared
        problem = beyond_end(stored, extent.current) if stored is not None else None
        try:
            left = None if problem else self._left(partition, log, position, target)
        except BrokerError as error:
            return Remaining(partition, position, None, str(error), log.incarnation)
        if left is None and problem is None and (target or 0) > extent.current:
            problem = (
                f"The partition ends at offset {extent.current}, before the target {target}: the topic was"
                " purged or created again."
            )
        return Remaining(partition, position, left, problem, log.incarnation)

    def interrupt_by(self, stopping: Callable[[], bool]) -> None:
        """See `source.Interruptible`."""
        self._client.waits.interrupt_by(stopping)

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """By the offsets sent, and those stored; see `source.Accountable`."""
        return self._sent.unreported({p: as_offset_or_none(at) for p, at in stored.items()})

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`."""
        return cut_partitions(self._logs, states, bound)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        return bound_notes(bound)

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`."""
        return stored_times(self._logs, states, self._guard.surveyed())

    def partitions(self) -> Sequence[Partition]:
        """See `source.Enumerable`."""
        known = self._logs.described()
        return [Partition(self._logs.title, id_) for id_ in self._chosen(known)]

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """Offsets; see `source.Countable`."""
        del partition
        return as_offset(last) - as_offset(first)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`."""
        wanted = [Recorded(claim.partition, claim.target, claim.state.incarnation) for claim in claims]
        done: dict[Partition, Outcome] = {}
        offsets: dict[Partition, int] = {}
        with self._writer.writing():
            for item, log, stored in self._looked(wanted):
                partition = item.partition
                try:
                    if isinstance(log, BrokerError):
                        raise log
                    offset = self._forward(partition, log, stored, as_offset_or_none(item.position))
                except BrokerError as error:
                    done[partition] = Outcome(partition, None, str(error))
                    continue
                done[partition] = Outcome(partition, offset)
                if offset is not None and offset > (NOTHING if stored is None else stored.offset):
                    offsets[partition] = offset
            errors = self._writer.store_many(offsets)
        for partition, failed in errors.items():
            if failed is not None:
                reason = self._reason(failed, offsets[partition])
                done[partition] = Outcome(partition, None, reason)
        return list(done.values())

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`."""
        done = []
        with self._writer.writing():
            for item, log, stored in self._looked(recorded):
                partition, reason = item.partition, None
                try:
                    if isinstance(log, BrokerError):
                        raise log
                    self._back(partition, stored, as_offset_or_none(item.position))
                except BrokerError as error:
                    reason = self._reason(error, item.position)
                done.append(Outcome(partition, None if reason else item.position, reason))
        return done

    def _looked(
        self, wanted: Sequence[Recorded]
    ) -> Iterator[tuple[Recorded, LogFacts | BrokerError, StoredOffset | None]]:
        """Each partition as it is now with its stored offset, or why nothing may be stored in it."""
        partitions = [item.partition for item in wanted]
        logs, stored = self._logs.looked(partitions)
        for item in wanted:
            log, at = logs[item.partition], stored[item.partition]
            if isinstance(at, BrokerError):
                yield item, at, None
            elif isinstance(log, BrokerError):
                yield item, log, at
            else:
                yield item, self._guard.problem(item.partition, log, at, item.incarnation) or log, at

    @staticmethod
    def _reason(error: BrokerError, position: Position | None) -> str:
        if is_invalid_offset(error):
            return f"Offset {position} lies beyond the partition's end: the topic was purged."
        return str(error)

    def _forward(
        self, partition: Partition, log: LogFacts, stored: StoredOffset | None, offset: int | None
    ) -> int | None:
        """Where to move a stored offset; raises `BrokerError` where the present one cannot be used."""
        problem = beyond_end(stored, log.extent.current) if stored is not None else None
        if problem:
            raise BrokerError(f"{self._client.where(partition)}: {problem}", partition)
        if offset is not None and self._guard.is_cut(partition, log):
            return min(offset, log.extent.end)
        return offset

    def _back(self, partition: Partition, stored: StoredOffset | None, offset: int | None) -> None:
        if offset is not None and stored is None:
            raise BrokerError(
                f"{partition}: no offset is stored any more, so the topic was purged, or another client deleted"
                f" the offset; {offset} was not stored, since it may skip messages.",
                partition,
            )
        self._writer.restore(partition, offset)

    def close(self) -> None:
        """See `source.Source`."""
        self._client.close()

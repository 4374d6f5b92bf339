"""A consumer's or a group's backlog on Apache Iggy.

The position is the stored offset: that of the last message consumed. Messages are polled by
explicit offsets, as a consumer, whoever's offsets are stored: polling as a group would need a
membership, and its empty answers do not tell an end from an error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from apache_iggy import TopicDetails

from core.brokers import iggy_wire as wire
from core.brokers.iggy_client import INVALID_OFFSET, OFFSET_NOT_FOUND, Client, ident
from core.errors import BrokerError, TransientError, UsageError
from core.model import (
    Advance,
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    Settled,
    Survey,
    Traits,
)
from core.options.base import RunOptions, SystemOptions, suggestion
from core.options.iggy import IggyOptions

FRAME_BYTES = 32 * 1024 * 1024  # of one reply at most; the protocol's own limit is 64 MiB
_NOTHING = -1  # the position before the first message
_PAUSE_S = 0.02  # between polls of partitions at whose end nothing new has arrived


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
        return self.current if self.messages or self.current else _NOTHING

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
        self._client: Client | None = None
        self._whose = wire.GROUP if options.group_id is not None else wire.CONSUMER
        self._message_bytes = 0.0
        self._stored: dict[Partition, int] = {}  # by lanes, which share no partition
        self._topic = f"{options.stream_id}/{options.topic_id}"

    @property
    def traits(self) -> Traits:
        """See `core.source.Source`."""
        return Traits(unit="messages")

    @property
    def _connected(self) -> Client:
        if self._client is None:
            client = Client(self._options)
            try:
                client.connect()
            except BrokerError:
                client.close()
                raise
            self._client = client
        return self._client

    def survey(self) -> Survey:
        """See `core.source.Source`."""
        options, client = self._options, self._connected
        found = self._details()
        live = self._members()
        numbers = self._chosen(found)
        logs = {number: log for number, log in _logs(found).items() if number in numbers}
        size, count = (
            sum(getattr(log, name) for log in logs.values()) for name in ("size", "messages")
        )
        self._message_bytes = size / count if count else 0.0
        offsets = Offsets(client, self._options)
        states = tuple(self._state(number, log, offsets) for number, log in sorted(logs.items()))
        kind = "group" if self._whose == wire.GROUP else "consumer"
        notes = [f"Partition ids of this server: {', '.join(map(str, sorted(_logs(found))))}."]
        if all(state.position is None and state.error is None for state in states):
            notes.append(
                f"The {kind} {options.consumer} has stored no offset here: everything retained counts."
            )
        if self._whose == wire.CONSUMER:
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

    def _details(self) -> TopicDetails:
        options, client = self._options, self._connected
        try:
            found = client.call(
                client.iggy.get_topic, ident(options.stream_id), ident(options.topic_id)
            )
        except TransientError:
            raise
        except BrokerError as error:
            if "was not found" not in str(error):
                raise
            found = None
        if found is not None:
            return found
        streams = {item.name for item in client.call(client.iggy.get_streams)}
        stream = client.call(client.iggy.get_stream, ident(options.stream_id))
        if stream is None:
            raise UsageError(
                f"There is no stream {options.stream_id} at {client.address}."
                f"{suggestion(options.stream_id, sorted(streams))}"
            )
        names = sorted(topic.name for topic in stream.topics)
        raise UsageError(
            f"There is no topic {options.topic_id} in stream {options.stream_id} at {client.address}."
            f"{suggestion(options.topic_id, names)}"
        )

    def _members(self) -> tuple[str, ...]:
        """The group's members; refuses a group that does not exist."""
        options, client = self._options, self._connected
        if options.group_id is None:
            return ()
        place = ident(options.stream_id), ident(options.topic_id)
        found = client.call(client.iggy.get_consumer_group, *place, ident(options.group_id))
        if found is None:
            names = sorted(item.name for item in client.call(client.iggy.get_consumer_groups, *place))
            raise UsageError(
                f"There is no consumer group {options.group_id} on {self._topic}; nothing was created."
                f"{suggestion(options.group_id, names)}"
            )
        return tuple(
            f"member {member.id} of partitions {', '.join(map(str, member.partitions)) or 'none'}"
            for member in found.members
        )

    def _chosen(self, found: TopicDetails) -> set[int]:
        known = set(_logs(found))
        asked = self._options.partition_ids
        if asked is None:
            return known
        missing = [str(number) for number in asked if number not in known]
        if missing:
            raise UsageError(
                f"{self._topic} has no partition {', '.join(missing)}; its ids, as the server counts"
                f" them, are {', '.join(map(str, sorted(known)))}: change --partition-ids."
            )
        return set(asked)

    def _state(self, number: int, log: Log, offsets: Offsets) -> PartitionState:
        partition = Partition(self._topic, number)
        try:
            stored = offsets.get(partition)
        except BrokerError as error:
            return PartitionState(partition, None, None, None, None, error=str(error))
        return PartitionState(
            partition,
            position=stored,
            start=log.first,
            end=log.end,
            backlog=log.left(stored),
            backlog_bytes=round(self._message_bytes * log.left(stored)) if log.messages else None,
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create: old offsets can be stored again as long as their messages exist."""

    def open_lane(self, claims: Sequence[Claim]) -> IggyLane:
        """See `core.source.Source`."""
        count = self._run.batch_size
        if self._message_bytes:
            count = max(1, min(count, int(FRAME_BYTES / self._message_bytes)))
        return IggyLane(self._options, claims, count, self._stored)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `core.source.Source`."""
        try:
            logs = _logs(self._details())
        except (BrokerError, UsageError) as error:
            return [Remaining(partition, None, None, str(error)) for partition in targets]
        offsets = Offsets(self._connected, self._options)
        found = []
        for partition, target in targets.items():
            log = logs.get(partition.number)
            try:
                stored = offsets.get(partition)
            except BrokerError as error:
                found.append(Remaining(partition, None, None, str(error)))
                continue
            if log is None:
                found.append(Remaining(partition, stored, None, "The partition is gone."))
            else:
                found.append(Remaining(partition, stored, log.left(stored, _number(target))))
        return found

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `core.source.Source`."""
        offsets = Offsets(self._connected, self._options)
        return [offsets.moved(claim.partition, _number(claim.target), forward=True) for claim in claims]

    def restore(self, positions: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
        """See `core.source.Source`."""
        offsets = Offsets(self._connected, self._options)
        return [
            offsets.moved(partition, _number(position), forward=False)
            for partition, position in positions.items()
        ]

    def close(self) -> None:
        """See `core.source.Source`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class Offsets:
    """The stored offsets of the consumer or group, over one connection."""

    def __init__(self, client: Client, options: IggyOptions) -> None:
        self._client = client
        kind = wire.GROUP if options.group_id is not None else wire.CONSUMER
        self._who = wire.subject(kind, options.consumer, options.stream_id, options.topic_id)

    def get(self, partition: Partition) -> int | None:
        """The stored offset; None: there is none. Raises `BrokerError`."""
        try:
            reply = self._client.request(
                wire.GET_OFFSET, wire.get_offset(self._who, partition.number), partition
            )
            return wire.stored(reply)
        except wire.ReplyError as error:
            raise BrokerError(f"{self._client.address}, {partition}: {error}.", partition) from None
        except BrokerError as error:
            if OFFSET_NOT_FOUND in str(error):
                return None
            raise

    def store(self, partition: Partition, offset: int) -> None:
        """Store an offset and read it back; raises `BrokerError`."""
        self._client.request(
            wire.STORE_OFFSET, wire.store_offset(self._who, partition.number, offset), partition
        )
        now = self.get(partition)
        if now is None or now < offset:
            raise TransientError(
                f"{self._client.address}, {partition}: offset {offset} was stored, but {now} is read"
                " back.",
                partition,
            )

    def delete(self, partition: Partition) -> None:
        """Forget the stored offset; it may be forgotten already. Raises `BrokerError`."""
        try:
            self._client.request(
                wire.DELETE_OFFSET, wire.delete_offset(self._who, partition.number), partition
            )
        except BrokerError as error:
            if OFFSET_NOT_FOUND not in str(error):
                raise

    def moved(self, partition: Partition, offset: int | None, *, forward: bool) -> Outcome:
        """Put the stored offset to a place (None: nowhere); `forward`: never back."""
        try:
            if forward:
                now = self.get(partition)
                if offset is not None and offset > (_NOTHING if now is None else now):
                    self.store(partition, offset)
            elif offset is None:
                self.delete(partition)
            else:
                self._client.request(
                    wire.STORE_OFFSET, wire.store_offset(self._who, partition.number, offset), partition
                )
        except BrokerError as error:
            reason = str(error)
            if INVALID_OFFSET in reason:
                reason = f"Offset {offset} lies beyond the partition's end: the topic was purged."
            return Outcome(partition, None, reason)
        return Outcome(partition, offset)


class _Share:
    """One partition that a lane reads."""

    def __init__(self, claim: Claim) -> None:
        self.partition = claim.partition
        self.target = _number(claim.target)
        stored = claim.resume if claim.resume is not None else claim.state.position
        start = _number(claim.state.start) or 0
        self.next = start if stored is None else max(start, _required(stored) + 1)
        self.end = _number(claim.state.end)
        self.count = 0  # read since the last settle
        self.reached = False
        self.idle_at = 0.0  # when its end was last met

    def left(self) -> int:
        """Messages up to the target, or the end as last told."""
        last = self.target if self.target is not None else self.end
        return 0 if last is None else max(0, last + 1 - self.next)


class IggyLane:
    """One connection that polls several partitions in turn."""

    def __init__(
        self,
        options: IggyOptions,
        claims: Sequence[Claim],
        batch: int,
        stored: dict[Partition, int],
    ) -> None:
        self._stored = stored
        self._client = Client(options)
        self._who = wire.subject(wire.CONSUMER, "0", options.stream_id, options.topic_id)
        self._offsets = Offsets(self._client, options)
        self._batch = batch
        self._shares = [_Share(claim) for claim in claims]
        self._turns = deque(self._shares)
        try:
            self._client.connect()
        except BrokerError:
            self.close()
            raise

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `core.source.Lane`."""
        until = time.monotonic() + max_wait_s
        while self._turns:
            share = self._turns[0]
            self._turns.rotate(-1)
            if share.target is not None and share.next > share.target:
                self._reach(share)
                return (Advance(share.partition, 0, 0),)
            now = time.monotonic()
            if now - share.idle_at >= _PAUSE_S:
                advance = self._poll(share, max_messages)
                if advance is not None:
                    return (advance,)
            elif all(now - each.idle_at < _PAUSE_S for each in self._turns):
                time.sleep(min(_PAUSE_S, max(0.0, until - now)))
            if time.monotonic() >= until:
                break
        return ()

    def _poll(self, share: _Share, limit: int | None) -> Advance | None:
        """One request; None: it brought nothing."""
        count = self._batch if limit is None else min(self._batch, limit)
        if share.target is not None:
            count = min(count, share.target + 1 - share.next)
        reply = self._client.request(
            wire.POLL,
            wire.poll(self._who, share.partition.number, share.next, count),
            share.partition,
        )
        try:
            polled = wire.polled(reply)
        except wire.ReplyError as error:
            raise TransientError(f"{share.partition}: {error}.", share.partition) from None
        if polled.partition != share.partition.number:
            raise TransientError(
                f"{share.partition}: the server did not look at this partition.", share.partition
            )
        if share.end is not None and polled.current < share.end:
            raise BrokerError(
                f"{share.partition} ends at {polled.current} now, and ended at {share.end} before: the"
                " topic was purged or created anew during the run.",
                share.partition,
            )
        share.end = max(polled.current, _NOTHING if share.end is None else share.end)
        if polled.first is None:
            share.idle_at = time.monotonic()
            return None
        return self._taken(share, polled.first, polled.messages, len(reply))

    def _taken(self, share: _Share, first: int, messages: int, size: int) -> Advance:
        """Count what came; retention may have moved the log's start beyond what was asked for."""
        behind = first + messages
        if share.target is not None:
            behind = min(behind, share.target + 1)
        count = max(0, behind - max(first, share.next))
        share.next = max(share.next, behind)
        if share.target is not None and first > share.target:  # all of it was deleted meanwhile
            share.next = share.target + 1
        share.count += count
        left = share.left()
        if left == 0 and share.target is not None:
            self._reach(share)
        return Advance(share.partition, count, left, size)

    def _reach(self, share: _Share) -> None:
        share.reached = True
        self._turns.remove(share)

    def settle(self) -> Sequence[Settled]:
        """See `core.source.Lane`; a higher offset that somebody else stored meanwhile stays."""
        done = []
        for share in self._shares:
            if not (share.count or share.reached):
                continue
            try:
                messages = self._acknowledged(share)
            except TransientError:
                raise
            except BrokerError as error:
                done.append(Settled(share.partition, 0, None, str(error)))
                continue
            share.count, share.reached = 0, False
            done.append(Settled(share.partition, messages, share.next - 1))
        return done

    def _acknowledged(self, share: _Share) -> int:
        """Store how far a partition was read; how many messages that acknowledged."""
        at, messages = share.next - 1, share.count
        stored = self._offsets.get(share.partition)
        # What an earlier lane stored, and could not report, counts now; what others stored does not.
        if stored is not None and stored != self._stored.get(share.partition):
            messages = min(messages, max(0, at - stored))
        if at > (_NOTHING if stored is None else stored):
            try:
                self._offsets.store(share.partition, at)
            except TransientError:
                raise
            except BrokerError as error:
                # A partition that retention left empty takes no offset, and has nothing to clear.
                if share.count or INVALID_OFFSET not in str(error):
                    raise
            self._stored[share.partition] = at
        return messages

    def close(self) -> None:
        """See `core.source.Lane`."""
        self._client.close()


def _logs(found: TopicDetails) -> dict[int, Log]:
    return {
        part.id: Log(part.current_offset, part.messages_count, part.size) for part in found.partitions
    }


def _required(position: Position) -> int:
    if isinstance(position, int):
        return position
    raise BrokerError(f"{position!r} is no offset of Iggy.")


def _number(position: Position | None) -> int | None:
    return None if position is None else _required(position)

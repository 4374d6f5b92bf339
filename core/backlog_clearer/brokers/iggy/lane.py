"""A lane: a few connections, each with one poll under way, whose replies are processed in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import SdkClient, ident
from backlog_clearer.brokers.iggy.connection import PollConnection
from backlog_clearer.brokers.iggy.errors import is_invalid_offset, status_error
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import NOTHING, Offsets, as_offset, as_offset_or_none
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

CONNECTIONS = 2
_PAUSE_S = 0.02  # between polls of a partition at whose end nothing new has arrived


class _Progress:
    """How far a lane has read one partition."""

    def __init__(self, claim: Claim) -> None:
        self.partition = claim.partition
        self.target = as_offset_or_none(claim.target)
        stored = claim.resume if claim.resume is not None else claim.state.position
        start = as_offset_or_none(claim.state.start) or 0  # asking too early costs nothing
        self.next = start if stored is None else max(start, as_offset(stored) + 1)
        self.ahead = self.next  # the next offset to ask for: polls under way come before it
        self.end = as_offset_or_none(claim.state.end)
        self.count = 0  # read since the last settle
        self.reached = False
        self.idle_at = 0.0  # when its end was last met

    @property
    def last(self) -> int:
        """Offset of the last message to read, as far as it is known to exist."""
        if self.target is not None:
            return self.target
        return NOTHING if self.end is None else self.end

    @property
    def cleared(self) -> bool:
        """Whether the target is reached."""
        return self.target is not None and self.next > self.target

    def left(self) -> int:
        """Messages up to the target, or up to the end that the server last reported."""
        return max(0, self.last + 1 - self.next)


@dataclass(slots=True)
class _Poll:
    """A poll under way."""

    progress: _Progress
    offset: int
    count: int
    connection: PollConnection


class IggyLane:
    """Polls several partitions in turn; see `source.Lane`."""

    throttled_s = 0.0

    def __init__(
        self,
        options: IggyOptions,
        claims: Sequence[Claim],
        batch: int,
        stored: dict[Partition, int],
        client: SdkClient,
    ) -> None:
        self._options = options
        self._stored = stored
        self._batch = batch
        self._who = wire.subject(wire.CONSUMER, "0", options.stream_id, options.topic_id)
        self._claimed = [_Progress(claim) for claim in claims]
        self._cleared = deque(item for item in self._claimed if item.cleared)  # not reported yet
        self._turns = deque(item for item in self._claimed if not item.cleared)
        self._polls: deque[_Poll] = deque()
        self._client = client
        self._offsets = Offsets(self._client, options)
        self._connections: list[PollConnection] = []
        polls = sum(-(-item.left() // batch) for item in self._claimed)
        try:
            address = client.leader()
            for _ in range(max(1, min(CONNECTIONS, polls))):
                self._connections.append(PollConnection(options, address))
        except BrokerError:
            self.close()
            raise
        self._free = deque(self._connections)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `source.Lane`."""
        until = time.monotonic() + max_wait_s
        if self._cleared:
            cleared = self._cleared.popleft()
            cleared.reached = True
            return (Advance(cleared.partition, 0, 0),)
        while self._turns:
            self._ask(max_messages)
            wait = max(0.0, until - time.monotonic())
            if self._polls:
                advance = self._take(wait)
                if advance is not None:
                    return (advance,)
            else:
                time.sleep(min(_PAUSE_S, wait))
            if time.monotonic() >= until:
                break
        return ()

    def _ask(self, limit: int | None) -> None:
        """Begin polls on all free connections; with a limit only one, for at most that many messages."""
        for _ in range(len(self._turns) * CONNECTIONS):
            if not self._free or (limit is not None and self._polls):
                return
            progress = self._turns[0]
            self._turns.rotate(-1)
            count = self._batch if limit is None else min(self._batch, limit)
            if progress.ahead <= progress.last:
                count = min(count, progress.last + 1 - progress.ahead)
            elif progress.ahead > progress.next or time.monotonic() - progress.idle_at < _PAUSE_S:
                continue  # the next poll depends on those under way, or no message is expected yet
            connection = self._free.popleft()
            connection.ask(wire.poll(self._who, progress.partition.number, progress.ahead, count))
            self._polls.append(_Poll(progress, progress.ahead, count, connection))
            progress.ahead += count

    def _take(self, max_wait_s: float) -> Advance | None:
        """Count the reply to the oldest poll; None: it has not arrived, or holds no message."""
        poll = self._polls[0]
        progress = poll.progress
        partition = progress.partition
        reply = poll.connection.answer(max_wait_s)
        if reply is None:
            return None
        self._polls.popleft()
        self._free.append(poll.connection)
        if reply.status:
            raise status_error(reply.status, f"{self._client.address}, {partition}", partition)
        if progress.reached or poll.offset != progress.next:
            return None  # asked for before messages turned out to be missing
        try:
            polled = wire.polled(reply.head, poll.count)
        except wire.ReplyError as error:
            raise TransientError(f"{partition}: {error}.", partition) from None
        if polled.partition != partition.number:
            raise TransientError(f"{partition}: the server did not read this partition.", partition)
        if progress.end is not None and polled.current < progress.end:
            raise self._lost(progress, progress.end, polled.current)
        progress.end = max(polled.current, NOTHING if progress.end is None else progress.end)
        if polled.first is None:
            progress.ahead, progress.idle_at = progress.next, time.monotonic()
            return None
        if polled.first + polled.messages <= poll.offset:
            raise TransientError(
                f"{partition}: a poll from offset {poll.offset} on was answered with {polled.messages}"
                f" messages from offset {polled.first} on.",
                partition,
            )
        return self._counted(poll, polled.first, polled.messages, reply.size)

    def _lost(self, progress: _Progress, end: int, current: int) -> BrokerError:
        """Why a poll's reply reports an earlier end than before.

        The server reports offset 0 for an empty partition, and also where it failed to read a full one
        (`handle_poll_messages` in its dispatch.rs): its description of the topic shows which it is.
        """
        topic = ident(self._options.stream_id), ident(self._options.topic_id)
        found = self._client.call(lambda iggy: iggy.get_topic(*topic), progress.partition)
        parts = found.partitions if found is not None else ()
        if any(part.id == progress.partition.number and part.current_offset >= end for part in parts):
            return TransientError(
                f"{progress.partition}: the server did not read this partition.", progress.partition
            )
        return BrokerError(
            f"{progress.partition} ends at {current} now, and ended at {end} before: the topic was purged or"
            " created again during the run.",
            progress.partition,
        )

    def _counted(self, poll: _Poll, first: int, messages: int, size: int) -> Advance:
        """Count the messages of a reply; retention may have deleted some that were asked for."""
        progress = poll.progress
        end = first + messages
        if progress.target is not None:
            end = min(end, progress.target + 1)
            if first > progress.target:  # retention deleted all messages up to the target
                end = progress.target + 1
        count = max(0, end - max(first, progress.next))
        progress.next = max(progress.next, end)
        if progress.next != poll.offset + poll.count:
            progress.ahead = progress.next
        progress.count += count
        if progress.cleared:
            progress.reached = True
            self._turns.remove(progress)
        return Advance(progress.partition, count, progress.left(), size)

    def settle(self) -> Sequence[Settled]:
        """See `source.Lane`; a higher offset that another client stored meanwhile is kept."""
        due = [item for item in self._claimed if item.count or item.reached]
        if not due:
            return ()
        done = []
        with self._offsets.writing():
            for progress in due:
                try:
                    messages = self._acknowledged(progress)
                except TransientError:
                    raise
                except BrokerError as error:
                    done.append(Settled(progress.partition, 0, None, str(error)))
                    continue
                progress.count = 0
                if progress.reached:
                    self._claimed = [item for item in self._claimed if item is not progress]
                done.append(Settled(progress.partition, messages, progress.next - 1))
        return done

    def _acknowledged(self, progress: _Progress) -> int:
        """Store how far a partition was read; returns how many messages that acknowledged."""
        at, messages = progress.next - 1, progress.count
        stored = self._offsets.usable(progress.partition)
        # Messages that an earlier lane stored, and could not report, count now; those of others do not.
        if stored is not None and stored != self._stored.get(progress.partition):
            messages = min(messages, max(0, at - stored))
        if at > (NOTHING if stored is None else stored):
            try:
                self._offsets.store(progress.partition, at)
            except BrokerError as error:
                # A partition that retention left empty accepts no offset, and has nothing to clear.
                if progress.count or not is_invalid_offset(error):
                    raise
            self._stored[progress.partition] = at
        return messages

    def close(self) -> None:
        """See `source.Lane`."""
        for connection in self._connections:
            connection.close()

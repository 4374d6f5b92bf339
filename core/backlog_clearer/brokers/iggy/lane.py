"""A lane: one connection with a few polls under way, whose replies are processed in order.

One, because each login with a password costs the server some 50 ms of CPU (argon2), and many slices may begin
at once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.connection import TIMEOUT_S, Reply
from backlog_clearer.brokers.iggy.errors import ContentionError, is_invalid_offset, status_error
from backlog_clearer.brokers.iggy.logs import TopicLogs
from backlog_clearer.brokers.iggy.offsets import LogGuard, OffsetWriter
from backlog_clearer.brokers.iggy.poll_wire import Polled, PollWalk
from backlog_clearer.brokers.iggy.positions import (
    NOTHING,
    LogFacts,
    as_offset,
    as_offset_or_none,
    beyond_end,
)
from backlog_clearer.brokers.iggy.wire import StoredOffset
from backlog_clearer.brokers.shared.sent import SentPositions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

_LOG = logging.getLogger("backlog_clearer")
_UNDER_WAY = 2  # polls sent before the first of them is answered
_GROW_AFTER = 100  # polls that were answered
_POSTPONED = 3  # settles in a row that may wait for the next one, because others were in the way
_PAUSE_S = 0.02  # between polls of a partition at whose end nothing new has arrived


class PollSizes:
    """How many messages to ask for at a time, by partition; shared by lanes, which share no partition.

    A reply that breaks its connection may be too large, so half as many are asked for afterwards.
    """

    def __init__(self) -> None:
        self._most: dict[Partition, int] = {}
        self._now: dict[Partition, int] = {}
        self._answered: dict[Partition, int] = {}

    def survey(self, partition: Partition, most: int) -> None:
        """Set the most to ask for."""
        self._most[partition] = most
        self._now.setdefault(partition, most)

    def of(self, partition: Partition) -> int:
        """How many to ask for now."""
        return min(self._now.get(partition, 1), self._most.get(partition, 1))

    def halve(self, partition: Partition, asked: int) -> None:
        """A poll for so many got no answer."""
        self._now[partition] = max(1, asked // 2)
        self._answered[partition] = 0

    def answered(self, partition: Partition) -> None:
        """A poll was answered: ask for more again after many of them."""
        self._answered[partition] = self._answered.get(partition, 0) + 1
        if not self._answered[partition] % _GROW_AFTER:
            self._now[partition] = min(2 * self.of(partition), self._most.get(partition, 1))


class _Progress:
    """How far a lane has read one partition."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
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


@dataclass(frozen=True, slots=True)
class LaneTools:
    """What a source's lanes share."""

    client: IggyCluster
    logs: TopicLogs
    guard: LogGuard
    writer: OffsetWriter
    sizes: PollSizes
    sent: SentPositions
    answer_s: float  # how long a lane's connection may be silent


class IggyLane:
    """Polls several partitions in turn; see `source.Lane`."""

    throttled_s = 0.0

    def __init__(self, claims: Sequence[Claim], tools: LaneTools) -> None:
        self._tools = tools
        self._claimed = [_Progress(claim) for claim in claims]
        self._polls: deque[_Poll] = deque()
        self._postponed = 0  # settles in a row
        self._begin()
        self._cleared = deque(item for item in self._claimed if item.cleared)  # not reported yet
        self._turns = deque(item for item in self._claimed if not item.cleared)
        self._reader = tools.logs.reader
        self._connection = tools.client.opened(tools.client.leader(), min(TIMEOUT_S, tools.answer_s))

    def _begin(self) -> None:
        """Refuse logs that are not the surveyed ones; one that was cut off has a nearer target."""
        for progress, now, _ in self._looked(self._claimed):
            if isinstance(now, BrokerError):
                raise now
            if self._tools.guard.is_cut(progress.partition, now):
                self._cut(progress, now)

    def _looked(
        self, items: Sequence[_Progress]
    ) -> Iterator[tuple[_Progress, LogFacts | BrokerError, StoredOffset | None]]:
        """Each partition as it is now with its stored offset, or why nothing may be stored in it."""
        logs, guard = self._tools.logs, self._tools.guard
        partitions = [item.partition for item in items]
        facts, stored = logs.looked(partitions)
        for progress in items:
            partition = progress.partition
            now, at = facts[partition], stored[partition]
            error = now if isinstance(now, BrokerError) else at if isinstance(at, BrokerError) else None
            if isinstance(now, LogFacts) and not isinstance(at, BrokerError):
                error = guard.problem(partition, now, at, progress.claim.state.incarnation)
                text = beyond_end(at, now.extent.current) if error is None and at is not None else None
                if text:
                    error = BrokerError(f"{self._tools.client.where(partition)}: {text}", partition)
            if isinstance(error, TransientError):
                raise error
            yield progress, error or now, None if isinstance(at, BrokerError) else at

    def _cut(self, progress: _Progress, now: LogFacts) -> None:
        """The server restarted without the partition's last messages: what is left ends earlier."""
        end = now.extent.end
        progress.end = end
        if progress.target is not None:
            progress.target = min(progress.target, end)
        progress.next = progress.ahead = min(progress.next, end + 1)

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
        """Begin as many polls as may be under way; with a limit one, for at most that many messages."""
        for _ in range(len(self._turns) * _UNDER_WAY):
            if len(self._polls) >= (_UNDER_WAY if limit is None else 1):
                return
            progress = self._turns[0]
            self._turns.rotate(-1)
            count = self._tools.sizes.of(progress.partition)
            if limit is not None:
                count = min(count, limit)
            if progress.ahead <= progress.last:
                count = min(count, progress.last + 1 - progress.ahead)
            elif progress.ahead > progress.next or time.monotonic() - progress.idle_at < _PAUSE_S:
                continue  # the next poll depends on those under way, or no message is expected yet
            payload = wire.poll(self._reader, progress.partition.number, progress.ahead, count)
            walk = PollWalk(count, wire.MAX_OFFSET if progress.target is None else progress.target)
            self._connection.ask(wire.READ, wire.POLL, payload, walk)
            self._polls.append(_Poll(progress, progress.ahead, count))
            progress.ahead += count

    def _take(self, max_wait_s: float) -> Advance | None:
        """Count the reply to the oldest poll; None: it has not arrived, or holds no message."""
        poll = self._polls[0]
        progress = poll.progress
        partition = progress.partition
        try:
            reply = self._connection.answer(max_wait_s)
        except wire.ReplyError as error:
            raise TransientError(f"{partition}: {error}.", partition) from None
        except TransientError:
            self._tools.sizes.halve(partition, poll.count)
            raise
        if reply is None:
            return None
        self._polls.popleft()
        polled = self._polled(partition, reply)
        self._tools.sizes.answered(partition)
        if progress.reached or poll.offset != progress.next:
            return None  # asked for before offsets turned out to have gaps
        if progress.end is not None and polled.current < progress.end:
            return self._ends_earlier(progress, polled.current)
        progress.end = max(polled.current, NOTHING if progress.end is None else progress.end)
        if polled.first is None or polled.last is None:
            return self._nothing(poll, polled)
        if polled.first < poll.offset:
            raise TransientError(
                f"{partition}: a poll from offset {poll.offset} on was answered from offset"
                f" {polled.first} on.",
                partition,
            )
        for hole in ((poll.offset, polled.first), *polled.holes):
            self._tools.guard.hole(partition, *hole)
        progress.count += polled.messages
        end = polled.last if progress.target is None else min(polled.last, progress.target)
        progress.next = end + 1
        if progress.next != poll.offset + poll.count:
            progress.ahead = progress.next
        return self._advance(progress, polled.messages, reply.size)

    def _polled(self, partition: Partition, reply: Reply) -> Polled:
        """The reply to a poll of a partition; raises for one that is not that."""
        if reply.status:
            raise status_error(reply.status, self._tools.client.where(partition), partition)
        if reply.polled is None or reply.polled.partition != partition.number:
            raise TransientError(f"{partition}: the server did not read this partition.", partition)
        return reply.polled

    def _advance(self, progress: _Progress, messages: int, size: int) -> Advance:
        if progress.cleared:
            progress.reached = True
            self._turns.remove(progress)
        return Advance(progress.partition, messages, progress.left(), size)

    def _nothing(self, poll: _Poll, polled: Polled) -> Advance | None:
        """An empty reply: the end, or offsets without a message, if the server's figures show that."""
        progress, partition = poll.progress, poll.progress.partition
        progress.ahead = progress.next
        if polled.current < poll.offset:
            progress.idle_at = time.monotonic()
            return None
        now = self._tools.logs.looked([partition])[0][partition]
        if isinstance(now, BrokerError):
            raise now
        skipped = self._tools.guard.skipped(partition, now.extent.first, progress.next)
        if now.extent.may_follow(progress.next - 1, polled.current, skipped):
            raise TransientError(f"{partition}: the server did not read this partition.", partition)
        end = polled.current if progress.target is None else min(polled.current, progress.target)
        progress.next = progress.ahead = max(progress.next, end + 1)
        return self._advance(progress, 0, 0)

    def _ends_earlier(self, progress: _Progress, current: int) -> Advance | None:
        """A reply shows an earlier end than before: the log was purged or cut, or was not read.

        The server reports offset 0 for an empty partition, and also where it failed to read a full one
        (`handle_poll_messages` in its dispatch.rs): its description of the topic shows which it is.
        """
        ((_, now, _),) = self._looked([progress])
        if isinstance(now, BrokerError):
            raise now
        if now.extent.current > current:
            raise TransientError(
                f"{progress.partition}: the server did not read this partition.", progress.partition
            )
        self._cut(progress, now)
        return self._advance(progress, 0, 0) if progress.cleared else None

    def settle(self) -> Sequence[Settled]:
        """See `source.Lane`; a higher offset that another client stored meanwhile is kept."""
        due = [item for item in self._claimed if item.count or item.reached]
        try:
            done = self._settled(due) if due else ()
        except ContentionError as error:
            # A new lane would read again what the next settle of this one can acknowledge.
            self._postponed += 1
            over = any(item.reached for item in due) or self._tools.client.waits.stopping
            if over or self._postponed > _POSTPONED:
                raise
            _LOG.info("Acknowledging is postponed: %s", error)
            return ()
        self._postponed = 0
        return done

    def _settled(self, due: Sequence[_Progress]) -> Sequence[Settled]:
        counts: dict[_Progress, int] = {}  # messages that are this run's
        failed: dict[Partition, BrokerError] = {}
        offsets: dict[Partition, int] = {}
        with self._tools.writer.writing():
            for progress, now, stored in self._looked(due):
                if isinstance(now, BrokerError):
                    failed[progress.partition] = now
                    continue
                place = NOTHING if stored is None else stored.offset
                counts[progress] = self._own(progress, stored)
                if progress.next - 1 > place:
                    offsets[progress.partition] = progress.next - 1
            for progress, messages in counts.items():
                self._tools.sent.sending(progress.partition, progress.next - 1, messages)
            failed |= self._tools.writer.store_checked(offsets)
        done = []
        settled: list[tuple[_Progress, int]] = []
        for progress in due:
            partition, error = progress.partition, failed.get(progress.partition)
            # A partition that retention left empty accepts no offset, and has nothing to clear.
            if error is not None and (progress.count or not is_invalid_offset(error)):
                done.append(Settled(partition, 0, None, str(error)))
                continue
            settled.append((progress, counts[progress]))
            done.append(Settled(partition, counts[progress], progress.next - 1))
        for progress, messages in settled:  # now that all of them can be reported
            self._tools.sent.reported(progress.partition, progress.next - 1, messages)
            progress.count = 0
        over = [progress for progress, _ in settled if progress.reached]
        self._claimed = [item for item in self._claimed if item not in over]
        return done

    def _own(self, progress: _Progress, stored: StoredOffset | None) -> int:
        """How many of the messages read are this run's: those that others acknowledged are not.

        Messages that an earlier lane stored, and could not report, are.
        """
        if stored is None or self._tools.guard.is_own(progress.partition, stored.offset):
            return progress.count
        return min(progress.count, max(0, progress.next - 1 - stored.offset))

    def close(self) -> None:
        """See `source.Lane`."""
        self._connection.close()

"""A lane: a few connections, each with one poll under way, whose replies are taken in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import INVALID_OFFSET, Client, ident
from backlog_clearer.brokers.iggy.connection import PollConnection
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import NOTHING, Offsets, number, required
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

CONNECTIONS = 2
_PAUSE_S = 0.02  # between polls of a partition at whose end nothing new has arrived


class _Share:
    """One partition that a lane reads."""

    def __init__(self, claim: Claim) -> None:
        self.partition = claim.partition
        self.target = number(claim.target)
        stored = claim.resume if claim.resume is not None else claim.state.position
        start = number(claim.state.start) or 0
        self.next = start if stored is None else max(start, required(stored) + 1)
        self.ahead = self.next  # the next offset to ask for: polls under way come before it
        self.end = number(claim.state.end)
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
        """Messages up to the target, or the end as last told."""
        return max(0, self.last + 1 - self.next)


@dataclass(slots=True)
class _Window:
    """A poll under way."""

    share: _Share
    offset: int
    count: int
    payload: bytes
    connection: PollConnection


class IggyLane:
    """Polls several partitions in turn; see `source.Lane`."""

    def __init__(
        self,
        options: IggyOptions,
        claims: Sequence[Claim],
        batch: int,
        stored: dict[Partition, int],
        client: Client,
    ) -> None:
        self._options = options
        self._stored = stored
        self._batch = batch
        self._who = wire.subject(wire.CONSUMER, "0", options.stream_id, options.topic_id)
        self._shares = [_Share(claim) for claim in claims]
        self._cleared = deque(share for share in self._shares if share.cleared)  # not told yet
        self._turns = deque(share for share in self._shares if not share.cleared)
        self._windows: deque[_Window] = deque()
        self._client = client
        self._offsets = Offsets(self._client, options)
        self._connections: list[PollConnection] = []
        polls = sum(-(-share.left() // batch) for share in self._shares)
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
            share = self._cleared.popleft()
            share.reached = True
            return (Advance(share.partition, 0, 0),)
        while self._turns:
            self._ask(max_messages)
            wait = max(0.0, until - time.monotonic())
            if self._windows:
                advance = self._take(wait)
                if advance is not None:
                    return (advance,)
            else:
                time.sleep(min(_PAUSE_S, wait))
            if time.monotonic() >= until:
                break
        return ()

    def _ask(self, limit: int | None) -> None:
        """Begin polls on all free connections; with a limit one alone, and for no more than that."""
        for _ in range(len(self._turns) * CONNECTIONS):
            if not self._free or (limit is not None and self._windows):
                return
            share = self._turns[0]
            self._turns.rotate(-1)
            count = self._batch if limit is None else min(self._batch, limit)
            if share.ahead <= share.last:
                count = min(count, share.last + 1 - share.ahead)
            elif share.ahead > share.next or time.monotonic() - share.idle_at < _PAUSE_S:
                continue  # what is to come depends on what is under way, or nothing is to be expected
            connection = self._free.popleft()
            payload = wire.poll(self._who, share.partition.number, share.ahead, count)
            connection.ask(payload)
            self._windows.append(_Window(share, share.ahead, count, payload, connection))
            share.ahead += count

    def _take(self, max_wait_s: float) -> Advance | None:
        """Count the reply to the oldest poll; None: it is not here yet, or brought nothing."""
        window = self._windows[0]
        share = window.share
        reply = window.connection.answer(max_wait_s)
        if reply is None:
            return None
        self._windows.popleft()
        self._free.append(window.connection)
        if reply.status:
            # The library, asked the same, says in words what is wrong.
            self._client.request(wire.POLL, window.payload, share.partition)
            raise TransientError(
                f"{share.partition}: the server answered with status {reply.status}.", share.partition
            )
        if share.reached or window.offset != share.next:
            return None  # asked for before it was known that messages are missing
        try:
            polled = wire.polled(reply.head)
        except wire.ReplyError as error:
            raise TransientError(f"{share.partition}: {error}.", share.partition) from None
        if polled.partition != share.partition.number:
            raise TransientError(
                f"{share.partition}: the server did not look at this partition.", share.partition
            )
        if share.end is not None and polled.current < share.end:
            raise self._lost(share, share.end, polled.current)
        share.end = max(polled.current, NOTHING if share.end is None else share.end)
        if polled.first is None:
            share.ahead, share.idle_at = share.next, time.monotonic()
            return None
        return self._counted(share, window, polled.first, polled.messages, reply.size)

    def _lost(self, share: _Share, end: int, current: int) -> BrokerError:
        """Why a partition is said to end before where it ended.

        The server says so of an empty partition, and also where it failed to read a full one
        (`handle_poll_messages` in its dispatch.rs): what it says of the topic tells which it is.
        """
        topic = ident(self._options.stream_id), ident(self._options.topic_id)
        found = self._client.call(lambda iggy: iggy.get_topic(*topic), share.partition)
        parts = found.partitions if found is not None else ()
        if any(part.id == share.partition.number and part.current_offset >= end for part in parts):
            return TransientError(
                f"{share.partition}: the server did not read this partition.", share.partition
            )
        return BrokerError(
            f"{share.partition} ends at {current} now, and ended at {end} before: the topic was purged or"
            " created anew during the run.",
            share.partition,
        )

    def _counted(self, share: _Share, window: _Window, first: int, messages: int, size: int) -> Advance:
        """Count what came; retention may have moved the log's start beyond what was asked for."""
        behind = first + messages
        if share.target is not None:
            behind = min(behind, share.target + 1)
            if first > share.target:  # all of it was deleted meanwhile
                behind = share.target + 1
        count = max(0, behind - max(first, share.next))
        share.next = max(share.next, behind)
        if share.next != window.offset + window.count:
            share.ahead = share.next
        share.count += count
        if share.cleared:
            share.reached = True
            self._turns.remove(share)
        return Advance(share.partition, count, share.left(), size)

    def settle(self) -> Sequence[Settled]:
        """See `source.Lane`; a higher offset that somebody else stored meanwhile stays."""
        due = [share for share in self._shares if share.count or share.reached]
        if not due:
            return ()
        done = []
        with self._offsets.writing():
            for share in due:
                try:
                    messages = self._acknowledged(share)
                except TransientError:
                    raise
                except BrokerError as error:
                    done.append(Settled(share.partition, 0, None, str(error)))
                    continue
                share.count = 0
                if share.reached:
                    self._shares = [each for each in self._shares if each is not share]
                done.append(Settled(share.partition, messages, share.next - 1))
        return done

    def _acknowledged(self, share: _Share) -> int:
        """Store how far a partition was read; how many messages that acknowledged."""
        at, messages = share.next - 1, share.count
        stored = self._offsets.get(share.partition)
        # What an earlier lane stored, and could not report, counts now; what others stored does not.
        if stored is not None and stored != self._stored.get(share.partition):
            messages = min(messages, max(0, at - stored))
        if at > (NOTHING if stored is None else stored):
            try:
                self._offsets.store(share.partition, at)
            except BrokerError as error:
                # A partition that retention left empty takes no offset, and has nothing to clear.
                if share.count or INVALID_OFFSET not in str(error):
                    raise
            self._stored[share.partition] = at
        return messages

    def close(self) -> None:
        """See `source.Lane`."""
        for connection in self._connections:
            connection.close()

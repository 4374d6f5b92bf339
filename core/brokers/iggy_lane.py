"""A lane: a few connections, each with one poll under way, whose replies are taken in order.

The client sends one request at a time on a connection, and the server, the network and the client work
in turn. Four connections in one process brought 11.4M messages of 100 B a second, two 8.8M/s and one
5.4M/s (against the server of `make bench-iggy`, 10,000 a poll).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from core.brokers import iggy_wire as wire
from core.brokers.iggy_client import INVALID_OFFSET, TIMEOUT_S, Client
from core.brokers.iggy_offsets import NOTHING, Offsets, number, required
from core.errors import BrokerError, TransientError
from core.model import Advance, Claim, Partition, Settled
from core.options.iggy import IggyOptions

CONNECTIONS = 4
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
    client: Client
    reply: asyncio.Future[bytes]
    begun: float


class IggyLane:
    """Polls several partitions in turn; see `core.source.Lane`."""

    def __init__(
        self,
        options: IggyOptions,
        claims: Sequence[Claim],
        batch: int,
        stored: dict[Partition, int],
    ) -> None:
        self._stored = stored
        self._batch = batch
        self._who = wire.subject(wire.CONSUMER, "0", options.stream_id, options.topic_id)
        self._loop = asyncio.new_event_loop()
        self._shares = [_Share(claim) for claim in claims]
        self._cleared = deque(share for share in self._shares if share.cleared)  # not told yet
        self._turns = deque(share for share in self._shares if not share.cleared)
        self._windows: deque[_Window] = deque()
        polls = sum(-(-share.left() // batch) for share in self._shares)
        self._clients = [Client(options, self._loop) for _ in range(max(1, min(CONNECTIONS, polls)))]
        self._free = deque(self._clients)
        self._offsets = Offsets(self._clients[0], options)
        try:
            for client in self._clients:
                client.connect()
        except BrokerError:
            self.close()
            raise

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `core.source.Lane`."""
        until = time.monotonic() + max_wait_s
        if self._cleared:
            share = self._cleared.popleft()
            share.reached = True
            return (Advance(share.partition, 0, 0),)
        while self._turns:
            self._loop.run_until_complete(self._converse(max_messages, until))
            if self._windows and self._windows[0].reply.done():
                advance = self._take(self._windows.popleft())
                if advance is not None:
                    return (advance,)
            if time.monotonic() >= until:
                break
        return ()

    async def _converse(self, limit: int | None, until: float) -> None:
        """Begin polls, and wait until the oldest is answered; raises `TransientError`."""
        self._ask(limit)
        wait = max(0.0, until - time.monotonic())
        if not self._windows:
            await asyncio.sleep(min(_PAUSE_S, wait))
            return
        oldest = self._windows[0]
        if not oldest.reply.done():
            await asyncio.wait({oldest.reply}, timeout=wait)
            if not oldest.reply.done() and time.monotonic() - oldest.begun > TIMEOUT_S:
                raise oldest.client.silence(oldest.share.partition)

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
            client = self._free.popleft()
            payload = wire.poll(self._who, share.partition.number, share.ahead, count)
            reply = client.begin(wire.POLL, payload)
            self._windows.append(_Window(share, share.ahead, count, client, reply, time.monotonic()))
            share.ahead += count

    def _take(self, window: _Window) -> Advance | None:
        """Count the reply of a poll; None: it brought nothing."""
        share = window.share
        self._free.append(window.client)
        reply = window.client.result(window.reply, share.partition)
        if share.reached or window.offset != share.next:
            return None  # asked for before it was known that messages are missing
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
        share.end = max(polled.current, NOTHING if share.end is None else share.end)
        if polled.first is None:
            share.ahead, share.idle_at = share.next, time.monotonic()
            return None
        return self._counted(share, window, polled.first, polled.messages, len(reply))

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
        """See `core.source.Lane`."""
        if self._loop.is_closed():
            return
        replies = [window.reply for window in self._windows]
        for reply in replies:
            reply.cancel()
        if replies:
            self._loop.run_until_complete(asyncio.wait(replies, timeout=1.0))
        self._windows.clear()
        for client in self._clients:
            client.close()
        self._loop.close()

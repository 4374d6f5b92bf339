"""A lane: what is pending first, then what was never delivered, read without delivering it."""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Settled
from tests.adapters.redis_streams.connection import open_client, translated
from tests.adapters.redis_streams.groups import acknowledge, advance, group_place
from tests.adapters.redis_streams.options import RedisOptions
from tests.adapters.redis_streams.positions import START, Id, Place, parse_id, place_of


class RedisLane:
    """Reads with XRANGE and moves the group's last delivered id; see `source.Lane`.

    XREADGROUP would hand entries to a consumer of this lane: those beyond the target would be taken from
    the group's own consumers, and those of a lane that crashed would be pending until another consumer
    claimed them. XRANGE delivers nothing, so there is nothing to give back.
    """

    throttled_s = 0.0

    def __init__(self, options: RedisOptions, claims: Sequence[Claim], batch: int) -> None:
        """Raises `TransientError` or `BrokerError`."""
        (claim,) = claims  # a stream is one partition
        self._options = options
        self._partition = claim.partition
        self._batch = batch
        self._target = None if claim.target is None else place_of(claim.target)
        self._client = open_client(options)
        stored = group_place(self._client, options)
        known = [place_of(each) for each in (claim.resume, claim.state.position) if each is not None]
        self._at = max([stored, *known], key=lambda place: place.id)
        self._settled = self._at  # where the group is, as far as this lane knows
        self._pending_from: Id | None = stored.oldest  # None: all of them are read
        self._pending: list[str] = []  # read, and not acknowledged yet
        self._count = 0  # never delivered, read, and not acknowledged yet
        self._done = False

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `source.Lane`."""
        limit = self._batch if max_messages is None else min(self._batch, max_messages)
        if self._done or not limit:
            return ()
        with translated(self._options, "reading"):
            pending = self._read_pending(limit)
            if pending:
                return (Advance(self._partition, pending, None),)
            return self._read_range(limit, max_wait_s)

    def _read_pending(self, limit: int) -> int:
        """Note the next entries that were delivered to others and not acknowledged; how many."""
        if self._pending_from is None:
            return 0
        last = "+" if self._target is None else str(self._target.id)
        options = self._options
        found = self._client.xpending_range(
            options.stream, options.group, str(self._pending_from), last, limit
        )
        ids = [str(item["message_id"]) for item in found]
        self._pending += ids
        self._pending_from = None if len(ids) < limit else _after(parse_id(ids[-1]))
        return len(ids)

    def _read_range(self, limit: int, max_wait_s: float) -> Sequence[Advance]:
        """Read entries that were never delivered, up to the target."""
        stream, target = self._options.stream, self._target
        if target is not None and self._at.id >= target.id:
            self._done = True
            return (Advance(self._partition, 0, 0),)
        last = "+" if target is None else str(target.id)
        found = self._client.xrange(stream, str(_after(self._at.id)), last, limit)
        if not found and target is None:
            wait_ms = max(1, int(max_wait_s * 1000))  # 0 would wait without an end
            answer = self._client.xread({stream: str(self._at.id)}, limit, wait_ms)
            found = answer[0][1] if answer else []
        if target is not None and len(found) < limit:  # nothing more exists up to the target
            self._done = True
            self._at = target
        elif found:
            entries = None if self._at.entries is None else self._at.entries + len(found)
            self._at = Place(parse_id(found[-1][0]), entries)
        else:
            return ()
        self._count += len(found)
        return (Advance(self._partition, len(found), 0 if self._done else None),)

    def settle(self) -> Sequence[Settled]:
        """Acknowledge pending entries, then move the last delivered id; see `source.Lane`.

        Counts pending entries that XACK confirms, and of the others those that no other process has
        acknowledged meanwhile.
        """
        if not self._pending and self._at.id == self._settled.id:
            return ()
        options = self._options
        try:
            with translated(options, "acknowledging"):
                messages = acknowledge(self._client, options, self._pending)
                self._pending = []
                if self._at.id > self._settled.id:
                    stored = advance(self._client, options, self._at)
                    overtaken = stored.id > self._settled.id
                    messages += self._later_than(stored.id) if overtaken else self._count
        except TransientError:
            raise
        except BrokerError as error:
            return (Settled(self._partition, 0, None, str(error)),)
        self._count = 0
        self._settled = self._at
        return (Settled(self._partition, messages, self._at.position()),)

    def _later_than(self, stored: Id) -> int:
        """How many entries up to where this lane has read are later than an id."""
        if stored >= self._at.id:
            return 0
        last = str(self._at.id)
        return min(
            self._count, len(self._client.xrange(self._options.stream, str(_after(stored)), last))
        )

    def close(self) -> None:
        """See `source.Lane`."""
        self._client.close()


def _after(id_: Id) -> Id:
    """The id just after, as the start of a range."""
    return Id(id_.ms, id_.sequence + 1) if id_ != START else Id(0, 1)

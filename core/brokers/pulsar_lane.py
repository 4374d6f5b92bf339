"""Lanes: the library's bare consumers, one a partition, acknowledged by entries.

A message is counted once read; an entry is acknowledged once all of its messages are counted, so
that what is counted as acknowledged holds also where the broker keeps no index within a batch.
Exclusive and Failover acknowledge cumulatively, one call a settle. Shared and Key_Shared
acknowledge entry by entry, for the library takes no lists; a batch is one entry.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import _pulsar
import pulsar

from core.brokers.pulsar_client import open_client, subscribe, translated
from core.brokers.pulsar_positions import Entries, Layout, Place, place
from core.errors import BrokerError
from core.model import Advance, Claim, Partition, Settled
from core.options.pulsar import PulsarOptions, SubscriptionType

_BATCHED = 1 << 30  # behind every index within a batch
_BYTES = 2  # the wire type of a field with a length
_SILENT_S = 1.0  # silence after which only the broker's figures can tell whether anything is left


@dataclass
class Ledger:
    """What all lanes of a source have acknowledged; its methods may be called from any thread."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[Partition, Entries] = field(default_factory=dict)  # where lanes compete
    acked: dict[Partition, Place] = field(default_factory=dict)  # cumulatively

    def known(self, partition: Partition, at: Place) -> bool:
        """Whether an entry was counted and acknowledged before."""
        with self.lock:
            seen = self.entries.get(partition)
            return seen is not None and at in seen

    def add(self, partition: Partition, places: Sequence[Place]) -> None:
        """Note entries as acknowledged."""
        with self.lock:
            seen = self.entries.setdefault(partition, Entries())
            for at in places:
                seen.add(at)

    def reach(self, partition: Partition, at: Place) -> None:
        """Note that everything up to a place is acknowledged."""
        with self.lock:
            self.acked[partition] = max(at, self.acked.get(partition, at))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every lane of a source."""

    options: PulsarOptions
    kind: SubscriptionType
    topics: Mapping[Partition, str]
    layouts: Mapping[Partition, Layout]  # without the admin API: empty
    batch: int  # messages a read asks for
    queue: int  # messages that the library holds ready for one consumer
    ledger: Ledger

    @property
    def competing(self) -> bool:
        """Whether consumers share a partition's messages."""
        return self.kind in (SubscriptionType.SHARED, SubscriptionType.KEY_SHARED)


@dataclass(slots=True)
class _Run:
    """Messages of one entry, as they arrived."""

    at: Place
    id: Any
    count: int
    complete: bool
    counted: bool  # False: it was counted before, and is only acknowledged again


def _key(message: Any) -> tuple[int, int, int]:
    found = message.message_id()
    return found.ledger_id(), found.entry_id(), found.batch_index()


def _place(message: Any) -> Place:
    found = message.message_id()
    return Place(found.ledger_id(), found.entry_id())


def _batch_size(id_: Any) -> int:
    """How many messages the entry holds; 0: the library does not tell.

    It is field 6 of the identifier's wire format, behind all others, as a varint.
    """
    return batch_size(id_.serialize())


def batch_size(wire: bytes) -> int:
    """Field 6 of a serialized `MessageIdData`; 0: not there. Raises `ValueError` if it is none."""
    index = 0
    while index < len(wire):
        tag, index = _varint(wire, index)
        value, index = _varint(wire, index)
        if tag & 7 == _BYTES:
            index += value
        elif tag == 6 << 3:
            return value
    return 0


def _varint(wire: bytes, index: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if index >= len(wire):
            raise ValueError("this is no message identifier")
        byte = wire[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:  # noqa: PLR2004 the bit that says that more follows
            return value, index
        shift += 7


def _complete(id_: Any) -> bool:
    """Whether this message is the last of its entry."""
    index = id_.batch_index()
    return bool(index < 0 or index + 1 == _batch_size(id_))


class _Share:
    """One partition that a lane reads."""

    def __init__(self, claim: Claim, setting: Setting, consumer: Any) -> None:
        self.partition = claim.partition
        self.consumer = consumer
        self.target = None if claim.target is None else place(claim.target)
        self.layout = setting.layouts.get(claim.partition)
        self.setting = setting
        stored = claim.resume if claim.resume is not None else claim.state.position
        start = Place(-1, -1) if stored is None else place(stored)
        if self.layout and self.layout.mark_delete:
            start = max(start, self.layout.mark_delete)
        self.at = (start.ledger, start.entry, _BATCHED)  # the last message counted
        self.surplus: Sequence[Any] = ()
        self.active_at = time.monotonic()
        self.doubted = False
        self.reached = False
        # Cumulative: counted since the last settle, and the last message of a complete entry.
        self.counted = 0
        self.ready = 0
        self.ready_id: Any = None
        # Competing: entries to acknowledge, the last of which may be incomplete.
        self.runs: list[_Run] = []

    def receive(self, limit: int | None) -> Advance | None:
        """What arrived, within the wait set at subscribing; None: nothing to say."""
        messages = self.surplus or self.consumer.batch_receive()
        self.surplus = ()
        if not messages:
            return self._silence()
        self.active_at, self.doubted = time.monotonic(), False
        take = self._take_competing if self.setting.competing else self._take_in_order
        count = take(messages, limit)
        left = self.left()
        if left == 0 and self.target is not None and not self.setting.competing:
            self.reached = True
        return Advance(self.partition, count, left) if count or self.reached else None

    def _silence(self) -> Advance | None:
        """Say once that the count is not to be trusted: what is left may never be delivered."""
        if self.doubted or time.monotonic() - self.active_at < _SILENT_S:
            return None
        self.doubted = True
        return Advance(self.partition, 0, None)

    def left(self) -> int | None:
        """Entries up to the target that are not read yet, by the ledgers; None: unknown."""
        if self.setting.competing:
            return None
        at = Place(self.at[0], self.at[1])
        if self.target is not None and at >= self.target and self._entry_done():
            return 0
        if self.layout is None or at.ledger < 0:
            return None
        target = self.layout.end if self.target is None else self.target
        left = replace(self.layout, mark_delete=at).left(target)
        if self.target is not None and not left:
            return 0 if self._entry_done() else 1
        return left

    def _entry_done(self) -> bool:
        return self.counted == self.ready

    def _take_in_order(self, messages: Sequence[Any], limit: int | None) -> int:
        """Count what is new and before the target; the library delivers in order."""
        first = 0
        if _key(messages[0]) <= self.at:  # delivered again after a lost connection
            first = bisect_right(messages, self.at, key=_key)
        last = len(messages)
        target = self.target
        if target is not None and _place(messages[-1]) > target:
            last = bisect_right(messages, target, key=_place)
        beyond = last < len(messages)
        if limit is not None and last - first > limit:
            last, beyond = first + limit, False
            self.surplus = messages[last:]
        if last > first:
            id_ = messages[last - 1].message_id()
            index = id_.batch_index()
            self.at = (id_.ledger_id(), id_.entry_id(), index if index >= 0 else _BATCHED)
            self.counted += last - first
            if beyond or _complete(id_):
                self.ready, self.ready_id = self.counted, id_
            else:
                start = bisect_left(messages, Place(*self.at[:2]), first, last, key=_place)
                if start > first:
                    self.ready = self.counted - (last - start)
                    self.ready_id = messages[start - 1].message_id()
        if beyond and target is not None:  # nothing before the target can follow
            self.at = max(self.at, (target.ledger, target.entry, _BATCHED))
        return max(0, last - first)

    def _take_competing(self, messages: Sequence[Any], limit: int | None) -> int:
        """Count entry by entry: what comes may be anything that nobody has acknowledged."""
        count = index = 0
        total = len(messages)
        while index < total:
            if limit is not None and count >= limit:
                self.surplus = messages[index:]
                break
            id_ = messages[index].message_id()
            at = Place(id_.ledger_id(), id_.entry_id())
            end = self._end_of_entry(messages, index, at, id_)
            if self.target is not None and at > self.target:
                index = end
                continue
            known = self.setting.ledger.known(self.partition, at)
            if limit is not None and not known:
                end = min(end, index + limit - count)
            self._note(at, messages[end - 1].message_id(), end - index, counted=not known)
            count += 0 if known else end - index
            index = end
        return count

    @staticmethod
    def _end_of_entry(messages: Sequence[Any], index: int, at: Place, id_: Any) -> int:
        """Where the messages of an entry end in a run; jumps by the size that a batch tells."""
        within = id_.batch_index()
        if within < 0:
            return index + 1
        guess: int = min(len(messages), index + max(1, _batch_size(id_) - within))
        if _place(messages[guess - 1]) == at:
            return guess
        end = index + 1  # some of the batch were acknowledged before
        while end < len(messages) and _place(messages[end]) == at:
            end += 1
        return end

    def _note(self, at: Place, id_: Any, count: int, *, counted: bool) -> None:
        last = self.runs[-1] if self.runs else None
        if last is not None and last.at == at:
            last.count += count
            last.id = id_
            last.complete = _complete(id_)
            return
        if last is not None:
            last.complete = True  # a consumer gets an entry whole, before the next one
        self.runs.append(_Run(at, id_, count, _complete(id_), counted))

    def settle(self) -> Settled | None:
        """Acknowledge the complete entries; None: there is nothing to acknowledge."""
        return self._settle_competing() if self.setting.competing else self._settle_in_order()

    def _settle_in_order(self) -> Settled | None:
        if self.ready_id is None:
            return None
        self.consumer.acknowledge_cumulative(self.ready_id)
        at = Place(self.ready_id.ledger_id(), self.ready_id.entry_id())
        messages = self.ready
        self.counted -= messages
        self.ready, self.ready_id = 0, None
        if self.reached and self.target is not None:
            at = max(at, self.target)
        self.setting.ledger.reach(self.partition, at)
        return Settled(self.partition, messages, str(at))

    def _settle_competing(self) -> Settled | None:
        done = [run for run in self.runs if run.complete]
        if not done:
            return None
        acknowledge = self.consumer.acknowledge
        for run in done:
            # Without an index within the batch, an identifier stands for the whole entry.
            batched = run.id.batch_index() >= 0
            acknowledge(_pulsar.MessageId(-1, *run.at, -1) if batched else run.id)
        self.runs = [run for run in self.runs if not run.complete]
        self.setting.ledger.add(self.partition, [run.at for run in done])
        return Settled(self.partition, sum(run.count for run in done if run.counted), None)


class PulsarLane:
    """A client with one consumer for each claim."""

    def __init__(self, setting: Setting, claims: Sequence[Claim]) -> None:
        self._setting = setting
        self._client: pulsar.Client | None = open_client(setting.options)
        self._turns: deque[_Share] = deque()
        self._shares: list[_Share] = []
        wait_ms = max(2, min(100, 200 // max(1, len(claims))))
        try:
            for claim in claims:
                self._open(claim, wait_ms)
        except BrokerError:
            self.close()
            raise

    def _open(self, claim: Claim, wait_ms: int) -> None:
        setting = self._setting
        with translated(setting.options, claim.partition):
            consumer = subscribe(
                self._client,
                setting.options,
                setting.topics[claim.partition],
                setting.kind,
                queue=setting.queue,
                batch=setting.batch,
                wait_ms=wait_ms,
            )
        share = _Share(claim, setting, consumer)
        self._shares.append(share)
        self._turns.append(share)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `core.source.Lane`."""
        until = time.monotonic() + max_wait_s
        while self._turns and time.monotonic() < until:
            share = self._turns[0]
            self._turns.rotate(-1)
            advance = None
            if not share.counted and share.target is not None and share.left() == 0:
                share.reached = True
                advance = Advance(share.partition, 0, 0)
            else:
                with translated(self._setting.options, share.partition):
                    advance = share.receive(max_messages)
            if share.reached:
                self._turns.remove(share)
            if advance is not None:
                return (advance,)
        return ()

    def settle(self) -> Sequence[Settled]:
        """See `core.source.Lane`; what is counted was handed to the broker, which confirms nothing."""
        done = []
        for share in self._shares:
            with translated(self._setting.options, share.partition):
                settled = share.settle()
            if settled is not None:
                done.append(settled)
        return done

    def close(self) -> None:
        """See `core.source.Lane`."""
        client, self._client = self._client, None
        for share in self._shares:
            _quietly(share.consumer.close)
        self._shares, self._turns = [], deque()
        if client is not None:
            _quietly(client.close)


def _quietly(close: Any) -> None:
    """Close what may be closed, or cut off, already."""
    try:
        close()
    except pulsar.exceptions.PulsarException:
        return

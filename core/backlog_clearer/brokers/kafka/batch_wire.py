"""Counting the records of a Fetch response by the headers of its record batches only.

Layout: Kafka protocol guide, "Record Batch" (magic 2, KIP-98). Bytes behind the first 61 of
a batch are not read, so nothing is decompressed, no record becomes an object, and the bytes need not
even be kept: the walk takes them in pieces of any size. Everything here is pure, and safe against any
input: it ends, never reads outside its bounds and never moves a position further than the batches
whose headers it has checked. The CRC, which covers what is dropped, is not checked; headers that contradict
themselves or each other are refused.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADER_BYTES = 61
_PREFIX_BYTES = 12  # base offset and batch length, which does not count itself
_CONTROL = 0x20  # transaction markers: they hold no data, but take an offset
_TRANSACTIONAL = 0x10  # as every marker is
_CODEC = 0x07
_LAST_CODEC = 4  # zstd
_KNOWN = 0x7F  # codec, kind of time, transactional, control, delete horizon (KIP-534)
_PLAIN = 0x1F  # of these, what a batch of data has
# base offset, batch length, leader epoch, magic, [crc], attributes, last offset delta,
# [first and max timestamp, producer id and epoch, base sequence], record count
_HEADER = struct.Struct(">qiib4xhi30xi")
_PREFIX = struct.Struct(">qi4xb")
_MAGIC = 2
_MAX_OFFSET = 2**63 - 1
_NO_EPOCH = -1


class CorruptBatchError(ValueError):
    """The bytes are not a valid response; the text names the place and the reason."""


class OldFormatError(ValueError):
    """Messages from before Kafka 0.11 (magic 0 or 1), whose records cannot be counted by headers."""


class BatchWalk:
    """A walk over one partition's record batches, which arrive in pieces.

    `target` ends the walk at that offset. A trailing partial batch, which brokers send, is ignored.

    Where a batch is cut by position, target or budget, its records on this side of the cut are
    counted exactly if no record of it is missing; after compaction the count is an upper bound
    within that one batch, since headers do not list the missing records.

    A batch counts as soon as its header is there.
    """

    __slots__ = (
        "_floor",
        "_size",
        "_split",
        "batches",
        "last_bytes",
        "leader_epoch",
        "left",
        "needs",
        "position",
        "records",
        "target",
    )

    def __init__(self, size: int, position: int, target: int | None = None) -> None:
        self.position = position
        """Where to continue reading; at most the target."""
        self.target = target
        self.records = 0
        """Data records counted, at or after the position given and below the target."""
        self.batches = 0
        """Whole batches seen."""
        self.left = size
        """Bytes of records from the next header on; 0: the walk has ended."""
        self.needs = 0
        """Size in bytes of the first batch, where not even that is complete; else 0."""
        self.last_bytes = 0
        """Size of the batch seen last."""
        self.leader_epoch = -1
        """Of the last batch counted from (KIP-320); -1: none."""
        self._size = size
        self._floor = -1  # the last offset seen
        self._split = 0  # records counted of a batch at which the budget ended

    def feed(self, data: Buffer, at: int, end: int, budget: int | None = None) -> int:
        """Walk over the bytes `data[at:end]` that come next; returns where the next header starts.

        That may lie beyond `end`: so many of the bytes that follow need not be kept. Bytes between it
        and `end` are to be given again, with more behind them. `end` may lie beyond the partition's
        bytes. `budget`: how many records may be counted now; where it ends the walk, `left` is not 0.

        Raises `CorruptBatchError` or `OldFormatError`.
        """
        if not 0 <= at <= end <= len(data):
            raise CorruptBatchError(f"bytes {at}..{end} of a {len(data)}-byte buffer")
        rest = at + self.left  # where the partition's bytes end
        ended = self._loop(data, at, min(end, rest), rest, budget)
        at = rest - self.left
        if not ended and self.left < HEADER_BYTES:
            if self.batches or self.left < _PREFIX.size:
                ended = True
            elif end - at >= _PREFIX.size:
                self.needs = self._partial(data, at)
                ended = True
        if ended:
            at, self.left = rest, 0
        return at

    def _loop(self, data: Buffer, at: int, end: int, rest: int, budget: int | None) -> bool:  # noqa: C901 the one hot loop: calls inside would cost more than they explain
        """Walk over the whole headers in `data[at:end]`; whether the walk has ended."""
        position, target, floor = self.position, self.target, self._floor
        records, batches, size, split = self.records, self.batches, self.last_bytes, self._split
        counted_epoch = self.leader_epoch
        stop_at = None if budget is None else records + budget
        last_start = end - HEADER_BYTES
        unpack = _HEADER.unpack_from
        ended = False
        while at <= last_start:
            base, length, epoch, magic, attributes, delta, count = unpack(data, at)
            after = at + _PREFIX_BYTES + length
            if magic != _MAGIC:
                raise _foreign(magic, self._place(at, rest))
            if length < HEADER_BYTES - _PREFIX_BYTES or base <= floor or delta < 0 or base < 0:
                raise CorruptBatchError(
                    f"batch at byte {self._place(at, rest)}: base offset {base}, length {length},"
                    f" last offset delta {delta}"
                )
            if attributes & _CODEC > _LAST_CODEC or attributes & ~_PLAIN or epoch < _NO_EPOCH:
                self._check(attributes, epoch, self._place(at, rest))
            if after > rest:
                if not batches:
                    self.needs = after - at
                ended = True
                break
            last = base + delta
            if last > _MAX_OFFSET - 1 or not 0 <= count <= delta + 1:
                raise CorruptBatchError(
                    f"batch at byte {self._place(at, rest)}: {count} records in {delta + 1} offsets"
                )
            size = after - at
            if last >= position:
                counted_epoch = epoch
                if attributes & _CONTROL:
                    count = 0
                stop = last + 1 if target is None or last < target else target
                if base < position or stop <= last:  # cut by the position or the target
                    count = min(count - split, max(0, stop - max(base, position)))
                if stop_at is not None and records + count > stop_at:
                    # So many offsets hold at most so many records.
                    position = max(base, position) + stop_at - records
                    split += stop_at - records
                    records = stop_at
                    break
                records += count
                position = max(position, stop)
                split = 0
            at, floor = after, last
            batches += 1
            if target is not None and position >= target:
                ended = True
                break
        self.position, self._floor, self._split = position, floor, split
        self.records, self.batches, self.last_bytes = records, batches, size
        self.left, self.leader_epoch = rest - at, counted_epoch
        return ended

    @property
    def last_offset(self) -> int:
        """The last offset of any batch seen, beyond the target, too; -1: none."""
        return self._floor

    @staticmethod
    def _check(attributes: int, epoch: int, place: int) -> None:
        """Raise for attributes that no batch has, or a leader epoch below the least one."""
        codec, marker = attributes & _CODEC, attributes & _CONTROL
        alone = marker and not attributes & _TRANSACTIONAL
        if codec > _LAST_CODEC or attributes & ~_KNOWN or alone or epoch < _NO_EPOCH:
            raise CorruptBatchError(
                f"batch at byte {place}: attributes {attributes & 0xFFFF:#06x}, leader epoch {epoch}"
            )

    def _partial(self, data: Buffer, at: int) -> int:
        """How many bytes the partial batch at `at` has when it is whole."""
        _, length, magic = _PREFIX.unpack_from(data, at)
        place = self._size - self.left
        if magic != _MAGIC:
            raise _foreign(magic, place)
        if length < HEADER_BYTES - _PREFIX_BYTES:
            raise CorruptBatchError(f"batch at byte {place}: length {length}")
        return _PREFIX_BYTES + int(length)

    def _place(self, at: int, rest: int) -> int:
        """Where `at` lies in the partition's bytes."""
        return self._size - (rest - at)


def _foreign(magic: int, at: int) -> ValueError:
    if magic in (0, 1):
        return OldFormatError(f"message format {magic} at byte {at}")
    return CorruptBatchError(f"batch at byte {at}: unknown message format {magic}")

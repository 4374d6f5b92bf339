"""Counting the records of a Fetch response by the headers of its record batches only.

Layout: Kafka protocol guide, "Record Batch" (magic 2, KIP-98). Bytes behind the first 61 of
a batch are not read, so nothing is decompressed and no record becomes an object. Everything here is
pure, and safe against any input: it ends, never reads outside its bounds and never moves a position
further than the batches that it has checked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADER_BYTES = 61
_PREFIX_BYTES = 12  # base offset and batch length, which does not count itself
_CONTROL = 0x20  # transaction markers: they hold no data, but take an offset
# base offset, batch length, [leader epoch], magic, [crc], attributes, last offset delta,
# [first and max timestamp, producer id and epoch, base sequence], record count
_HEADER = struct.Struct(">qi4xb4xhi30xi")
_PREFIX = struct.Struct(">qi4xb")
_MAGIC = 2
_MAX_OFFSET = 2**63 - 1


class CorruptBatchError(ValueError):
    """The bytes are not a valid response; the text names the place and the reason."""


class OldFormatError(ValueError):
    """Messages from before Kafka 0.11 (magic 0 or 1), whose records cannot be counted by headers."""


class Walked(NamedTuple):
    """The result of walking over record batches."""

    next_offset: int  # where to continue reading; at most the target
    batches: int  # whole batches seen
    records: int  # data records counted, at or after the position and below the target
    needs: int = 0  # size in bytes of the first batch, where not even one is complete; else 0


def walk_batches(  # noqa: C901 the one hot loop: calls inside would cost more than they explain
    data: Buffer,
    start: int,
    end: int,
    *,
    position: int,
    target: int | None = None,
    budget: int | None = None,
) -> Walked:
    """Walk the record batches in `data[start:end]` from `position` on.

    `target` ends the walk at that offset; `budget` ends it after so many records. A trailing partial
    batch, which brokers send, is ignored.

    Where a batch is cut by position, target or budget, its records on this side of the cut are
    counted exactly if no record of it is missing; after compaction the count is an upper bound
    within that one batch, since headers do not list the missing records.

    Raises `CorruptBatchError` or `OldFormatError`.
    """
    if not 0 <= start <= end <= len(data):
        raise CorruptBatchError(f"record bytes {start}..{end} of a {len(data)}-byte response")
    at, batches, records, floor = start, 0, 0, -1
    unpack = _HEADER.unpack_from
    while end - at >= HEADER_BYTES:
        base, length, magic, attributes, delta, count = unpack(data, at)
        after = at + _PREFIX_BYTES + length
        if magic != _MAGIC:
            raise _foreign(magic, at)
        if length < HEADER_BYTES - _PREFIX_BYTES or base <= floor or delta < 0 or base < 0:
            raise CorruptBatchError(
                f"batch at byte {at}: base offset {base}, length {length}, last offset delta {delta}"
            )
        if after > end:
            break
        last = base + delta
        if last > _MAX_OFFSET - 1 or not 0 <= count <= delta + 1:
            raise CorruptBatchError(f"batch at byte {at}: {count} records in {delta + 1} offsets")
        at, floor = after, last
        batches += 1
        if last < position:
            continue
        if attributes & _CONTROL:
            count = 0
        stop = last + 1 if target is None or last < target else target
        if base < position or stop <= last:  # cut by the position or the target
            count = min(count, max(0, stop - max(base, position)))
        if budget is not None and records + count > budget:
            # So many offsets hold at most so many records.
            return Walked(max(base, position) + budget - records, batches, budget)
        records += count
        position = max(position, stop)
        if target is not None and position >= target:
            break
    if not batches and end - at >= _PREFIX.size:
        return Walked(position, 0, 0, _needs(data, at))
    return Walked(position, batches, records)


def _needs(data: Buffer, at: int) -> int:
    """How many bytes the partial batch at `at` has when it is whole."""
    _, length, magic = _PREFIX.unpack_from(data, at)
    if magic != _MAGIC:
        raise _foreign(magic, at)
    if length < HEADER_BYTES - _PREFIX_BYTES:
        raise CorruptBatchError(f"batch at byte {at}: length {length}")
    return _PREFIX_BYTES + int(length)


def _foreign(magic: int, at: int) -> ValueError:
    if magic in (0, 1):
        return OldFormatError(f"message format {magic} at byte {at}")
    return CorruptBatchError(f"batch at byte {at}: unknown message format {magic}")

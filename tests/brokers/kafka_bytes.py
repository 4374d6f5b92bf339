"""Fetch responses as brokers send them, and the walk over a whole one that the walk in pieces must equal."""

from __future__ import annotations

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.batch_wire import Buffer, CorruptBatchError, OldFormatError
from backlog_clearer.brokers.kafka.fetch_wire import MAX_VERSION, MIN_VERSION

VERSIONS = range(MIN_VERSION, MAX_VERSION + 1)
versions = st.sampled_from(VERSIONS)

HEADER_BYTES = 61
_PREFIX_BYTES = 12
_CONTROL = 0x20
_HEADER = struct.Struct(">qiib4xhi30xi")
_PREFIX = struct.Struct(">qi4xb")
_MAGIC = 2
_MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True)
class Batch:
    """A batch as the test means it: which offsets of it still hold a record."""

    base: int
    span: int  # offsets, last offset delta + 1
    kept: frozenset[int]  # offsets with a record
    control: bool = False
    body: int = 7  # bytes of records

    def encode(self) -> bytes:
        """Its bytes on the wire; bytes that a walk must not read are filled with ones."""
        return (
            struct.pack(">qiib", self.base, 49 + self.body, -1, 2)
            + b"\xff" * 4
            + struct.pack(">hi", 0x30 if self.control else 0x04, self.span - 1)
            + b"\xff" * 30
            + struct.pack(">i", len(self.kept))
            + b"\xff" * self.body
        )

    @property
    def last(self) -> int:
        """Its last offset."""
        return self.base + self.span - 1


@st.composite
def logs(draw: st.DrawFn, *, dense: bool = False) -> list[Batch]:
    """A run of batches as in a log: in order, with gaps, compacted in places."""
    batches = []
    at = draw(st.integers(0, 1000))
    for _ in range(draw(st.integers(1, 6))):
        span = draw(st.integers(1, 50))
        offsets = range(at, at + span)
        control = draw(st.booleans()) if not dense else False
        kept = (
            frozenset(offsets)
            if dense or draw(st.booleans())
            else draw(st.frozensets(st.sampled_from(offsets)))
        )
        batches.append(Batch(at, span, kept, control, draw(st.integers(0, 90))))
        at += span + (0 if dense else draw(st.integers(0, 5)))
    return batches


def encode(batches: list[Batch]) -> bytes:
    """The run as bytes."""
    return b"".join(batch.encode() for batch in batches)


@dataclass(frozen=True)
class Row:
    """One partition of a response, as the test means it."""

    topic: str
    number: int
    error: int
    aborted: int
    records: bytes | None
    diverging: int | None = None  # where the log ends that the reader has in common with the broker

    def encode(self, version: int) -> bytes:
        """Its bytes, by the tables of the Kafka protocol guide."""
        parts = [struct.pack(">ihqq", self.number, self.error, 77, 76)]
        if version >= 5:
            parts.append(struct.pack(">q", 3))
        if version >= 12:
            return b"".join([*parts, *self._flexible()])
        parts.append(struct.pack(">i", self.aborted))
        parts.append(struct.pack(">qq", 9, 9) * max(0, self.aborted))
        if version >= 11:
            parts.append(struct.pack(">i", 2))
        size = -1 if self.records is None else len(self.records)
        return b"".join([*parts, struct.pack(">i", size), self.records or b""])

    def _flexible(self) -> list[bytes]:
        """The fields behind the log start, as versions 12 and 13 have them."""
        parts = [uvarint(self.aborted + 1), struct.pack(">qqx", 9, 9) * max(0, self.aborted)]
        parts.append(struct.pack(">i", 2))
        size = 0 if self.records is None else len(self.records) + 1
        parts += [uvarint(size), self.records or b""]
        if self.diverging is None:
            return [*parts, b"\0"]
        tag = struct.pack(">iqx", 4, self.diverging)
        leader = struct.pack(">iix", 1, 5)
        return [*parts, b"\2", b"\0", uvarint(len(tag)), tag, b"\1", uvarint(len(leader)), leader]


@st.composite
def record_bytes(draw: st.DrawFn) -> bytes | None:
    """The records of one partition: a run of batches, cut anywhere; or none."""
    if draw(st.booleans()):
        return draw(st.none() | st.binary(max_size=16))
    whole = encode(draw(logs()))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


rows = st.lists(
    st.builds(
        Row,
        st.sampled_from(["orders", "aé", "t" * 249]),
        st.integers(0, 2**31 - 1),
        st.integers(-1, 120),
        st.integers(-1, 3),
        record_bytes(),
        st.none() | st.integers(0, 2**63 - 1),
    ),
    max_size=4,
    unique_by=lambda row: (row.topic, row.number),
)


def uvarint(value: int) -> bytes:
    """A number in groups of seven bits (KIP-482)."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def topic_key(topic: str) -> str:
    """The id of a topic, as text."""
    return urlsafe_b64encode(hashlib.md5(topic.encode(), usedforsecurity=False).digest()).decode()[:22]


def names(found: Sequence[Row]) -> dict[str, str]:
    """The topic of each id."""
    return {topic_key(row.topic): row.topic for row in found}


def encode_response(found: Sequence[Row], version: int) -> bytes:
    """A response without its header, one topic entry a partition."""
    parts = [b"\0" if version >= 12 else b"", struct.pack(">i", 250)]
    if version >= 7:
        parts.append(struct.pack(">hi", 70, 1234))
    if version >= 12:
        parts.append(uvarint(len(found) + 1))
        for row in found:
            name = row.topic.encode()
            key = urlsafe_b64decode(topic_key(row.topic) + "==")
            parts += [key] if version >= 13 else [uvarint(len(name) + 1), name]
            parts += [uvarint(2), row.encode(version), b"\0"]
        return b"".join([*parts, b"\0"])
    parts.append(struct.pack(">i", len(found)))
    for row in found:
        name = row.topic.encode()
        parts += [struct.pack(">h", len(name)), name, struct.pack(">i", 1), row.encode(version)]
    return b"".join(parts)


class Walked(NamedTuple):
    """The result of walking over record batches."""

    next_offset: int  # where to continue reading; at most the target
    batches: int  # whole batches seen
    records: int  # data records counted, at or after the position and below the target
    needs: int = 0  # size in bytes of the first batch, where not even one is complete; else 0


def walk_batches(  # noqa: C901, PLR0912 one plain loop
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
        base, length, epoch, magic, attributes, delta, count = unpack(data, at)
        after = at + _PREFIX_BYTES + length
        if magic != _MAGIC:
            raise _foreign(magic, at)
        if length < HEADER_BYTES - _PREFIX_BYTES or base <= floor or delta < 0 or base < 0:
            raise CorruptBatchError(
                f"batch at byte {at}: base offset {base}, length {length}, last offset delta {delta}"
            )
        control, transactional = attributes & _CONTROL, attributes & 0x10
        if epoch < -1 or attributes & 7 > 4 or attributes & ~0x7F or (control and not transactional):
            raise CorruptBatchError(f"batch at byte {at}: attributes {attributes}, epoch {epoch}")
        if after > end:
            break
        last = base + delta
        if last > _MAX_OFFSET - 1 or not 0 <= count <= delta + 1:
            raise CorruptBatchError(f"batch at byte {at}: {count} records in {delta + 1} offsets")
        at, floor = after, last
        batches += 1
        if last < position:
            if target is not None and position >= target:
                break
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

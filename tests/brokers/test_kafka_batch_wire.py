"""The header walk: right on every layout a broker sends, harmless on every other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.batch_wire import (
    HEADER_BYTES,
    BatchWalk,
    CorruptBatchError,
    OldFormatError,
)
from tests.brokers.kafka_bytes import Batch, Walked, encode, logs


def walk_batches(
    data: bytes | bytearray,
    start: int,
    end: int,
    *,
    position: int,
    target: int | None = None,
    budget: int | None = None,
) -> Walked:
    """A walk that is given everything at once."""
    walk = BatchWalk(end - start, position, target)
    walk.feed(data, start, end, budget)
    return Walked(walk.position, walk.batches + (walk.left > 0), walk.records, walk.needs)


@given(batches=logs())
def test_whole_log_is_counted_to_its_last_offset(batches: list[Batch]) -> None:
    """A walk over whole batches counts every data record and ends behind the last offset."""
    data = encode(batches)
    walked = walk_batches(data, 0, len(data), position=batches[0].base)
    records = sum(len(batch.kept) for batch in batches if not batch.control)
    assert walked == Walked(batches[-1].last + 1, len(batches), records)


@given(batches=logs(dense=True), data=st.data())
def test_cuts_are_exact_where_nothing_is_compacted(batches: list[Batch], data: st.DataObject) -> None:
    """From any position to any target, exactly the records between them are counted."""
    first, end = batches[0].base, batches[-1].last + 1
    position = data.draw(st.integers(first, end))
    target = data.draw(st.integers(position, end))
    encoded = encode(batches)
    walked = walk_batches(encoded, 0, len(encoded), position=position, target=target)
    assert walked.records == target - position
    assert walked.next_offset == target


@given(batches=logs(dense=True), budget=st.integers(1, 400))
def test_budget_is_exact_where_nothing_is_compacted(batches: list[Batch], budget: int) -> None:
    """At most the budget is counted, and the position is right behind the last message counted."""
    encoded = encode(batches)
    first, total = batches[0].base, batches[-1].last + 1 - batches[0].base
    walked = walk_batches(encoded, 0, len(encoded), position=first, budget=budget)
    assert walked.records == min(budget, total)
    assert walked.next_offset == first + walked.records


@given(batches=logs(), data=st.data())
def test_compaction_never_overshoots(batches: list[Batch], data: st.DataObject) -> None:
    """With records missing, no target is passed and no more is counted than the batches hold."""
    first, end = batches[0].base, batches[-1].last + 1
    position = data.draw(st.integers(first, end))
    target = data.draw(st.integers(position, end))
    encoded = encode(batches)
    walked = walk_batches(encoded, 0, len(encoded), position=position, target=target)
    assert position <= walked.next_offset <= target
    held = sum(len(batch.kept) for batch in batches if batch.last >= position and batch.base < target)
    between = [
        o for batch in batches if not batch.control for o in batch.kept if position <= o < target
    ]
    assert len(between) <= walked.records <= held


@given(batches=logs(), data=st.data())
def test_partial_trailing_batch_is_left_alone(batches: list[Batch], data: st.DataObject) -> None:
    """Cut anywhere, a response yields its whole batches and nothing of the rest."""
    encoded = encode(batches)
    cut = data.draw(st.integers(0, len(encoded)))
    walked = walk_batches(encoded, 0, cut, position=batches[0].base)
    whole, size = 0, 0
    while whole < len(batches) and size + len(batches[whole].encode()) <= cut:
        size += len(batches[whole].encode())
        whole += 1
    assert walked.batches == whole
    assert walked.next_offset == (batches[whole - 1].last + 1 if whole else batches[0].base)


def test_batch_larger_than_the_response_reports_its_size() -> None:
    """Where not even one batch is complete, the size of the first is returned."""
    encoded = Batch(5, 3, frozenset({5, 6, 7}), body=1000).encode()
    assert walk_batches(encoded, 0, 500, position=5) == Walked(5, 0, 0, needs=len(encoded))


@given(noise=st.binary(max_size=400), position=st.integers(0, 2**62))
def test_noise_is_harmless(noise: bytes, position: int) -> None:
    """Any bytes end in an error or in a walk that does not move backwards."""
    try:
        walked = walk_batches(noise, 0, len(noise), position=position, target=position + 10)
    except (CorruptBatchError, OldFormatError):
        return
    assert position <= walked.next_offset <= position + 10


@given(batches=logs(), data=st.data())
def test_flipped_bits_never_pass_the_target(batches: list[Batch], data: st.DataObject) -> None:
    """Damage in the headers is noticed, or at least never moves a position past the target."""
    encoded = bytearray(encode(batches))
    end = batches[-1].last + 1
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(encoded) - 1))
        encoded[where] ^= 1 << data.draw(st.integers(0, 7))
    try:
        walked = walk_batches(encoded, 0, len(encoded), position=batches[0].base, target=end)
    except (CorruptBatchError, OldFormatError):
        return
    assert batches[0].base <= walked.next_offset <= end
    assert walked.records <= walked.next_offset


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (slice(8, 12), (-1).to_bytes(4, "big", signed=True)),  # length
        (slice(8, 12), (0).to_bytes(4, "big")),  # length that would never end
        (slice(23, 27), (-5).to_bytes(4, "big", signed=True)),  # last offset delta
        (slice(57, 61), (99).to_bytes(4, "big")),  # more records than offsets
        (slice(0, 8), (2**63 - 1).to_bytes(8, "big")),  # base offset at the end of all offsets
        (slice(16, 17), b"\x07"),  # magic
    ],
)
def test_hostile_headers_are_refused(change: slice, value: bytes) -> None:
    """Headers that would loop, overflow or over-count raise a clear error."""
    encoded = bytearray(Batch(5, 3, frozenset({5, 6, 7})).encode())
    encoded[change] = value
    with pytest.raises(CorruptBatchError, match="batch at byte 0"):
        walk_batches(encoded, 0, len(encoded), position=5)


def test_batches_out_of_order_are_refused() -> None:
    """Batches whose offsets do not increase are refused."""
    batch = Batch(5, 3, frozenset({5})).encode()
    with pytest.raises(CorruptBatchError):
        walk_batches(batch * 2, 0, 2 * len(batch), position=5)


@pytest.mark.parametrize("magic", [0, 1])
def test_old_formats_are_told_apart(magic: int) -> None:
    """Messages from before record batches are named as such: another reader can read them."""
    encoded = bytearray(Batch(5, 3, frozenset({5})).encode())
    encoded[16] = magic
    with pytest.raises(OldFormatError):
        walk_batches(encoded, 0, len(encoded), position=5)
    with pytest.raises(OldFormatError):
        walk_batches(encoded, 0, HEADER_BYTES - 10, position=5)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, 500), (9, 3)])
def test_bounds_are_checked(start: int, end: int) -> None:
    """Bounds outside the response are refused before anything is read."""
    with pytest.raises(CorruptBatchError):
        walk_batches(bytes(100), start, end, position=0)

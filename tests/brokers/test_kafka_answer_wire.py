"""The walk in pieces: whatever the cuts, it finds what a walk over the whole response finds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.answer_wire import AnswerWalk
from backlog_clearer.brokers.kafka.batch_wire import BatchWalk, CorruptBatchError, OldFormatError
from backlog_clearer.model import Partition
from tests.brokers.kafka_bytes import (
    Batch,
    Row,
    encode,
    encode_response,
    logs,
    names,
    rows,
    versions,
    walk_batches,
)

Asked = Mapping[Partition, tuple[int, int | None]]

pieces = st.lists(st.integers(1, 150), min_size=1, max_size=30).map(itertools.cycle)


def asked_for(found: list[Row], data: st.DataObject) -> Asked:
    """A position and a target for each partition."""
    return {
        Partition(row.topic, row.number): (
            data.draw(st.integers(0, 1100)),
            data.draw(st.none() | st.integers(0, 1200)),
        )
        for row in found
    }


def feed_pieces(
    walk: AnswerWalk, data: bytes | bytearray, sizes: Iterable[int], most: int = 400
) -> None:
    """Give a response in pieces, without the bytes that the walk does not need; the buffer's rest is junk."""
    at, kept, skip = 0, b"", 0
    for size in sizes:
        if not walk.left:
            break
        piece = bytes(data[at : at + size])
        at += len(piece)
        if skip >= len(piece):
            skip -= len(piece)
            if not piece:
                break
            continue
        given_now = kept + piece[skip:]
        reached = walk.feed(given_now + b"\xff" * 70, 0, len(given_now))
        assert reached >= 0
        kept, skip = given_now[reached:], max(0, reached - len(given_now))
        assert len(kept) < most, "a walk never asks for more than the fields of one topic again"


def outcome(walk: AnswerWalk) -> list[tuple[object, ...]]:
    """Everything that a walk has found."""
    return [
        (
            each.partition,
            each.error,
            each.size,
            each.walk.position,
            each.walk.records,
            each.walk.batches,
            each.walk.needs,
            each.walk.left,
            each.walk.leader_epoch,
            each.diverging,
        )
        for each in walk.found
    ]


@given(found=rows, version=versions, sizes=pieces, data=st.data())
def test_cuts_change_nothing(
    found: list[Row], version: int, sizes: Iterable[int], data: st.DataObject
) -> None:
    """Position, records, batches and needs equal those of the walk over each partition's whole bytes."""
    whole, asked = encode_response(found, version), asked_for(found, data)
    walk = AnswerWalk(len(whole), version, asked, names(found))
    feed_pieces(walk, whole, sizes)
    assert walk.left == 0
    assert [each.partition for each in walk.found] == list(asked)
    for each, row in zip(walk.found, found, strict=True):
        records = b"" if row.error else row.records or b""
        position, target = asked[each.partition]
        expected = walk_batches(records, 0, len(records), position=position, target=target)
        assert (each.walk.position, each.walk.batches) == (expected.next_offset, expected.batches)
        assert (each.walk.records, each.walk.needs) == (expected.records, expected.needs)
        assert each.walk.left == 0


@given(found=rows, version=versions, sizes=pieces, data=st.data())
def test_damage_is_found_alike_in_pieces(
    found: list[Row], version: int, sizes: Iterable[int], data: st.DataObject
) -> None:
    """Damaged bytes give the same result, or the same error, whether they come whole or in pieces."""
    whole, asked = bytearray(encode_response(found, version)), asked_for(found, data)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    results = []
    for cuts in ([len(whole)], sizes):
        walk = AnswerWalk(len(whole), version, asked, names(found))
        try:
            feed_pieces(walk, whole, cuts, most=40_000)  # damage may announce a long name
            error = None
        except (CorruptBatchError, OldFormatError) as raised:
            error = type(raised)
        results.append((error, walk.left if error is None else None, outcome(walk)))
    (error, _, _), (error_in_pieces, _, _) = results
    assert error == error_in_pieces
    if error is None:
        assert results[0] == results[1]


@given(found=rows, version=versions, sizes=pieces, cut=st.integers(0, 2000))
def test_what_has_arrived_is_counted_and_no_more(
    found: list[Row], version: int, sizes: Iterable[int], cut: int
) -> None:
    """Where a response ends early, the positions are at most those of the whole one, and bytes are missing."""
    whole = encode_response(found, version)
    asked: Asked = {Partition(row.topic, row.number): (0, None) for row in found}
    complete, partial = (
        AnswerWalk(len(whole), version, asked, names(found)),
        AnswerWalk(len(whole), version, asked, names(found)),
    )
    feed_pieces(complete, whole, [len(whole)])
    feed_pieces(partial, whole[: min(cut, len(whole) - 1)], sizes)
    assert partial.left > 0 or min(cut, len(whole) - 1) < len(whole)
    for one, all_of_it in zip(partial.found, complete.found, strict=False):
        assert one.partition == all_of_it.partition
        assert one.walk.position <= all_of_it.walk.position
        assert one.walk.records <= all_of_it.walk.records


@given(batches=logs(dense=True), budgets=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_a_walk_that_is_paused_by_budgets_counts_the_same(
    batches: list[Batch], budgets: list[int]
) -> None:
    """Budget after budget, a walk counts every record once and stops at each exactly."""
    data = encode(batches)
    walk, at, counted = BatchWalk(len(data), 0), 0, 0
    for budget in itertools.cycle(budgets):
        at = walk.feed(data, at, len(data), budget)
        assert walk.records - counted <= budget
        assert walk.left == 0 or walk.records - counted == budget
        counted = walk.records
        if not walk.left:
            break
    assert counted == sum(batch.span for batch in batches)
    assert walk.position == batches[-1].last + 1


@given(batches=logs(), budgets=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_budgets_never_count_more_than_the_batches_hold(
    batches: list[Batch], budgets: list[int]
) -> None:
    """With records missing after compaction, a walk in steps counts no more than one without budget."""
    data = encode(batches)
    walk, at = BatchWalk(len(data), 0), 0
    for budget in itertools.cycle(budgets):
        at = walk.feed(data, at, len(data), budget)
        if not walk.left:
            break
    assert walk.records <= sum(len(batch.kept) for batch in batches if not batch.control)
    assert walk.position == batches[-1].last + 1

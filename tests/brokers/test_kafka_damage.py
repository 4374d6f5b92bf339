"""What the header reader finds of damage in batch headers: every bit of them flipped, without a broker."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import NamedTuple

import pytest

from backlog_clearer.brokers.kafka import header_lane
from backlog_clearer.brokers.kafka.answer_wire import Fetched
from backlog_clearer.brokers.kafka.batch_wire import (
    HEADER_BYTES,
    BatchWalk,
    CorruptBatchError,
    OldFormatError,
)
from backlog_clearer.brokers.kafka.fetch_wire import PartitionHead
from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets
from backlog_clearer.brokers.kafka.leaders import Leaders
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.model import Advance, Claim, Partition, PartitionState
from tests.brokers.kafka_bytes import Batch, encode

OPTIONS = KafkaOptions(bootstrap_servers=("b:1",), topic=("orders",), group_id="g")
EACH = 10
BATCHES = [
    Batch(100 + EACH * n, EACH, frozenset(range(100 + EACH * n, 110 + EACH * n))) for n in range(3)
]
END = BATCHES[-1].last + 1
FIELDS = {
    "base offset": range(8),
    "length": range(8, 12),
    "leader epoch": range(12, 16),
    "magic": range(16, 17),
    "CRC": range(17, 21),
    "attributes": range(21, 23),
    "last offset delta": range(23, 27),
    "times and producer": range(27, 57),
    "record count": range(57, HEADER_BYTES),
}


class Seen(NamedTuple):
    """How a reader takes an answer, whose end is the end of the log if `whole`."""

    position: int
    records: int


def read(data: bytes, end: int) -> Seen | None:
    """The position and count after an answer; None: it is refused."""
    walk = BatchWalk(len(data), BATCHES[0].base)
    try:
        walk.feed(data, 0, len(data))
    except (CorruptBatchError, OldFormatError):
        return None
    return None if walk.last_offset >= end else Seen(walk.position, walk.records)


def unnoticed(which: int, end: int) -> dict[str, list[int]]:
    """By field, the bits (0: the lowest) whose change in one header makes count or position wrong."""
    sound = bytearray(encode(BATCHES))
    begin = sum(len(batch.encode()) for batch in BATCHES[:which])
    wrong: defaultdict[str, list[int]] = defaultdict(list)
    for field, places in FIELDS.items():
        for bit in range(8 * len(places)):
            damaged = bytearray(sound)
            damaged[begin + places[-1] - bit // 8] ^= 1 << bit % 8
            seen = read(bytes(damaged), end)
            # What is not read yet is asked for again: only a position ahead of the count is wrong.
            if seen is not None and seen.position - BATCHES[0].base != seen.records:
                wrong[field].append(bit)
    return dict(wrong)


def test_an_answer_without_damage_is_read() -> None:
    """The measure of the others: three batches of ten records."""
    assert read(encode(BATCHES), END) == Seen(END, 3 * EACH)


@pytest.mark.parametrize(
    ("which", "end", "expected"),
    [
        (0, END, {"base offset": [2, 5, 6], "record count": [1, 3]}),
        (1, END, {"record count": [1, 3]}),
        (2, END, {"record count": [1, 3]}),
        (  # more batches follow in the log, and not in the answer
            2,
            END + 1000,
            {
                "base offset": [0, 1, 2, 7, 8, 9],
                "last offset delta": [1, 2, 4, 5, 6, 7, 8, 9],
                "record count": [1, 3],
            },
        ),
    ],
)
def test_every_changed_bit_is_found_except_those_listed(
    which: int, end: int, expected: dict[str, list[int]]
) -> None:
    """See docs/kafka.md: what headers cannot show is damage that stays within the bounds of its offsets."""
    assert unnoticed(which, end) == expected


@pytest.mark.parametrize("grown", [False, True])
def test_a_batch_beyond_the_end_is_read_only_where_the_log_has_grown(
    monkeypatch: pytest.MonkeyPatch, grown: bool
) -> None:
    """With a frozen target, a base offset with a changed bit would seem to reach it: the leader is asked."""
    partition, node = Partition("orders", 0), 7
    data = bytearray(encode(BATCHES[:1]))
    data[6] ^= 1 << 4  # 4,096 is added to the base offset
    state = PartitionState(partition, 100, 0, END, EACH)
    lane = HeaderLane.__new__(HeaderLane)
    lane._offsets = LaneOffsets([Claim(state, None, END)], Incarnations(None))  # type: ignore[arg-type]
    lane._leaders = Leaders({}, {partition: node}, {})
    lane._options = OPTIONS
    lane._rank, lane._turn, lane._left = {}, count(1), {}
    walk = BatchWalk(len(data), 100, END)
    fetched = Fetched(partition, _head(END), -1, walk)
    walk.feed(bytes(data), 0, len(data))
    assert lane._progress(node, fetched, 0) is None
    bounds = {partition: (0, 9000 if grown else END)}
    monkeypatch.setattr(header_lane, "log_bounds", lambda *_: bounds)
    if grown:
        assert lane._last(node, None, fetched) == Advance(partition, 0, 0, len(data))  # type: ignore[arg-type]
        return
    with pytest.raises(CorruptBatchError, match="beyond its end"):
        lane._last(node, None, fetched)  # type: ignore[arg-type]
    assert lane._offsets.at[partition] == 100


def _head(high_watermark: int) -> PartitionHead:
    return PartitionHead(at=0, number=0, error=0, high_watermark=high_watermark)

"""What a group has stored, and what a run may write over it: without a broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.figures import Stored, meddled, offset_of, stored_of
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets, skip_target
from backlog_clearer.brokers.kafka.transactions import offsets_partition
from backlog_clearer.errors import BrokerError, RecreatedError, TransientError
from backlog_clearer.model import Claim, Partition, PartitionState, Position

ONE, TWO = Partition("orders", 0), Partition("bills", 0)


class Now:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def logs(ids: Mapping[str, str | None], now: Now | None = None) -> Incarnations:
    """Topics as the cluster describes them."""
    admin = Mock()
    admin.incarnations = lambda topics: {name: ids[name] for name in topics if name in ids}
    return Incarnations(admin, now or Now())


class Group:
    """A group's offsets, read and written as `GroupOffsets` does."""

    def __init__(self, **offsets: int) -> None:
        self.offsets = {Partition(name, 0): offset for name, offset in offsets.items()}

    def committed(
        self, partitions: Iterable[Partition]
    ) -> tuple[dict[Partition, int], dict[Partition, BrokerError]]:
        """The offsets stored."""
        return {p: self.offsets[p] for p in partitions if p in self.offsets}, {}

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Store offsets."""
        self.offsets.update(offsets)
        return dict.fromkeys(offsets)


def claim(partition: Partition, position: int | None, incarnation: str | None = "a") -> Claim:
    """A claim of a log of 100 messages."""
    state = PartitionState(partition, position, 0, 100, None, incarnation=incarnation)
    return Claim(state, None, 100)


@given(
    offset=st.integers(0, 2**63 - 1),
    metadata=st.text(),
    epoch=st.none() | st.integers(0, 2**31 - 1),
)
def test_what_is_stored_survives_a_receipt(offset: int, metadata: str, epoch: int | None) -> None:
    """Offset, metadata and leader epoch come back; an offset on its own is an int, as in old receipts."""
    stored = Stored(offset, metadata, epoch)
    assert stored_of(stored.position) == stored
    assert offset_of(stored.position) == offset
    assert isinstance(stored.position, int) == (not metadata and epoch is None)


@pytest.mark.parametrize(
    "position",
    [
        -1, 2**63, "7", True, {}, {"offset": "7"}, {"offset": -1}, {"offset": None},
        {"offset": 7, "metadata": 3}, {"offset": 7, "leader_epoch": -1},
        {"offset": 7, "leader_epoch": "0"}, {"offset": 7, "sequence_number": 1}, None,
    ],
)  # fmt: skip
def test_what_kafka_cannot_have_stored_is_not_a_position(position: Any) -> None:
    """Another system's position, a wrong type or an impossible number is never taken for an offset."""
    assert stored_of(position) is None
    assert offset_of(position) is None


@pytest.mark.parametrize(
    ("before", "now", "fault"),
    [(None, None, None), (None, 5, None), (5, 5, None), (5, 6, None),
     (5, 4, "moved back to 4"), (5, None, "was deleted")],
)  # fmt: skip
def test_an_offset_may_only_have_moved_forward(
    before: int | None, now: int | None, fault: str | None
) -> None:
    """A lower or missing offset is named as another process's change; a higher one is not."""
    text = meddled(ONE, before, now)
    assert (text is None) == (fault is None)
    assert fault is None or fault in (text or "")


@pytest.mark.parametrize(
    ("position", "now", "end", "lower", "result"),
    [
        (10, 10, 100, False, 100),
        (10, 120, 130, False, 120),  # another process was faster
        (None, None, 100, False, 100),
        (10, 10, 99, False, "cut off"),
        (10, 9, 100, False, "moved back"),
        (10, None, 100, False, "deleted"),
        (150, 150, 100, True, 100),
        (150, 150, 160, True, 150),  # the log has grown past the offset meanwhile
        (150, 100, 100, True, 100),  # a repeated request
    ],
)
def test_a_skip_moves_to_its_target_and_never_back(
    position: int | None, now: int | None, end: int, lower: bool, result: int | str
) -> None:
    """A skip keeps an offset that is further, and refuses a log or an offset that went back."""
    found = skip_target(claim(ONE, position), now, end, lower=lower)
    if isinstance(result, int):
        assert found == result
    else:
        assert result in str(found)


def test_a_recreated_topic_does_not_hold_back_another_one() -> None:
    """Of two topics of a lane one was made anew: the other is committed, and counted."""
    known = logs({"orders": "b", "bills": "a"})
    claims = [claim(ONE, 10), claim(TWO, 10)]
    for each in claims:
        known.begin(each)
    lane, group = LaneOffsets(claims, known), Group(orders=10, bills=10)
    for partition in (ONE, TWO):
        lane.reach(partition, 60, 50, end=None)
    settled = {item.partition: item for item in lane.settle(group)}
    assert group.offsets == {ONE: 10, TWO: 60}
    assert (settled[ONE].messages, settled[TWO].messages) == (0, 50)
    assert "created again" in (settled[ONE].error or "")


def test_an_offset_that_was_set_back_is_an_error_once_it_is_certain() -> None:
    """A new coordinator may answer with older offsets for a moment: only after a while it is an error."""
    now = Now()
    known = logs({"orders": "a"}, now)
    known.begin(claim(ONE, 40))
    lane, group = LaneOffsets([claim(ONE, 40)], known), Group(orders=10)
    lane.reach(ONE, 60, 20, end=None)
    with pytest.raises(TransientError, match="moved back to 10") as raised:
        lane.settle(group)
    assert raised.value.partition == ONE
    now.seconds = 30.0
    (settled,) = lane.settle(group)
    assert (settled.messages, group.offsets) == (0, {ONE: 10})
    assert "moved back to 10" in (settled.error or "")


def test_an_older_answer_that_passes_is_forgotten() -> None:
    """Once the coordinator has all offsets again, the lane commits, and a later doubt starts anew."""
    now = Now()
    known = logs({"orders": "a"}, now)
    known.begin(claim(ONE, 40))
    lane = LaneOffsets([claim(ONE, 40)], known)
    lane.reach(ONE, 60, 20, end=None)
    with pytest.raises(TransientError):
        lane.settle(Group())
    now.seconds = 30.0
    (settled,) = lane.settle(Group(orders=40))
    assert (settled.messages, settled.position) == (20, 60)
    assert isinstance(known.set_back(ONE, 40), TransientError)


def test_a_log_that_was_cut_is_not_committed() -> None:
    """Messages read before a log was cut off are not acknowledged in what grows there."""
    known = logs({"orders": "a"})
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    known.begin(claim(ONE, 10))
    lane.reach(ONE, 60, 50, end=None)
    lane.drop(ONE)
    assert not lane.settle(group)
    assert group.offsets == {ONE: 10}


def test_a_deleted_topic_is_an_error_once_it_is_certain() -> None:
    """A broker that has just started may not have a topic yet: only after a while it is gone."""
    now = Now()
    known = logs({"bills": "a"}, now)
    wanted = {ONE: "a", TWO: "a"}
    with pytest.raises(TransientError, match="orders"):
        known.faults(wanted, patient=True)
    now.seconds = 30.0
    faults = known.faults(wanted, patient=True)
    assert list(faults) == [ONE]
    assert "deleted" in str(faults[ONE])
    assert not isinstance(faults[ONE], TransientError)


@pytest.mark.parametrize(("surveyed", "found"), [("a", None), (None, "a"), (None, None), ("a", "a")])
def test_an_unknown_incarnation_is_not_a_fault(surveyed: str | None, found: str | None) -> None:
    """Where receipt or broker has no topic id, nothing is refused; another id is."""
    assert not logs({"orders": found}).faults({ONE: surveyed})
    assert isinstance(logs({"orders": "b"}).faults({ONE: "a"})[ONE], RecreatedError)


@pytest.mark.parametrize(
    ("position", "expected"), [(150, 150), ({"offset": 150, "metadata": "x", "leader_epoch": 2}, 150)]
)
def test_an_offset_with_metadata_is_compared_by_its_offset(position: Position, expected: int) -> None:
    """What is stored with an offset does not hide where it lies."""
    known = logs({"orders": "a"})
    state = PartitionState(ONE, position, 0, 100, None, incarnation="a")
    known.begin(Claim(state, None, 100))
    assert known.committed == {ONE: expected}


@pytest.mark.parametrize(
    ("group", "partition"), [("billing", 9), ("größe", 7), ("a" * 99, 27), ("polygenelubricants", 0)]
)
def test_the_offsets_partition_is_javas_hash(group: str, partition: int) -> None:
    """The partition of __consumer_offsets is the one that the broker's own hash gives, of 50."""
    assert offsets_partition(group, 50) == partition

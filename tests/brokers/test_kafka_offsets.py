"""What a group has stored, and what a run may write over it: without a broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.figures import Stored, cut_off, meddled, offset_of, stored_of
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets, skip_target
from backlog_clearer.brokers.kafka.leader_epochs import Doubt, ReadUpTo
from backlog_clearer.brokers.kafka.metadata import TopicNow
from backlog_clearer.brokers.kafka.transactions import offsets_partition
from backlog_clearer.errors import BrokerError, RecreatedError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, PartitionState, Position, Settled

ONE, TWO = Partition("orders", 0), Partition("bills", 0)


class Now:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Cluster:
    """Topics as the brokers describe them, and the leaders' answers about what was read."""

    def __init__(self, ids: Mapping[str, str | None]) -> None:
        self.ids = ids
        self.epoch = 5
        self.faults: dict[Partition, BrokerError] = {}
        self.doubts: dict[Partition, Doubt] = {}

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicNow]:
        """The topics that exist, one partition each."""
        return {n: TopicNow(self.ids[n], {0: self.epoch}, {}) for n in names if n in self.ids}

    def cut(self, doubts: Mapping[Partition, Doubt]) -> Mapping[Partition, BrokerError]:
        """The faults of those asked about."""
        self.doubts = dict(doubts)
        return {partition: self.faults[partition] for partition in doubts if partition in self.faults}


def logs(ids: Mapping[str, str | None], now: Now | None = None) -> Incarnations:
    """Topics with these ids."""
    return Incarnations(Cluster(ids), now or Now())


class Group:
    """A group's offsets, read and written as `GroupOffsets` does."""

    def __init__(self, **offsets: int) -> None:
        self.offsets = {Partition(name, 0): offset for name, offset in offsets.items()}
        self.loses: set[str] = set()  # "request" or "answer" of commits, "offsets" asked for afterwards

    def committed(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> tuple[dict[Partition, int], dict[Partition, BrokerError]]:
        """The offsets stored."""
        if timeout_s is not None and "offsets" in self.loses:
            raise TransientError("no answer")
        return {p: self.offsets[p] for p in partitions if p in self.offsets}, {}

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Store offsets."""
        if "request" in self.loses:
            raise TransientError("no connection")
        self.offsets.update(offsets)
        if "answer" in self.loses:
            raise TransientError("no answer")
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


@pytest.mark.parametrize("again", [False, True])
def test_a_commit_whose_answer_was_lost_is_counted_once(again: bool) -> None:
    """If the offsets, asked for again, show it as written, it counts at once; else with the next lane."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"answer"} if again else {"answer", "offsets"}
    if again:
        assert lane.settle(group) == [Settled(ONE, 50, 60)]
        return
    with pytest.raises(TransientError, match="no answer"):
        lane.settle(group)
    group.loses = set()
    assert known.written(ONE, group.offsets[ONE]) is None
    lane = LaneOffsets([replace(claim(ONE, 10), resume=60)], known)
    assert lane.ready() == [Advance(ONE, 50, 40)]
    lane.reach(ONE, 70, 10, end=None)
    assert lane.settle(group) == [Settled(ONE, 60, 70)]
    assert not lane.settle(group)


def test_a_commit_whose_answer_was_lost_is_counted_by_the_same_lane() -> None:
    """A second settle of the lane finds the offset where it put it, and reports the messages."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"answer", "offsets"}
    with pytest.raises(TransientError):
        lane.settle(group)
    group.loses = set()
    assert lane.settle(group) == [Settled(ONE, 50, 60)]


@pytest.mark.parametrize("same_lane", [True, False])
def test_a_commit_that_was_not_written_is_not_counted(same_lane: bool) -> None:
    """Messages of a lost commit are counted when they are committed, by whichever lane."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"request"}
    with pytest.raises(TransientError, match="no connection"):
        lane.settle(group)
    group.loses = set()
    if not same_lane:
        known.written(ONE, group.offsets[ONE])
        lane = LaneOffsets([claim(ONE, 10)], known)
        assert not lane.ready()
        lane.reach(ONE, 60, 50, end=None)
    assert lane.settle(group) == [Settled(ONE, 50, 60)]


@pytest.mark.parametrize(
    ("now", "found"), [(60, 50), (10, 0), (None, 0), (40, None), (80, None), ("unknown", None)]
)
def test_a_run_that_ends_with_a_lost_answer_counts_by_the_committed_offset(
    now: int | str | None, found: int | None
) -> None:
    """No lane follows: the offset that is committed in the end shows whether the messages count."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"answer", "offsets"}
    with pytest.raises(TransientError, match="no answer"):
        lane.settle(group)
    stored = {} if isinstance(now, str) else {ONE: now}
    assert known.unreported(stored) == {ONE: found}


def test_a_lane_that_was_opened_blindly_counts_each_message_once() -> None:
    """The offsets could not be asked for before it: it reads again what the lost commit acknowledged."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"answer", "offsets"}
    with pytest.raises(TransientError):
        lane.settle(group)
    group.loses = set()
    lane = LaneOffsets([claim(ONE, 10)], known)
    lane.reach(ONE, 90, 80, end=None)
    assert lane.settle(group) == [Settled(ONE, 80, 90)]
    assert known.unreported({ONE: 90}) == {}


def test_a_commit_that_is_written_late_is_not_taken_for_that_of_others() -> None:
    """It was not there when it was asked for, and is when the next lane is halfway through."""
    known = logs({"orders": "a"})
    known.begin(claim(ONE, 10))
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None)
    group.loses = {"request"}
    with pytest.raises(TransientError):
        lane.settle(group)
    known.written(ONE, 10)
    group.loses = set()
    lane = LaneOffsets([claim(ONE, 10)], known)
    lane.reach(ONE, 30, 20, end=None)
    group.offsets[ONE] = 60
    assert lane.settle(group) == [Settled(ONE, 20, 30)]
    assert known.unreported({ONE: 60}) == {ONE: 30}
    lane.reach(ONE, 80, 50, end=None)
    assert lane.settle(group) == [Settled(ONE, 50, 80)]
    assert known.unreported({ONE: 80}) == {}


@pytest.mark.parametrize("position", [10, None])
def test_the_first_of_two_lost_commits_may_be_the_one_that_is_written_late(
    position: int | None,
) -> None:
    """Two commits are lost, then the first is there: the third lane starts at it, and none is uncounted."""
    known = logs({"orders": "a"})
    begun = claim(ONE, position)
    known.begin(begun)
    group, first = Group(), position or 0
    if position is not None:
        group.offsets[ONE] = position
    group.loses = {"request"}
    for reached in (60, 90):
        known.resumed(ONE, position)
        lane = LaneOffsets([begun], known)
        lane.reach(ONE, reached, reached - first, end=None)
        with pytest.raises(TransientError):
            lane.settle(group)
    group.offsets[ONE], group.loses = 60, set()
    known.resumed(ONE, 60)
    lane = LaneOffsets([replace(begun, resume=60)], known)
    lane.reach(ONE, 100, 40, end=None)
    assert lane.settle(group) == [Settled(ONE, 100 - first, 100)]
    assert known.unreported({ONE: 100}) == {}


def test_one_partition_in_doubt_does_not_keep_another_from_being_committed() -> None:
    """Where one cannot be committed now the rest is, and is counted by the next settle."""
    cluster = Cluster({"orders": "a", "bills": "a"})
    known = Incarnations(cluster, Now())
    claims = [claim(ONE, 10), claim(TWO, 10)]
    for each in claims:
        known.begin(each)
    lane, group = LaneOffsets(claims, known), Group(orders=10, bills=10)
    for partition in (ONE, TWO):
        lane.reach(partition, 60, 50, end=None, read=ReadUpTo(60, 5))
    cluster.faults = {ONE: TransientError("no leader", ONE)}
    with pytest.raises(TransientError, match="no leader"):
        lane.settle(group)
    assert group.offsets == {ONE: 10, TWO: 60}
    cluster.faults = {}
    assert sorted(lane.settle(group)) == [Settled(TWO, 50, 60), Settled(ONE, 50, 60)]


def test_what_was_read_is_confirmed_once_for_each_leader_epoch() -> None:
    """A new leader epoch is asked about with what was read; the same epoch is not asked about again."""
    cluster = Cluster({"orders": "a"})
    known = Incarnations(cluster, Now())
    known.begin(claim(ONE, 10))
    assert not known.faults({ONE: "a"})
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None, read=ReadUpTo(60, 5))
    lane.settle(group)
    assert not cluster.doubts
    cluster.epoch = 7
    lane.reach(ONE, 70, 10, end=None, read=ReadUpTo(70, 5))
    lane.settle(group)
    assert cluster.doubts == {ONE: Doubt(ReadUpTo(70, 5), 7, None)}
    lane.reach(ONE, 80, 10, end=None, read=ReadUpTo(80, 7))
    lane.settle(group)
    assert not cluster.doubts


def test_messages_that_the_new_leader_does_not_have_are_not_committed() -> None:
    """A log that was cut off is an error of its partition, also where it was committed before the cut."""
    cluster = Cluster({"orders": "a"})
    known = Incarnations(cluster, Now())
    known.begin(claim(ONE, 10))
    known.faults({ONE: "a"})
    lane, group = LaneOffsets([claim(ONE, 10)], known), Group(orders=10)
    lane.reach(ONE, 60, 50, end=None, read=ReadUpTo(60, 5))
    lane.settle(group)
    cluster.epoch, cluster.faults = 6, {ONE: cut_off(ONE, 90)}
    lane.reach(ONE, 90, 30, end=None, read=ReadUpTo(90, 5))
    (settled,) = lane.settle(group)
    assert (settled.messages, group.offsets) == (0, {ONE: 60})
    assert "cut off" in (settled.error or "")
    assert "cut off" in str(known.faults({ONE: None}, read=known.read)[ONE])


def test_a_skip_needs_the_log_that_was_surveyed() -> None:
    """A target is not written where the log was cut off below it since the survey."""
    cluster = Cluster({"orders": "a"})
    known = Incarnations(cluster, Now())
    known.surveyed([ONE])
    cluster.epoch, cluster.faults = 6, {ONE: cut_off(ONE, 100)}
    read = known.skipped([claim(ONE, 10)])
    assert read == {ONE: ReadUpTo(100, 5, seen=False)}
    assert known.faults({ONE: "a"}, read=read).keys() == {ONE}


@pytest.mark.parametrize(
    ("group", "partition"), [("billing", 9), ("größe", 7), ("a" * 99, 27), ("polygenelubricants", 0)]
)
def test_the_offsets_partition_is_javas_hash(group: str, partition: int) -> None:
    """The partition of __consumer_offsets is the one that the broker's own hash gives, of 50."""
    assert offsets_partition(group, 50) == partition

"""Figures that are not offsets: each is an error of its partition, never a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ListOffsetsResultInfo  # type: ignore[attr-defined]  # documented
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka import source as source_module
from backlog_clearer.brokers.kafka.admin import GroupAdmin, Topics
from backlog_clearer.brokers.kafka.figures import (
    NOTHING_STORED,
    checked,
    contradiction,
    offsets_left,
)
from backlog_clearer.brokers.kafka.incarnations import Incarnations
from backlog_clearer.brokers.kafka.lane_offsets import LaneOffsets
from backlog_clearer.brokers.kafka.leaders import log_bounds
from backlog_clearer.brokers.kafka.listing import ClusterAdmin
from backlog_clearer.brokers.kafka.metadata import SharedMetadata, TopicNow
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.brokers.kafka.source import KafkaSource
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Claim, Partition, PartitionState, Survey
from backlog_clearer.options.run import RunOptions

ONE, TWO = Partition("orders", 0), Partition("orders", 1)
OPTIONS = KafkaOptions(bootstrap_servers=("127.0.0.1:1",), topic=("orders",), group_id="billing")
OFFSETS = st.integers(0, 2**63 - 1)
FIGURES = st.integers(-(2**63), 2**63 - 1)


class Group(NamedTuple):
    """librdkafka's answer about a group's offsets."""

    topic_partitions: list[TopicPartition]


class Cluster:
    """A group's admin client whose answers are given; nothing is sent."""

    def __init__(self, starts: Sequence[int], ends: Sequence[int], committed: Sequence[int]) -> None:
        self.answers = [starts, ends]
        self.committed = committed
        self.asked = 0
        self.leaderless = False

    def list_offsets(self, wanted: Mapping[TopicPartition, Any], **_: Any) -> dict[Any, Future[Any]]:
        """The log starts, then the log ends, as librdkafka's fan-out answers them."""
        figures = self.answers[self.asked % 2]
        self.asked += 1
        if self.leaderless:
            return {tp: _failed(KafkaError(KafkaError._NOENT, "No leaders found")) for tp in wanted}
        return {tp: _done(_info(figures[tp.partition])) for tp in wanted}

    def list_topics(self, *_: Any, **__: Any) -> None:
        """Metadata; not used."""

    def poll(self, _timeout: float) -> int:
        """Nothing to serve."""
        return 0


def _done(value: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _failed(error: KafkaError) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(KafkaException(error))
    return future


def _info(offset: int) -> ListOffsetsResultInfo:
    return ListOffsetsResultInfo(offset, 0, -1)


def _listed(offsets: Sequence[int]) -> Any:
    """A ListOffsets response about the first partition, as kafka-python decodes it."""
    found = [Mock(partition_index=0, offset=offset, error_code=0) for offset in offsets]
    topic = Mock(partitions=found)
    topic.name = "orders"
    return Mock(topics=[topic])


class Consumer:
    """A consumer whose answers are given."""

    def __init__(self, answers: Sequence[TopicPartition]) -> None:
        self.answers = list(answers)

    def committed(self, _wanted: Any, timeout: float) -> list[TopicPartition]:
        """The offsets as given."""
        assert timeout > 0
        return self.answers

    def commit(self, **_: Any) -> list[TopicPartition]:
        """The answer to a commit, as given."""
        return self.answers


@pytest.fixture
def survey(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Survey]]:
    """Surveys two partitions of a cluster whose figures are given."""
    monkeypatch.setattr(GroupAdmin, "topics", lambda _: Topics({ONE: "id", TWO: "id"}, {}))
    monkeypatch.setattr(SharedMetadata, "topics", lambda *_: {"orders": TopicNow("id", {}, {})})
    monkeypatch.setattr(GroupAdmin, "members", lambda _: ())
    monkeypatch.setattr(source_module, "undo_fault", lambda _: None)
    monkeypatch.setattr(source_module, "pending_notes", lambda *_: ())
    monkeypatch.setattr(GroupAdmin, "cluster_id", lambda _: "c1")
    with closing(KafkaSource(OPTIONS, RunOptions())) as source:

        def ask(starts: Sequence[int], ends: Sequence[int], committed: Sequence[int]) -> Survey:
            source._admin._client = Cluster(starts, ends, committed)  # type: ignore[assignment]
            answers = (TopicPartition("orders", n, offset) for n, offset in enumerate(committed))
            monkeypatch.setattr(source, "_shared", stored(*answers))
            return source.survey()

        yield ask


def stored(*answers: TopicPartition) -> GroupOffsets:
    """A group whose consumer gives these answers."""
    return GroupOffsets(OPTIONS, Consumer(answers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("starts", "ends", "committed", "named"),
    [
        ([-1001, 0], [90, 90], [10, 10], "log start"),
        ([0, 0], [-1001, 90], [10, 10], "log end"),
        ([0, 0], [-1, 90], [10, 10], "log end"),
        ([0, 0], [90, 90], [-1000, 10], "committed offset"),
        ([91, 0], [90, 90], [10, 10], "beyond its end"),
    ],
)
def test_survey_takes_no_figure_from_a_lost_answer(
    survey: Callable[..., Survey],
    starts: list[int],
    ends: list[int],
    committed: list[int],
    named: str,
) -> None:
    """A negative figure makes its partition an error that may pass; the other keeps its backlog."""
    one, two = survey(starts, ends, committed).partitions
    assert (one.backlog, one.passing) == (None, True)
    assert named in (one.error or "")
    assert "orders[0]" in (one.error or "")
    assert (two.backlog, two.error) == (80, None)


def test_survey_without_any_leader_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Librdkafka finds no leaders after a lost answer about them: each partition's error may pass."""
    cluster = Cluster([0, 0], [90, 90], [10, 10])
    cluster.leaderless = True
    with closing(GroupAdmin(OPTIONS)) as admin:
        monkeypatch.setattr(admin, "_client", cluster)
        offsets, errors = admin.log_end([ONE, TWO])
    assert offsets == {}
    assert {key: type(error) for key, error in errors.items()} == dict.fromkeys(
        (ONE, TWO), TransientError
    )


def test_survey_reports_a_position_beyond_the_end(survey: Callable[..., Survey]) -> None:
    """An end below the committed offset is an error of its partition, not an empty backlog."""
    one, two = survey([0, 0], [90, 90], [91, 90]).partitions
    assert (one.position, one.backlog, one.passing) == (91, None, False)
    assert "beyond the end" in (one.error or "")
    assert (two.backlog, two.error) == (0, None)


def test_survey_counts_from_the_start_where_nothing_is_stored(survey: Callable[..., Survey]) -> None:
    """-1001 among committed offsets means that none is stored, and nothing else."""
    one, two = survey([5, 0], [90, 90], [NOTHING_STORED, 10]).partitions
    assert (one.position, one.backlog, one.error) == (None, 85, None)
    assert (two.position, two.backlog) == (10, 80)


@pytest.mark.parametrize("target", [-1001, -1, "7", None])
def test_remaining_is_never_zero_for_a_target_that_is_not_an_offset(
    survey: Callable[..., Survey], monkeypatch: pytest.MonkeyPatch, target: Any
) -> None:
    """A target from a lost answer, or an end that is not known, proves nothing."""
    del survey
    with closing(KafkaSource(OPTIONS, RunOptions())) as source:
        source._admin._client = Cluster([0], [-1001 if target is None else 90], [10])  # type: ignore[assignment]
        monkeypatch.setattr(source, "_shared", stored(TopicPartition("orders", 0, 10)))
        (left,) = source.remaining({ONE: target})
    assert (left.left, left.position) == (None, 10)
    assert left.error


def test_remaining_reports_a_log_that_was_cut_below_the_position(
    survey: Callable[..., Survey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position at the target proves nothing where the log now ends before it."""
    del survey
    with closing(KafkaSource(OPTIONS, RunOptions())) as source:
        source._admin._client = Cluster([0], [3], [90])  # type: ignore[assignment]
        monkeypatch.setattr(source, "_shared", stored(TopicPartition("orders", 0, 90)))
        (left,) = source.remaining({ONE: 90})
    assert left.left is None
    assert "beyond the end" in (left.error or "")


def test_skip_refuses_a_target_that_is_not_an_offset(
    survey: Callable[..., Survey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative target is an error of its partition, and is not written."""
    del survey
    state = PartitionState(ONE, 10, 0, -1001, None)
    with closing(KafkaSource(OPTIONS, RunOptions())) as source:
        monkeypatch.setattr(source, "_stored", stored(TopicPartition("orders", 0, 10)))
        monkeypatch.setattr(source._admin, "log_end", lambda _: ({ONE: 90}, {}))
        (outcome,) = source.skip([Claim(state, None, -1001)])
    assert outcome.position is None
    assert "-1001" in (outcome.error or "")


@given(figures=st.dictionaries(st.builds(Partition, st.just("t"), st.integers(0, 99)), FIGURES))
def test_checked_keeps_offsets_and_names_the_others(figures: dict[Partition, int]) -> None:
    """Every figure is either an offset of at least 0 or a transient error with its partition."""
    offsets, errors = checked(figures, "log end")
    assert offsets.keys() | errors.keys() == figures.keys()
    assert not offsets.keys() & errors.keys()
    assert all(offset == figures[partition] >= 0 for partition, offset in offsets.items())
    assert all(isinstance(error, TransientError) for error in errors.values())
    assert all(getattr(error, "partition", None) == key for key, error in errors.items())


@given(position=st.none() | OFFSETS, start=OFFSETS, end=OFFSETS)
def test_no_backlog_is_zero_unless_the_position_is_at_the_end(
    position: int | None, start: int, end: int
) -> None:
    """Figures without a contradiction give 0 only where nothing retained lies before the end."""
    if contradiction(ONE, position, start, end) is None:
        left = offsets_left(position, start, end)
        assert left == end - max(start if position is None else position, start)
        assert (left == 0) == (end in {start, position})


def test_a_missing_answer_about_committed_offsets_is_an_error() -> None:
    """A partition that the answer leaves out is not taken for one without a committed offset."""
    offsets, errors = stored(TopicPartition("orders", 0, 5)).committed([ONE, TWO])
    assert offsets == {ONE: 5}
    assert isinstance(errors[TWO], TransientError)


def test_a_negative_committed_offset_is_an_error() -> None:
    """Only -1001 means that nothing is stored."""
    answers = (TopicPartition("orders", 0, -1001), TopicPartition("orders", 1, -1000))
    offsets, errors = stored(*answers).committed([ONE, TWO])
    assert (offsets, list(errors)) == ({}, [TWO])


def test_a_commit_without_an_answer_is_not_taken_for_written() -> None:
    """A partition that the answer to a commit leaves out may not be written: it is tried again."""
    with pytest.raises(TransientError) as raised:
        stored(TopicPartition("orders", 0, 5)).commit({ONE: 5, TWO: 6})
    assert raised.value.partition == TWO


@pytest.mark.parametrize(
    ("starts", "ends"), [([-1], [9]), ([0], [-1]), ([], [9]), ([0], []), ([9], [8])]
)
def test_log_bounds_are_checked(starts: list[int], ends: list[int]) -> None:
    """A bound that is missing, negative or contradicts the other is an error of its partition."""
    connection = Mock()
    connection.version.return_value = 4
    connection.call.side_effect = [_listed(starts), _listed(ends)]
    with pytest.raises(BrokerError) as raised:
        log_bounds(connection, [ONE], OPTIONS)
    assert raised.value.partition == ONE
    assert isinstance(raised.value, TransientError)


def test_an_old_end_leaves_unknown_how_much_is_left() -> None:
    """A claim that follows the end is not at it because the last known end lies behind it."""
    lane = LaneOffsets([Claim(PartitionState(ONE, 10, 0, 90, 80), None, None)], Incarnations(Mock()))
    assert lane.reach(ONE, 50, 40, end=49).left is None
    assert lane.reach(ONE, 60, 10, end=61).left == 1


def test_a_group_with_an_offset_that_could_not_be_read_is_listed_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A partition with an error is not left out of a group's backlog without a word."""
    read = Mock(topic="orders", partition=0, offset=5, error=None)
    broken = Mock(
        topic="orders", partition=1, offset=-1001, error=KafkaError(KafkaError.REQUEST_TIMED_OUT)
    )
    admin = ClusterAdmin(OPTIONS)
    monkeypatch.setattr(admin, "_client", Mock(list_consumer_group_offsets=lambda *_, **__: {}))
    monkeypatch.setattr(admin, "_answers", lambda *_: ({"billing": Group([read, broken])}, {}))
    found = admin.committed_offsets(["billing"])["billing"]
    assert found.offsets == {ONE: 5}
    assert "REQUEST_TIMED_OUT" in (found.error or "")

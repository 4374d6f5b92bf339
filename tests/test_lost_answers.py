"""Acknowledgements whose answers are lost: counted where the broker shows them, else a lower bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.brokers.shared.sent import SentPositions
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import TransientError
from backlog_clearer.fanout.slices import FollowUp, summary
from backlog_clearer.model import Claim, Mode, Partition, Position, Remaining, Settled, Traits
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.verdict import sentence
from backlog_clearer.run.verify import difference

ONE, TWO = Partition("t", 0), Partition("t", 1)
EACH = 500


class LossyLane(MemoryLane):
    """A lane that acknowledges, and whose answers are all lost."""

    def settle(self) -> Sequence[Settled]:
        """Acknowledge, and report nothing of it."""
        done = super().settle()
        if done:
            raise TransientError("no answer")
        return done


class LossySource(MemorySource):
    """A source whose acknowledgements have no answers; `shown`: what it finds out about them at the end."""

    def __init__(self, shown: Mapping[Partition, int | None]) -> None:
        broker = MemoryBroker()
        broker.create("t", 2)
        for number in range(2):
            broker.produce("t", number, EACH)
        super().__init__(broker, "t", "g")
        self.shown = shown
        self.asked: Mapping[Partition, Position | None] = {}

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """See `LossyLane`."""
        return LossyLane(self, claims)

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """What the test decides."""
        self.asked = stored
        return self.shown


def run(source: MemorySource, tmp_path: Path) -> RunResult:
    """One run that tries nothing again."""
    options = RunOptions(stop_when_empty=True, receipt_dir=str(tmp_path), max_retries=0, workers=1)
    return clear_source(source, Job("memory", SystemOptions(), options, "r"), Callbacks(), Halt())


def test_acknowledgements_that_the_broker_shows_are_counted(tmp_path: Path) -> None:
    """Every answer was lost, and the positions show what was written: the count is exact."""
    source = LossySource({ONE: EACH, TWO: EACH})
    result = run(source, tmp_path)
    assert source.asked == {ONE: EACH, TWO: EACH}
    assert (result.totals.messages, result.totals.unacknowledged) == (2 * EACH, 0)
    assert not result.totals.at_least
    assert "at least" not in sentence(result)


@pytest.mark.parametrize("counted", [0, EACH])
def test_acknowledgements_that_cannot_be_counted_make_a_lower_bound(
    tmp_path: Path, counted: int
) -> None:
    """Where the broker does not show what was written, the result states no certain count."""
    result = run(LossySource({ONE: counted or None, TWO: None}), tmp_path)
    assert (result.totals.messages, result.totals.at_least) == (counted, True)
    assert [row.at_least for row in result.partitions] == [not counted, True]
    assert ("at least 500 messages" if counted else "could not be counted") in sentence(result)
    assert any("lower bound" in note and "t[1]" in note for note in result.notes)
    assert result.changed


class _NoAccount(LossySource):
    """An adapter that is not `Accountable`."""

    unreported = None  # type: ignore[assignment] # as if it were not there


def test_an_adapter_without_account_has_a_lower_bound(tmp_path: Path) -> None:
    """A settle that failed leaves a doubt where the adapter cannot remove it."""
    result = run(_NoAccount({}), tmp_path)
    assert (result.totals.messages, result.totals.at_least) == (0, True)


class Forgetful(MemorySource):
    """A source whose broker shows only a part of what was acknowledged."""

    def __init__(self, back: Mapping[Partition, int | None], doubted: Sequence[Partition] = ()) -> None:
        broker = MemoryBroker()
        broker.create("t", 2)
        for number in range(2):
            broker.produce("t", number, EACH)
        super().__init__(broker, "t", "g")
        self.back, self.doubted = back, doubted

    def returned(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """What the test decides."""
        assert set(stored) == {ONE, TWO}
        return self.back

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """As `returned`."""
        return dict.fromkeys(self.doubted)


class Silent(Forgetful):
    """The same, whose broker does not answer at the end."""

    def returned(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """As the reference adapter."""
        return MemorySource.returned(self, stored)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """No answer."""
        raise TransientError("no answer")


@pytest.mark.parametrize(("doubted", "least"), [((), False), ((TWO,), True)])
def test_acknowledgements_that_the_broker_lost_are_not_counted(
    tmp_path: Path, doubted: Sequence[Partition], *, least: bool
) -> None:
    """What came back is taken off the count, and is read but not acknowledged; it may be a bound besides."""
    result = run(Forgetful({TWO: 200}, doubted), tmp_path)
    assert [row.messages for row in result.partitions] == [EACH, EACH - 200]
    assert [row.unacknowledged for row in result.partitions] == [0, 200]
    assert [row.at_least for row in result.partitions] == [False, least]
    assert ("at least 800 messages" in sentence(result)) is least


def test_no_count_is_below_zero(tmp_path: Path) -> None:
    """A source that takes off more than was counted leaves nothing."""
    result = run(Forgetful({ONE: EACH + 1, TWO: EACH}), tmp_path)
    assert (result.totals.messages, result.totals.unacknowledged) == (0, 2 * EACH)


def test_acknowledgements_that_the_broker_does_not_show_make_an_upper_bound(tmp_path: Path) -> None:
    """Where it is unknown what came back, the count is kept, and is stated as the most that it can be."""
    result = run(Forgetful({TWO: None}), tmp_path)
    assert [row.messages for row in result.partitions] == [EACH, EACH]
    assert [(row.at_least, row.at_most) for row in result.partitions] == [(False, False), (False, True)]
    assert "at most 1,000 messages" in sentence(result)
    assert "at most 1,000 messages" in summary(result, FollowUp.RETRY)
    assert any("upper bound" in note and "t[1]" in note for note in result.notes)


def test_bounds_of_both_kinds_leave_an_estimate(tmp_path: Path) -> None:
    """The sum of a lower and an upper bound is neither."""
    result = run(Forgetful({TWO: None}, (ONE,)), tmp_path)
    assert (result.totals.at_least, result.totals.at_most) == (True, True)
    assert "about 1,000 messages" in sentence(result)


def test_a_count_with_no_bound_is_not_stated(tmp_path: Path) -> None:
    """Where both more and fewer may be acknowledged, only 0 is certain: at least."""
    result = run(Forgetful({TWO: None}, (TWO,)), tmp_path)
    assert (result.partitions[1].messages, result.partitions[1].unacknowledged) == (0, EACH)
    assert (result.partitions[1].at_least, result.partitions[1].at_most) == (True, False)


def test_a_broker_that_does_not_answer_at_the_end_leaves_an_upper_bound(tmp_path: Path) -> None:
    """The verification fails: the messages that were acknowledged may not all be."""
    source = Silent({})
    result = run(source, tmp_path)
    assert (result.totals.messages, result.totals.at_most, result.verified) == (2 * EACH, True, None)
    assert "at most 1,000 messages" in sentence(result)


def test_a_lower_bound_is_not_explained_by_empty_units(tmp_path: Path) -> None:
    """Lost answers are not blamed on markers or compaction."""
    rows = run(LossySource({ONE: None, TWO: None}), tmp_path).partitions
    (note,) = difference(Traits(unit="offsets", empty_units="markers"), Mode.CONSUME, rows)
    assert "answers" in note


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ({ONE: 100}, 100),
        ({ONE: 50}, 40),
        ({ONE: 10}, 0),
        ({ONE: None}, 0),
        ({ONE: 70}, None),  # another client's
        ({ONE: 120}, None),
        ({}, None),  # the broker did not answer
    ],
)
def test_a_stored_position_counts_if_it_is_one_that_was_sent(
    stored: dict[Partition, int | None], found: int | None
) -> None:
    """Two positions were sent: what is stored shows which of them was written, or that none was."""
    sent = SentPositions()
    sent.sending(ONE, 50, 40)
    sent.sending(ONE, 100, 100)
    assert sent.unreported(stored) == {ONE: found}
    assert (sent.is_own(ONE, 50), sent.is_own(ONE, 70)) == (True, False)


def test_what_a_settle_reports_is_not_counted_again() -> None:
    """A report up to a position leaves only the messages behind it in doubt."""
    sent = SentPositions()
    sent.sending(ONE, 100, 100)
    sent.sending(ONE, 50, 50)
    sent.reported(ONE, 50, 50)
    assert sent.unreported({ONE: 100}) == {ONE: 50}
    sent.reported(ONE, 100, 50)
    assert sent.unreported({ONE: 100}) == {}

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
from backlog_clearer.model import Claim, Mode, Partition, Position, Settled, Traits
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

"""How fast a backlog moves: arithmetic over looks whose times are given."""

from __future__ import annotations

from typing import Any

import pytest

from backlog_clearer.model import Partition, PartitionState, Position
from backlog_clearer.run.rates import (
    History,
    Rates,
    Sighting,
    eta_s,
    not_measured,
    rates_between,
    summed,
)

P, Q = Partition("t", 0), Partition("t", 1)


def between(partition: Partition, first: Position, last: Position) -> int | None:
    """Offsets count; texts do not."""
    del partition
    return last - first if isinstance(first, int) and isinstance(last, int) else None


def state(
    position: Any, end: Any, backlog: int | None, partition: Partition = P, **more: Any
) -> PartitionState:
    """A partition at one look."""
    return PartitionState(partition, position, 0, end, backlog, **more)


def rates(old: PartitionState, new: PartitionState, seconds: float = 10.0, **how: Any) -> Rates:
    """The rates between two looks."""
    return rates_between(Sighting(100.0, old), Sighting(100.0 + seconds, new), between, **how)


def test_arrival_is_the_growth_of_the_end_and_drain_the_movement_of_the_position() -> None:
    """50 offsets arrived in 10 s and 200 were drained: 5/s, 20/s, and 15/s less backlog."""
    found = rates(state(0, 1000, 1000), state(200, 1050, 850))
    assert found == Rates(10.0, 5.0, 20.0, -15.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (state(500, 1000, 500), state(400, 1000, 600)),
        (state(500, 1000, 500), state(600, 900, 300)),
        (state(5, 9, 4, incarnation="a"), state(6, 10, 4, incarnation="b")),
        (state(None, 9, 9), state(6, 9, 3)),
        (state(5, 9, 4), state(None, 9, 9)),
        (state(5, 9, 4), state(None, None, None, error="no leader")),
        (state("a", 9, 4), state("b", 9, 6)),
    ],
)
def test_what_is_no_history_has_no_rates(old: PartitionState, new: PartitionState) -> None:
    """A lowered position or end, another log, a first commit and an error give unknown, never below 0."""
    assert rates(old, new) == Rates()


def test_looks_at_the_same_time_have_no_rates() -> None:
    """Without time between two looks nothing is divided by it."""
    assert rates(state(0, 9, 9), state(1, 9, 8), seconds=0.0) == Rates()


def test_unknown_backlogs_leave_what_positions_show() -> None:
    """Arrival and drain are known only by positions; the change is not."""
    assert rates(state(0, 9, None), state(5, 19, None)) == Rates(10.0, 1.0, 0.5, None)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (state("a", 100, 50), state("b", 120, 30), Rates(10.0, 2.0, 4.0, -2.0)),
        (state(50, "a", 50), state(90, "b", 30), Rates(10.0, 2.0, 4.0, -2.0)),
        (state("a", "c", 50), state("b", "d", 30), Rates(10.0, None, None, -2.0)),
        (state(None, 100, 60), state(None, 120, 70), Rates(10.0, 2.0, 0.0, 1.0)),
    ],
)
def test_the_backlog_fills_in_what_positions_do_not_show(
    old: PartitionState, new: PartitionState, expected: Rates
) -> None:
    """Arrival or drain follows from the other one and the backlog; messages that expired are not drained."""
    assert rates(old, new) == expected


def test_competing_consumers_are_measured_by_the_backlog() -> None:
    """Where messages are acknowledged in any order, the position may stay while the backlog is drained."""
    assert rates(state(0, 100, 100), state(0, 110, 60), competing=True) == Rates(10.0, 1.0, 5.0, -4.0)


def test_a_source_that_cannot_count_shows_only_the_change() -> None:
    """Without `Countable`, arrival and drain stay unknown where both positions moved."""
    old, new = Sighting(0.0, state(1, 5, 4)), Sighting(4.0, state(2, 9, 7))
    assert rates_between(old, new, not_measured) == Rates(4.0, None, None, 0.75)


@pytest.mark.parametrize(
    ("backlog", "change", "expected"),
    [
        (0, None, 0.0),
        (0, 5.0, 0.0),
        (100, -4.0, 25.0),
        (100, 0.0, None),
        (100, 3.0, None),
        (None, -4.0, None),
        (100, None, None),
    ],
)
def test_an_eta_needs_a_backlog_that_shrinks(
    backlog: int | None, change: float | None, expected: float | None
) -> None:
    """At a known rate the rest takes its time; otherwise the ETA is unknown, not infinite and not 0."""
    assert eta_s(backlog, change) == expected


def test_sums_are_unknown_where_a_part_is() -> None:
    """One partition without a rate leaves the sum unknown; no partition at all does, too."""
    known = Rates(10.0, 1.0, 2.0, -1.0)
    assert summed([known, known]) == Rates(10.0, 2.0, 4.0, -2.0)
    assert summed([known, Rates(10.0, None, 3.0, None)]) == Rates(10.0, None, 5.0, None)
    assert summed([]) == Rates()


def test_rates_are_those_of_the_last_seconds() -> None:
    """With a look every 10 s, rates span the last 30 s, and not what was before."""
    history = History(30.0)
    positions = [0, 0, 0, 0, 30, 60, 90]
    found = [
        history.add(10.0 * number, [state(at, 1000, 1000 - at)], between)[P]
        for number, at in enumerate(positions)
    ]
    assert found[0] == Rates()
    assert [item.drain for item in found[1:]] == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
    assert [item.seconds for item in found[1:]] == [10.0, 20.0, 30.0, 30.0, 30.0, 30.0]


def test_a_longer_interval_counts_from_the_look_before() -> None:
    """With a look every 60 s, rates are those between two looks."""
    history = History(30.0)
    for number, at in enumerate((0, 600, 660)):
        found = history.add(60.0 * number, [state(at, 1000, 1000 - at)], between)[P]
    assert found == Rates(60.0, 0.0, 1.0, -1.0)


def test_a_reset_is_unknown_once_and_then_counted_anew() -> None:
    """After a position was lowered, rates are counted from there, not from what was seen before."""
    history = History(30.0)
    looks = [(0.0, 100), (5.0, 0), (10.0, 500)]
    found = [history.add(at_s, [state(at, 1000, 1000 - at)], between)[P] for at_s, at in looks]
    assert found[1:] == [Rates(), Rates(5.0, 0.0, 100.0, -100.0)]


def test_an_error_of_one_partition_leaves_the_others_their_rates() -> None:
    """A partition without a leader at one look has no rate then, and its rate again later."""
    history = History(30.0)
    history.add(0.0, [state(0, 9, 9), state(0, 9, 9, Q)], between)
    lost = state(None, None, None, Q, error="no leader")
    second = history.add(5.0, [state(5, 9, 4), lost], between)
    third = history.add(10.0, [state(5, 9, 4), state(5, 9, 4, Q)], between)
    assert (second[P].drain, second[Q]) == (1.0, Rates())
    assert third[Q] == Rates(10.0, 0.0, 0.5, -0.5)

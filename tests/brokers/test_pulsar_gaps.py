"""When an in-order lane may pass over entries that did not arrive: pure rules, with figures that are given."""

from __future__ import annotations

from backlog_clearer.brokers.pulsar.gaps import FreshFigures, GapWatch
from backlog_clearer.brokers.pulsar.positions import Hole, Layout, Place

OPENED = 100.0
LEDGERS = ((3, 50), (7, 50))
SURVEYED = Layout(LEDGERS, Place(7, 49), Place(3, 9), (Hole(Place(3, 19), Place(3, 24)),))


def watch(*, now: Layout = SURVEYED, in_transactions: bool = False) -> GapWatch:
    """A watch of a lane whose broker answers so."""
    return GapWatch(SURVEYED, FreshFigures(lambda: now, lambda: in_transactions), OPENED)


def test_entries_that_are_acknowledged_are_passed_over() -> None:
    """Acknowledged entries, and the end of a ledger, are not missing."""
    gap = watch()
    assert gap.passes(Place(3, 19), Place(3, 25), None, OPENED)
    assert gap.passes(Place(3, 49), Place(7, 0), None, OPENED)
    assert not gap.open


def test_a_missing_entry_is_requested_and_nothing_passes_it() -> None:
    """While the figures count it, no later entry passes; it is requested once, not for each entry."""
    gap = watch()
    assert not gap.passes(Place(3, 9), Place(3, 12), None, OPENED)
    assert (gap.open, gap.wanted) == (True, True)
    assert not gap.passes(Place(3, 9), Place(3, 13), None, OPENED)
    assert not gap.wanted
    assert not gap.passes(Place(3, 9), Place(3, 12), None, OPENED + 1)
    assert gap.wanted


def test_a_missing_entry_that_is_gone_by_new_figures_is_passed_over() -> None:
    """FreshFigures asked afresh decide: an entry that was acknowledged meanwhile is not missing."""
    gap = watch(now=Layout(LEDGERS, Place(7, 49), Place(3, 11)))
    assert gap.passes(Place(3, 9), Place(3, 12), None, OPENED)


def test_a_target_is_not_reached_over_missing_entries() -> None:
    """An entry beyond the target proves nothing while entries up to the target are missing."""
    gap = watch()
    assert not gap.passes(Place(3, 9), Place(7, 3), Place(3, 12), OPENED)
    gone = watch(now=Layout(LEDGERS, Place(7, 49), Place(3, 12)))
    assert gone.passes(Place(3, 9), Place(7, 3), Place(3, 12), OPENED)


def test_entries_behind_the_surveyed_end_are_looked_up() -> None:
    """An entry that the survey did not see is not taken for gone by the survey's figures."""
    later = Layout(((7, 80),), Place(7, 79), Place(7, 49))
    assert not watch(now=later).passes(Place(7, 49), Place(7, 60), None, OPENED)
    assert watch(now=later).passes(Place(7, 49), Place(7, 50), None, OPENED)


def test_entries_in_open_transactions_are_passed_over_once_confirmed() -> None:
    """What open transactions acknowledged is passed over after the broker was asked again."""
    gap = watch(in_transactions=True)
    assert not gap.passes(Place(3, 9), Place(3, 12), None, OPENED)
    assert not gap.passes(Place(3, 9), Place(3, 12), None, OPENED + 2)
    assert gap.passes(Place(3, 9), Place(3, 12), None, OPENED + 2.1)


def test_without_figures_the_broker_is_asked_twice() -> None:
    """Without the admin API, entries count as gone once the broker has left them out again."""
    gap = GapWatch(None, None, OPENED)
    assert gap.passes(Place(3, 9), Place(3, 10), None, OPENED)
    assert gap.passes(Place(3, 10), Place(7, 0), None, OPENED)
    assert not gap.passes(Place(7, 0), Place(7, 4), None, OPENED)
    assert not gap.passes(Place(7, 0), Place(7, 4), None, OPENED + 2)
    assert gap.passes(Place(7, 0), Place(7, 4), None, OPENED + 2.1)


def test_missing_entries_are_requested_again_after_silence() -> None:
    """Where nothing more arrives, missing entries are requested every two seconds."""
    gap = watch()
    assert not gap.overdue(OPENED, OPENED + 60)
    gap.passes(Place(3, 9), Place(3, 12), None, OPENED)
    assert not gap.overdue(OPENED, OPENED + 1)
    assert gap.overdue(OPENED, OPENED + 2.5)
    assert not gap.overdue(OPENED, OPENED + 3)

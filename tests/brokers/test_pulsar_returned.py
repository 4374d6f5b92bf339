"""Messages that were acknowledged and come back with a broker: which of them are taken off the count; pure."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.pulsar.acknowledgements import Acknowledgements, Returned
from backlog_clearer.brokers.pulsar.positions import Entries, Hole, Layout, Place
from backlog_clearer.model import Partition

ONE = Partition("t", 0)
LEDGERS = ((3, 5000), (7, 100))
END = Place(7, 99)
OPENED = 100.0


def shown(position: Place, *holes: Hole) -> Layout:
    """The broker's figures at the end of a run."""
    return Layout(LEDGERS, END, position, holes)


def shared(*, first: int = 0, last: int = 5000, messages: int = 1) -> Acknowledgements:
    """What lanes acknowledged one by one: entries of ledger 3, each with so many messages."""
    done = Acknowledgements()
    places = [Place(3, number) for number in range(first, last)]
    done.add(ONE, places, [messages] * len(places))
    return done


def in_order(*steps: tuple[Place, int]) -> Acknowledgements:
    """What a lane acknowledged cumulatively, with the messages of each step."""
    done = Acknowledgements()
    for at, messages in steps:
        done.reach(ONE, at, messages)
    return done


def returned(
    done: Acknowledgements, found: Layout | None, *, ahead: bool = True
) -> tuple[int | None, bool]:
    """Messages to be taken off the count (None: unknown), and whether that is exact."""
    done.shown, done.ahead = {} if found is None else {ONE: found}, ahead
    item = done.returned().get(ONE, Returned(0, exact=True))
    assert done.doubted() == (set() if item.exact else {ONE})
    return item


def broken(done: Acknowledgements) -> Acknowledgements:
    """The same after a lane whose connection broke."""
    done.closed([ONE], OPENED, answered=False)
    return done


def renewed(done: Acknowledgements) -> Acknowledgements:
    """The same after a lane that was opened later and ended in order."""
    done.closed([ONE], broken(done).broken[ONE] + 1, answered=True)
    return done


@pytest.mark.parametrize("messages", [0, 1, 253, 254, 255, 1000])
def test_messages_of_entries_that_are_not_acknowledged_are_added_up(messages: int) -> None:
    """Entries count with their messages, over pages and ledgers, without those the broker has acknowledged."""
    entries = Entries()
    for number in range(5000):
        entries.add(Place(3, number), messages)
    for number in range(100):
        entries.add(Place(7, number), messages)
    assert entries.outside(shown(Place(3, -1))) == 5100 * messages
    assert entries.outside(shown(Place(3, 4990))) == 109 * messages
    assert entries.outside(shown(Place(3, 4999))) == entries.outside(shown(Place(7, -1)))
    assert entries.outside(shown(END)) == 0
    holes = Hole(Place(3, 4000), Place(3, 4200)), Hole(Place(3, 4998), Place(7, 9))
    assert entries.outside(shown(Place(3, 3999), *holes)) == (1 + 798 + 90) * messages


def test_an_entry_that_comes_back_counts_once() -> None:
    """What is acknowledged again, without messages, keeps the number that was counted first."""
    done = shared(messages=10)
    done.add(ONE, [Place(3, 0)], [0])
    assert returned(done, shown(Place(3, -1))) == (50_000, False)


def test_what_a_broker_lost_is_taken_off_exactly_once_it_is_connected_again() -> None:
    """Of 5,000 entries the broker shows 3,200 after a restart: 1,800 are not counted, and that is certain."""
    assert returned(renewed(shared()), shown(Place(3, 3199))) == (1800, True)
    assert returned(renewed(shared()), shown(Place(3, 4999))) == (0, True)


def test_what_may_be_on_its_way_makes_a_lower_bound() -> None:
    """After a connection that broke last, more may be acknowledged than the broker shows."""
    assert returned(broken(shared()), shown(Place(3, 3199))) == (1800, False)
    assert returned(shared(), shown(Place(3, 3199))) == (1800, False)
    assert returned(broken(shared()), shown(Place(3, 4999))) == (0, True)


def test_without_figures_it_is_unknown_what_came_back() -> None:
    """A broker that does not show what it has may have lost anything, however the last connection ended."""
    for done in (shared(), in_order((Place(3, 4999), 5000))):
        for each in (done, broken(done), renewed(done)):
            assert returned(each, None) == (None, True)


def test_figures_of_another_log_show_nothing() -> None:
    """A partition whose answer proves nothing about this log is not compared with it."""
    done = shared()
    done.shown = {ONE: shown(Place(3, -1))}
    done.keep(())
    assert done.returned() == {ONE: Returned(None, exact=True)}


def test_what_the_broker_has_stored_cannot_come_back() -> None:
    """Once everything is stored, nothing is unknown, and a later acknowledgement is."""
    done = shared()
    done.note_stored(ONE)
    assert returned(done, None) == (0, True)
    done.add(ONE, [Place(7, 0)], [1])
    assert returned(done, None) == (None, True)


def test_a_broker_that_never_reports_positions_is_trusted_unless_the_last_connection_broke() -> None:
    """It answers, and never shows what it has: unknown is only what came back after the last lane."""
    done = shared()
    done.mute.add(ONE)
    assert returned(done, None, ahead=False) == (0, True)
    assert returned(broken(done), None, ahead=False) == (None, True)
    assert returned(renewed(done), None, ahead=False) == (0, True)


def test_a_position_alone_does_not_show_what_is_acknowledged_ahead_of_it() -> None:
    """Without the admin API, entries ahead of the position are doubted only where the broker lost some."""
    ahead = shared(first=10)
    assert returned(ahead, shown(Place(3, 4)), ahead=False) == (0, True)
    assert returned(broken(ahead), shown(Place(3, 4)), ahead=False) == (4990, False)
    # The entry behind the position was acknowledged: a broker that has that would have moved the position.
    assert returned(shared(), shown(Place(3, 4)), ahead=False) == (4995, False)


def test_in_order_the_position_shows_which_acknowledgement_was_stored() -> None:
    """The position is one that was sent, and the messages of the later ones are taken off."""
    done = renewed(in_order((Place(3, 99), 40), (Place(3, 4999), 900), (Place(7, 49), 5)))
    assert returned(done, shown(Place(3, 99))) == (905, True)
    assert returned(done, shown(Place(7, -1))) == (5, True)
    assert returned(done, shown(Place(7, 49))) == (0, True)
    assert returned(done, shown(Place(3, -1))) == (945, True)


def test_a_position_before_the_steps_that_are_kept_makes_a_lower_bound() -> None:
    """A long run keeps its last steps only, and does not guess the messages before them."""
    done = renewed(in_order(*((Place(3, number), 1) for number in range(500))))
    assert returned(done, shown(Place(3, 450))) == (49, True)
    assert returned(done, shown(Place(3, 10))) == (500, False)

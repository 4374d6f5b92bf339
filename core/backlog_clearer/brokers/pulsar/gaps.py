"""Entries that did not arrive: an in-order lane neither counts nor acknowledges what comes after them.

After a reconnect, a broker with a dispatch rate limit may send a Failover consumer later entries before it
goes back to the first unacknowledged one (PersistentDispatcherSingleActiveConsumer: the delayed read of the
former consumer runs before the cursor is rewound). So an entry that is missing is accepted as gone only by the
broker's figures; otherwise it is requested again. Pure, except for the figures that are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from backlog_clearer.brokers.pulsar.positions import Layout, Place

_SETTLED_S = 1.5  # after which a new consumer's stream is in order: the failover delay is 1 s
_REPEAT_S = 2.0  # silence after which missing entries are requested again
_PATIENCE_S = 8.0  # the same while other entries arrive


class FreshFigures(NamedTuple):
    """How the broker is asked about one partition; both raise `BrokerError`."""

    layout: Callable[[], Layout]
    in_transactions: Callable[
        [], bool
    ]  # whether open transactions have acknowledged some of its messages


class GapWatch:
    """What is missing in one partition that is read in order."""

    def __init__(self, layout: Layout | None, figures: FreshFigures | None, opened_at: float) -> None:
        """`figures`: None without the admin API. `opened_at`: time.monotonic()."""
        self.layout = layout
        self.open = False  # whether entries are missing now
        self.wanted = False  # whether they are to be requested
        self.gone = 0  # entries that were in the backlog when it was surveyed, and are not any more
        self._figures = figures
        self._opened_at = opened_at
        self._seen: Place | None = None  # the last entry that arrived behind the gap
        self._asked_at = opened_at

    def passes(self, last: Place, arrived: Place, target: Place | None, now: float) -> bool:
        """Whether nothing after `last` is still to be delivered before the entry that arrived, or the target.

        If not, the entry must be dropped, and missing ones requested where `wanted`. Raises like `figures`.
        """
        rewound = self._seen is not None and arrived <= self._seen
        ask = self._seen is None or rewound
        self._seen = arrived
        before = arrived
        if target is not None and arrived > target:
            before = Place(target.ledger, target.entry + 1)
        if self._gone(last, before, rewound=rewound, ask=ask):
            self.close()
            return True
        self.wanted = ask or now - self._asked_at > _PATIENCE_S
        self.open = True
        if self.wanted:
            self._asked_at = now
        return False

    def close(self) -> None:
        """Note that nothing is missing any more."""
        self.open, self._seen = False, None

    def _gone(self, last: Place, before: Place, *, rewound: bool, ask: bool) -> bool:
        if last.ledger < 0:  # the position is not known: the first entry is where it begins
            return True
        confirmed = rewound and self._asked_at > self._opened_at + _SETTLED_S
        if self._figures is None:
            return confirmed or before.entry == (0 if before.ledger > last.ledger else last.entry + 1)
        known = self.layout is not None and Place(before.ledger, before.entry - 1) <= self.layout.end
        if known and self.layout and not self.layout.missing(last, before):
            return True
        if not ask:
            return False
        surveyed, self.layout = self.layout, self._figures.layout()
        if not self.layout.missing(last, before):
            self.gone += surveyed.missing(last, before) if surveyed else 0
            return True
        return confirmed and self._figures.in_transactions()

    def overdue(self, active_at: float, now: float) -> bool:
        """Whether missing entries are to be requested again: nothing has arrived since `active_at`."""
        if not self.open or now - max(active_at, self._asked_at) < _REPEAT_S:
            return False
        self._asked_at = now
        self._seen = None  # ask for figures with the next entry
        return True

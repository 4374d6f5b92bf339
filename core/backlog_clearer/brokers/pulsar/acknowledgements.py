"""What all lanes of a source have acknowledged, and what of it the broker still shows at the end.

A broker keeps acknowledgements in memory for a while (see `lasting`), and does not confirm them: what it had
not stored when it was killed, and what was on the way then, comes back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from backlog_clearer.brokers.pulsar.positions import Entries, Layout, Place
from backlog_clearer.model import Partition

_STEPS = (
    120  # cumulative acknowledgements that are kept: one a second, and a cursor is stored within 60 s
)


class Returned(NamedTuple):
    """Messages that were counted as acknowledged, and that the broker does not show as such."""

    messages: int | None  # None: it is not known how many
    exact: bool  # whether none of these is acknowledged


_NOTHING = Returned(0, exact=True)
_UNKNOWN = Returned(None, exact=True)


class Steps:
    """Cumulative acknowledgements of one partition."""

    def __init__(self) -> None:
        self._steps: deque[tuple[Place, int]] = deque(maxlen=_STEPS)
        self._dropped = False
        self.messages = 0

    def add(self, at: Place, messages: int) -> None:
        """Note an acknowledgement up to a place, and the messages counted since the one before."""
        self.messages += messages
        self._dropped |= len(self._steps) == _STEPS
        self._steps.append((at, self.messages))

    def after(self, position: Place) -> Returned:
        """Messages that were acknowledged after a position."""
        for at, messages in reversed(self._steps):
            if at <= position:
                return Returned(self.messages - messages, exact=True)
        return Returned(self.messages, exact=not self._dropped)


def _begins(entries: Entries, position: Place) -> bool:
    """Whether an entry right behind a position is noted, which would have moved the position."""
    return Place(position.ledger, position.entry + 1) in entries


@dataclass
class Acknowledgements:
    """What all lanes of a source have acknowledged; its methods may be called from any thread."""

    ahead: bool = True  # whether `shown` has what is acknowledged one by one ahead of the position
    shown: dict[Partition, Layout] = field(default_factory=dict)
    """The broker's figures of the partitions that it was asked about last; its ledgers may be missing."""
    mute: set[Partition] = field(default_factory=set)
    """Partitions whose broker answers, and does not report the position."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[Partition, Entries] = field(default_factory=dict)  # where lanes compete
    acked: dict[Partition, Place] = field(default_factory=dict)  # cumulatively
    steps: dict[Partition, Steps] = field(default_factory=dict)  # the same, one by one
    lanes: int = 0  # open now
    gone: dict[Partition, int] = field(default_factory=dict)
    """Entries that were gone when their turn came, where they are read in order."""
    unsure: set[Partition] = field(default_factory=set)
    """Partitions of which an acknowledgement was perhaps sent, and was not counted."""
    unstored: dict[Partition, object] = field(default_factory=dict)
    """Partitions acknowledged since the broker is known to have stored it, with what it had stored last."""
    warned: set[Partition] = field(default_factory=set)  # that the broker could not be made to store
    broken: dict[Partition, float] = field(default_factory=dict)
    """When a lane last ended without the broker's answer to its end (time.monotonic()); see `closed`."""
    renewed: dict[Partition, float] = field(default_factory=dict)
    """When the last lane was opened to whose end the broker answered."""

    def includes(self, partition: Partition, at: Place) -> bool:
        """Whether an entry was counted and acknowledged before."""
        with self.lock:
            seen = self.entries.get(partition)
            return seen is not None and at in seen

    def add(self, partition: Partition, places: Sequence[Place], messages: Sequence[int]) -> None:
        """Note entries as acknowledged, and the messages counted of each."""
        with self.lock:
            seen = self.entries.setdefault(partition, Entries())
            for at, count in zip(places, messages, strict=True):
                seen.add(at, count)
            self.unstored[partition] = None

    def opened(self, lanes: int) -> None:
        """Note lanes opened, or closed if it is negative."""
        with self.lock:
            self.lanes += lanes

    def closed(self, partitions: Iterable[Partition], opened_at: float, *, answered: bool) -> None:
        """Note the end of a lane that was opened at this `time.monotonic()`.

        `answered`: by the broker, which then has everything that the lane sent.
        """
        now = time.monotonic()
        with self.lock:
            for partition in partitions:
                if answered:
                    self.renewed[partition] = max(opened_at, self.renewed.get(partition, opened_at))
                else:
                    self.broken[partition] = now

    def reach(self, partition: Partition, at: Place, messages: int = 0) -> None:
        """Note that everything up to a place is acknowledged, and the messages counted since the last one."""
        with self.lock:
            self.acked[partition] = max(at, self.acked.get(partition, at))
            self.steps.setdefault(partition, Steps()).add(at, messages)
            self.unstored[partition] = None

    def doubted(self) -> set[Partition]:
        """Partitions of which more may be acknowledged than was counted, less `returned`."""
        return self.unsure | {key for key, found in self.returned().items() if not found.exact}

    def keep(self, answered: Collection[Partition]) -> None:
        """Leave only these partitions `shown`: of the others, the figures prove nothing."""
        self.shown = {key: layout for key, layout in self.shown.items() if key in answered}

    def returned(self) -> Mapping[Partition, Returned]:
        """What of the messages counted the broker does not show as acknowledged, once no lane is open.

        Partitions of which all is shown are left out. Figures that do not have what lies ahead of the position
        count only where there is a reason for doubt. A number is exact if the last lane that ended without an
        answer was followed by one that had it: nothing can be on its way to the broker then. Unknown where
        the partition is not `shown`, unless the broker has stored everything.
        """
        with self.lock:
            found = {key: self._returned(key) for key in (*self.entries, *self.steps)}
        return {key: item for key, item in found.items() if item.messages != 0}

    def _returned(self, partition: Partition) -> Returned:
        shown, entries = self.shown.get(partition), self.entries.get(partition)
        broken_at = self.broken.get(partition)
        renewed = broken_at is not None and self.renewed.get(partition, 0.0) > broken_at
        if shown is None:
            # It never shows anything; what it lost at a fault was delivered to a later lane again.
            trusted = partition in self.mute and (broken_at is None or renewed)
            return _NOTHING if trusted or partition not in self.unstored else _UNKNOWN
        if entries is not None:
            lost = self.ahead or _begins(entries, shown.mark_delete)
            if broken_at is None and not lost:
                return _NOTHING
            found = Returned(entries.outside(shown), exact=self.ahead)
        else:
            found = self.steps[partition].after(shown.mark_delete)
        return found._replace(exact=found.exact and renewed)

    def lose(self, partition: Partition, entries: int) -> None:
        """Note entries that were in the backlog and are gone."""
        with self.lock:
            self.gone[partition] = self.gone.get(partition, 0) + entries

    def stored_since(self, partition: Partition, stored: object) -> bool:
        """Whether the broker has stored the cursor again since this was first asked."""
        with self.lock:
            if self.unstored.get(partition) is None:
                self.unstored[partition] = stored
            return self.unstored[partition] != stored

    def first_unstored(self, partition: Partition) -> bool:
        """Whether this is the first time that the broker could not be made to store a partition."""
        with self.lock:
            known = partition in self.warned
            self.warned.add(partition)
            return not known

    def note_stored(self, partition: Partition) -> None:
        """Note that the broker has stored all acknowledgements so far."""
        with self.lock:
            self.unstored.pop(partition, None)

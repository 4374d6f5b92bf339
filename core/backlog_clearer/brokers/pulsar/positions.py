"""Positions of a Pulsar topic, and what lies between them: pure arithmetic over ledgers.

A partition is a run of ledgers, each with entries 0…n-1; an entry holds one message, a batch of
them, or a chunk of one. Positions are written "LEDGER:ENTRY", as Pulsar's own tools write them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_RANGE = re.compile(r"([(\[])(-?\d+):(-?\d+)\s*(?:\.\.|,)\s*(-?\d+):(-?\d+)([)\]])")


class Place(NamedTuple):
    """An entry of a topic; sorts in the order of delivery."""

    ledger: int
    entry: int  # -1: before the first of its ledger

    def __str__(self) -> str:
        return f"{self.ledger}:{self.entry}"


def place(text: object) -> Place:
    """Parse "LEDGER:ENTRY"; raises `ValueError`."""
    ledger, _, entry = str(text).partition(":")
    return Place(int(ledger), int(entry))


class Hole(NamedTuple):
    """Entries acknowledged one by one, ahead of the mark-delete position: `first` < e <= `last`."""

    first: Place
    last: Place


@dataclass(frozen=True, slots=True)
class Layout:
    """What `internalStats` tells of one partition and one subscription's cursor."""

    ledgers: tuple[tuple[int, int], ...]  # (ledger, entries), in order
    end: Place  # the last entry confirmed
    mark_delete: Place | None  # None: no such subscription
    holes: tuple[Hole, ...] = ()  # in order

    def before(self, at: Place) -> int:
        """Entries of the topic up to and with this one."""
        return sum(
            size if ledger < at.ledger else min(size, at.entry + 1)
            for ledger, size in self.ledgers
            if ledger <= at.ledger
        )

    def between(self, after: Place, last: Place) -> int:
        """Entries after the one up to and with the other, acknowledged or not."""
        return max(0, self.before(last) - self.before(after))

    def left(self, target: Place) -> int | None:
        """Entries up to and with the target that are not acknowledged; None: no cursor."""
        position = self.mark_delete
        if position is None:
            return None
        done = sum(
            self.between(max(hole.first, position), min(hole.last, target)) for hole in self.holes
        )
        return max(0, self.between(position, target) - done)

    def acknowledged(self, at: Place) -> bool:
        """Whether the subscription had acknowledged an entry."""
        if self.mark_delete is not None and at <= self.mark_delete:
            return True
        before = bisect_left(self.holes, at, key=lambda hole: hole.first)  # holes that begin before it
        return before > 0 and at <= self.holes[before - 1].last

    def canonical(self, at: Place) -> Place:
        """The same position as the entry before it, where its ledger has none before it."""
        while at.entry < 0:
            earlier = [item for item in self.ledgers if item[0] < at.ledger]
            if not earlier:
                break
            ledger, size = earlier[-1]
            at = Place(ledger, size - 1)
        return at


def layout(stats: Mapping[str, Any], subscription: str) -> Layout:
    """Read `internalStats`; raises `KeyError` or `ValueError` where it is not what Pulsar answers."""
    end = place(stats["lastConfirmedEntry"])
    sizes = {int(item["ledgerId"]): int(item["entries"]) for item in stats["ledgers"]}
    if sizes:  # the ledger that is being written says 0 there
        current = max(sizes)
        sizes[current] = max(sizes[current], int(stats.get("currentLedgerEntries", 0)))
        # The figures are read one after the other: entries confirmed meanwhile are there, too.
        if end.ledger in sizes:
            sizes[end.ledger] = max(sizes[end.ledger], end.entry + 1)
    cursor = stats["cursors"].get(subscription)
    return Layout(
        tuple(sorted(sizes.items())),
        end,
        place(cursor["markDeletePosition"]) if cursor else None,
        holes(cursor.get("individuallyDeletedMessages") or "") if cursor else (),
    )


def holes(text: str) -> tuple[Hole, ...]:
    """Parse `individuallyDeletedMessages`, as in "[(3:4..3:9],(3:12..3:13]]"."""
    found = []
    for opening, a, b, c, d, closing in _RANGE.findall(text):
        first, last = Place(int(a), int(b)), Place(int(c), int(d))
        found.append(
            Hole(
                first if opening == "(" else Place(first.ledger, first.entry - 1),
                last if closing == "]" else Place(last.ledger, last.entry - 1),
            )
        )
    return tuple(sorted(found))


class Entries:
    """Which entries of one partition were counted already; a byte each."""

    def __init__(self) -> None:
        self._seen: dict[int, bytearray] = {}

    def add(self, at: Place) -> None:
        """Note an entry."""
        seen = self._seen.setdefault(at.ledger, bytearray())
        if at.entry >= len(seen):
            seen.extend(bytes(at.entry + 1 - len(seen) + 1024))
        seen[at.entry] = 1

    def __contains__(self, at: Place) -> bool:
        seen = self._seen.get(at.ledger, b"")
        return at.entry < len(seen) and bool(seen[at.entry])


def numbered(topic: str, partitions: int) -> Sequence[tuple[int, str]]:
    """(number, full name) of each partition's topic; a topic without partitions is its own, number 0."""
    if partitions == 0:
        return ((0, topic),)
    return tuple((number, f"{topic}-partition-{number}") for number in range(partitions))

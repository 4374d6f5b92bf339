"""Positions of a Pulsar topic, and what lies between them: pure arithmetic over ledgers.

A partition is a run of ledgers, each with entries 0…n-1; an entry holds one message, a batch of
them, or a chunk of one. Positions are written "LEDGER:ENTRY", as Pulsar's own tools write them.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from backlog_clearer.brokers.pulsar.figures import (
    FigureError,
    Origins,
    cursor_name,
    optional_count,
    optional_time,
    required_count,
    required_object,
    required_objects,
)

_PAGE_BITS = 12  # entries of a page of `Entries`
_IN_PAGE = (1 << _PAGE_BITS) - 1
_LARGE = 255  # messages of an entry, and one more, that do not fit into its byte
_PLACE = re.compile(r"(\d+):(-1|\d+)|-1:-1", re.ASCII)
_RANGE = re.compile(r"([(\[])(-?\d+:-?\d+)\s*(?:\.\.|\u2025|,)\s*(-?\d+:-?\d+)([)\]])", re.ASCII)
_RANGES = re.compile(rf"\[(?:{_RANGE.pattern}(?:,\s*|(?=\])))*\]", re.ASCII)


class Place(NamedTuple):
    """An entry of a topic; sorts in the order of delivery."""

    ledger: int  # -1: before the first of the topic
    entry: int  # -1: before the first of its ledger

    def __str__(self) -> str:
        return f"{self.ledger}:{self.entry}"


def parse_place(text: object) -> Place:
    """Read "LEDGER:ENTRY", or "-1:-1" for the start of the topic; raises `ValueError`."""
    if not isinstance(text, str) or not _PLACE.fullmatch(text):
        raise ValueError(f"{text!r} is not a position; it must be LEDGER:ENTRY")
    ledger, _, entry = text.partition(":")
    return Place(int(ledger), int(entry))


class Hole(NamedTuple):
    """Entries acknowledged one by one, ahead of the mark-delete position: `first` < e <= `last`."""

    first: Place
    last: Place


class Fingerprint(NamedTuple):
    """What is equal in two answers of `internalStats` only if topic and subscription are the same ones.

    A broker sets both times when it creates or loads a topic or a cursor; no other ledger of a cluster has the
    ledger's number. They are different, too, once a topic was unloaded, or has begun another ledger.
    """

    ledger: int  # the last one of the topic
    opened: str  # `lastLedgerCreatedTimestamp`, in milliseconds
    switched: str  # the cursor's `lastLedgerSwitchTimestamp`, in milliseconds


@dataclass(frozen=True, slots=True)
class Layout:
    """What `internalStats` reports of one partition and one subscription's cursor."""

    ledgers: tuple[tuple[int, int], ...]  # (ledger, entries), in order, at least one
    end: Place  # the last entry confirmed
    mark_delete: Place
    holes: tuple[Hole, ...] = ()  # in order
    stored: tuple[int | None, int | None] = None, None  # where the broker last stored the cursor
    fingerprint: Fingerprint | None = None  # None: not reported

    def same(self, other: Layout) -> bool:
        """Whether both are certainly of one topic and of one subscription; False: that is not known."""
        return self.fingerprint is not None and self.fingerprint == other.fingerprint

    def of(self, origins: Origins) -> bool:
        """Whether these are certainly positions of that topic and that subscription; False: that is not known.

        No two ledgers of a cluster have the same number.
        """
        cursor = self.stored[0]
        named = cursor is not None and cursor == origins.cursor_ledger
        return named and self.ledgers[-1][0] in origins.ledgers

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

    def left(self, target: Place) -> int:
        """Entries up to and with the target that are not acknowledged."""
        position = self.mark_delete
        done = sum(
            self.between(max(hole.first, position), min(hole.last, target)) for hole in self.holes
        )
        return max(0, self.between(position, target) - done)

    def missing(self, after: Place, before: Place) -> int:
        """Entries after the one and before the other that are not acknowledged."""
        start = max(after, self.mark_delete)
        return replace(self, mark_delete=start).left(Place(before.ledger, before.entry - 1))

    def beyond_end(self, at: Place) -> bool:
        """Whether no such entry exists yet: it is after the last one of its ledger, or of the topic."""
        sizes = dict(self.ledgers)
        return at.entry >= sizes[at.ledger] if at.ledger in sizes else at.ledger > self.ledgers[-1][0]

    def acknowledged(self, at: Place) -> bool:
        """Whether the subscription had acknowledged an entry."""
        if at <= self.mark_delete:
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


def parse_layout(stats: Mapping[str, Any], subscription: str, *, missing_ok: bool = False) -> Layout:
    """Read `internalStats`; raises `FigureError` for what is missing or cannot be.

    A position of the subscription after the end of the topic is one of these. `missing_ok`: a subscription that
    does not exist is at the topic's start.
    """
    end = _stored_place(stats, "lastConfirmedEntry")
    sizes = {
        required_count(item, "ledgerId"): required_count(item, "entries")
        for item in required_objects(stats, "ledgers")
    }
    if not sizes:  # an open topic has at least the ledger that it writes to
        raise FigureError("ledgers is empty")
    current = max(sizes)  # for the ledger that is being written, `entries` is 0
    sizes[current] = max(sizes[current], required_count(stats, "currentLedgerEntries"))
    # The broker reads the figures one after the other: count entries confirmed meanwhile, too.
    if end.ledger in sizes:
        sizes[end.ledger] = max(sizes[end.ledger], end.entry + 1)
    cursors = required_object(stats, "cursors")
    if missing_ok and cursor_name(subscription) not in cursors:
        return Layout(tuple(sorted(sizes.items())), end, Place(min(sizes), -1))
    cursor = _cursor(cursors, subscription)
    found = Layout(
        tuple(sorted(sizes.items())),
        end,
        _stored_place(cursor, "markDeletePosition"),
        parse_holes(cursor.get("individuallyDeletedMessages")),
        (optional_count(cursor, "cursorLedger"), optional_count(cursor, "cursorLedgerLastEntry")),
        _fingerprint(current, stats.get("lastLedgerCreatedTimestamp"), cursor),
    )
    for name, at in (("lastConfirmedEntry", end), ("markDeletePosition", found.mark_delete)):
        if found.beyond_end(at):
            last = Place(current, sizes[current] - 1)
            raise FigureError(f"{name} {at} is beyond the last entry, {last}")
    return found


def _fingerprint(ledger: int, opened: object, cursor: Mapping[str, Any]) -> Fingerprint | None:
    switched = cursor.get("lastLedgerSwitchTimestamp")
    opened, switched = optional_time(opened), optional_time(switched)
    return Fingerprint(ledger, opened, switched) if opened and switched else None


def _stored_place(answer: Mapping[str, Any], key: str) -> Place:
    try:
        found = parse_place(answer.get(key))
    except ValueError as error:
        raise FigureError(f"{key}: {error}") from None
    if found.ledger < 0:
        raise FigureError(f"{key} is {found}")
    return found


def _cursor(cursors: Mapping[str, Any], subscription: str) -> Mapping[str, Any]:
    """A subscription's cursor."""
    name = cursor_name(subscription)
    if name not in cursors:
        raise FigureError(f"cursors has none of the subscription {subscription!r}")
    return required_object(cursors, name)


def parse_holes(text: object) -> tuple[Hole, ...]:
    """Read `individuallyDeletedMessages`, as in "[(3:4..3:9],(3:12..3:13]]"; raises `FigureError`."""
    if not isinstance(text, str) or not _RANGES.fullmatch(text):
        raise FigureError(f"individuallyDeletedMessages is {str(text)[:60]!r}")
    found = []
    for opening, lower, upper, closing in _RANGE.findall(text):
        first, last = parse_place(lower), parse_place(upper)
        hole = Hole(
            first if opening == "(" else Place(first.ledger, first.entry - 1),
            last if closing == "]" else Place(last.ledger, last.entry - 1),
        )
        if hole.first > hole.last:
            raise FigureError(f"individuallyDeletedMessages has the range {lower} to {upper}")
        found.append(hole)
    return tuple(sorted(found))


class Entries:
    """Which entries of one partition were counted already, and the messages of each; a byte each, in pages.

    A page is as much as any number of an entry takes: a broker may send one that cannot be.
    """

    def __init__(self) -> None:
        # Of each entry one more than its messages; 0: it is not noted.
        self._pages: dict[tuple[int, int], bytearray] = {}
        self._large: dict[Place, int] = {}  # messages of the entries with `_LARGE`

    def add(self, at: Place, messages: int = 0) -> None:
        """Note an entry; one that is noted already keeps its messages."""
        page = self._pages.get((at.ledger, at.entry >> _PAGE_BITS))
        if page is None:
            page = self._pages[at.ledger, at.entry >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS)
        index = at.entry & _IN_PAGE
        if not page[index]:
            page[index] = min(messages + 1, _LARGE)
            if messages + 1 >= _LARGE:
                self._large[at] = messages

    def __contains__(self, at: Place) -> bool:
        page = self._pages.get((at.ledger, at.entry >> _PAGE_BITS))
        return page is not None and bool(page[at.entry & _IN_PAGE])

    def outside(self, layout: Layout) -> int:
        """Messages of the noted entries that a subscription does not have as acknowledged."""
        pages, start, messages = sorted(self._pages), layout.mark_delete, 0
        for hole in layout.holes:
            messages += self._between(pages, start, hole.first)
            start = max(start, hole.last)
        return messages + self._between(pages, start, Place(sys.maxsize, 0))

    def _between(self, pages: Sequence[tuple[int, int]], after: Place, last: Place) -> int:
        """Messages of the noted entries after one place, up to and with another; `pages`: all, in order."""
        messages = 0
        begin = bisect_left(pages, (after.ledger, (after.entry + 1) >> _PAGE_BITS))
        for ledger, number in pages[begin:]:
            first = number << _PAGE_BITS
            if Place(ledger, first) > last:
                break
            begin = max(0, after.entry + 1 - first) if ledger == after.ledger else 0
            end = last.entry + 1 - first if ledger == last.ledger else 1 << _PAGE_BITS
            noted = self._pages[ledger, number][begin : max(0, end)]
            messages += sum(noted) - (len(noted) - noted.count(0))
            at = noted.find(_LARGE)
            while at >= 0:
                messages += self._large[Place(ledger, first + begin + at)] - (_LARGE - 1)
                at = noted.find(_LARGE, at + 1)
        return messages


def numbered(topic: str, partitions: int) -> Sequence[tuple[int, str]]:
    """(number, full name) of each partition's topic; a topic without partitions is its own, number 0."""
    if partitions == 0:
        return ((0, topic),)
    return tuple((number, f"{topic}-partition-{number}") for number in range(partitions))

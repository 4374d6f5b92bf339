"""How fast a backlog grows and is drained: pure arithmetic over what several looks found."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from backlog_clearer.model import Partition, PartitionState, Position

RECENT_S = 30.0
"""Rates are those of about this many seconds: consumers commit only every few seconds."""

Between: TypeAlias = Callable[[Partition, Position, Position], int | None]
"""See `source.Countable.between`."""


class Rates(NamedTuple):
    """How fast one backlog moves, each second, in the source's unit; None: unknown."""

    seconds: float | None = None  # between the two looks that they are counted from
    arrival: float | None = None  # growth of the end, at least 0
    drain: float | None = None  # movement of the position, at least 0
    change: float | None = None  # of the backlog; below 0 where it shrinks


class Sighting(NamedTuple):
    """One partition at one look."""

    at_s: float  # of any clock that only moves forward
    state: PartitionState


def not_measured(partition: Partition, first: Position, last: Position) -> int | None:
    """`Between` of a source that is not `Countable`."""
    del partition
    return 0 if first == last else None


def rates_between(
    earlier: Sighting, later: Sighting, between: Between, *, competing: bool = False
) -> Rates:
    """The rates between two looks at one partition; none of them where these are not of one history.

    That is so for logs of two incarnations, an end or a position that was lowered, and partitions with
    errors. `competing`: the position does not measure what is drained, since consumers acknowledge in any
    order; the backlog is.
    """
    seconds = later.at_s - earlier.at_s
    if seconds <= 0 or not one_history(earlier.state, later.state, between):
        return Rates()
    old, new = earlier.state, later.state
    grown = _moved(new.partition, old.end, new.end, between)
    drained = None if competing else _moved(new.partition, old.position, new.position, between)
    change = None if old.backlog is None or new.backlog is None else new.backlog - old.backlog
    if new.position is None and not competing and None not in {grown, change}:
        drained = 0  # nothing was ever acknowledged; what goes expired
    if change is not None and grown is not None and drained is None:
        drained = grown - change
    elif change is not None and drained is not None and grown is None:
        grown = change + drained
    if min(grown or 0, drained or 0) < 0:  # the figures are of different moments, or were set back
        return Rates()
    return Rates(seconds, *(_each_second(count, seconds) for count in (grown, drained, change)))


def one_history(old: PartitionState, new: PartitionState, between: Between) -> bool:
    """Whether a later state of a partition follows from an earlier one by arrivals and acknowledgements."""
    if old.error is not None or new.error is not None:
        return False
    known = old.incarnation is not None and new.incarnation is not None
    if known and old.incarnation != new.incarnation:
        return False
    if (old.position is None) != (new.position is None):
        return False
    moves = (
        _moved(new.partition, first, last, between)
        for first, last in ((old.end, new.end), (old.position, new.position))
    )
    return all(move is None or move >= 0 for move in moves)


def _moved(
    partition: Partition, first: Position | None, last: Position | None, between: Between
) -> int | None:
    if first is None and last is None:
        return None
    return None if first is None or last is None else between(partition, first, last)


def _each_second(count: int | None, seconds: float) -> float | None:
    return None if count is None else count / seconds


def summed(rates: Sequence[Rates]) -> Rates:
    """The rates of several partitions together; None where one of them is unknown, or there is none."""

    def total(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None

    return Rates(
        max((item.seconds for item in rates if item.seconds is not None), default=None),
        total([item.arrival for item in rates]),
        total([item.drain for item in rates]),
        total([item.change for item in rates]),
    )


def eta_s(backlog: int | None, change: float | None) -> float | None:
    """In how many seconds nothing is left at this rate; None: not known, or the backlog does not shrink."""
    if backlog == 0:
        return 0.0
    if backlog is None or change is None or change >= 0:
        return None
    return backlog / -change


class History:
    """What the looks of the last seconds found, partition by partition."""

    def __init__(self, recent_s: float = RECENT_S) -> None:
        self._recent_s = recent_s
        self._seen: dict[Partition, deque[Sighting]] = {}

    def add(
        self,
        at_s: float,
        states: Sequence[PartitionState],
        between: Between,
        *,
        competing: bool = False,
    ) -> Mapping[Partition, Rates]:
        """Add a look, and return the rates of each partition: over about `recent_s`, or since the look before.

        What was seen of a partition before its history broke is forgotten.
        """
        return {
            state.partition: self._add(Sighting(at_s, state), between, competing=competing)
            for state in states
        }

    def _add(self, now: Sighting, between: Between, *, competing: bool) -> Rates:
        if now.state.error is not None:
            return Rates()
        seen = self._seen.setdefault(now.state.partition, deque())
        if seen and not one_history(seen[-1].state, now.state, between):
            seen.clear()
        if seen and rates_between(seen[-1], now, between, competing=competing) == Rates():
            seen.clear()
        seen.append(now)
        while len(seen) > 2 and seen[1].at_s <= now.at_s - self._recent_s:  # noqa: PLR2004 two looks
            seen.popleft()
        return rates_between(seen[0], now, between, competing=competing)

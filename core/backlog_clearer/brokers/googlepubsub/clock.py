"""Pub/Sub's clock, as its answers show it: targets and proofs are times of the service, not of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import NamedTuple

TOLERATED = timedelta(seconds=2)  # a difference below this is corrected without a note
_RESOLUTION = timedelta(seconds=1)  # of a Date header: RFC 9110, 5.6.7
_HEADER = "date"


def header_date(metadata: Iterable[tuple[str, str | bytes]]) -> datetime | None:
    """The time in an answer's Date header, which Google's front ends send; None: it has none."""
    for key, value in metadata:
        if key.lower() == _HEADER and isinstance(value, str):
            try:
                found = parsedate_to_datetime(value)
            except ValueError:
                return None
            return found.replace(tzinfo=found.tzinfo or timezone.utc).astimezone(timezone.utc)
    return None


class Offset(NamedTuple):
    """How far the service's clock is ahead of this machine's: at least, and at most that much more."""

    least: timedelta = timedelta()
    spread: timedelta = timedelta()


def clock_offset(date: datetime, sent: datetime, received: datetime) -> Offset:
    """The difference that an answer shows; none where the clocks may agree.

    The answer was made between `sent` and `received` by this machine's clock, and within the second that
    begins at `date` by the service's.
    """
    least, most = date - received, date + _RESOLUTION - sent
    return Offset(least, most - least) if least > timedelta() or most < timedelta() else Offset()


@dataclass(slots=True)
class ServiceClock:
    """The service's clock; this machine's own until an answer showed a difference."""

    offset: Offset = field(default_factory=Offset)
    known: bool = False

    def now(self) -> datetime:
        """The present time by the service's clock in UTC, at the earliest: a target is never in its future."""
        return datetime.now(timezone.utc) + self.offset.least

    def latest(self, local: datetime | None = None) -> datetime:
        """The present time, or one of this machine, by the service's clock at the latest.

        For changes that a later figure has to prove.
        """
        return (local or datetime.now(timezone.utc)) + self.offset.least + self.offset.spread

    def learn(
        self, metadata: Iterable[tuple[str, str | bytes]], sent: datetime, received: datetime
    ) -> None:
        """Take the difference from an answer; without a Date header nothing is learnt."""
        date = header_date(metadata)
        if date is not None:
            self.offset, self.known = clock_offset(date, sent, received), True

    def note(self) -> str | None:
        """A sentence about a difference that the user must know; None: there is none."""
        if abs(self.offset.least) <= TOLERATED:
            return None
        seconds = abs(self.offset.least).total_seconds()
        side = "behind" if self.offset.least > timedelta() else "ahead of"
        return (
            f"This machine's clock is {seconds:,.0f} s {side} Pub/Sub's. The target and the proof are by"
            " Pub/Sub's clock."
        )

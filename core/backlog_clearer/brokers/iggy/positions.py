"""Positions on Iggy: offsets, what a partition retains, and whether it is still the same log. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from backlog_clearer.brokers.iggy.wire import MAX_OFFSET, StoredOffset
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition, Position

NOTHING = -1  # the position before the first message


def as_offset(position: Position) -> int:
    """A position as an offset; raises `BrokerError` for another system's."""
    if isinstance(position, int):
        return position
    raise BrokerError(f"{position!r} is not an offset of Iggy.")


def as_offset_or_none(position: Position | None) -> int | None:
    """A position as an offset, or None. Raises like `as_offset`."""
    return None if position is None else as_offset(position)


def beyond_end(stored: StoredOffset, current: int = 0) -> str | None:
    """Why a stored offset cannot be used: it lies beyond the partition's end; None: it does not.

    `current` is another figure of that end, possibly a later one.
    """
    end = max(stored.current, current)
    if stored.offset <= end:
        return None
    return (
        f"The stored offset {stored.offset} lies beyond the partition's end, {end}: the topic was purged or"
        " created again, and consumers get no message up to that offset. This partition is left as it is;"
        " delete the stored offset with Iggy's own client, then try again."
    )


@dataclass(frozen=True, slots=True)
class LogExtent:
    """The messages that a partition retains, by checked figures: see `checked_extent`.

    Offsets may have gaps, since a server continues at a later one after a crash: `begin` is what the first
    message showed, and None where it was not asked for.
    """

    current: int  # the last offset given away; 0 also where there was none
    messages: int  # retained
    size: int  # bytes of those
    begin: int | None = None  # offset of the first message

    @property
    def first(self) -> int:
        """Offset of the first message retained, or of the next one if there is none."""
        if self.begin is not None:
            return self.begin
        # A server that is being written to reads its counters one by one: the count may be ahead.
        return max(0, self.end + 1 - self.messages)

    @property
    def end(self) -> int:
        """The last offset given away; -1: an empty partition may never have had any."""
        return self.current if self.messages or self.current else NOTHING

    @property
    def gaps(self) -> bool:
        """Whether some offsets from the first message up to the end have none."""
        return self.begin is not None and self.messages < self.end + 1 - self.begin

    def left(self, stored: int | None, target: int | None = None) -> int | None:
        """Retained messages after a stored offset, up to a target (None: the end), inclusive.

        Where offsets have gaps, the most that there can be. None where the partition ends before either of
        them: it is not the log that they are from.
        """
        if (stored or 0) > self.current or (target or 0) > self.current:
            return None
        last = self.end if target is None else min(target, self.end)
        begin = self.first if stored is None else max(self.first, stored + 1)
        if not self.messages or last < begin:
            return 0
        return min(last + 1 - begin, self.messages) if self.gaps else last + 1 - begin

    def may_follow(self, offset: int, end: int, skipped: int = 0) -> bool:
        """Whether the figures leave room for a message after an offset, up to an earlier `end`.

        `skipped` offsets before it are known to have no message. An empty reply to a poll does not prove
        that there is none: the server answers like that also where it cannot read them.
        """
        added = self.current - end
        return self.messages > added and self.messages - added > offset + 1 - self.first - skipped


def checked_extent(partition: Partition, current: int, messages: int, size: int) -> LogExtent:
    """The extent by the server's figures; raises `TransientError` for impossible ones."""
    if not (
        all(0 <= figure <= MAX_OFFSET for figure in (current, messages, size))
        and bool(messages) == bool(size)
    ):
        raise TransientError(
            f"{partition}: the server's figures are impossible: {messages} messages of {size} bytes, the"
            f" last at offset {current}.",
            partition,
        )
    return LogExtent(current, messages, size)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """One partition at one moment: which log it is, and what it holds."""

    incarnation: str  # ids and times of creation
    extent: LogExtent
    mark: tuple[int, int] | None = None  # of the first message: when it was stored, and its checksum


def left_after(
    log: LogFacts | BrokerError, stored: StoredOffset | BrokerError | None
) -> int | BrokerError | None:
    """Retained messages after a stored offset (None: there is none), why that is not known, or None."""
    if isinstance(log, BrokerError):
        return log
    if stored is None or isinstance(stored, BrokerError):
        return log.extent.left(None) if stored is None else stored
    problem = beyond_end(stored, log.extent.current)
    return BrokerError(problem) if problem else log.extent.left(stored.offset)


def is_reached(log: LogFacts, stored: StoredOffset | BrokerError | None, target: int | None) -> bool:
    """Whether the stored offset is at the target (None: the end), and the log reaches that far."""
    if not isinstance(stored, StoredOffset):
        return False
    last = log.extent.end if target is None else target
    return last <= stored.offset <= log.extent.current


class LogChange(Enum):
    """What happened to a partition between two looks."""

    NONE = "none"  # the same log, which may have grown, or lost its oldest messages to retention
    CREATED_AGAIN = "created again"
    PURGED = "purged"  # emptied; offsets begin at 0 again
    CUT = "cut"  # it ends earlier: the server restarted without its last messages


def change(before: LogFacts, now: LogFacts) -> LogChange:
    """What happened to a partition.

    A purge changes neither ids nor times, but begins at offset 0 again: its first message is before the
    former first one, or is another one at the same offset.
    """
    if before.incarnation != now.incarnation:
        return LogChange.CREATED_AGAIN
    was, found = before.extent, now.extent
    same_start = was.begin is not None and was.begin == found.begin
    if same_start and before.mark != now.mark:
        return LogChange.PURGED
    if was.begin is not None and found.begin is not None and found.begin < was.begin:
        return LogChange.PURGED
    if found.current >= was.current:
        return LogChange.NONE
    return LogChange.CUT if same_start else LogChange.PURGED

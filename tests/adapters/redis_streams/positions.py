"""Places in a stream: pure.

A group's state is a last delivered id, and a set of entries that were delivered and not acknowledged.
Its position, as receipts keep it, is a mapping:

    id            the last delivered id
    entries       how many entries of the stream that is, deleted ones included; None: unknown
                  (after XDEL, or an XGROUP SETID without ENTRIESREAD)
    oldest        the oldest pending id; None: nothing was pending
"""

from __future__ import annotations

from typing import NamedTuple

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Position

_LAST = 2**64 - 1  # each half of an id has 64 bits


class Id(NamedTuple):
    """An entry's id; compares as the server does."""

    ms: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.sequence}"

    def before(self) -> Id:
        """The id just before; of 0-0 itself."""
        if self.sequence:
            return Id(self.ms, self.sequence - 1)
        return Id(self.ms - 1, _LAST) if self.ms else self


START = Id(0, 0)


def parse_id(text: str) -> Id:
    """An id as the server writes it."""
    ms, _, sequence = text.partition("-")
    return Id(int(ms), int(sequence or 0))


class Place(NamedTuple):
    """A place in a stream."""

    id: Id
    entries: int | None
    oldest: Id | None = None

    def position(self) -> Position:
        """As receipts keep it."""
        oldest = None if self.oldest is None else str(self.oldest)
        return {"id": str(self.id), "entries": self.entries, "oldest": oldest}


def place_of(position: Position) -> Place:
    """A place that a receipt has kept; raises `UsageError` for another system's position."""
    try:
        id_, entries, oldest = (position[key] for key in ("id", "entries", "oldest"))  # type: ignore[index]
        return Place(
            parse_id(str(id_)),
            None if entries is None else int(entries),
            None if oldest is None else parse_id(str(oldest)),
        )
    except (TypeError, KeyError, ValueError):
        raise UsageError(f"{position!r} is not a position in a Redis stream.") from None

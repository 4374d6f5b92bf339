"""Azure Event Hubs: positions, and what lies between them: pure.

A position is `{"offset": …, "sequence_number": …}` of the last event consumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from backlog_clearer.brokers.eventhubs.wire import OFFSET, SEQUENCE_NUMBER
from backlog_clearer.model import Position

LEGACY = "legacy"
"""The `layout` of a position that a Functions lease of before version 5 holds."""

_NO_OFFSET = frozenset({"", "no offset", "None"})
"""What processors write where they know no offset (the second is .NET's own placeholder)."""


class PartitionProperties(NamedTuple):
    """What the management node says of one partition."""

    begin: int  # first sequence number retained
    last: int  # sequence number of the last event enqueued; -1: never any
    offset: str  # its offset; "-1": never any
    empty: bool  # nothing is retained


def parse_checkpoint(metadata: Mapping[str, str | None]) -> dict[str, int | str | None]:
    """A checkpoint blob's metadata as a position; raises `ValueError` if it holds none."""
    offset = metadata.get("offset") or ""  # a listing tells an empty value as None
    number = metadata.get("sequencenumber") or ""
    position: dict[str, int | str | None] = {
        "offset": None if offset in _NO_OFFSET else offset,
        "sequence_number": int(number) if number else None,
    }
    if position == {"offset": None, "sequence_number": None}:
        raise ValueError("it has neither an offset nor a sequence number")
    return position


def parse_lease(content: bytes) -> dict[str, int | str | None] | None:
    """The position in a Functions lease of before version 5; None: the lease has none yet."""
    lease = json.loads(content)
    if not lease.get("Offset"):
        return None
    return {
        "offset": str(lease["Offset"]),
        "sequence_number": int(lease["SequenceNumber"]),
        "layout": LEGACY,
    }


def sequence_number(position: Position | None) -> int | None:
    """The sequence number of an Event Hubs position, if it has one."""
    if position is None:
        return None
    if not isinstance(position, Mapping):
        raise TypeError(f"{position!r} is no Event Hubs position")
    number = position.get("sequence_number")
    return None if number is None else int(number)


def selector(position: Position | None) -> str:
    """The filter for the events after a position; by offset where it is known, as processors do."""
    if position is None:
        return "amqp.annotation.x-opt-offset > '-1'"
    if not isinstance(position, Mapping):
        raise TypeError(f"{position!r} is no Event Hubs position")
    if position.get("offset") is not None:
        return f"amqp.annotation.x-opt-offset > '{position['offset']}'"
    return f"amqp.annotation.x-opt-sequence-number > '{position['sequence_number']}'"


def position_from(annotations: Mapping[bytes, int | bytes]) -> Position:
    """The position of an event."""
    offset = annotations[OFFSET]
    return {
        "offset": offset.decode() if isinstance(offset, bytes) else str(offset),
        "sequence_number": int(annotations[SEQUENCE_NUMBER]),
    }


def backlog(found: PartitionProperties, position: Position | None) -> int | None:
    """Events between a position and the end that are still retained; None: the position does not say."""
    if found.empty:
        return 0
    if position is None:
        return found.last - found.begin + 1
    number = sequence_number(position)
    return None if number is None else max(0, found.last - max(number, found.begin - 1))


def left_up_to(found: PartitionProperties, position: Position | None, target: int) -> int | None:
    """Events up to a target that are retained and not consumed; None: the position does not say."""
    number = -1 if position is None else sequence_number(position)
    if number is None:
        return None
    return 0 if found.empty else max(0, target - max(number, found.begin - 1))

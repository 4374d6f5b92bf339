"""Azure Event Hubs: positions, partition properties and backlogs: pure.

A position is `{"offset": …, "sequence_number": …}` of the last event consumed, either of which may be
None. Sequence numbers begin at 0; -1 means that there is no event. Every figure is checked where it is
read, because an impossible figure must never become a count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from backlog_clearer.brokers.eventhubs.wire import ENQUEUED_TIME, LAST_ENQUEUED, OFFSET, SEQUENCE_NUMBER
from backlog_clearer.brokers.shared.times import from_milliseconds, milliseconds
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Position

LEGACY = "legacy"
"""The `layout` of a position that a Functions lease of before version 5 holds."""

Checkpoint: TypeAlias = dict[str, int | str | None]
"""A position as it was read from a blob."""

_NONE = -1  # a sequence number: there is no event before
_NO_OFFSET = frozenset({"", "no offset", "None"})
"""Values that processors write without an offset (the second is .NET's own placeholder)."""
_NUMBER = re.compile(r"-?[0-9]{1,19}")


class HubProperties(NamedTuple):
    """One Event Hub, as `parse_hub` checked it."""

    numbers: list[int]  # of its partitions, sorted
    created_ms: int | None  # when it was created, since 1970; None: the service does not report it


def incarnation_of(namespace: str, hub: str, created_ms: int | None) -> str | None:
    """What distinguishes an Event Hub from another one of its name; None: the service does not report it."""
    return None if created_ms is None else f"{namespace}/{hub}".lower() + f" created {created_ms}"


def parse_hub(found: object) -> HubProperties:
    """An Event Hub from the management node's answer.

    Keys and meaning: azure-eventhub, `_get_eventhub_properties`. Raises `ValueError` for an answer without
    partitions, or with an impossible time.
    """
    names = found.get(b"partition_ids") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(names, list) or not names:
        raise ValueError("the answer names no partition")
    created = found.get(b"created_at") or None
    if created is not None and (
        not isinstance(created, int) or isinstance(created, bool) or created < 0
    ):
        raise ValueError(f"created_at is {created!r}")
    return HubProperties(sorted(int(name) for name in names), created)


class PartitionProperties(NamedTuple):
    """One partition's range of events, as `parse_properties` checked it."""

    begin: int  # sequence number of the first event retained; `last + 1`: none is
    last: int  # sequence number of the last event enqueued; -1: never any
    offset: str  # its offset, opaque
    empty: bool  # nothing is retained
    created_ms: int | None = None  # of the Event Hub, asked for afterwards
    last_ms: int | None = None  # when the last event was enqueued, since 1970; None: not reported


def parse_properties(found: object, number: int) -> PartitionProperties:
    """The properties of partition `number` from the management node's answer.

    Keys and meaning: azure-eventhub, `_get_partition_properties`. Raises `ValueError` for an answer with a
    value missing, of another type, or impossible.
    """
    if not isinstance(found, Mapping):
        raise ValueError("the answer has no properties")  # noqa: TRY004 the caller handles one kind
    if found.get(b"partition", str(number).encode()) not in {str(number).encode(), str(number)}:
        raise ValueError(f"it is about partition {found[b'partition']!r}")
    last = _whole(found, "last_enqueued_sequence_number")
    begin = _whole(found, "begin_sequence_number")
    offset = found.get(b"last_enqueued_offset")
    offset = offset.decode("utf-8", "replace") if isinstance(offset, bytes) else offset
    empty = found.get(b"is_partition_empty")
    # With geo-replication, an offset has three parts: "2:-1:-1" before the first event (go: azeventhubs).
    if not isinstance(offset, str) or not offset or (offset.split(":")[-1] == "-1") != (last == _NONE):
        raise ValueError(f"last_enqueued_offset is {offset!r}, of event {last}")
    if not isinstance(empty, bool):
        raise ValueError(f"is_partition_empty is {empty!r}")  # noqa: TRY004
    last_ms = _milliseconds(found.get(b"last_enqueued_time_utc"))
    if empty:
        return PartitionProperties(last + 1, last, offset, empty, last_ms=last_ms)
    if not 0 <= begin <= last:
        raise ValueError(f"events {begin} to {last} cannot be those of a partition that is not empty")
    return PartitionProperties(begin, last, offset, empty, last_ms=last_ms)


def _milliseconds(value: object) -> int | None:
    """A time of the service in milliseconds since 1970; None: there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _whole(found: Mapping[Any, Any], key: str) -> int:
    """A sequence number of an answer, -1 or more."""
    value = found.get(key.encode())
    if not isinstance(value, int) or isinstance(value, bool) or value < _NONE:
        raise ValueError(f"{key} is {value!r}")
    return value


def parse_checkpoint(metadata: Mapping[str, str | None]) -> Checkpoint:
    """A checkpoint blob's metadata as a position; raises `ValueError` if it holds none.

    A sequence number below -1 is a placeholder of processors that have only an offset.
    """
    offset = metadata.get("offset") or ""  # a listing returns an empty value as None
    text = metadata.get("sequencenumber") or ""
    if text and not _NUMBER.fullmatch(text):
        raise ValueError(f"its sequence number is {text[:40]!r}")
    number = int(text) if text else None
    position: Checkpoint = {
        "offset": None if offset in _NO_OFFSET else offset,
        "sequence_number": None if number is not None and number < _NONE else number,
    }
    if position == {"offset": None, "sequence_number": None}:
        raise ValueError("it has neither an offset nor a sequence number")
    return position


def metadata_of(position: Position) -> dict[str, str]:
    """A checkpoint blob's metadata for a position, exactly as the SDK's `update_checkpoint` writes it."""
    found = checked_position(position)
    offset, number = found["offset"], found["sequence_number"]
    return {
        "offset": "" if offset is None else str(offset),
        "sequencenumber": "" if number is None else str(number),
    }


def parse_lease(content: bytes) -> Checkpoint | None:
    """The position in a Functions lease of before version 5; None: the lease has none yet.

    Raises `ValueError` for content that is not a lease.
    """
    try:
        lease = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(lease, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 the caller handles one kind
    offset, number = lease.get("Offset"), lease.get("SequenceNumber")
    if not offset:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < _NONE:
        raise ValueError(f"its sequence number is {number!r}")
    return {"offset": str(offset), "sequence_number": number, "layout": LEGACY}


def checked_position(position: Position) -> Mapping[str, int | str | None]:
    """A position with both its keys; raises `UsageError` if it is not one of Event Hubs."""
    if isinstance(position, Mapping):
        offset, number = position.get("offset"), position.get("sequence_number")
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= _NONE
        named = isinstance(offset, str) and offset != ""
        if (whole or number is None) and (named or offset is None) and (whole or named):
            return {**position, "offset": offset, "sequence_number": number}
    raise UsageError(
        f"{position!r} is not a position of Event Hubs, which has an offset (text) or a sequence number"
        " (-1 or more)."
    )


def sequence_number(position: Position | None) -> int | None:
    """The sequence number of a position, if it has one; raises `UsageError` for another kind."""
    if position is None:
        return None
    number = checked_position(position)["sequence_number"]
    return None if number is None else int(number)


class Start(NamedTuple):
    """Where reading begins: after an event, or with it (`inclusive`)."""

    value: int | str | datetime  # a sequence number, an offset, or when it was enqueued
    inclusive: bool = False

    @property
    def selector(self) -> str:
        """The link's filter (azure-eventhub, `event_position_selector`)."""
        operator = ">=" if self.inclusive else ">"
        if isinstance(self.value, datetime):
            return f"amqp.annotation.x-opt-enqueued-time {operator} '{milliseconds(self.value)}'"
        key = "sequence-number" if isinstance(self.value, int) else "offset"
        return f"amqp.annotation.x-opt-{key} {operator} '{self.value}'"


def start_after(position: Position | None, *, by_number: bool = False) -> Start:
    """The start behind a position; by offset where it is known, as processors do.

    `by_number`: by its sequence number if it has one, which is the same in every region.
    """
    if position is None:
        return Start("-1")
    found = checked_position(position)
    if found["offset"] is not None and not (by_number and found["sequence_number"] is not None):
        return Start(str(found["offset"]))
    return Start(int(found["sequence_number"] or 0))


def start_at(when: datetime) -> Start:
    """The start with the first event that was not enqueued before a time.

    In whole milliseconds, as the service has times: the SDK rounds others down.
    """
    return Start(from_milliseconds(milliseconds(when)) or when, inclusive=True)


def event_number(annotations: Mapping[bytes, int | bytes]) -> int:
    """The sequence number of an event; raises `ValueError` if it has none."""
    number = annotations.get(SEQUENCE_NUMBER)
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"an event has the sequence number {number!r}")
    return number


def position_from(annotations: Mapping[bytes, int | bytes]) -> Position:
    """The position of an event; raises `ValueError` if its annotations have none."""
    offset = annotations.get(OFFSET)
    text = offset.decode("utf-8", "replace") if isinstance(offset, bytes) else str(offset)
    if offset is None or not text:
        raise ValueError("an event has no offset")
    return {"offset": text, "sequence_number": event_number(annotations)}


def enqueued_ms(annotations: Mapping[bytes, int | bytes]) -> int | None:
    """When an event was enqueued, in milliseconds since 1970; None: that is not reported."""
    return _milliseconds(annotations.get(ENQUEUED_TIME))


def events_behind(annotations: Mapping[bytes, int | bytes]) -> int | None:
    """Events in the partition behind this one, when the service sent it; None: it does not report that."""
    end = annotations.get(LAST_ENQUEUED)
    if not isinstance(end, int) or end < event_number(annotations):
        return None
    return end - event_number(annotations)


def anomaly(found: PartitionProperties, position: Position | None, target: int | None) -> str | None:
    """Why a position or a target cannot belong to this partition; None: they can.

    Events are only ever added at the end, so the last sequence number never decreases.
    """
    at = sequence_number(position)
    if at is not None and at > found.last:
        return (
            f"its checkpoint, at sequence number {at}, lies beyond the last event ({found.last}): the"
            " Event Hub was probably created again; delete the checkpoint blob, since processors"
            " cannot resume from it either"
        )
    if target is not None and target > found.last:
        return (
            f"its last event ({found.last}) lies before the target ({target}): the Event Hub was probably"
            " created again"
        )
    return None


def backlog(found: PartitionProperties, position: Position | None) -> int | None:
    """Events between a position and the end that are still retained; None: the position does not show it.

    Only for what has no `anomaly`.
    """
    return left_up_to(found, position, found.last)


def left_up_to(found: PartitionProperties, position: Position | None, target: int) -> int | None:
    """Events up to a target that are retained and not consumed; None: the position does not show it.

    Only for what has no `anomaly`: then a position after the target means that nothing is left.
    """
    if found.empty:
        return 0
    number = _NONE if position is None else sequence_number(position)
    return None if number is None else max(0, target - max(number, found.begin - 1))

"""How counts and lists are spelled in every text for people, and how strictly JSON text is read: pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 partition", "2 partitions", "1,200 entries" (`plural` "entries")."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def amount(value: int | None, unit: str) -> str:
    """A count of a unit that is given as a plural: "3 messages", "1 entry"; "unknown" for None."""
    if value is None:
        return "unknown"
    singular = unit[:-3] + "y" if unit.endswith("ies") else unit.removesuffix("s")
    return counted(value, singular, unit)


def listed(names: Iterable[object], limit: int = 5) -> str:
    """Names separated by commas, at most `limit` of them: "a, b and 3 more"."""
    found = [str(name) for name in names]
    shown = ", ".join(found[:limit])
    return f"{shown} and {len(found) - limit} more" if len(found) > limit else shown


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`; raises `ValueError` where one of its keys is given twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def age_text(age: timedelta) -> str:
    """How old something is, in its largest unit: "3 h", "12 days"; an age below 0 counts as 0."""
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((3600, "h"), (60, "min")):
        if size <= seconds < 2 * 86_400:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} days" if seconds >= 2 * 86_400 else f"{seconds} s"

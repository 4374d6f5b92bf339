"""How counts and lists are spelled in every text for people, and how strictly JSON text is read: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

_PLAIN_NAME = re.compile(r"-{0,2}[A-Za-z][A-Za-z_.-]{0,59}")
_PLAIN_PATH = re.compile(
    r"(?:~|\.{0,2}|[A-Za-z0-9+.-]+:/)/[][\w./~@+#*?{} -]{1,250}|[\w.@+ -][][\w./@+#*?{} -]{0,200}\.[a-z]{2,5}"
)
_PLAIN_VALUE = re.compile(r"[\d.,:/+\s-]{0,40}|.{0,5}|[A-Za-z]{1,12}")
_STEERING = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_ONE_UNIT = 120  # of a smaller unit, below which a time is not spelled in a larger one
_DEEPEST = 60  # levels of a JSON value; a receipt has seven


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
    return f"{shown} and {len(found) - limit:,} more" if len(found) > limit else shown


def ranged(numbers: Iterable[int]) -> str:
    """Numbers in their order, those that follow each other as a range, at most five of these: "0-29, 31"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return listed(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def spelled_out(text: str) -> str:
    r"""A text without the characters that steer a terminal, and that JSON cannot have: as in "\x1b"."""

    def spelled(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 as in Python

    return _STEERING.sub(spelled, text)


def printable(text: str) -> str:
    """A text for a terminal, which characters in it cannot steer: see `spelled_out`.

    A broker, or a receipt that another hand wrote, may send any. Its further lines are indented, so that none
    of them looks like one of this tool's.
    """
    return spelled_out(text).replace("\n", "\n  ")


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


def duration(seconds: float) -> str:
    """A time in one or two units: "59 s", "12 min", "3 h 5 min"."""
    whole = round(seconds)
    if whole < _ONE_UNIT:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < _ONE_UNIT else f"{minutes // 60:,} h {minutes % 60} min"


def parsed_json(text: str | bytes) -> Any:
    """A JSON value that means one thing: no key twice, no NaN, not nested beyond reason.

    Raises `ValueError` with a reason that contains nothing of the text.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text.removeprefix("\ufeff"), object_pairs_hook=distinct_keys, parse_constant=_no_number
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level for item in _inside(each)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def json_values(data: bytes) -> int:
    """An estimate of the values of a JSON text without parsing it, which would take memory for each of them."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def shown_name(name: str) -> str:
    """A name that a user typed, quoted for an error; not shown where it may be a value, such as a secret."""
    return repr(name) if _PLAIN_NAME.fullmatch(name) else "(not shown: it may be a secret)"


def shown_value(value: str) -> str:
    """A number or a word that a user typed, quoted for an error; not shown where it may be a secret."""
    return (
        repr(value)
        if _PLAIN_VALUE.fullmatch(value)
        else "what was given (not shown: it may be a secret)"
    )


def shown_path(path: str) -> str:
    """A path that a user typed, for an error; not shown where it may be something else, such as a secret."""
    return path if _PLAIN_PATH.fullmatch(path) else "(not shown: it may be a secret)"

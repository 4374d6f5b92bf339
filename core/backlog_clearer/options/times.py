"""Times and durations as users write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_S = 100 * 365 * 86_400


def parse_time(text: str) -> datetime:
    """A time of RFC 3339, which has a time zone; raises `ValueError`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("write a time with its zone, as in 2026-11-25T10:00:00Z")
    day, clock, zone = match.groups()
    seconds, _, fraction = clock.partition(".")
    # Python 3.10 reads neither "Z" nor fractions of other than three or six digits.
    digits = f".{fraction[:6]:0<6}" if fraction else ""
    try:
        found = datetime.fromisoformat(f"{day}T{seconds}{digits}{'+00:00' if zone in 'zZ' else zone}")
        found.astimezone(timezone.utc)
    except (ValueError, OverflowError):  # the latter: in UTC it is beyond the calendar
        raise ValueError("this time does not exist") from None
    return found


def parse_duration(text: str) -> timedelta:
    """A duration such as 90s, 30m, 2h, 7d or 1w; raises `ValueError`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("write a number and one of s, m, h, d, w, as in 2h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError("it has to be longer than 0 s, and at most 100 years")
    return timedelta(seconds=seconds)


def _time(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if not isinstance(value, str):
        raise ValueError("write a time with its zone, as in 2026-11-25T10:00:00Z")  # noqa: TRY004 pydantic's
    return parse_time(value)


def _checked_duration(value: str) -> str:
    parse_duration(value)
    return value.strip()


Time = Annotated[datetime, BeforeValidator(_time)]
"""A time with a zone, written as RFC 3339."""

Duration = Annotated[str, AfterValidator(_checked_duration)]
"""A duration as it was written, as in "2h"; `parse_duration` has its value."""

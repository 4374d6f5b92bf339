"""Times as brokers have them: whole numbers since 1970."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def milliseconds(when: datetime) -> int:
    """Milliseconds since 1970, at least 0; rounded up, so that no message of the time counts as older."""
    return max(0, -((_EPOCH - when) // timedelta(milliseconds=1)))


def microseconds(when: datetime) -> int:
    """Microseconds since 1970, not less than 0."""
    return max(0, (when - _EPOCH) // timedelta(microseconds=1))


def from_milliseconds(value: int) -> datetime | None:
    """The time of a number of milliseconds since 1970; None: none was set, or no clock shows it."""
    return from_microseconds(value * 1000)


def from_microseconds(value: int) -> datetime | None:
    """The time of a number of microseconds since 1970; None: none was set, or no clock shows it."""
    try:
        return _EPOCH + timedelta(microseconds=value) if value > 0 else None
    except OverflowError:
        return None

"""The moment for which a timer fires, so that a scheduled run has the same id on every attempt."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import azure.functions as func
from pydantic import TypeAdapter, ValidationError

_EARLY = timedelta(seconds=30)  # by how much a timer may fire before it is due
_LATE = timedelta(minutes=5)  # by how much a host that had to start first may be late


def due(timer: func.TimerRequest, now: datetime) -> datetime:
    """The moment in UTC: the timer's next occurrence according to its monitor before it fired.

    The monitor is updated after the function: InvokeJobFunction in TimerListener.cs of
    Azure/azure-webjobs-sdk-extensions. A timer without a monitor, or one started by hand before it is
    due, fires for `now`.
    """
    status = getattr(timer, "schedule_status", {})
    try:
        when = TypeAdapter(datetime).validate_python(status.get("Next")).astimezone(timezone.utc)
    except (ValidationError, OverflowError):
        return now
    return now if when > now + _EARLY else when


def missed(timer: func.TimerRequest, when: datetime, now: datetime) -> bool:
    """Whether the moment passed while the timer or the app was switched off, by more than a start takes.

    A timer that is late without stating since when (`due` is then `now`) was missed, too.
    """
    return timer.past_due and (when == now or now - when > _LATE)

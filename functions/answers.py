"""What every platform's handler needs to answer: the deadline, an error's HTTP status, its JSON body."""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.errors import ClearerError, RefusedError, UsageError
from core.report import failure_json

DEADLINE = "BACKLOG_CLEARER_DEADLINE_S"


def deadline_s(environ: Mapping[str, str]) -> float | None:
    """Seconds that one invocation may drain; None: no deadline is set.

    Raises `UsageError` for what is no positive number.
    """
    text = environ.get(DEADLINE, "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"{DEADLINE} is {text[:50]!r}: give the seconds that one invocation may drain, above 0."
        )
    return seconds


def status_of(error: ClearerError) -> int:
    """The HTTP status that tells the caller whose fault it was."""
    if isinstance(error, UsageError):
        return 400
    return 409 if isinstance(error, RefusedError) else 503


def failure(error: Exception) -> str:
    """The JSON body of an answer that is an error."""
    return failure_json(error)

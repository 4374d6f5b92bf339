"""Shared by the handlers of all platforms: the deadline, requests from bodies, answers to errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone

from backlog_clearer.errors import BrokerError, ClearerError, RefusedError, UsageError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.fanout.run_status import note_failure
from backlog_clearer.fanout.slices import NOT_CLEARED
from backlog_clearer.redaction.redact import redact_logs, remember_environment
from backlog_clearer.run.receipt import new_run_id
from backlog_clearer.text import shown_value

DEADLINE = "BACKLOG_CLEARER_DEADLINE_S"

_LOG = logging.getLogger("backlog_clearer")


def deadline_s(environ: Mapping[str, str]) -> float | None:
    """Seconds that one invocation may drain; None: no deadline is set.

    Raises `UsageError` if it is not a positive number.
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
            f"{DEADLINE} is {shown_value(text)}: give the seconds that one invocation may drain, above 0."
        )
    return seconds


def keep_secrets(environ: Mapping[str, str]) -> None:
    """Keep secrets of the environment out of every text and log record of this process."""
    redact_logs()
    remember_environment(environ)


@contextmanager
def known_errors() -> Iterator[None]:
    """Turn any other error in the block into a `BrokerError`, since platforms log the texts of errors.

    Its traceback is logged here, without secrets.
    """
    try:
        yield
    except ClearerError as error:
        raise error from None
    except Exception as error:  # noqa: BLE001 whatever it is, its text must not reach a platform as it is
        _LOG.exception("%s: an unexpected error", NOT_CLEARED)
        raise BrokerError(f"An unexpected error: {type(error).__name__}: {error}") from None


def with_run_id(request: Request) -> Request:
    """A request with a run id, so that a caller learns it from every answer, and the log has it."""
    if request.run_id is not None:
        return request
    return request.model_copy(update={"run_id": new_run_id(datetime.now(timezone.utc))})


def status_of(error: ClearerError) -> int:
    """The HTTP status of an error: 4xx for a caller's fault, 503 for what may pass."""
    if isinstance(error, UsageError):
        return 400
    return 409 if isinstance(error, RefusedError) else 503


def record_failure(receipts: str, request: Request, error: Exception) -> None:
    """Log the failure of a slice, and store it with its run; does not raise.

    A refused request (`UsageError`) is only logged: it may name a run that it does not belong to.
    """
    part = "whole" if request.slice is None else f"{request.slice}/{request.total}"
    run = f"run {request.run_id}" if request.run_id else "a run without an id"
    _LOG.error("%s: %s, slice %s of %s: %s", NOT_CLEARED, run, part, request.backlog, error)
    if isinstance(error, UsageError):
        return
    try:
        note_failure(receipts, request, error, datetime.now(timezone.utc))
    except BrokerError as problem:
        _LOG.error("%s: %s", NOT_CLEARED, problem)

"""Requests of a run that are repeated where a failure may pass in a moment; lanes have `engine.worker`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import tenacity

from backlog_clearer.errors import TransientError
from backlog_clearer.text import listed

_LOG = logging.getLogger("backlog_clearer")

ATTEMPTS = 4
PATIENCE_S = 5.0  # a broker that took this long to fail is not asked again
_WAIT_S = 0.3  # at least, between two attempts
_SHOWN = 3  # failures in a line of the log

_Answer = TypeVar("_Answer")


def _nothing(_: object) -> Sequence[str]:
    return ()


def repeated(
    name: str,
    request: Callable[[], _Answer],
    passing: Callable[[_Answer], Sequence[str]] = _nothing,
) -> _Answer:
    """The request's answer, after a few attempts if it raises `TransientError` or `passing` finds failures.

    `name` is for the log. Raises like the request, a few seconds later; an answer in which failures
    remain is returned as it is.
    """

    def report(state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        failure = outcome.exception() if outcome else None
        found = passing(outcome.result()) if outcome and not failure else ()
        _LOG.warning("Retrying the %s: %s", name, failure or listed(found, _SHOWN))

    answer: _Answer = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError)
        | tenacity.retry_if_result(lambda result: bool(passing(result))),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE_S),
        wait=tenacity.wait_random_exponential(multiplier=_WAIT_S, min=_WAIT_S, max=2.0),
        before_sleep=report,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )(request)
    return answer

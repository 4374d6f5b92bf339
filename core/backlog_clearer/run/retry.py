"""Requests of a run that are repeated where a failure may pass in a moment; lanes have `engine.worker`."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import tenacity
from tenacity.stop import stop_base

from backlog_clearer.errors import TransientError
from backlog_clearer.text import listed

_LOG = logging.getLogger("backlog_clearer")

ATTEMPTS = 4
CHANGE_ATTEMPTS = 8  # of a change, which other slices of the run may hold up
PATIENCE_S = 5.0  # a broker that took this long to fail, all attempts together, is not asked again
_WAIT_S = 0.3  # between two attempts, half of it by chance; doubles up to…
_WAIT_LAST_S = 4.0
_LASTING = 3  # failures in a row that are worth a warning, as is a failure after…
_LASTING_S = 2.0
_SHOWN = 3  # failures in a line of the log
_TICK_S = 0.1  # how soon a wait notices a stop

_Answer = TypeVar("_Answer")


def _nothing(_: object) -> Sequence[str]:
    return ()


def _wait_s(state: tenacity.RetryCallState) -> float:
    """The wait after an attempt: longer each time, and not the same in each slice."""
    longest = min(_WAIT_LAST_S, _WAIT_S * 2.0 ** (state.attempt_number - 1))
    return random.uniform(longest / 2, longest)  # noqa: S311 not a secret


def _never() -> bool:
    return False


class _TookLong(stop_base):
    """Stops where the requests themselves took too long, without the waits between them."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return (retry_state.seconds_since_start or 0.0) - retry_state.idle_for > PATIENCE_S


class _Halted(stop_base):
    """Stops once the run is to stop."""

    def __init__(self, halted: Callable[[], bool]) -> None:
        self._halted = halted

    def __call__(self, _: tenacity.RetryCallState) -> bool:
        return self._halted()


def repeated(
    name: str,
    request: Callable[[], _Answer],
    passing: Callable[[_Answer], Sequence[str]] = _nothing,
    *,
    attempts: int | None = None,
    halted: Callable[[], bool] = _never,
) -> _Answer:
    """The request's answer, after a few attempts if it raises `TransientError` or `passing` finds failures.

    `name` is for the log. Raises like the request, a few seconds later; an answer in which failures
    remain is returned as it is. `attempts` (None: few) is `CHANGE_ATTEMPTS` for a request that slices of
    a run make in turn (they hold a lock, or join a group), so that each waits for the others. Once `halted` is
    true, a failure is not waited for any more: one last attempt is made at most.
    """

    def report(state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        failure = outcome.exception() if outcome else None
        found = passing(outcome.result()) if outcome and not failure else ()
        lasts = state.attempt_number >= _LASTING or (state.seconds_since_start or 0.0) >= _LASTING_S
        level = logging.WARNING if lasts else logging.INFO  # a new cluster's first answers are refusals
        _LOG.log(level, "Retrying the %s: %s", name, failure or listed(found, _SHOWN))

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while not halted() and (left := end - time.monotonic()) > 0:
            time.sleep(min(_TICK_S, left))

    answer: _Answer = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError)
        | tenacity.retry_if_result(lambda result: bool(passing(result))),
        stop=tenacity.stop_after_attempt(attempts or ATTEMPTS) | _TookLong() | _Halted(halted),
        wait=_wait_s,
        sleep=wait,
        before_sleep=report,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )(request)
    return answer

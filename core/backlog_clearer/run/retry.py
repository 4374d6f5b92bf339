"""Requests of a run that are repeated where a failure may pass in a moment; lanes have `engine.worker`."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

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


def _wait_s(attempt: int) -> float:
    """The wait after an attempt, the first of which is 1: longer each time, and not the same in each slice."""
    longest = min(_WAIT_LAST_S, _WAIT_S * 2.0 ** (attempt - 1))
    return random.uniform(longest / 2, longest)  # noqa: S311 not a secret


def _never() -> bool:
    return False


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
    begun, waited, attempt = time.monotonic(), 0.0, 1
    while True:
        failure: TransientError | None = None
        found: Sequence[str] = ()
        try:
            answer = request()
        except TransientError as error:
            failure = error
        else:
            found = passing(answer)
            if not found:
                return answer
        seconds = time.monotonic() - begun
        if attempt >= (attempts or ATTEMPTS) or seconds - waited > PATIENCE_S or halted():
            if failure is not None:
                raise failure
            return answer
        lasts = attempt >= _LASTING or seconds >= _LASTING_S
        level = logging.WARNING if lasts else logging.INFO  # a new cluster's first answers are refusals
        _LOG.log(level, "Retrying the %s: %s", name, failure or listed(found, _SHOWN))
        waited += _waited(_wait_s(attempt), halted)
        attempt += 1


def _waited(seconds: float, halted: Callable[[], bool]) -> float:
    """Wait, until `halted` is true at the longest; returns how many seconds that took."""
    begun = time.monotonic()
    while not halted() and (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(_TICK_S, left))
    return time.monotonic() - begun

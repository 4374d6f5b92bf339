"""Calls to a source end soon after a stop, whatever its broker does.

A library's call cannot be ended from outside, so each is made on a thread of its own, which is left behind
where the broker does not answer in time. Its source is not used any more then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import TypeVar

from backlog_clearer.deadline import BackgroundCall
from backlog_clearer.errors import BrokerError
from backlog_clearer.source import Interruptible, Source

STOP_S = 2.5
"""For how long after a stop the calls of a source are waited for, all together."""

_READ_S = 1.2  # for one that changes nothing; lanes have had time before it
_LEAST_S = 0.2  # for one that begins later
_TICK_S = 0.1  # how soon a wait notices a stop
_CALLS = {
    "survey": ("the survey", "", _READ_S),
    "partitions": ("its partitions", "", _READ_S),
    "remaining": ("the verification", "", _READ_S),
    "prepare_undo": ("preparing the undo", "what is kept for it is not known", STOP_S),
    "skip": ("the skip", "which positions it has moved is not known", STOP_S),
    "restore": ("the restore", "which positions it has written is not known", STOP_S),
}
"""What the source's methods do, what is not known of one that was left behind, and its limit after a stop."""

_Result = TypeVar("_Result")


class AbandonedError(BrokerError):
    """The run was to stop, and the broker did not answer in time."""


class Stopping:
    """The time that one source's calls still have once its run is to stop."""

    def __init__(self, place: str, halted: Callable[[], bool]) -> None:
        self._place = place
        self._halted = halted
        self._left_s = STOP_S
        self._behind: str | None = None  # the call that was left behind
        self._returned = False  # and has come back since
        self._last: Callable[[], None] | None = None  # what is to be done when it comes back
        self._lock = threading.Lock()

    def call(
        self, doing: str, do: Callable[[], _Result], doubt: str = "", limit_s: float = _READ_S
    ) -> _Result:
        """What the call returns or raises; `AbandonedError`, with `doubt`, where a stop leaves it behind.

        Its time is counted in waits, so that a machine which is late itself gives it more.
        """
        if self._behind is not None:
            raise AbandonedError(self._unanswered())
        begun = BackgroundCall(doing, do, partial(self._return, doing))
        waited_s, allowed_s = 0.0, max(_LEAST_S, min(limit_s, self._left_s))
        while not begun.ended(_TICK_S):
            if self._halted():
                waited_s += _TICK_S
            if waited_s >= allowed_s:
                with self._lock:
                    if not begun.ended():
                        self._behind = doing
                        raise AbandonedError(self._unanswered(doubt))
        self._left_s -= waited_s
        return begun.result()

    def close(self, do: Callable[[], None]) -> None:
        """Close the source; one that is still being called is closed when that call comes back."""
        with self._lock:
            if self._behind is not None and not self._returned:
                self._last = do
                return
        if self._behind is not None:
            do()
            return
        with suppress(AbandonedError):
            self.call("closing", do)

    def _return(self, doing: str) -> None:
        with self._lock:
            if doing != self._behind:
                return
            self._returned, last = True, self._last
        if last is not None:
            last()

    def _unanswered(self, doubt: str = "") -> str:
        more = f"; {doubt}" if doubt else ""
        return f"{self._place} did not answer {self._behind} in time, and the run was to stop{more}."


def stoppable(source: Source, place: str, halted: Callable[[], bool]) -> Source:
    """The same source; once `halted` is true, none of its calls takes longer than `STOP_S`.

    Nor does a lane's, where the source is `Interruptible`. What was left behind raises `AbandonedError`, and so
    do all later calls. To be called once, before the change; `halted` is called by any thread.
    """
    if isinstance(source, Interruptible):
        source.interrupt_by(halted)
    stopping = Stopping(place, halted)
    for name in _CALLS:
        call = getattr(source, name, None)  # `partitions` is optional
        if call is not None:
            setattr(source, name, _bounded(stopping, name, call))
    close = source.close
    source.close = lambda: stopping.close(close)  # type: ignore[method-assign] # of this object
    return source


def _bounded(stopping: Stopping, name: str, call: Callable[..., _Result]) -> Callable[..., _Result]:
    doing, doubt, limit_s = _CALLS[name]

    @wraps(call)
    def bounded(*args: object) -> _Result:
        return stopping.call(doing, partial(call, *args), doubt, limit_s)

    return bounded

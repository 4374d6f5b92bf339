"""A deadline for the whole of a call to a library that limits only the time between two bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class BackgroundCall(Generic[_Result]):
    """A call on a thread, a daemon, which can be left behind."""

    def __init__(
        self, name: str, call: Callable[[], _Result], after: Callable[[], None] | None = None
    ) -> None:
        """Begin the call; `after` is called on its thread once it has ended."""
        self._call = call
        self._after = after
        self._found: list[_Result] = []
        self._raised: list[BaseException] = []
        self._done = threading.Event()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 it is raised where the caller waits
            self._raised.append(error)
        self._done.set()
        if self._after is not None:
            self._after()

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether the call ends within this time."""
        return self._done.wait(within_s)

    def result(self) -> _Result:
        """What the call, which has ended, returned or raises."""
        if self._raised:
            raise self._raised[0]
        return self._found[0]


def within(seconds: float, call: Callable[[], _Result], late: str = "no whole answer") -> _Result:
    """What a call returns or raises; `TimeoutError`, which begins with `late`, where it takes longer.

    The call is made on a thread, a daemon, which is abandoned then.
    """
    begun = BackgroundCall("within", call)
    if not begun.ended(seconds):
        raise TimeoutError(f"{late} within {seconds:.0f} s")
    return begun.result()

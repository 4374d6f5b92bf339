"""A deadline for the whole of a call to a library that limits only the time between two bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def within(seconds: float, call: Callable[[], _Result], late: str = "no whole answer") -> _Result:
    """What a call returns or raises; `TimeoutError`, which begins with `late`, where it takes longer.

    The call is made on a thread, a daemon, which is abandoned then.
    """
    found: list[_Result] = []
    raised: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001 it is raised where the caller waits
            raised.append(error)
        done.set()

    threading.Thread(target=work, name="within", daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError(f"{late} within {seconds:.0f} s")
    if raised:
        raise raised[0]
    return found[0]

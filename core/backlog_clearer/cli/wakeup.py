"""Noticing signals while the main thread is in a call of a library that does not return."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@contextmanager
def watching_signals(seconds: float, late: Callable[[], None]) -> Iterator[None]:
    """While the block runs: call `late` so many seconds after a signal, unless the block has ended by then.

    Python runs handlers in the main thread, between its own instructions: not while a library's call waits
    for a broker. `late` is called in another thread.
    """
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        try:
            while number := os.read(reading, 1):
                if number[0] in _ENDING and not ended.wait(seconds):
                    late()
        finally:
            os.close(reading)

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)

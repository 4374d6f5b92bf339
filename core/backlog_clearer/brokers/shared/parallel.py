"""The same request for many partitions, in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from backlog_clearer.errors import BrokerError, ClearerError, TransientError

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_parallel(
    items: Sequence[_T],
    open_worker: Callable[[], Callable[[_T], _R]],
    *,
    where: str,
    threads: int = 16,
    timeout_s: float = 12.0,
) -> list[_R | ClearerError]:
    """Call one function for each item, on at most `threads` threads, each with its own worker.

    `where`: what is asked, with its address, for errors. Returns the results in the order of the items; in
    place of a result, the `ClearerError` that was raised. If no result arrives for `timeout_s` seconds, no
    further call begins, and missing results are a `TransientError`. The threads are daemons, so one that
    hangs is abandoned.
    """
    results: dict[int, _R | ClearerError] = {}
    waiting = list(enumerate(items))[::-1]
    lock = threading.Lock()
    done = threading.Semaphore(0)

    def work() -> None:
        worker: Callable[[_T], _R] | None = None
        while True:
            with lock:
                if not waiting:
                    return
                index, item = waiting.pop()
            try:
                worker = worker or open_worker()
                results[index] = worker(item)
            except ClearerError as error:
                results[index] = error
            except Exception as error:  # noqa: BLE001 a thread must not end without its answer
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                results[index] = BrokerError(f"{where} gave an answer that could not be used ({text}).")
            done.release()

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, daemon=True).start()
    for _ in items:
        if not done.acquire(timeout=timeout_s):
            with lock:
                waiting.clear()
            break
    late = TransientError(f"{where} did not answer within {timeout_s:.0f} s.")
    return [results.get(index, late) for index in range(len(items))]

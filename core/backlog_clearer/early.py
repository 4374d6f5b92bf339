"""Signals that arrive before a command can handle them: while modules load, nothing has been changed.

This is the first module that an entry point loads, so it imports almost nothing. Before that, while the
interpreter itself starts, a signal has Python's usual effect: SIGTERM and SIGHUP end the process, and SIGINT
does so with a traceback of the module that is being loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = "Interrupted; nothing was changed."
# As `run.report.failure_json` writes it, which is not loaded yet
_ANSWER = (
    '{"schema": "backlog-clearer/result/2", "verdict": "not_cleared", "error": "%s", "kind": "%s"}'
)


def wants_json(args: list[str]) -> bool:
    """Whether the arguments of a call, which may not be valid, ask for JSON."""
    chosen = "text"
    for index, arg in enumerate(args):
        if arg == "--output" and index + 1 < len(args):
            chosen = args[index + 1]
        elif arg.startswith("--output="):
            chosen = arg.partition("=")[2]
    return chosen == "json"


def end_on_signals(*, json: bool) -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the process with exit code 1, until others handle them.

    They print why, with `json` as an object on stdout, too. SIGHUP stays ignored under nohup.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        end_interrupted(json=json)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def end_interrupted(*, json: bool) -> NoReturn:
    """End the process at once, as interrupted before anything was changed."""
    _end(INTERRUPTED, "RefusedError", 1, json=json)


def end_unusable(error: str) -> NoReturn:
    """End the command line at once, as wrong use: it cannot run here, for this reason."""
    _end(error, "UsageError", 2, json=wants_json(sys.argv[1:]))


def _end(error: str, kind: str, code: int, *, json: bool) -> NoReturn:
    _write(2, f"Error: {error}\n")
    if json:
        _write(1, f"{_ANSWER % (error, kind)}\n")
    os._exit(code)


def _write(stream: int, text: str) -> None:
    try:
        os.write(stream, text.encode())
    except OSError:  # closed, or nothing reads it
        return


def end_on_signals_of_command() -> None:
    """The same for the command line, by its arguments."""
    end_on_signals(json=wants_json(sys.argv[1:]))

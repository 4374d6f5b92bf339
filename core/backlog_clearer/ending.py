"""The end of a process: once its result is printed, nothing may keep it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def run_and_end(entry: Callable[[], object]) -> NoReturn:
    """Call an entry point, and end the process with its exit code as soon as it is done.

    Clients of brokers leave threads and native objects behind that can keep the interpreter from ending,
    or crash it. By then sources are closed and receipts stored, and only output is left to be flushed. An
    exception other than `SystemExit` ends the process as usual.
    """
    code: object = 0
    try:
        entry()
    except SystemExit as end:
        code = end.code
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))

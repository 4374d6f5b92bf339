"""stdout and stderr that may be closed, full, or a pipe that nothing reads any more.

A run continues without them: what cannot be written is dropped, and never becomes a traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from backlog_clearer.redaction.redact import redacted


class ForgivingStream(io.TextIOWrapper):
    """A text stream that drops what cannot be written, and keeps the first reason in `lost`."""

    def __init__(self, descriptor: int, like: TextIO | None) -> None:
        raw = open(descriptor, "wb", closefd=False)  # noqa: SIM115 open until the process ends
        encoding = like.encoding if like else "utf-8"
        super().__init__(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)
        self.lost: OSError | None = None
        self._descriptor = descriptor

    def write(self, text: str, /) -> int:
        """Write without secrets; never raises an `OSError`."""
        try:
            super().write(redacted(text, values=False))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush; never raises an `OSError`."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        _open_nothing_as(self._descriptor)  # the rest of the buffer goes there, now and at exit
        with suppress(OSError):
            super().flush()


def guard() -> None:
    """Make stdout and stderr forgiving, and keep the three standard descriptors taken.

    A socket or a file that got the number of a closed stdout would receive what libraries print.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for descriptor in closed:
        _open_nothing_as(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 open until the process ends
    sys.stderr = ForgivingStream(2, sys.stderr)
    sys.stdout = ForgivingStream(1, sys.stdout)
    if 1 in closed:
        sys.stdout.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))


def is_lost() -> bool:
    """Whether stdout has lost something, so that nothing that is written to it arrives any more."""
    return isinstance(sys.stdout, ForgivingStream) and sys.stdout.lost is not None


def unwritten() -> str | None:
    """A sentence on what stdout has lost, once; None: nothing, or its reader wanted no more."""
    sys.stdout.flush()
    if not isinstance(sys.stdout, ForgivingStream):
        return None
    error, sys.stdout.lost = sys.stdout.lost, None
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"The output could not be written to stdout: {error.strerror}."


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_nothing_as(descriptor: int) -> None:
    """Let a descriptor read nothing, and drop what is written to it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)

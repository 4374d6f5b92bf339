"""Metrics as a file of Prometheus' text format, for node_exporter's textfile collector.

The file is written under another name in its own directory and renamed, so that a reader never sees a part
of it: https://github.com/prometheus/node_exporter#textfile-collector.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from backlog_clearer.errors import UsageError
from backlog_clearer.options.places import LONGEST
from backlog_clearer.options.run import Slice
from backlog_clearer.run.job import now
from backlog_clearer.run.metrics import Reading, samples
from backlog_clearer.text import shown_path

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

EVERY_S = 5.0
"""Seconds between two writes while a run lasts."""

LIMIT_S = 10.0
"""How long the last write may take; a file system that hangs does not keep a run."""

_LOG = logging.getLogger("backlog_clearer")


def checked_path(path: str, part: Slice | None) -> str:
    """Where the metrics of a run, or of this slice of it, are written: "orders.prom", "orders-2.prom".

    Raises `UsageError` if no file can be written there.
    """
    try:
        given = Path(path[: LONGEST + 1])  # a longer one takes long to resolve, and fails
        place = (
            given.parent.resolve() / given.name
        )  # a link with the file's name is replaced, not followed
        if part is not None:
            place = place.with_name(f"{place.stem}-{part.index}{place.suffix}")
        fault = _fault(place)
    except (OSError, ValueError) as error:  # a name that is too long, a circle of links
        fault = getattr(error, "strerror", None) or "it is not a valid path"
    if fault:
        raise UsageError(f"--metrics-file {shown_path(path)} cannot be written: {fault}.")
    return str(place)


def named_path(path: str, name: str) -> str:
    """The file of one of several subscriptions: "out.prom" becomes "out-billing.prom"."""
    place = Path(path)
    return str(place.with_name(f"{place.stem}-{quote(name, safe='')}{place.suffix}"))


def _fault(place: Path) -> str | None:
    """Why no file can be written there; raises `OSError` where the system states it."""
    try:  # `Path.exists` hides all errors from Python 3.14 on
        if not stat.S_ISREG(place.stat().st_mode):
            return "it is not a file"
    except OSError as error:  # what is not there is made, and a link that leads nowhere replaced
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
    if not place.parent.is_dir():
        return "its directory does not exist"
    return None if os.access(place.parent, os.W_OK | os.X_OK) else "its directory cannot be written to"


class MetricsFile:
    """Writes the newest reading every `EVERY_S`, and the last one at the end, on its own thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reading: Reading | None = None
        self._last = threading.Event()
        self._fault: str | None = None  # of the newest write
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="metrics file", daemon=True)

    def start(self, reading: Reading) -> None:
        """Begin to write."""
        self._reading = reading
        self._thread.start()

    def show(self, reading: Reading) -> None:
        """Take a newer reading; costs nothing."""
        self._reading = reading

    def finish(self, reading: Reading) -> str | None:
        """Write the last reading, and end; returns a note if that failed."""
        self._reading = reading
        self._last.set()
        self._thread.join(LIMIT_S)
        fault = f"no end within {LIMIT_S:.0f} s" if self._thread.is_alive() else self._fault
        return f"The metrics could not be written to {self._path}: {fault}." if fault else None

    def _work(self) -> None:
        while True:
            last = self._last.is_set()  # the last reading was taken before
            if self._reading is not None:
                self._write(self._reading)
            if last:
                return
            self._last.wait(EVERY_S)

    def _write(self, reading: Reading) -> None:
        try:
            from prometheus_client import generate_latest  # noqa: PLC0415 only where it is asked for

            _replace(self._path, generate_latest(_Collected(reading)))
            self._fault = None
        except (OSError, ValueError, ImportError) as error:  # ValueError: a name that is not text
            self._fault = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            if not self._warned:
                self._warned = True
                _LOG.warning("The metrics cannot be written to %s: %s", self._path, self._fault)


def _replace(path: str, data: bytes) -> None:
    """Replace a file by a draft that no other process can have made; raises `OSError`.

    The library's own function writes a draft with a known name, through a symbolic link that is there.
    """
    draft = Path(f"{path}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    # Readable as the umask has it: a collector of another user reads it.
    descriptor = os.open(draft, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


class _Collected:
    """A reading as the library takes it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Family]:
        """One family for each metric."""
        from prometheus_client import Metric as Family  # noqa: PLC0415 only where it is asked for

        found: dict[str, Family] = {}
        for metric, labels, value in samples(self._reading, now()):
            name = metric.prometheus
            if name is not None:
                family = found.setdefault(name, Family(name, metric.text, metric.kind))
                family.add_sample(f"{name}_total" if metric.kind == "counter" else name, labels, value)
        yield from found.values()

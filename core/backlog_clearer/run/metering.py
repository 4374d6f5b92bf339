"""A run or a status whose metrics go where the job and the environment ask for.

Workers are not touched: what a progress display reads is read once more, and written by other threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from backlog_clearer.engine.drain import Halt, Snapshot
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job, now
from backlog_clearer.run.metrics import Reading, broken_off, ended, looked_at, moved, planned
from backlog_clearer.run.metrics_file import MetricsFile, checked_path
from backlog_clearer.run.otel import collector_of
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.record import annotated
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from backlog_clearer.run.stopping import AbandonedError, Stopping


class Outlet(Protocol):
    """A place that readings go to; none of its methods raises, and `show` takes no time."""

    def start(self, reading: Reading) -> None:
        """Begin, with the first reading."""

    def show(self, reading: Reading) -> None:
        """Take a newer reading."""

    def finish(self, reading: Reading) -> str | None:
        """Deliver the last reading, for seconds at most, and end; returns a note if that failed."""


def outlets_of(job: Job) -> list[Outlet]:
    """Where a job's metrics go; raises `UsageError` for a file that cannot be. A dry run has none."""
    if job.run.dry_run:
        return []
    found: list[Outlet] = []
    if job.run.metrics_file is not None:
        found.append(MetricsFile(checked_path(job.run.metrics_file, job.run.slice)))
    collector = collector_of(job, os.environ)
    return found if collector is None else [*found, collector]


def clear_metered(job: Job, callbacks: Callbacks | None = None, halt: Halt | None = None) -> RunResult:
    """Like `run.clear.clear`, with metrics; raises `UsageError`, too, where they can go nowhere."""
    meter = Meter(job, halt)
    try:
        return meter.ended(clear(job, meter.listening(callbacks or Callbacks()), halt))
    except BaseException:
        meter.broken_off()
        raise


def status_metered(job: Job) -> RunResult:
    """Like `run.status.status`, with metrics; raises like `clear_metered`."""
    outlets = outlets_of(job)
    result = status(job)
    reading = looked_at(job, result)
    for outlet in outlets:
        outlet.start(reading)
    return annotated(result, _finished(outlets, reading))


class LooksMeter:
    """Delivers the metrics of one look after the other at a subscription; raises like `outlets_of`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._outlets = outlets_of(job)
        self._last: Reading | None = None

    def show(self, result: RunResult) -> None:
        """Take the newest look; takes no time."""
        first, self._last = self._last is None, looked_at(self._job, result)
        for outlet in self._outlets:
            (outlet.start if first else outlet.show)(self._last)

    def close(self) -> None:
        """Deliver the last look, for seconds at most; what fails is logged while it is watched."""
        if self._last is not None:
            _finished(self._outlets, self._last)


class Meter:
    """Follows one run, from the confirmation of its plan on."""

    def __init__(self, job: Job, halt: Halt | None = None) -> None:
        """Raises `UsageError` where the metrics can go nowhere."""
        self._job = job
        self._halt = halt
        self._outlets = outlets_of(job)
        self._reading: Reading | None = None  # None: nothing has begun, or all of it has ended

    def listening(self, callbacks: Callbacks) -> Callbacks:
        """The callbacks of a run that this follows."""
        if not self._outlets:
            return callbacks

        def confirm(plan: Plan) -> bool:
            confirmed = callbacks.confirm(plan)
            if confirmed:
                self.begin(plan)
            return confirmed

        def progress(seen: Snapshot) -> None:
            callbacks.progress(seen)
            if self._reading is not None:
                self._reading = moved(self._reading, seen)
                for outlet in self._outlets:
                    outlet.show(self._reading)

        return replace(callbacks, confirm=confirm, progress=progress)

    def begin(self, plan: Plan) -> None:
        """The plan was confirmed."""
        self._reading = planned(self._job, plan, now())
        for outlet in self._outlets:
            outlet.start(self._reading)

    def ended(self, result: RunResult) -> RunResult:
        """Deliver the last reading; the result has notes on what failed."""
        if self._reading is None:
            return result
        last, self._reading = ended(self._reading, result), None
        return annotated(result, _finished(self._outlets, last, self._halted))

    def broken_off(self) -> None:
        """Deliver the last reading of a run that has no result."""
        if self._reading is not None:
            last, self._reading = broken_off(self._reading, now()), None
            _finished(self._outlets, last, self._halted)

    def _halted(self) -> bool:
        return self._halt is not None and self._halt.signalled


def _finished(
    outlets: Sequence[Outlet], reading: Reading, halted: Callable[[], bool] = lambda: False
) -> tuple[str, ...]:
    """Notes on what failed; soon, once `halted` is true."""
    stopping = Stopping("Their receiver", halted)
    notes = []
    for outlet in outlets:
        try:
            note = stopping.call("the last metrics", partial(outlet.finish, reading))
        except AbandonedError as error:
            note = f"The last metrics may be missing: {error}"
        if note is not None:
            notes.append(note)
    return tuple(notes)

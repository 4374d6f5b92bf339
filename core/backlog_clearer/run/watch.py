"""Looking at a backlog again and again: what each look found, and how fast it moves. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Partition
from backlog_clearer.run.job import Job, now, opened, reading_nothing
from backlog_clearer.run.rates import RECENT_S, History, Rates, eta_s, not_measured, summed
from backlog_clearer.run.report import FreeText, Reported, RunResult, StoredPosition, rounded
from backlog_clearer.run.status import as_status, surveyed
from backlog_clearer.source import Countable, Source

WATCH_SCHEMA: Literal["backlog-clearer/watch/1"] = "backlog-clearer/watch/1"


class Look(NamedTuple):
    """What one look found."""

    at: datetime
    status: RunResult
    rates: Mapping[Partition, Rates]

    @property
    def total(self) -> Rates:
        """The rates of all partitions together."""
        return summed(list(self.rates.values()))


class Watched:
    """A job's subscription, surveyed over one source again and again; a source that failed is opened anew."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = reading_nothing(job)
        self._clock = clock
        self._stack = ExitStack()
        self._source: Source | None = None
        self._history: History | None = None

    def look(self) -> Look:
        """Survey once, with a few attempts where a failure may pass. Raises like `run.status.status`."""
        try:
            if self._source is None:
                self._source = self._stack.enter_context(opened(self._job))
            return self._look(self._source)
        except ClearerError:
            self.close()
            raise

    def _look(self, source: Source) -> Look:
        record = surveyed(source, self._job)
        at_s, traits = self._clock(), source.traits
        if self._history is None:  # figures that are late are also updated in large steps
            self._history = History(max(RECENT_S, traits.proof_wait_s))
        between = source.between if isinstance(source, Countable) else not_measured
        rates = self._history.add(at_s, record.states, between, competing=traits.competing)
        return Look(now(), as_status(record), rates)

    def close(self) -> None:
        """Close the source; the next look opens another one."""
        self._source = None
        self._stack.close()


class WatchedPartition(Reported):
    """One partition at one look."""

    topic: str
    partition: int
    position: StoredPosition = Field(description="stored position; null: none is stored, or unknown")
    end: StoredPosition = Field(description="position once everything is cleared; null: unknown")
    backlog: int | None = Field(description="in `unit`; null: unknown")
    arrival_per_second: float | None = Field(description="growth of the end; null: unknown")
    drain_per_second: float | None = Field(description="movement of the position; null: unknown")
    oldest: datetime | None = None
    error: FreeText | None = None


class WatchedBacklog(Reported):
    """One look at a backlog, as `status --watch --output json` prints one in each interval."""

    schema_: Literal["backlog-clearer/watch/1"] = Field(WATCH_SCHEMA, alias="schema")
    at: datetime
    system: str
    name: str | None = Field(None, description="where several are watched: which of them this is")
    subscription: str | None = Field(None, description="null: this look failed")
    unit: str | None = Field(None, description="the unit of backlogs and rates; null: this look failed")
    backlog: int | None = Field(None, description="of all partitions, in `unit`; null: unknown")
    seconds: float | None = Field(
        None, description="over which the rates were counted; null: they are not known"
    )
    arrival_per_second: float | None = Field(None, description="in `unit`; null: unknown")
    drain_per_second: float | None = Field(None, description="in `unit`; null: unknown")
    change_per_second: float | None = Field(
        None, description="of the backlog, below 0 where it shrinks; null: unknown"
    )
    eta_seconds: float | None = Field(
        None, description="until nothing is left at this rate; null: unknown, or it does not shrink"
    )
    oldest: datetime | None = Field(None, description="when the oldest message was published")
    live: tuple[str, ...] = Field((), description="consumers attached, as the broker names them")
    partitions: tuple[WatchedPartition, ...] = ()
    notes: tuple[FreeText, ...] = ()
    error: FreeText | None = Field(None, description="why this look failed; another one follows")


def watched_backlog(look: Look, name: str | None = None) -> WatchedBacklog:
    """A look as one object, with its name where several are watched: pure."""
    found, total = look.status, look.total
    return WatchedBacklog(
        at=look.at,
        system=found.system,
        name=name,
        subscription=found.subscription,
        unit=found.unit,
        backlog=found.totals.backlog,
        seconds=rounded(total.seconds),
        arrival_per_second=rounded(total.arrival),
        drain_per_second=rounded(total.drain),
        change_per_second=rounded(total.change),
        eta_seconds=rounded(eta_s(found.totals.backlog, total.change)),
        oldest=found.totals.oldest,
        live=found.live,
        partitions=tuple(
            WatchedPartition(
                topic=row.topic,
                partition=row.partition,
                position=row.before,
                end=row.target,
                backlog=row.backlog,
                arrival_per_second=rounded(look.rates[row.id].arrival),
                drain_per_second=rounded(look.rates[row.id].drain),
                oldest=row.oldest,
                error=row.error,
            )
            for row in found.partitions
        ),
        notes=found.notes,
    )


def failed_look(
    system: str, error: ClearerError, at: datetime, name: str | None = None
) -> WatchedBacklog:
    """A look that failed, as one object, with its name where several are watched: pure."""
    return WatchedBacklog(at=at, system=system, name=name, error=str(error))

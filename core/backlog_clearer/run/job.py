"""What to do on which subscription, and how a run talks while it does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.model import Partition, Position
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import open_source, place_of_system
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.receipt import new_run_id
from backlog_clearer.source import Source


def now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do on which subscription."""

    system: str
    options: SystemOptions
    run: RunOptions
    run_id: str = field(default_factory=lambda: new_run_id(now()))
    deadline_s: float | None = None  # after the start: until then the platform lets it run, and wait
    targets: Mapping[Partition, Position] = field(default_factory=dict)
    """Targets that the dispatcher froze for slices that share a partition."""
    only_verify: bool = False  # an earlier attempt of this run did the rest

    @property
    def place(self) -> str:
        """What is connected to, for errors."""
        return place_of_system(self.system, self.options)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """How a run talks while it runs; every part may be left out."""

    show: Callable[[Plan], None] = lambda _: None
    confirm: Callable[[Plan], bool] = lambda _: True
    progress: Callable[[Snapshot], None] = lambda _: None
    waiting: Callable[[float], None] = lambda _: (
        None
    )  # seconds at most; called while a run waits for proof
    halted: Callable[[], bool] = lambda: False  # whether to stop waiting


def reading_nothing(job: Job) -> Job:
    """The same job for a survey only: an adapter need not prepare to read."""
    return replace(job, run=job.run.model_copy(update={"dry_run": True}))


@contextmanager
def opened(job: Job) -> Iterator[Source]:
    """The job's source, closed at the end of the block; raises like `registry.open_source`."""
    with closing(open_source(job.system, job.options, job.run, job.run_id)) as source:
        yield source

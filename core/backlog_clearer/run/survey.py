"""The first request of every run, repeated where a failure may pass in a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from backlog_clearer.errors import RefusedError
from backlog_clearer.model import PartitionState, Survey
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.bounds import bound_of, up_to_bound
from backlog_clearer.run.job import Job, now, opened, reading_nothing
from backlog_clearer.run.plan import choose, live_text
from backlog_clearer.run.retry import repeated
from backlog_clearer.source import Source


class Seen(NamedTuple):
    """A subscription before anything changes."""

    survey: Survey
    states: tuple[PartitionState, ...]  # those that --partitions and --slice select
    unit: str  # what their backlogs count
    competing: bool  # several slices may share a partition


def look(job: Job) -> Seen:
    """Survey a job's subscription; changes nothing. Raises like `run.clear.clear`."""
    with opened(reading_nothing(job)) as source:
        bound, _ = bound_of(job.run, (), now())
        found, states = chosen(source, job.run)
        if bound is not None:
            found, states, _ = up_to_bound(source, found, states, bound)
        return Seen(found, states, source.traits.unit, source.traits.competing)


def chosen(source: Source, run: RunOptions) -> tuple[Survey, tuple[PartitionState, ...]]:
    """The survey, and the states of the partitions that the run is about. Raises like `survey`."""
    found = survey(source)
    return found, choose(found, run, competing=source.traits.competing)


def refuse_live(found: Survey, run: RunOptions) -> None:
    """Raise `RefusedError` where consumers are attached, unless the run is forced or a dry run."""
    if found.live and not run.force and not run.dry_run:
        raise RefusedError(f"{live_text(found)} Stop them, or use --force.")


def refuse_doubt(found: Survey, run: RunOptions) -> None:
    """Raise `RefusedError` where the name may be mistyped, unless it is meant, or the run is a dry run."""
    if found.doubt is not None and not run.new and not run.dry_run:
        raise RefusedError(found.doubt)


def survey(source: Source, halted: Callable[[], bool] = lambda: False) -> Survey:
    """`source.survey()`, a few times if a coordinator moves or a partition has no leader yet.

    Raises like it, a few seconds later; a partition that keeps failing keeps its error. `halted`: see
    `repeated`.
    """
    return repeated("survey", source.survey, _passing, halted=halted)


def _passing(found: Survey) -> list[str]:
    """Errors of partitions that may be over in a moment."""
    return [f"{state.partition}: {state.error}" for state in found.partitions if state.passing]

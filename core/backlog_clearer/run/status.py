"""The backlog as it is now; changes nothing."""

from __future__ import annotations

from dataclasses import replace

from backlog_clearer.run.ages import aged
from backlog_clearer.run.bounds import bound_of, up_to_bound
from backlog_clearer.run.job import Job, now, opened, reading_nothing
from backlog_clearer.run.record import Record
from backlog_clearer.run.report import Action, RunResult, as_json
from backlog_clearer.run.survey import chosen
from backlog_clearer.source import Keeping, Source


def status(job: Job) -> RunResult:
    """Survey a job's subscription and report it; changes nothing. Raises like `run.clear.clear`."""
    with opened(reading_nothing(job)) as source:
        record = surveyed(source, job)
        kept = source.kept_notes() if isinstance(source, Keeping) else ()
        return as_status(replace(record, notes=(*record.notes, *kept)))


def surveyed(source: Source, job: Job) -> Record:
    """A job's subscription as an open source finds it now. Raises like `status`."""
    started_at = now()
    bound, _ = bound_of(job.run, (), started_at)
    found, states = chosen(source, job.run)
    if bound is not None:
        found, states, _ = up_to_bound(source, found, states, bound)
    states = aged(source, job.run, states)
    return Record(
        job=job,
        action=Action.STATUS,
        traits=source.traits,
        survey=found,
        states=states,
        targets={state.partition: state.end for state in states},
        notes=found.notes,
        started_at=started_at,
        path=None,
        bound=bound,
    )


def as_status(record: Record) -> RunResult:
    """What was surveyed, as a result."""
    by_partition = {state.partition: state for state in record.states}
    rows = tuple(
        item.model_copy(
            update={
                "after": as_json(by_partition[item.id].position),
                "remaining": by_partition[item.id].backlog,
            }
        )
        for item in record.rows
    )
    return record.result(rows, verdict=None)

"""Announce the result of a run at the URL that its configuration, or its user, names.

Whether that succeeds never changes a verdict or an exit code: a failure is a warning, and a note in the
result and its receipt.
"""

from __future__ import annotations

from collections.abc import Callable

from backlog_clearer.errors import ClearerError
from backlog_clearer.run.job import Job
from backlog_clearer.run.record import annotated
from backlog_clearer.run.report import RunResult, failure_json


def _never() -> bool:
    return False


def announced(job: Job, result: RunResult, halted: Callable[[], bool] = _never) -> RunResult:
    """Post the result of a job; it has a note where that failed. Dry runs are not posted.

    Once `halted` is true the post is given up soon.
    """
    if job.run.notify is None or result.verdict is None:
        return result
    fault = _posted(job, result.to_json(), halted)
    return annotated(result, [fault]) if fault else result


def announce_failure(job: Job, error: ClearerError, halted: Callable[[], bool] = _never) -> None:
    """Post what a job prints instead of a result, with the run that it is about; does not raise.

    `halted`: see `announced`.
    """
    if job.run.notify is None or job.run.dry_run:
        return
    part = None if job.run.slice is None else str(job.run.slice)
    text = failure_json(error, system=job.system, run_id=job.run_id, slice=part)
    _posted(job, text, halted)


def _posted(job: Job, text: str, halted: Callable[[], bool]) -> str | None:
    from backlog_clearer.run.post import posted  # noqa: PLC0415 loads an HTTP client

    return posted(job, text, halted)

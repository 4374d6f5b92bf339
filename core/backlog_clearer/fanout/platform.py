"""The slice and the run of a container, from the environment that its platform sets.

Cloud Run jobs: https://cloud.google.com/run/docs/container-contract#jobs-env-vars; AWS Batch:
https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html; Kubernetes: indexed jobs, whose
number of completions is in no variable and has to be given as `BACKLOG_CLEARER_TOTAL`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from backlog_clearer.errors import UsageError
from backlog_clearer.text import shown_value

TOTAL = "BACKLOG_CLEARER_TOTAL"
RUN_ID = "BACKLOG_CLEARER_RUN_ID"

_PLATFORMS = (
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("JOB_COMPLETION_INDEX", TOTAL),
)
_RUNS = (RUN_ID, "CLOUD_RUN_EXECUTION", "AWS_BATCH_JOB_ID")
_LONGEST = 100
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


def slice_of(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """(index, total) from the platform's variables; None: there are none. Raises `UsageError`."""
    for index_name, total_name in _PLATFORMS:
        if index_name not in environ:
            continue
        if total_name not in environ:
            raise UsageError(
                f"{index_name} is set, but {total_name} is not: set it to the number of slices."
            )
        index, total = _number(environ, index_name), _number(environ, total_name)
        if index >= total:
            raise UsageError(
                f"{index_name} is {index}, but {total_name} is {total}: indexes count from 0."
            )
        return index, total
    return None


def run_of(environ: Mapping[str, str]) -> str | None:
    """A run id that all slices of one execution share; None: the platform sets none."""
    for name in _RUNS:
        value = environ.get(name, "").partition(":")[0]  # a child of a Batch array is "ID:INDEX"
        if value:
            return _run_id(value)
    return None


def scheduled_run(backlog: str, when: str) -> str:
    """The run id of a start at `when`, or by a task of that name: the same however often it is retried."""
    return _run_id(f"{when}-{backlog}")


def _run_id(text: str) -> str:
    """Such a run id, of the same text always; where it is too long, its end is a hash of all of it.

    Cloud Tasks allows names of 500 characters, which may differ only at their ends.
    """
    name = _NOT_IN_A_NAME.sub("-", text).lstrip("._-")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 17]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name].strip()
    if not text.isdecimal():
        raise UsageError(f"{name} is {shown_value(text)}, which is not a number.")
    return int(text)

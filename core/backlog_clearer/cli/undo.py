"""The command that undoes a run, as it is printed after it: complete, and valid in any directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backlog_clearer.cli.program import invocation_line
from backlog_clearer.options.base import flag
from backlog_clearer.options.places import scheme_of
from backlog_clearer.options.recorded import references_of
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Job


def undo_line(job: Job, receipt: str, *, yes: bool) -> str:
    """The command that restores from a receipt; `yes`: the run did not ask for confirmation.

    Secrets that were given as references are resolved again. Those that were given as they are appear in
    it as references to variables, which `undo_variables` names.
    """
    run, options = job.run, job.options
    args = ["restore", absolute(receipt)]
    for name in references_of(type(options), options.public()):
        args += ["--allow-reference", name]
    for name in options.withheld():
        reference = f"${{env:{variable(name)}}}"
        args += (
            [flag(name), reference]
            if name in type(options).model_fields
            else ["-X", f"{name}={reference}"]
        )
    if run.receipt_dir != RunOptions.model_fields["receipt_dir"].default:
        args += ["--receipt-dir", absolute(run.receipt_dir)]
    if run.receipt_schemes:
        args += ["--receipt-schemes", ",".join(run.receipt_schemes)]
    if run.force:
        args.append("--force")
    if yes:
        args.append("--yes")
    return invocation_line(*args)


def undo_variables(job: Job) -> list[str]:
    """Environment variables that the undo line refers to and that the user has to set first."""
    return [variable(name) for name in job.options.withheld()]


def variable(option: str) -> str:
    """The name of an environment variable for an option: "sasl.password" -> "SASL_PASSWORD"."""
    return "".join(char if char.isalnum() else "_" for char in option).upper()


def absolute(place: str) -> str:
    """A place that is the same from every directory."""
    return str(Path(place).expanduser().absolute()) if scheme_of(place) is None else place


def reached(system: str, recorded: Mapping[str, Any]) -> str:
    """Where a receipt's options lead to, for people: "iggy (host 10.0.0.1, port 8090)"."""
    plain = (
        f"{name} {','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for name, value in recorded.items()
        if isinstance(value, (str, int, list, tuple)) and "${" not in str(value)
    )
    text = ", ".join(plain)
    return f"{system} ({text[:300]})" if text else system

"""One slice of a configured backlog, cleared by a container that then ends.

    python -m functions.job.main --backlog orders

The slice comes from `--slice` and `--total`, or from what Cloud Run jobs, AWS Batch arrays and indexed
Kubernetes jobs set. Prints the result as one JSON line. Exit 0: cleared; 1: not cleared, another attempt
may help; 2: wrong use, none will.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import click

from core import flags
from core.config import Request, load_config
from core.engine import Halt
from core.errors import ClearerError, UsageError
from core.options.base import build
from core.report import failure_json
from core.run import clear
from core.slices import run_of, slice_of

CLEARED, NOT_CLEARED, WRONG_USE = 0, 1, 2


def request_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Request:
    """The arguments, completed by what the platform tells; raises `UsageError`."""
    given = {name: value for name, value in values.items() if value is not None}
    if not {"slice", "total"} & given.keys():
        found = slice_of(environ)
        if found is not None:
            given["slice"], given["total"] = found
    run = run_of(environ)
    if "run_id" not in given and run is not None:
        given["run_id"] = run
    return build(Request, given)


def drain(values: Mapping[str, Any], environ: Mapping[str, str], halt: Halt) -> int:
    """Clear the slice, print the result, and return the exit code."""
    try:
        result = clear(
            load_config(environ).job(request_of(values, environ), environ=environ), halt=halt
        )
    except ClearerError as error:
        click.echo(failure_json(error))
        return WRONG_USE if isinstance(error, UsageError) else NOT_CLEARED
    click.echo(result.to_json())
    return CLEARED if result.cleared else NOT_CLEARED


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the image."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    halt = Halt()

    def stop(_number: int, _frame: FrameType | None) -> None:
        halt.signal()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def callback(**values: Any) -> None:
        sys.exit(drain(values, os.environ, halt))

    command = click.Command(
        "job",
        params=list(flags.options_of(Request)),
        callback=callback,
        help=(__doc__ or "").split("\n")[0],
    )
    command.main(args=None if args is None else list(args), prog_name="functions.job.main")


if __name__ == "__main__":
    main()

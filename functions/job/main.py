"""One slice of a configured backlog, cleared by a container that then ends.

    python -m functions.job.main --backlog orders
    python -m functions.job.main --from-queue

The slice comes from `--slice` and `--total`, or from what Cloud Run jobs, AWS Batch arrays and indexed
Kubernetes jobs set; or it is one message of an Azure Storage queue, as Container Apps jobs take them.
Prints the result as one JSON line. Exit 0: cleared, or put on the queue again to go on; 1: not cleared,
another attempt goes on; 2: wrong use, no attempt will help; 3: ended at a limit, no attempt is wanted.
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

from backlog_clearer.cli import flags
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import Request
from functions.job.invocation import AGAIN, WRONG_USE, Job, open_queue


def run(values: Mapping[str, Any], environ: Mapping[str, str], halt: Halt) -> int:
    """Do what the arguments ask for, print the result, and return the exit code."""
    given = dict(values)
    from_queue, visibility_s = given.pop("from_queue"), given.pop("visibility_s")
    job = Job(environ, halt)
    try:
        if from_queue:
            if any(value is not None for value in given.values()):
                raise UsageError("--from-queue takes everything from the message: leave the rest out.")
            code = job.message(open_queue(environ), visibility_s)
        else:
            code = job.arguments(given)
    except ClearerError as error:
        job.failed(error)
        code = WRONG_USE if isinstance(error, UsageError) else AGAIN
    if job.answer:
        click.echo(job.answer)
    return code


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the image."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    halt = Halt()

    def stop(_number: int, _frame: FrameType | None) -> None:
        halt.signal()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def callback(**values: Any) -> None:
        sys.exit(run(values, os.environ, halt))

    queue = click.Option(
        ["--from-queue"], is_flag=True, help="take one message of BACKLOG_CLEARER_QUEUE instead"
    )
    visibility = click.Option(
        ["--visibility-s"],
        type=click.IntRange(3, 604_800),
        default=300,
        show_default=True,
        help="with --from-queue: seconds after which the message of a job that died is delivered again",
    )
    command = click.Command(
        "job",
        params=[*flags.options_of(Request), queue, visibility],
        callback=callback,
        help=(__doc__ or "").split("\n")[0],
    )
    command.main(args=None if args is None else list(args), prog_name="functions.job.main")


if __name__ == "__main__":
    main()

"""One slice of a configured backlog, cleared by a container that then ends.

    python -m functions.job.main --backlog orders
    python -m functions.job.main --from-queue

The slice comes from `--slice` and `--total`, or from what Cloud Run jobs, AWS Batch arrays and indexed
Kubernetes jobs set; or it is one message of an Azure Storage queue, as Container Apps jobs take them.
Prints the result as one JSON line. Exit 0: cleared, or done and unproven (`verdict` states which), or
continued by a new message on the queue; 1: not cleared, another attempt continues; 2: wrong use, another
attempt cannot help; 3: ended at a limit, no other attempt is wanted.
"""

from __future__ import annotations

from backlog_clearer.early import end_on_signals

if __name__ == "__main__":
    end_on_signals(json=True)  # before everything below is loaded

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from backlog_clearer.ending import run_and_end
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.options.base import flag
from backlog_clearer.redaction.redact import redact_crashes, redacted
from backlog_clearer.text import shown_name, shown_value
from functions.answers import keep_secrets
from functions.job.invocation import AGAIN, WRONG_USE, Invocation, open_queue

_VISIBILITY_S = range(3, 7 * 24 * 3600 + 1)
"""What `--visibility-s` may be: long enough to renew it in time, and at most what the service takes."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors have no argument that may be a secret at a wrong place."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and the message."""
        if message.startswith(_UNKNOWN):
            given = message.removeprefix(_UNKNOWN).split()
            names = [shown_name(text.partition("=")[0]) for text in given if text.startswith("-")]
            message = f"{_UNKNOWN}{', '.join(names) or '(not shown: they may be secrets)'}"
        elif "ignored explicit argument" in message:
            message = f"{message.partition('ignored')[0]}it takes no value"
        super().error(message)


_UNKNOWN = "unrecognized arguments: "


def arguments() -> argparse.ArgumentParser:
    """The flags of the job: one for each field of `Request`, whose values `Request` itself checks."""
    parser = _Parser(
        prog="functions.job.main", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    for name, field in Request.model_fields.items():
        parser.add_argument(flag(name), metavar=name.upper(), help=field.description)
    parser.add_argument(
        "--from-queue",
        action="store_true",
        help="take one message of BACKLOG_CLEARER_QUEUE instead",
    )
    parser.add_argument(
        "--visibility-s",
        type=_visibility_s,
        default=300,
        metavar="SECONDS",
        help="with --from-queue: the message of a job that died is delivered again after this time"
        " [default %(default)s]",
    )
    return parser


def _visibility_s(text: str) -> int:
    if not text.isdecimal() or int(text) not in _VISIBILITY_S:
        first, last = _VISIBILITY_S[0], _VISIBILITY_S[-1]
        raise argparse.ArgumentTypeError(
            f"{shown_value(text)} is not a number of seconds from {first} to {last}"
        )
    return int(text)


def run(values: Mapping[str, Any], environ: Mapping[str, str], halt: Halt) -> int:
    """Do what the arguments ask for, print the result, and return the exit code."""
    given = dict(values)
    from_queue, visibility_s = given.pop("from_queue"), given.pop("visibility_s")
    invocation = Invocation(environ, halt)
    try:
        if from_queue:
            if any(value is not None for value in given.values()):
                raise UsageError(
                    "--from-queue takes the request from the message: leave out the other options."
                )
            code = invocation.message(open_queue(environ), visibility_s)
        else:
            code = invocation.arguments(given)
    except ClearerError as error:  # any other one ends the process with a traceback without secrets
        invocation.failed(error)
        code = WRONG_USE if isinstance(error, UsageError) else AGAIN
    if invocation.answer:
        print(redacted(invocation.answer, values=False), flush=True)  # noqa: T201 # the result, for scripts
    return code


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the image; exits."""
    redact_crashes()
    keep_secrets(os.environ)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    halt = Halt()

    def stop(_number: int, _frame: FrameType | None) -> None:
        halt.signal()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)

    sys.exit(run(vars(arguments().parse_args(args)), os.environ, halt))


if __name__ == "__main__":
    run_and_end(main)

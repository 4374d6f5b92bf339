"""One invocation of the job: a slice from arguments or from a queue's message, its result, its exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, ClearerError, UsageError
from backlog_clearer.fanout.configuration import Config, Request, load_config, parse_request
from backlog_clearer.fanout.platform import run_of, slice_of
from backlog_clearer.fanout.slices import NOT_CLEARED, FollowUp, Ran, drain_slice, summary
from backlog_clearer.options.base import build
from backlog_clearer.run.report import Verdict, failure_json
from functions.answers import deadline_s, record_failure

if TYPE_CHECKING:
    from functions.storage_queue import StorageQueue, Taken

CLEARED, AGAIN, WRONG_USE, ENDED = 0, 1, 2, 3
_CODES = {
    FollowUp.CLEARED: CLEARED,
    FollowUp.UNPROVEN: CLEARED,  # platforms retry, and alert on, everything but 0
    FollowUp.ENDED: ENDED,
    FollowUp.CONTINUE: AGAIN,
    FollowUp.RETRY: AGAIN,
}
_LOG = logging.getLogger("backlog_clearer")


class Invocation:
    """One invocation: its environment, and its answer at the end."""

    def __init__(self, environ: Mapping[str, str], halt: Halt) -> None:
        self.environ, self.halt = environ, halt
        self.config: Config | None = None
        self.deadline_s: float | None = None
        self.asked: Request | None = None
        self.answer = ""

    def arguments(self, values: Mapping[str, Any]) -> int:
        """Clear a slice; the platform retries it on exit code 1."""
        config = self._start()
        ran = self._drain(config, request_of(values, self.environ), continues=False)
        if ran.follow_up is FollowUp.CONTINUE and ran.result.verdict is Verdict.UNPROVEN:
            return CLEARED  # done: another attempt could only wait
        if ran.follow_up is FollowUp.CONTINUE:  # that is another attempt here
            _LOG.error("%s", summary(ran.result, FollowUp.RETRY))
        return _CODES[ran.follow_up]

    def message(self, queue: StorageQueue, visibility_s: int) -> int:
        """Clear the slice of one message; settle it, unless it is to be delivered again."""
        config = self._start()
        taken = queue.take(visibility_s)
        if taken is None:
            print(f"There is no message on the queue {queue.name}.", file=sys.stderr)  # noqa: T201
            return CLEARED
        with taken:
            try:
                self.asked = parse_request(taken.body)
                if taken.exhausted:
                    taken.bury()
                    error = BrokerError(
                        "given up after too many deliveries; dispatch the backlog again"
                    )
                    self.failed(error)
                    return ENDED
                return self._settled(queue, taken, self._drain(config, self.asked))
            except UsageError:  # another attempt will not help
                taken.bury()
                raise
            except ClearerError:
                taken.release()
                raise

    def failed(self, error: ClearerError) -> None:
        """Log the error, store it with the run, and answer with it unless there is a result."""
        self.answer = self.answer or failure_json(error)
        if self.config is not None and self.asked is not None:
            record_failure(self.config.receipts, self.asked, error)
        else:
            _LOG.error("%s: %s", NOT_CLEARED, error)

    def _start(self) -> Config:
        self.deadline_s = deadline_s(
            self.environ
        )  # before a message is taken: its fault is not the message's
        self.config = load_config(self.environ)
        return self.config

    def _drain(self, config: Config, request: Request, *, continues: bool = True) -> Ran:
        self.asked = request
        ran = drain_slice(
            config,
            request,
            deadline_s=self.deadline_s,
            halt=self.halt,
            environ=self.environ,
            continues=continues,
        )
        self.answer = ran.result.to_json()
        return ran

    def _settled(self, queue: StorageQueue, taken: Taken, ran: Ran) -> int:
        if ran.follow_up is FollowUp.RETRY:
            taken.release()
            return AGAIN
        if ran.following is not None:
            if not taken.held():
                _LOG.warning(
                    "The message was delivered again meanwhile: that delivery continues the slice."
                )
                return AGAIN
            queue.put([ran.following])
        taken.delete()
        return ENDED if ran.follow_up is FollowUp.ENDED else CLEARED


def request_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Request:
    """The arguments, completed from the platform's variables; raises `UsageError`."""
    given = {name: value for name, value in values.items() if value is not None}
    if not {"slice", "total"} & given.keys():
        found = slice_of(environ)
        if found is not None:
            given["slice"], given["total"] = found
    run = run_of(environ)
    if "run_id" not in given and run is not None:
        given["run_id"] = run
    return build(Request, given)


def open_queue(environ: Mapping[str, str]) -> StorageQueue:
    """The queue that the environment names; raises `UsageError`."""
    try:
        from functions.storage_queue import StorageQueue  # noqa: PLC0415 # few images have its library
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--from-queue needs {error.name!r}, which is not installed; install it with:"
            " pip install '.[azure]'"
        ) from error
    return StorageQueue.from_environ(environ)

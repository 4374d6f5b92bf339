"""Google Cloud: `dispatch` makes slices of a backlog as Cloud Tasks, each of which calls `drain`.

    POST /             {"backlog": "orders"}                                    dispatch: 202, the dispatch
    GET  /runs/RUN_ID                                                           dispatch: the status of the run
    POST /             {"backlog": "orders", "slice": 2, "total": 8, "run_id": …}  drain: 200, the result

Cloud Tasks delivers a task again unless the answer is 2xx. So 200 is for a slice that is cleared, or
done and unproven, was continued by another task, or ended at a limit; 503 for what may pass; 4xx for a
caller's fault.
"""

from __future__ import annotations

import logging
import os
from typing import TypeAlias

import flask
import functions_framework
from google.cloud.logging_v2.handlers import StructuredLogHandler

from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import Request, load_config, parse_request
from backlog_clearer.fanout.dispatch import dispatch as dispatch_slices
from backlog_clearer.fanout.platform import scheduled_run
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.fanout.slices import NOT_CLEARED, FollowUp, drain_slice
from backlog_clearer.run.report import failure_json
from functions.answers import (
    deadline_s,
    keep_secrets,
    known_errors,
    record_failure,
    status_of,
    with_run_id,
)
from functions.gcp.tasks import QUEUE, Tasks

_SCHEDULED = "X-CloudScheduler-ScheduleTime"
_TASK = "X-CloudTasks-TaskName"
_INCOMPLETE = "The body of the request cannot be read: it is not complete."
_JSON = {"Content-Type": "application/json"}
_LOG = logging.getLogger("backlog_clearer")
keep_secrets(os.environ)
CONFIG = load_config()  # at the start, so that a deployment with a faulty one does not come up
DEADLINE_S = deadline_s(os.environ)
TASKS = Tasks(os.environ)

FlaskAnswer: TypeAlias = tuple[str, int, dict[str, str]]

# Severity, and the trace of the request, as Cloud Logging reads them from a line of JSON.
_HANDLER = StructuredLogHandler(project_id=os.environ[QUEUE].split("/")[1])  # type: ignore[no-untyped-call] # has no types
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_HANDLER])


def _body(request: flask.Request) -> Request:
    """The request's body; raises `UsageError`."""
    if request.method != "POST":
        raise UsageError("Send a request as POST, with a JSON object.")
    try:
        body = request.get_data()
    except Exception:  # noqa: BLE001 # the server's own classes: a broken chunk
        raise UsageError(_INCOMPLETE) from None
    if request.content_length not in {None, len(body)}:  # a caller that hung up
        raise UsageError(_INCOMPLETE)
    return parse_request(body)


@functions_framework.http
def dispatch(request: flask.Request) -> FlaskAnswer:
    """Enqueue the slices of a backlog, or answer with the status of a run."""
    asked = None
    try:
        with known_errors():
            if request.method == "GET":
                return _run(request.path)
            asked = with_run_id(_asked(request))
            made = dispatch_slices(CONFIG, asked, TASKS.put)
    except ClearerError as error:
        return _refused(error, asked.run_id if asked else None)
    _LOG.info("Dispatched run %s of %s: %s slices", made.run_id, made.subscription, made.slices)
    return made.model_dump_json(by_alias=True), 202, _JSON


def _asked(request: flask.Request) -> Request:
    asked = _body(request)
    # Cloud Scheduler's retries carry the same time, Cloud Tasks' the same task: the same run.
    again = request.headers.get(_SCHEDULED) or request.headers.get(_TASK)
    if again and asked.run_id is None:
        return asked.model_copy(update={"run_id": scheduled_run(asked.backlog, again)})
    return asked


def _refused(error: ClearerError, run_id: str | None = None) -> FlaskAnswer:
    _LOG.error("%s: %s", NOT_CLEARED, error)
    return failure_json(error, run_id=run_id), status_of(error), _JSON


def _run(path: str) -> FlaskAnswer:
    match path.strip("/").split("/"):
        case ["runs", run_id]:
            try:
                return run_status(CONFIG.receipts, run_id).model_dump_json(by_alias=True), 200, _JSON
            except UsageError as error:
                return failure_json(error), 404, _JSON
        case _:
            raise UsageError("GET has one path here: /runs/RUN_ID.")


@functions_framework.http
def drain(request: flask.Request) -> FlaskAnswer:
    """Clear one slice."""
    try:
        asked = _body(request)
    except UsageError as error:
        return _refused(error)
    try:
        with known_errors():
            ran = drain_slice(CONFIG, asked, deadline_s=DEADLINE_S)
            if ran.following is not None:
                TASKS.put([ran.following])
    except ClearerError as error:
        record_failure(CONFIG.receipts, asked, error)
        return failure_json(error), status_of(error), _JSON
    return ran.result.to_json(), 503 if ran.follow_up is FollowUp.RETRY else 200, _JSON

"""Azure Functions: slices wait on a storage queue, which HTTP and a timer fill and `drain` empties.

    POST /api/dispatch       {"backlog": "orders"}     202, the dispatch
    GET  /api/runs/RUN_ID                              200, the status of the run

The host deletes a message whose function returned, and delivers it again after one that raised; after five
deliveries it goes to the queue NAME-poison, whose messages `poisoned` reports.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime, timezone

import azure.functions as func

from backlog_clearer.deadline import within
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.fanout.configuration import Request, load_config, parse_request
from backlog_clearer.fanout.dispatch import Dispatch
from backlog_clearer.fanout.dispatch import dispatch as dispatch_slices
from backlog_clearer.fanout.platform import scheduled_run
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.fanout.slices import NOT_CLEARED, FollowUp, drain_slice, summary
from backlog_clearer.run.report import failure_json
from functions.answers import (
    deadline_s,
    keep_secrets,
    known_errors,
    record_failure,
    status_of,
    with_run_id,
)
from functions.azure.timer import due, missed
from functions.storage_queue import MAX_DEQUEUES, QUEUE, STORAGE, StorageQueue

_LOG = logging.getLogger("backlog_clearer")
_LOG.setLevel(logging.INFO)
logging.getLogger().setLevel(logging.WARNING)  # libraries log every call

keep_secrets(os.environ)
# At the start, so that an app with a faulty configuration does not come up.
CONFIG = load_config()
DEADLINE_S = deadline_s(os.environ)
WAITING = StorageQueue.from_environ(os.environ)
_NAMES = os.environ.get("BACKLOG_CLEARER_SCHEDULED", "").split(",")
SCHEDULED = [name for part in _NAMES if (name := part.strip())]
LATE = os.environ.get("BACKLOG_CLEARER_SCHEDULE_LATE", "").strip().lower() == "true"
for _name in SCHEDULED:
    CONFIG.backlog(_name)

ANSWER_S = 200.0
"""The platform cuts an HTTP answer at 230 s, and then its caller learns nothing."""

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


def _answer(status: int, body: str) -> func.HttpResponse:
    return func.HttpResponse(body, status_code=status, mimetype="application/json")


def _dispatched(asked: Request) -> Dispatch:
    made = dispatch_slices(CONFIG, asked, WAITING.put)
    _LOG.info("Dispatched run %s of %s: %s slices", made.run_id, made.subscription, made.slices)
    return made


@app.route("dispatch", methods=["POST"])
def dispatch(req: func.HttpRequest) -> func.HttpResponse:
    """Enqueue the slices of a backlog; every answer to a valid request has the run's id."""
    asked = None
    try:
        with known_errors():
            asked = with_run_id(parse_request(req.get_body()))
            made = _dispatched_in_time(asked)
    except ClearerError as error:
        _LOG.error("%s: %s", NOT_CLEARED, error)
        return _answer(status_of(error), failure_json(error, run_id=asked.run_id if asked else None))
    return _answer(202, made.model_dump_json(by_alias=True))


def _dispatched_in_time(asked: Request) -> Dispatch:
    """Dispatch, and raise `TransientError` where that takes longer than an answer may; it continues then."""
    _LOG.info("Dispatching run %s of %s", asked.run_id, asked.backlog)

    def work() -> Dispatch:
        with known_errors():  # so that a TimeoutError is only of the wait for the answer
            return _dispatched(asked)

    try:
        return within(ANSWER_S, work, late="The dispatch has not ended")
    except TimeoutError as error:
        raise TransientError(
            f"{error}, and continues: GET runs/{asked.run_id} shows the run once its slices are decided. To"
            " repeat the dispatch, send the same run_id."
        ) from None


@app.route("runs/{run_id}", methods=["GET"])
def runs(req: func.HttpRequest) -> func.HttpResponse:
    """Answer with the status of a run."""
    try:
        with known_errors():
            status = run_status(CONFIG.receipts, req.route_params["run_id"])
    except ClearerError as error:
        return _answer(404 if isinstance(error, UsageError) else status_of(error), failure_json(error))
    return _answer(200, status.model_dump_json(by_alias=True))


def scheduled(timer: func.TimerRequest) -> None:
    """Dispatch every scheduled backlog; one that fails does not stop the others.

    A timer that was switched off fires at once when it is switched on again: that dispatches nothing,
    unless `BACKLOG_CLEARER_SCHEDULE_LATE` is "true".
    """
    now = datetime.now(timezone.utc)
    when = due(timer, now)
    if missed(timer, when, now) and not LATE:
        _LOG.warning("The schedule's start at %s was missed; nothing is dispatched.", f"{when:%FT%RZ}")
        return
    faults = []
    for name in SCHEDULED:
        try:
            asked = Request(
                backlog=name,
                run_id=scheduled_run(name, f"{when:%Y%m%dT%H%MZ}"),
            )
            with known_errors():
                _dispatched(asked)
        except ClearerError as error:
            _LOG.error("%s: %s was not dispatched: %s", NOT_CLEARED, name, error)
            faults.append(name)
    if faults:
        raise BrokerError(f"Not dispatched: {', '.join(faults)}; the log has the reasons.")


if SCHEDULED:  # without names no schedule is needed
    again = app.retry("fixed_delay", "3", delay_interval="00:01:00")
    app.timer_trigger("timer", "%BACKLOG_CLEARER_SCHEDULE%")(again(scheduled))


@app.queue_trigger("message", f"%{QUEUE}%", STORAGE)
def drain(message: func.QueueMessage) -> None:
    """Clear one slice; raises where the host is to deliver the message again."""
    asked = parse_request(message.get_body())
    try:
        with known_errors():
            ran = drain_slice(CONFIG, asked, deadline_s=DEADLINE_S)
            if ran.following is not None:
                WAITING.put([ran.following])
    except ClearerError as error:
        record_failure(CONFIG.receipts, asked, error)
        raise
    if ran.follow_up is FollowUp.RETRY:
        raise BrokerError(summary(ran.result, ran.follow_up))
    if ran.follow_up is FollowUp.CLEARED:
        _LOG.info("%s", summary(ran.result, ran.follow_up))


@app.queue_trigger("message", f"%{QUEUE}%-poison", STORAGE)
def poisoned(message: func.QueueMessage) -> None:
    """Report a message that the host gave up on."""
    try:
        asked = parse_request(message.get_body())
    except UsageError as error:
        _LOG.error("%s: a message was given up that is not a request: %s", NOT_CLEARED, error)
        return
    given_up = f"given up after {MAX_DEQUEUES} deliveries; dispatch the backlog again"
    record_failure(CONFIG.receipts, asked, BrokerError(given_up))

"""Many invocations for one backlog: dispatch it in slices, drain one, put it on again, tell how all stand.

A platform's handler brings a way to put requests on its queue and turns a `Verdict` into its own answer;
everything else is here, the same for all. Queues deliver at least once and instances outlive their
time-outs, so every step may happen twice: a slice is frozen once a run (`run.clear`), positions are never
moved back, and a repeated dispatch goes on with what the first one recorded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.fanout.configuration import Backlog, Config, Request
from backlog_clearer.model import StopReason, StrEnum
from backlog_clearer.options.base import build
from backlog_clearer.run import store
from backlog_clearer.run.clear import clear
from backlog_clearer.run.plan import live_text
from backlog_clearer.run.receipt import new_run_id, run_folder
from backlog_clearer.run.report import RunResult, total_known
from backlog_clearer.run.survey import look

DISPATCH_SCHEMA: Literal["backlog-clearer/dispatch/1"] = "backlog-clearer/dispatch/1"
NOT_CLEARED = "backlog-clearer: not cleared"
"""How every log line begins that an alert should fire on."""

_LOG = logging.getLogger("backlog_clearer")
_LEAST_S = 1.0  # of max_seconds left, below which a slice is not put on again


class Verdict(StrEnum):
    """What a platform has to do after a slice."""

    CLEARED = "cleared"  # verified: nothing more to do
    ENDED = "ended"  # not cleared, and ended as it was asked to: another attempt is not wanted
    CONTINUE = "continue"  # the deadline came first: put `Ran.following` on the queue
    RETRY = "retry"  # not cleared, or not proven: deliver the same request again


@dataclass(frozen=True, slots=True)
class Ran:
    """What one invocation did."""

    result: RunResult
    verdict: Verdict
    following: Request | None  # the request that goes on, where the verdict is CONTINUE


class Dispatch(BaseModel):
    """A dispatch as it is recorded with the run, and answered."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["backlog-clearer/dispatch/1"] = Field(DISPATCH_SCHEMA, alias="schema")
    run_id: str
    request: Request
    system: str
    subscription: str
    unit: str = Field(description="what `backlog` counts")
    partitions: int
    backlog: int | None = Field(description="at the dispatch; null: unknown")
    slices: int
    created_at: datetime
    enqueued: bool = Field(description="false: the queue has not confirmed all slices yet")

    def requests(self) -> list[Request]:
        """One request a slice."""
        return [
            self.request.model_copy(update={"slice": index, "total": self.slices})
            for index in range(self.slices)
        ]


def ask(body: Any) -> Request:
    """A request from the JSON value that a caller sent; raises `UsageError` without showing any value."""
    if not isinstance(body, dict):
        raise UsageError('A request is a JSON object, as in {"backlog": "orders"}.')
    return build(Request, body)


def dispatch(
    config: Config,
    request: Request,
    put: Callable[[Sequence[Request]], None],
    environ: Mapping[str, str] = os.environ,
) -> Dispatch:
    """Count the backlog, decide on slices, record the run, and put the slices on the queue.

    A dispatch of a run that was recorded puts on what that record says, or nothing if the queue has it
    all. Raises `UsageError`, `RefusedError` (consumers are attached) and `BrokerError`.
    """
    if request.slice is not None:
        raise UsageError("A dispatch decides on the slices itself: leave out slice and total.")
    now = datetime.now(timezone.utc)
    run_id = request.run_id or new_run_id(now)
    path = f"{run_folder(config.receipts, run_id)}/dispatch.json"
    found = read_dispatch(config.receipts, run_id)
    if found is not None and found.request.backlog != request.backlog:
        raise RefusedError(
            f"Run {run_id!r} is of backlog {found.request.backlog!r}; nothing was changed."
        )
    if found is None:
        found = _survey(config, request.model_copy(update={"run_id": run_id}), now, environ)
        _record(found, path)
    if not found.enqueued:
        put(found.requests())
        found = found.model_copy(update={"enqueued": True})
        _record(found, path)
    return found


def _survey(config: Config, request: Request, now: datetime, environ: Mapping[str, str]) -> Dispatch:
    job = config.job(request, environ=environ)
    seen = look(job)
    if seen.survey.live and not job.run.force:
        raise RefusedError(f"{live_text(seen.survey)} Stop them, or set force for this backlog.")
    backlog = total_known(state.backlog for state in seen.states)
    return Dispatch(
        run_id=job.run_id,
        request=request,
        system=job.system,
        subscription=seen.survey.subscription,
        unit=seen.unit,
        partitions=len(seen.states),
        backlog=backlog,
        slices=config.backlog(request.backlog).slices(len(seen.states), backlog),
        created_at=now,
        enqueued=False,
    )


def _record(found: Dispatch, path: str) -> None:
    try:
        store.write(path, found.model_dump_json(by_alias=True, indent=2).encode())
    except OSError as error:
        raise BrokerError(f"The dispatch cannot be recorded in {path}: {error}.") from error


def read_dispatch(receipts: str, run_id: str) -> Dispatch | None:
    """What was recorded of a run's dispatch; None: nothing. Raises `UsageError`, `BrokerError`."""
    path = f"{run_folder(receipts, run_id)}/dispatch.json"
    try:
        return Dispatch.model_validate_json(store.read(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BrokerError(f"{path} is no dispatch of this tool.") from error
    except OSError as error:
        raise BrokerError(f"The dispatch in {path} cannot be read: {error}.") from error


def drain_slice(
    config: Config,
    request: Request,
    *,
    deadline_s: float | None,
    halt: Halt | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Ran:
    """Clear one slice, for `deadline_s` seconds of draining at most, and say what has to follow.

    Raises like `backlog_clearer.run.clear.clear`: nothing was changed then.
    """
    result = clear(config.job(request, deadline_s=deadline_s, environ=environ), halt=halt)
    verdict, following = judge(request, config.backlog(request.backlog), result)
    if verdict is not Verdict.CLEARED:
        level = logging.INFO if verdict is Verdict.CONTINUE else logging.ERROR
        _LOG.log(level, "%s", summary(result, verdict))
    return Ran(result, verdict, following)


def summary(result: RunResult, verdict: Verdict) -> str:
    """What became of a slice, in one line; begins with `NOT_CLEARED` where somebody has to look."""
    begin = {Verdict.CLEARED: "Cleared", Verdict.CONTINUE: "To be continued"}.get(verdict, NOT_CLEARED)
    left = "unknown" if result.totals.remaining is None else f"{result.totals.remaining:,}"
    why = f"stopped: {result.stop_reason}" if result.stop_reason else "nothing was done"
    errors = [item.error for item in result.partitions if item.error]
    error = result.error or (errors[0] if errors else None)
    return (
        f"{begin}: run {result.run_id}, slice {result.slice or 'whole'}, {result.subscription}: {why};"
        f" {result.totals.messages:,} messages, remaining {left} {result.unit}, verified"
        f" {'unknown' if result.verified is None else str(result.verified).lower()}"
        + (f"; {error}" if error else "")
    )


def judge(request: Request, backlog: Backlog, result: RunResult) -> tuple[Verdict, Request | None]:
    """What has to follow a result: pure.

    Retrying is for what may pass (a broker that failed, a stall, a signal, a figure that did not
    come). It is not for limits that were asked for, nor where the broker has no figures (QUIET).
    """
    if result.cleared:
        return Verdict.CLEARED, None
    if result.stop_reason in {StopReason.LIMIT, StopReason.QUIET}:
        return Verdict.ENDED, None
    if result.stop_reason is not StopReason.DEADLINE:
        return Verdict.RETRY, None
    following = _following(request, backlog, result)
    return (Verdict.ENDED, None) if following is None else (Verdict.CONTINUE, following)


def _following(request: Request, backlog: Backlog, result: RunResult) -> Request | None:
    """The same slice with what is left of its limits; None: nothing is left of them."""
    messages = request.max_messages or backlog.max_messages
    seconds = request.max_seconds or backlog.max_seconds
    if messages is not None:
        messages -= result.totals.messages
    if seconds is not None:
        seconds -= result.seconds
    spent = (messages is not None and messages < 1) or (seconds is not None and seconds < _LEAST_S)
    if spent or request.requeued >= backlog.max_requeues:
        return None
    return request.model_copy(
        update={
            "run_id": result.run_id,
            "max_messages": messages,
            "max_seconds": seconds,
            "requeued": request.requeued + 1,
        }
    )

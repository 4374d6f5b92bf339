"""One slice of a backlog: drain it, and decide what the platform has to do next."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import Backlog, Config, Request
from backlog_clearer.fanout.dispatch import Dispatch, read_dispatch
from backlog_clearer.model import StopReason, StrEnum
from backlog_clearer.run.metering import clear_metered
from backlog_clearer.run.notify import announce_failure, announced
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.text import counted

NOT_CLEARED = "backlog-clearer: not cleared"
"""The beginning of every log line that an alert should fire on."""

UNPROVEN = "backlog-clearer: unproven"
"""The beginning of the log line of a slice that is done, but not proven: no alert should fire on it."""

_LOG = logging.getLogger("backlog_clearer")
_LEAST_S = 1.0  # seconds left of max_seconds, below which a slice is not enqueued again


class FollowUp(StrEnum):
    """What a platform has to do after a slice."""

    CLEARED = "cleared"  # verified: nothing more to do
    UNPROVEN = "unproven"  # done, and the broker gives no proof: another attempt would not, either
    ENDED = "ended"  # not cleared, but a requested limit ended it: no other attempt is wanted
    CONTINUE = "continue"  # the deadline came first: enqueue `Ran.following`
    RETRY = "retry"  # not cleared: deliver the same request again


_LEVELS = {FollowUp.CONTINUE: logging.INFO, FollowUp.UNPROVEN: logging.WARNING}
_BEGINNINGS = {
    FollowUp.CLEARED: "Cleared",
    FollowUp.CONTINUE: "To be continued",
    FollowUp.UNPROVEN: UNPROVEN,
}


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of one invocation."""

    result: RunResult
    follow_up: FollowUp
    following: Request | None  # the request that continues; None unless `follow_up` is CONTINUE


def drain_slice(
    config: Config,
    request: Request,
    *,
    deadline_s: float | None,
    halt: Halt | None = None,
    environ: Mapping[str, str] = os.environ,
    continues: bool = True,
) -> Ran:
    """Clear one slice, for `deadline_s` seconds of draining at most, and decide what has to follow.

    The result is posted where the configuration asks for that, unless `Ran.following` is put on a queue
    (`continues`): the invocation that takes it is the one to post. Raises like `run.clear.clear`, and
    `UsageError` for a slice that is not one of its run: nothing was changed then.
    """
    dispatched = read_dispatch(config.receipts, request.run_id) if request.run_id else None
    check_slice(dispatched, request)
    job = config.job(request, deadline_s=deadline_s, environ=environ)
    if dispatched is not None:
        job = replace(job, targets=dispatched.frozen_targets)

    def halted() -> bool:
        return halt is not None and halt.signalled

    try:
        result = clear_metered(job, halt=halt)
    except ClearerError as error:
        announce_failure(job, error, halted)
        raise
    follow_up, following = follow_up_of(request, config.backlog(request.backlog), result)
    if following is None or not continues:
        result = announced(job, result, halted)
    if follow_up is not FollowUp.CLEARED:
        _LOG.log(_LEVELS.get(follow_up, logging.ERROR), "%s", summary(result, follow_up))
    return Ran(result, follow_up, following)


def check_slice(dispatched: Dispatch | None, request: Request) -> None:
    """Raise `UsageError` where the request's run was dispatched otherwise; None: it was not dispatched."""
    if dispatched is None:
        return
    of, asked = dispatched.request.backlog, request.backlog
    if of != asked:
        raise UsageError(f"Run {dispatched.run_id} is one of backlog {of!r}, not of {asked!r}.")
    if request.total != dispatched.slices:
        part = "The whole backlog" if request.part is None else f"Slice {request.part}"
        raise UsageError(
            f"{part} is not part of run {dispatched.run_id}, which was dispatched as"
            f" {counted(dispatched.slices, 'slice')}."
        )


def summary(result: RunResult, follow_up: FollowUp) -> str:
    """The outcome of a slice in one line; begins with `NOT_CLEARED` where a person has to look."""
    begin = _BEGINNINGS.get(follow_up, NOT_CLEARED)
    left = "unknown" if result.totals.remaining is None else f"{result.totals.remaining:,}"
    why = f"stopped: {result.stop_reason}" if result.stop_reason else "nothing was done"
    errors = [item.error for item in result.partitions if item.error]
    error = result.error or (errors[0] if errors else None)
    return (
        f"{begin}: run {result.run_id}, slice {result.slice or 'whole'}, {result.subscription}: {why};"
        f" {result.totals.bound}{result.totals.messages:,} messages, remaining {left} {result.unit}, verified"
        f" {'unknown' if result.verified is None else str(result.verified).lower()}"
        + (f"; {error}" if error else "")
    )


def follow_up_of(
    request: Request, backlog: Backlog, result: RunResult
) -> tuple[FollowUp, Request | None]:
    """What has to follow a result: pure.

    A retry is for failures that may pass (a broker that failed, a stall, a signal, messages that are left).
    It is not for requested limits, nor for results that the broker does not prove.
    """
    if result.verdict is Verdict.CLEARED:
        return FollowUp.CLEARED, None
    if request.verify and result.totals.remaining:  # more is left than an earlier invocation saw
        again = _again(request, backlog, result)
        return (FollowUp.RETRY, None) if again is None else (FollowUp.CONTINUE, again)
    if result.verdict is Verdict.UNPROVEN:
        proving = _proving(request, backlog, result)
        return (FollowUp.UNPROVEN, None) if proving is None else (FollowUp.CONTINUE, proving)
    if result.stop_reason is StopReason.LIMIT or result.verdict is Verdict.COUNTED:
        return FollowUp.ENDED, None
    if result.stop_reason is not StopReason.DEADLINE:
        return FollowUp.RETRY, None
    following = _following(request, backlog, result)
    return (FollowUp.ENDED, None) if following is None else (FollowUp.CONTINUE, following)


def _again(
    request: Request, backlog: Backlog, result: RunResult, *, verify: bool = False
) -> Request | None:
    """The same request in its next turn; None: it had its last."""
    if request.requeued >= backlog.max_requeues:
        return None
    turn = {"run_id": result.run_id, "requeued": request.requeued + 1, "verify": verify}
    return request.model_copy(update=turn)


def _proving(request: Request, backlog: Backlog, result: RunResult) -> Request | None:
    """The request that only verifies; None: waiting longer proves nothing."""
    return _again(request, backlog, result, verify=True) if result.provable else None


def _following(request: Request, backlog: Backlog, result: RunResult) -> Request | None:
    """The same slice with the rest of its limits; None: nothing is left of them."""
    messages = request.max_messages or backlog.max_messages
    seconds = request.max_seconds or backlog.max_seconds
    if messages is not None:
        messages -= result.totals.messages
    if seconds is not None:
        seconds -= result.seconds
    spent = (messages is not None and messages < 1) or (seconds is not None and seconds < _LEAST_S)
    again = None if spent else _again(request, backlog, result)
    rest = {"max_messages": messages, "max_seconds": seconds}
    return again.model_copy(update=rest) if again else None

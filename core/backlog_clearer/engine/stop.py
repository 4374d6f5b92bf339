"""When a drain ends: pure rules over one moment of it."""

from __future__ import annotations

from dataclasses import dataclass

from backlog_clearer.model import StopReason
from backlog_clearer.options.run import RunOptions


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of a running drain at one moment; times in seconds."""

    elapsed_s: float
    quiet_s: float  # since a message last arrived, a lane was opened, or the broker's throttling ended
    messages: int  # read so far
    charged: int  # the same, and what else counts towards `max_messages`
    empty: bool  # proven: every target reached and acknowledged, or the broker reports that nothing is left
    left: int | None  # left by the figures of lanes or broker; None: unknown
    starting: bool = False  # a partition has no lane yet that has read
    troubled: bool = False  # a partition is between a transient error and its next successful read
    signalled: bool = False
    failed: bool = False  # nothing that is left can continue


def decide(moment: Moment, run: RunOptions) -> StopReason | None:
    """The reason to stop now, or None to continue; the first that applies, gravest first.

    Without `stop_when_empty` an empty backlog is not a reason to stop, but a stalled one still is.
    While something is retried neither silence nor a stall counts: retries have a limit themselves. Before
    every partition was read at least once, a silence is as long as a stall: lanes may open slowly.
    """
    quiet = max(run.quiet_seconds, run.stall_seconds) if moment.starting else run.quiet_seconds
    silent = moment.left is None and not moment.troubled and moment.quiet_s >= quiet
    stalled = bool(moment.left) and not moment.troubled and moment.quiet_s >= run.stall_seconds
    out_of_time = run.max_seconds is not None and moment.elapsed_s >= run.max_seconds
    at_limit = run.max_messages is not None and moment.charged >= run.max_messages
    rules = (
        (moment.failed, StopReason.FAILED),
        (moment.signalled, StopReason.SIGNAL),
        (at_limit, StopReason.LIMIT),
        (run.stop_when_empty and moment.empty, StopReason.EMPTY),
        (out_of_time, StopReason.DEADLINE),
        (run.stop_when_empty and silent, StopReason.QUIET),
        (stalled, StopReason.STALLED),
    )
    return next((reason for applies, reason in rules if applies), None)

"""When a drain ends: pure rules over one moment of it."""

from __future__ import annotations

from dataclasses import dataclass

from backlog_clearer.model import StopReason
from backlog_clearer.options.run import RunOptions


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of a running drain at one moment; times in seconds."""

    elapsed_s: float
    quiet_s: float  # since a message last arrived (or since the start)
    messages: int  # read so far
    empty: bool  # proven: every target reached and acknowledged, or the broker says nothing is left
    left: int | None  # what lanes or the broker know to be left; None: nobody knows
    troubled: bool = False  # a worker is between a transient error and its next successful read
    signalled: bool = False
    failed: bool = False


def decide(moment: Moment, options: RunOptions) -> StopReason | None:
    """The reason to stop now, or None to go on; the first that applies, gravest first.

    Without `stop_when_empty` an empty backlog is no reason, but a stalled one still is.
    """
    silent = moment.left is None and not moment.troubled and moment.quiet_s >= options.quiet_seconds
    out_of_time = options.max_seconds is not None and moment.elapsed_s >= options.max_seconds
    at_limit = options.max_messages is not None and moment.messages >= options.max_messages
    rules = (
        (moment.failed, StopReason.FAILED),
        (moment.signalled, StopReason.SIGNAL),
        (at_limit, StopReason.LIMIT),
        (options.stop_when_empty and moment.empty, StopReason.EMPTY),
        (out_of_time, StopReason.DEADLINE),
        (options.stop_when_empty and silent, StopReason.QUIET),
        (bool(moment.left) and moment.quiet_s >= options.stall_seconds, StopReason.STALLED),
    )
    return next((reason for applies, reason in rules if applies), None)

"""What a worker may read next, where `--max-messages` or `--max-rate` limits its run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from backlog_clearer.engine.pace import Pace
from backlog_clearer.engine.share import Budget
from backlog_clearer.options.run import RunOptions

GRANT_POLL_S = 0.01  # between two attempts to get a part that another worker gave back
_LONGEST_S = 0.25  # wait at a time, so that a worker notices that it must stop


class Grant(NamedTuple):
    """A permission to read."""

    messages: int
    reserved: float  # of the rate
    charged: int  # of --max-messages


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of a run, shared by its workers; at least one of them is there."""

    budget: Budget | None
    pace: Pace | None

    def take(self, again: int = 0) -> Grant | float:
        """A grant for one read; a float: how many seconds to wait before the next attempt.

        `again`: messages that this read may bring although nothing of --max-messages is left, because it
        would bring nothing but these first, and they are charged already.
        """
        count, reserved = self.pace.take() if self.pace else (0, 0.0)
        if self.pace and not count:
            return min(_LONGEST_S, max(0.001, self.pace.wait_s()))
        if self.budget is None:
            return Grant(count, reserved, 0)
        charged = self.budget.take()
        if self.pace and charged > count:
            self.budget.refund(charged - count)
            charged = count
        messages = charged or (min(again, count) if self.pace else again)
        if messages:
            return Grant(messages, reserved, charged)
        if self.pace:
            self.pace.used(reserved, 0, 0)
        return GRANT_POLL_S  # all of it is reserved; another worker may give some back

    def used(self, grant: Grant, messages: int, size: int, *, again: int = 0) -> None:
        """Report what was read for a grant, in messages and bytes; `again`: of these, charged before."""
        if self.budget:
            self.budget.refund(grant.charged - (messages - again))
        if self.pace:
            self.pace.used(grant.reserved, messages, size)


def allowance_of(run: RunOptions, workers: int) -> Allowance | None:
    """The limits of a run with so many workers; None: it has none, or no worker."""
    if not workers or not (run.max_messages or run.rate):
        return None
    return Allowance(
        Budget(run.max_messages, workers) if run.max_messages else None,
        Pace(run.rate, workers, time.monotonic) if run.rate else None,
    )

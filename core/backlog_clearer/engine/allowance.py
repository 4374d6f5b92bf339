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


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of a run, shared by its workers; at least one of them is there."""

    budget: Budget | None
    pace: Pace | None

    def take(self) -> Grant | float:
        """A grant for one read; a float: how many seconds to wait before the next attempt."""
        count, reserved = self.pace.take() if self.pace else (0, 0.0)
        if self.pace and not count:
            return min(_LONGEST_S, max(0.001, self.pace.wait_s()))
        if self.budget is None:
            return Grant(count, reserved)
        granted = self.budget.take()
        if self.pace and granted > count:
            self.budget.refund(granted - count)
            granted = count
        if granted:
            return Grant(granted, reserved)
        if self.pace:
            self.pace.used(reserved, 0, 0)
        return GRANT_POLL_S  # all of it is reserved; another worker may give some back

    def used(self, grant: Grant, messages: int, size: int) -> None:
        """Report what was read for a grant, in messages and bytes."""
        if self.budget:
            self.budget.refund(grant.messages - messages)
        if self.pace:
            self.pace.used(grant.reserved, messages, size)

    def lost(self, messages: int) -> None:
        """Note that messages will be read again: they do not count towards --max-messages."""
        if self.budget:
            self.budget.refund(messages)


def allowance_of(run: RunOptions, workers: int) -> Allowance | None:
    """The limits of a run with so many workers; None: it has none, or no worker."""
    if not workers or not (run.max_messages or run.rate):
        return None
    return Allowance(
        Budget(run.max_messages, workers) if run.max_messages else None,
        Pace(run.rate, workers, time.monotonic) if run.rate else None,
    )

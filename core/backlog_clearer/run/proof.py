"""Waiting for the broker's proof, where its figures follow a change only after a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from backlog_clearer.model import StopReason, Traits
from backlog_clearer.run.job import Callbacks, Job

POLL_S = 5.0  # between two requests for figures
SHARES_WAIT_S = 300.0  # for what other slices of the run still hold
_TICK_S = 0.2  # how soon an interrupt ends the wait

_Answer = TypeVar("_Answer")


def wanted_s(job: Job, traits: Traits, *, share: bool = False) -> float:
    """How long a run is to wait for proof at most, in seconds.

    A `share` that proves the end also waits for the other slices.
    """
    if job.run.verify_seconds is not None:
        return job.run.verify_seconds
    return max(traits.proof_wait_s, SHARES_WAIT_S) if share else traits.proof_wait_s


@dataclass(slots=True)
class Patience:
    """One run's wait for proof; `waited_s` adds up."""

    seconds: float  # at most
    callbacks: Callbacks
    waited_s: float = 0.0

    def until(
        self, proven: Callable[[_Answer], bool], answer: _Answer, ask: Callable[[], _Answer]
    ) -> _Answer:
        """The first answer that proves something, or the last one before the time is over.

        An interrupt ends the wait, too.
        """
        begun = time.monotonic()
        end = begun + self.seconds - self.waited_s
        ask_at = begun + POLL_S
        while not proven(answer) and not self.callbacks.halted():
            now = time.monotonic()
            if now >= end:
                break
            self.callbacks.waiting(end - now)
            if now < ask_at:
                time.sleep(max(0.0, min(_TICK_S, ask_at - now, end - now)))
                continue
            answer = ask()
            ask_at = time.monotonic() + POLL_S
        self.waited_s += time.monotonic() - begun
        return answer


def patience_for(
    job: Job,
    traits: Traits,
    callbacks: Callbacks,
    reason: StopReason,
    elapsed_s: float,
    *,
    share: bool = False,
) -> Patience:
    """How long a run waits that ended for this reason, `elapsed_s` after its start.

    A run that a limit, a signal or an error cut off does not wait; none waits past the job's deadline.
    """
    seconds = wanted_s(job, traits, share=share) if reason.done else 0.0
    if job.deadline_s is not None:
        seconds = min(seconds, job.deadline_s - elapsed_s)
    return Patience(max(0.0, seconds), callbacks)

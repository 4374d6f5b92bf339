"""Slices that compete for one subscription: each drains what it is given, and one of them proves the end.

Where lanes may compete for a partition, a run can have more slices than partitions. Such a slice is a share:
the broker's figures are about what all shares have left, so that only silence shows that one is done.
"""

from __future__ import annotations

from backlog_clearer.model import Mode, Survey, Traits
from backlog_clearer.options.run import RunOptions

PROVER = 0
"""The index of the slice that waits for proof of the end; the others end once nothing comes."""


def is_share(survey: Survey, traits: Traits, run: RunOptions) -> bool:
    """Whether this slice shares partitions with others of its run."""
    if run.slice is None or not traits.competing or run.mode is not Mode.CONSUME:
        return False
    whole = run.model_copy(update={"slice": None})
    return run.slice.total > len(whole.choose(state.partition for state in survey.partitions))


def proves(run: RunOptions) -> bool:
    """Whether this share is the one that proves the end."""
    return run.slice is not None and run.slice.index == PROVER

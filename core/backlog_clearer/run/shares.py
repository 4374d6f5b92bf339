"""Slices that compete for one subscription: each drains what it is given, and one of them proves the end.

Where lanes may compete for a partition, a run can have more slices than partitions. Such a slice is a share:
the broker's figures are about what all shares have left, so that only silence shows that one is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    Position,
    Recorded,
    Remaining,
    Survey,
    Traits,
)
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane, Source

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


class SilentSource:
    """A source whose figures are hidden from a drain, which then ends once nothing comes."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return self._source.traits

    def survey(self) -> Survey:
        """See `source.Source`."""
        return self._source.survey()

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> str | None:
        """See `source.Source`."""
        return self._source.prepare_undo(partitions, mode)

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """See `source.Source`."""
        return self._source.open_lane(claims)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Nothing: what is left may be in the hands of another share."""
        return [Remaining(partition, None, None) for partition in targets]

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._source.skip(claims)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`."""
        return self._source.restore(recorded)

    def close(self) -> None:
        """See `source.Source`."""
        self._source.close()

"""Partitions that are added to a subscription while a run is at work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Claim, Partition, PartitionState, Survey
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.plan import choose
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.record import Record
from backlog_clearer.source import Enumerable, Source
from backlog_clearer.text import counted, listed

_LOG = logging.getLogger("backlog_clearer")


class Growth:
    """A run's record and receipt, and the partitions that join them while it follows the end."""

    def __init__(self, source: Source, record: Record, receipt: Receipt) -> None:
        self.source = source
        self.record = record
        self.receipt = receipt
        names = {state.partition for state in record.survey.partitions}
        self.known = names - {state.partition for state in record.states if state.error is not None}

    def join(self) -> Sequence[Claim]:
        """Claims on partitions that were added, or can be read only now; they are in the receipt first.

        Raises `ClearerError` where the broker or the receipt's store fails; then nothing joins.
        """
        new = self._new(self.source.survey())
        if not new:
            return ()
        states = {state.partition: state for state in (*self.record.states, *new)}
        record = replace(
            self.record,
            states=tuple(states[partition] for partition in sorted(states)),
            targets={**self.record.targets, **dict.fromkeys(state.partition for state in new)},
        )
        receipt = record.receipt()
        if record.path is not None:
            receipts.save(receipt, record.path)
        self.record, self.receipt = record, receipt
        self.known |= {state.partition for state in new}
        names = listed([str(state.partition) for state in new])
        _LOG.warning("Reading %s, too: %s", counted(len(new), "new partition"), names)
        return [Claim(state, resume=None, target=None) for state in new]

    def notes(self) -> tuple[str, ...]:
        """At the end of a run with frozen targets: the partitions that were added since the survey."""
        traits = self.record.traits
        if traits.fixed:
            return ()
        try:
            chosen = self.record.job.run.choose(self._existing(), competing=traits.competing)
        except ClearerError as error:
            _LOG.debug("Partitions that were added could not be looked for: %s", error)
            return ()
        before = self.known | {state.partition for state in self.record.survey.partitions}
        added = [str(partition) for partition in chosen if partition not in before]
        if not added:
            return ()
        were = "was" if len(added) == 1 else "were"
        note = f"{counted(len(added), 'partition')} {were} added since the survey, and not read"
        return (f"{note}: {listed(added)}. Another run clears them.",)

    def _existing(self) -> Sequence[Partition]:
        """The partitions that exist now."""
        if isinstance(self.source, Enumerable):
            return self.source.partitions()
        return [state.partition for state in self.source.survey().partitions]

    def _new(self, found: Survey) -> list[PartitionState]:
        """States of partitions of this run's share that it does not read yet, and that can be read."""
        return [
            state
            for state in self._chosen(found)
            if state.partition not in self.known and state.error is None
        ]

    def _chosen(self, found: Survey) -> tuple[PartitionState, ...]:
        return choose(found, self.record.job.run, competing=self.record.traits.competing)

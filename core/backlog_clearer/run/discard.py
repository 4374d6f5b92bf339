"""Deleting what a broker keeps for the undo of a run, before the run's receipts are removed."""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.model import Partition, Recorded
from backlog_clearer.run.job import Job, opened, reading_nothing
from backlog_clearer.source import Keeping


def discard(job: Job, recorded: Sequence[Recorded]) -> dict[Partition, str]:
    """Delete what the broker keeps for these positions: they cannot be restored afterwards.

    Returns why that failed, by partition; nothing where the system keeps nothing. Raises `UsageError`,
    `BrokerError`.
    """
    with opened(reading_nothing(job)) as source:
        done = source.discard(recorded) if isinstance(source, Keeping) else ()
    return {item.partition: item.error for item in done if item.error}

"""Runs that clear a part of a Pub/Sub backlog, and the age of a backlog: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from google.pubsub_v1.types import Subscription

from backlog_clearer.brokers.googlepubsub.monitoring import Figures
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Bound, Cut, Mode, Partition, PartitionState

BY_TIME = (
    "A message's time is the one at which Pub/Sub received it. Messages of that time or later that are"
    " delivered to this run are held until its end, and then given back."
)


def cut_at(
    states: Sequence[PartitionState], bound: Bound, mode: Mode, found: Subscription | None, end: str
) -> list[Cut]:
    """See `source.Bounded.cut`; `end` is the bound's time as a target.

    `found` is the subscription where its settings may be read. Raises `UsageError` for a number of messages,
    and for a seek that could deliver acknowledged messages again.
    """
    if bound.until is None:
        raise UsageError("Pub/Sub has no positions to count: --keep-last is not possible.")
    if mode is Mode.SKIP:
        obstacle = _acknowledged_come_back(found)
        if obstacle:
            raise UsageError(
                "A seek to a time before now would deliver messages again that were acknowledged since:"
                f" {obstacle}. Use --mode consume, which leaves younger messages as they are."
            )
    return [
        Cut(state.partition, end if state.end is None or end < str(state.end) else None, counted=False)
        for state in states
    ]


def _acknowledged_come_back(found: Subscription | None) -> str | None:
    """Why a seek to the past may bring back acknowledged messages; None: it does not.

    https://cloud.google.com/pubsub/docs/replay-overview
    """
    if found is None:
        return "whether acknowledged messages are retained is not known, since its settings may not be read"
    if found.retain_acked_messages:
        return "the subscription retains acknowledged messages"
    retention: timedelta | None = found.topic_message_retention_duration
    return "the topic retains messages" if retention else None


def oldest_time(partition: Partition, figures: Figures) -> Mapping[Partition, datetime]:
    """See `source.Dated.oldest`: from the last sample of Monitoring, which has whole seconds."""
    count, oldest = figures.count, figures.oldest
    if count is None or not count.value or oldest is None:
        return {}
    return {partition: oldest.at - timedelta(seconds=oldest.value)}

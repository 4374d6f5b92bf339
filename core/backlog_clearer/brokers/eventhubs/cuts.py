"""Positions by time and by number of events, for runs that clear a part of a backlog; ages of backlogs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from backlog_clearer.brokers.eventhubs.access import first_event
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    PartitionProperties,
    Start,
    enqueued_ms,
    event_number,
    position_from,
    start_after,
    start_at,
)
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.brokers.shared.times import from_milliseconds, milliseconds
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Bound, Cut, Partition, PartitionState

_AGES_S = 5.0

BY_TIME = "An event's time is the one at which the service enqueued it."


def cut_events(
    options: EventHubsOptions,
    states: Sequence[PartitionState],
    found: Mapping[int, PartitionProperties],
    bound: Bound,
) -> list[Cut]:
    """See `source.Bounded.cut`: at most two events of each partition are fetched."""
    options = _without_level(options)

    def find(state: PartitionState) -> Cut:
        properties = found[state.partition.number]
        last = _last_cleared(options, state.partition, properties, bound)
        if last is None or last >= properties.last:
            return Cut(state.partition, None)
        if last < properties.begin:  # nothing that is retained lies before it
            return Cut(state.partition, state.start, none_older=True)
        event = first_event(options, state.partition, Start(last, inclusive=True))
        if event_number(event) != last:
            raise TransientError(
                f"{state.partition}: event {event_number(event)} came instead of {last}."
            )
        return Cut(state.partition, position_from(event))

    return [
        Cut(state.partition, None, str(answer)) if isinstance(answer, ClearerError) else answer
        for state, answer in zip(
            states, in_parallel(states, lambda: find, where=options.place), strict=True
        )
    ]


def _without_level(options: EventHubsOptions) -> EventHubsOptions:
    """The same options for a reader that displaces no other one."""
    return options.model_copy(update={"owner_level": None})


def _last_cleared(
    options: EventHubsOptions, partition: Partition, properties: PartitionProperties, bound: Bound
) -> int | None:
    """The sequence number of the last event to be cleared; None: of the last event."""
    if bound.until is None:
        return properties.last - (bound.keep_last or 0)
    moment = milliseconds(bound.until)
    if properties.last_ms is not None and properties.last_ms < moment:
        return None  # the service would wait for an event
    event = first_event(options, partition, start_at(bound.until))
    at = enqueued_ms(event)
    if at is None or at < moment:
        raise TransientError(f"{partition}: an event of another time came than was asked for.")
    return event_number(event) - 1


def enqueued_times(
    options: EventHubsOptions, states: Sequence[PartitionState]
) -> Mapping[Partition, datetime]:
    """See `source.Dated.oldest`: one event of each partition is fetched."""
    options = _without_level(options)

    def ask(state: PartitionState) -> int | None:
        return enqueued_ms(first_event(options, state.partition, start_after(state.position)))

    open_worker: Callable[[], Callable[[PartitionState], int | None]] = lambda: ask  # noqa: E731 typed
    answers = in_parallel(states, open_worker, where=options.place, timeout_s=_AGES_S)
    times = {
        state.partition: from_milliseconds(answer)
        for state, answer in zip(states, answers, strict=True)
        if isinstance(answer, int)
    }
    return {partition: time for partition, time in times.items() if time is not None}

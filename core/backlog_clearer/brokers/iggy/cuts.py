"""Offsets by time and by number of messages, for runs that clear a part of the backlog; ages of backlogs.

A batch has the time at which the server stored it. A poll by timestamp begins with the first batch that was
stored at that time or later (`core/partitions/src/journal.rs` of the server).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.logs import TopicLogs
from backlog_clearer.brokers.iggy.poll_wire import Polled
from backlog_clearer.brokers.iggy.positions import NOTHING, LogFacts, as_offset_or_none
from backlog_clearer.brokers.shared.times import from_microseconds, microseconds
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Bound, Cut, Partition, PartitionState


def bound_notes(bound: Bound) -> Sequence[str]:
    """What the user must know about a bound."""
    if bound.until is None:
        return ()
    return ("A message's time is the one at which the server stored its batch, by the server's clock.",)


def cut_partitions(logs: TopicLogs, states: Sequence[PartitionState], bound: Bound) -> list[Cut]:
    """See `source.Bounded.cut`. Raises `BrokerError`."""
    if bound.until is None:
        return [_cut(state, _end(state) - (bound.keep_last or 0)) for state in states]
    moment, reader = microseconds(bound.until), logs.reader
    young = logs.firsts(
        [state.partition for state in states], lambda n: wire.poll_from_time(reader, n, moment)
    )
    # An empty answer may also be of a server that cannot read: the last message's time shows which it is.
    silent = [state.partition for state in states if _is_empty(young[state.partition])]
    lasts = logs.firsts(silent, lambda number: wire.poll_last(reader, number))
    return [_by_time(state, young[state.partition], lasts, moment) for state in states]


def _is_empty(found: Polled | BrokerError) -> bool:
    return isinstance(found, Polled) and found.first is None


def _by_time(
    state: PartitionState,
    young: Polled | BrokerError,
    lasts: Mapping[Partition, Polled | BrokerError],
    moment: int,
) -> Cut:
    if isinstance(young, BrokerError):
        return Cut(state.partition, None, str(young))
    if young.first is not None and young.mark is not None and young.mark[0] >= moment:
        return _cut(state, young.first - 1)
    last = lasts.get(state.partition)
    if isinstance(last, Polled) and last.mark is not None and last.mark[0] < moment:
        return Cut(state.partition, None)
    return Cut(
        state.partition,
        None,
        "the server shows neither a message of that time nor an older last one: nothing of this partition"
        " is cleared",
    )


def _end(state: PartitionState) -> int:
    end = as_offset_or_none(state.end)
    return NOTHING if end is None else end


def _cut(state: PartitionState, target: int) -> Cut:
    """A target within the log: an offset that is the last one to be cleared."""
    first = as_offset_or_none(state.start) or 0
    if target >= _end(state):
        return Cut(state.partition, None)
    return Cut(state.partition, max(target, first - 1), none_older=target < first)


def stored_times(
    logs: TopicLogs, states: Sequence[PartitionState], surveyed: Mapping[Partition, object]
) -> Mapping[Partition, datetime]:
    """See `source.Dated.oldest`: one message of each partition, all requests at once.

    Nothing is asked about a backlog that begins with the first message, which the survey has seen.
    """
    begins = {state.partition: _begin(state) for state in states}
    marks: dict[Partition, tuple[int, int]] = {}
    for partition, begin in begins.items():
        log = surveyed.get(partition)
        if isinstance(log, LogFacts) and log.extent.begin == begin and log.mark is not None:
            marks[partition] = log.mark
    numbers = {partition.number: at for partition, at in begins.items()}
    reader = logs.reader
    found = logs.firsts(
        [partition for partition in begins if partition not in marks],
        lambda number: wire.poll(reader, number, numbers[number], 1),
    )
    for partition, polled in found.items():
        if isinstance(polled, Polled) and polled.mark is not None and _fits(polled, begins[partition]):
            marks[partition] = polled.mark
    times = {partition: from_microseconds(mark[0]) for partition, mark in marks.items()}
    return {partition: time for partition, time in times.items() if time is not None}


def _fits(polled: Polled, begin: int) -> bool:
    """Whether an answer is about messages that were asked for."""
    return polled.first is not None and polled.first >= begin


def _begin(state: PartitionState) -> int:
    """The first offset of a backlog that may have a message."""
    position = as_offset_or_none(state.position)
    first = as_offset_or_none(state.start) or 0
    return first if position is None else max(first, position + 1)

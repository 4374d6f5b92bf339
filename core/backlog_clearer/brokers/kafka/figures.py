"""Which of the broker's figures are offsets, and what lies between them: pure.

A figure that is not an offset is an error of its partition, never a number. librdkafka's ListOffsets
*succeeds* with offset -1001 (OFFSET_INVALID) where the answer of a partition's leader was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition, PartitionState
from backlog_clearer.text import listed

NOTHING_STORED = -1001
"""librdkafka's OFFSET_INVALID: in an answer about committed offsets, that there is none."""

Figures: TypeAlias = tuple[dict[Partition, int], dict[Partition, BrokerError]]
"""An offset for each partition that has one, and the error of each that could not be asked."""


def checked(figures: Mapping[Partition, int], name: str) -> Figures:
    """The figures that are offsets, and a `TransientError` for each other; `name`: "log end"."""
    offsets = {partition: figure for partition, figure in figures.items() if figure >= 0}
    return offsets, {
        partition: not_an_offset(partition, figure, name)
        for partition, figure in figures.items()
        if partition not in offsets
    }


def not_an_offset(partition: Partition, figure: int | None, name: str) -> TransientError:
    """The error of a partition whose figure is missing or negative; asking again may help."""
    answer = "is missing from the answer" if figure is None else f"is {figure} in the answer"
    return TransientError(
        f"The {name} of {partition} {answer}, which is not an offset: the connection to a broker was"
        " probably lost.",
        partition,
    )


def contradiction(
    partition: Partition, position: int | None, start: int, end: int
) -> BrokerError | None:
    """Why checked figures do not fit together; None: they do.

    `position` has to be asked before `end`, since both grow.
    """
    if start > end:
        return TransientError(
            f"The log of {partition} starts at {start}, beyond its end, {end}: it changed in between.",
            partition,
        )
    if position is not None and position > end:
        return BrokerError(
            f"The committed offset of {partition}, {position}, lies beyond the end of its log, {end}: the"
            " topic was probably created again, or lost messages. The offset was not changed; to set it"
            " to the end, use Kafka's kafka-consumer-groups with --reset-offsets --to-latest.",
            partition,
        )
    return None


def cut_off(partition: Partition, position: int) -> BrokerError:
    """The error of a partition whose log ends below the position that was read."""
    return BrokerError(
        f"The log of {partition} was cut off below offset {position} while it was read; nothing more of"
        " it was committed. Run again to clear the messages that are there now.",
        partition,
    )


def offsets_left(committed: int | None, start: int, end: int) -> int:
    """How many retained offsets lie between the committed offset and the end, all of them checked.

    `committed` may be greater than `end` where that is a target that the group has passed.
    """
    return max(0, end - max(committed if committed is not None else start, start))


def position_notes(states: Sequence[PartitionState]) -> tuple[str, ...]:
    """Notes on unusual committed offsets, one sentence each."""
    sound = [state for state in states if state.error is None]
    never = [state.partition for state in sound if state.position is None]
    behind = [
        state.partition
        for state in sound
        if isinstance(state.position, int)
        and isinstance(state.start, int)
        and state.position < state.start
    ]
    notes = []
    if never:
        notes.append(
            f"{listed(never)}: nothing was ever committed; the backlog counts from the log start."
        )
    if behind:
        notes.append(
            f"{listed(behind)}: the committed offset lies before the log start; the messages between"
            " them are deleted already and are not counted."
        )
    return tuple(notes)

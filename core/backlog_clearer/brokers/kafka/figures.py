"""Which of the broker's figures are offsets, and what lies between them: pure.

A figure that is not an offset is an error of its partition, never a number. librdkafka's ListOffsets
*succeeds* with offset -1001 (OFFSET_INVALID) where the answer of a partition's leader was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeGuard

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition, PartitionState, Position
from backlog_clearer.text import listed

NOTHING_STORED = -1001
"""librdkafka's OFFSET_INVALID: in an answer about committed offsets, that there is none."""

OffsetFigures: TypeAlias = tuple[dict[Partition, int], dict[Partition, BrokerError]]
"""An offset for each partition that has one, and the error of each that could not be asked."""


_BEYOND = 1 << 63  # offsets are INT64


class Stored(NamedTuple):
    """What a group has stored for one partition."""

    offset: int
    metadata: str = ""  # free text of the client that committed
    leader_epoch: int | None = None  # of the last message before the offset (KIP-320)

    @property
    def position(self) -> Position:
        """The offset where nothing else is stored, else a mapping of all three."""
        if not self.metadata and self.leader_epoch is None:
            return self.offset
        return {
            "offset": self.offset,
            "metadata": self.metadata,
            "leader_epoch": self.leader_epoch,
        }


def stored_of(position: Position | None) -> Stored | None:
    """What a position of this adapter is made of; None: it is not one that Kafka can have stored."""
    offset: object = position
    metadata: object = ""
    epoch: object = None
    if isinstance(position, Mapping):
        if set(position) - set(Stored._fields):
            return None
        offset, metadata = position.get("offset"), position.get("metadata") or ""
        epoch = position.get("leader_epoch")
    if not _is_number(offset, _BEYOND) or not isinstance(metadata, str):
        return None
    if epoch is not None and not _is_number(epoch, 1 << 31):
        return None
    return Stored(offset, metadata, epoch)


def _is_number(value: object, limit: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def offset_of(position: Position | None) -> int | None:
    """The offset of a stored position or a target; None: nothing is stored, or it is not an offset."""
    stored = stored_of(position)
    return None if stored is None else stored.offset


def checked(figures: Mapping[Partition, int], name: str) -> OffsetFigures:
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
            " topic was probably created again, or lost messages. The offset was not changed; --lower-to-end"
            " sets it to the end.",
            partition,
        )
    return None


def cut_off(partition: Partition, position: int) -> BrokerError:
    """The error of a partition whose log ends below the position that was read."""
    return BrokerError(
        f"The log of {partition} was cut off below offset {position} during the run; nothing more of it"
        " was committed. Run again to clear the messages that are there now.",
        partition,
    )


def cut_since(partition: Partition, target: int) -> BrokerError:
    """The error of a partition whose log lost messages before the target of an earlier attempt."""
    return BrokerError(
        f"The log of {partition} was cut off below offset {target} since an earlier attempt of this run froze"
        " its target there, and nothing more of it is committed. Use another run id to clear the messages that"
        " are there now.",
        partition,
    )


def meddled(partition: Partition, before: int | None, now: int | None) -> str | None:
    """Why a partition is not changed: its committed offset vanished or was moved back; None: it was not."""
    if before is None or (now is not None and now >= before):
        return None
    what = "was deleted" if now is None else f"was moved back to {now}"
    return (
        f"The committed offset of {partition}, {before}, {what} by another process since this run read or"
        " wrote it: nothing more of it was changed. Run again to clear it from where it is now."
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
        if isinstance(offset := offset_of(state.position), int)
        and isinstance(state.start, int)
        and offset < state.start
    ]
    beyond = [
        state.partition
        for state in sound
        if (offset := offset_of(state.position)) is not None and offset > (offset_of(state.end) or 0)
    ]
    notes = []
    if beyond:
        notes.append(
            f"{listed(beyond)}: the committed offset lies beyond the end of the log; --lower-to-end sets it to"
            " the end."
        )
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

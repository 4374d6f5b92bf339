"""The values that every part of the tool uses: partitions, positions, outcomes.

Unknown is always `None`, never 0. Counts are in the unit that `Traits.unit` names
(Kafka counts offsets, Pulsar entries, Pub/Sub messages), because not every broker counts
messages, and a figure under the wrong name misleads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple, TypeAlias

from typing_extensions import Self

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:  # Python 3.10 has no StrEnum; this is its definition
    from enum import Enum

    class StrEnum(str, Enum):
        """`enum.StrEnum`, for Python 3.10."""

        __str__ = str.__str__


Position: TypeAlias = int | str | Mapping[str, int | str | None]
"""A place in one partition, in the broker's own terms; only its adapter interprets it.

It survives JSON unchanged, since receipts keep it: Kafka's and Iggy's is an int offset, Pulsar's
"ledger:entry", Pub/Sub's a snapshot name, Event Hubs' a mapping of offset and sequence number.
A key that begins with "_" is what an adapter needs for a restore; it does not change the place.
"""


def same_place(one: Position | None, other: Position | None) -> bool:
    """Whether two positions are the same place, whatever they record for a restore."""
    return _place(one) == _place(other)


def _place(position: Position | None) -> Position | None:
    if not isinstance(position, Mapping):
        return position
    return {key: value for key, value in position.items() if not key.startswith("_")}


class Mode(StrEnum):
    """How the backlog is cleared."""

    CONSUME = "consume"  # read everything and acknowledge it
    SKIP = "skip"  # move the position to the end, transferring nothing


class StopReason(StrEnum):
    """Why a drain ended. Only EMPTY means that nothing up to the target is left."""

    EMPTY = "empty"  # every partition reached its target, by the broker's own figures
    QUIET = "quiet"  # nothing arrived for the quiet time, and the broker gives no figures
    LIMIT = "limit"  # --max-messages
    DEADLINE = "deadline"  # --max-seconds
    SIGNAL = "signal"  # SIGINT, SIGTERM or SIGHUP
    STALLED = "stalled"  # backlog remains and nothing arrived for the stall time
    FAILED = "failed"  # what is left has errors that retrying does not mend
    DECLINED = "declined"  # the plan was not confirmed, so that nothing began

    @property
    def done(self) -> bool:
        """Whether nothing is left to do, as far as the run could see."""
        return self in {StopReason.EMPTY, StopReason.QUIET}


class Partition(NamedTuple):
    """One independently positioned part of the backlog; sorts by topic, then number.

    `number` is the broker's partition number; a system without partitions uses 0.
    """

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a kind of source that the engine needs before it can drive it."""

    unit: str  # what `backlog`, `left` and `remaining` count: "offsets", "entries", "messages"…
    empty_units: str = (
        ""  # which units are not messages, for people: "transaction markers take offsets"
    )
    fixed: bool = False  # partitions are never added
    competing: bool = False  # several lanes may read one partition at the same time
    repeats: bool = False
    """Whether a new lane returns again, before other messages of a partition, all that a settle which raised
    may have acknowledged. Where not, such messages count towards --max-messages for good."""
    counts_only: bool = False  # no position can be stored: a run reads, counts and changes nothing
    proof: str = ""  # how a user can prove what the broker does not confirm yet, as "look …"
    proof_wait_s: float = 0.0  # how long after a change the broker's figures may take to prove it
    skip_once: bool = False  # a skip that is repeated may bring back messages acknowledged since
    settle_interval_s: float = 1.0  # longest time between two settles; 0: after every read


def _not_negative(partition: Partition, *counts: int | None) -> None:
    """Refuse counts that cannot be: a failed answer must not become a number."""
    for count in counts:
        if count is not None and count < 0:
            raise ValueError(f"{partition}: {count} is not a count; an unknown count is None")


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition of the subscription, as the broker reports it at one moment."""

    partition: Partition
    position: Position | None  # the stored position; None: nothing is stored
    start: Position | None  # the first position still retained; None: not known
    end: Position | None  # the position once everything that exists now is cleared; None: not known
    backlog: int | None  # how much lies between position and end, in `Traits.unit`
    backlog_bytes: int | None = None  # the same in stored bytes, where the broker reports it
    undo: str | None = None  # why `restore` could not bring this partition back; None: it can
    error: str | None = None  # why this partition cannot be cleared at all
    passing: bool = False  # the error may pass in a moment: the survey is retried
    incarnation: str | None = None
    """What distinguishes this log from another one of the same name; None: the broker gives nothing.

    Only its adapter makes and interprets it; everything else compares it.
    """
    epoch: int | None = None
    """The leader epoch in which `end` was the end; None: the protocol has none, or nothing is to be frozen.

    A log that keeps its incarnation may lose its last messages with its leader, and grow past them.
    """
    oldest: datetime | None = (
        None  # when the oldest message of the backlog was published; None: unknown
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` for a negative count."""
        _not_negative(self.partition, self.backlog, self.backlog_bytes)


def completed(
    states: Iterable[PartitionState], partitions: Iterable[Partition]
) -> tuple[PartitionState, ...]:
    """A state for each partition, sorted; every figure of one without a state is unknown."""
    known = {state.partition: state for state in states}
    return tuple(
        known.get(partition) or PartitionState(partition, None, None, None, None)
        for partition in sorted(partitions)
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """Which part of a backlog is cleared; exactly one of the two is set."""

    until: datetime | None = None  # only messages published before this time, which has a time zone
    keep_last: int | None = None  # all but the last ones of each partition, at least 1

    def __str__(self) -> str:
        """The messages that are cleared, for people."""
        if self.until is not None:
            return f"messages published before {utc_text(self.until)}"
        return f"all but the last {self.keep_last:,} of each partition"


def utc_text(time: datetime) -> str:
    """A time in UTC as RFC 3339 has it; without fractions where there are none."""
    return time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


class Cut(NamedTuple):
    """Where the part of one partition ends that a `Bound` lets a run clear."""

    partition: Partition
    position: Position | None  # the target; None: all of it is cleared, the target is the state's end
    error: str | None = None  # why that cannot be found; the partition is not cleared then
    counted: bool = True  # whether the broker can report now how much lies before it
    none_older: bool = False  # the log begins with a message that stays


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole subscription, as the broker reports it before anything changes."""

    subscription: str  # for people: "group billing on topic orders"
    identity: Mapping[str, str]  # distinguishes this subscription from others (cluster id, topic, …)
    partitions: tuple[PartitionState, ...]  # sorted by partition
    live: tuple[str, ...] = ()  # consumers attached now, by the names the broker gives them
    notes: tuple[str, ...] = ()  # facts that the user must know first, one sentence each
    doubt: str | None = None  # why the name may be mistyped: a clear is refused unless --new is given
    skip_requests: int | None = None  # how many write requests a skip takes; None: one a partition


@dataclass(frozen=True, slots=True)
class Claim:
    """The part of one partition that a lane is to clear.

    A lane starts at `resume`; where that is None, at the subscription's own position, or at
    `state.start` if it has none. It stops at `target`; where that is None, it follows the end.
    """

    state: PartitionState
    resume: Position | None
    target: Position | None

    @property
    def partition(self) -> Partition:
        """The partition claimed."""
        return self.state.partition


class _Advance(NamedTuple):
    partition: Partition
    messages: int  # messages read, none counted that lies beyond the target
    left: int | None  # still unread up to the target (or the end), in `Traits.unit`; None: unknown
    bytes: int = 0  # bytes received for them, where the adapter sees them


class Advance(_Advance):
    """The messages that one read received from one partition; a negative count raises `ValueError`."""

    __slots__ = ()

    def __new__(
        cls,
        partition: Partition,
        messages: int,
        left: int | None,
        bytes: int = 0,  # noqa: A002 the field's name
    ) -> Self:
        """Refuse counts that cannot be."""
        _not_negative(partition, messages, left, bytes)
        return super().__new__(cls, partition, messages, left, bytes)


class _Settled(NamedTuple):
    partition: Partition
    messages: int  # messages acknowledged by this call that were not acknowledged before
    position: Position | None  # where a new lane may resume; None: where the broker has it
    error: str | None = None  # why this partition's acknowledgement was refused for good


class Settled(_Settled):
    """The messages that one settle acknowledged; a negative count raises `ValueError`."""

    __slots__ = ()

    def __new__(
        cls,
        partition: Partition,
        messages: int,
        position: Position | None,
        error: str | None = None,
    ) -> Self:
        """Refuse counts that cannot be."""
        _not_negative(partition, messages)
        return super().__new__(cls, partition, messages, position, error)


class _Remaining(NamedTuple):
    partition: Partition
    position: Position | None  # the position stored now
    left: int | None  # up to the target asked about, in `Traits.unit`; None: unknown
    error: str | None = None
    incarnation: str | None = None  # of the log that the figures are about, like `PartitionState`'s
    gone: int | None = None
    """How much of the surveyed backlog was gone before it could be read, in `Traits.unit`: it expired, was
    trimmed, or others acknowledged it. None: unknown, or nothing."""


class Remaining(_Remaining):
    """The part of one partition that is still to be cleared, by the broker's own figures.

    A negative count raises `ValueError`.
    """

    __slots__ = ()

    def __new__(  # noqa: PLR0917 the fields' order
        cls,
        partition: Partition,
        position: Position | None,
        left: int | None,
        error: str | None = None,
        incarnation: str | None = None,
        gone: int | None = None,
    ) -> Self:
        """Refuse counts that cannot be."""
        _not_negative(partition, left, gone)
        return super().__new__(cls, partition, position, left, error, incarnation, gone)


class Recorded(NamedTuple):
    """One partition as a receipt recorded it, for a restore."""

    partition: Partition
    position: Position | None  # None: nothing was stored
    incarnation: str | None = None  # of its log; None: not recorded
    undo: str | None = None  # why it may not be brought back; an adapter need not look at it
    epoch: int | None = None  # of a target: `PartitionState.epoch` when it was frozen


class Outcome(NamedTuple):
    """The outcome of a skip or a restore for one partition."""

    partition: Partition
    position: Position | None
    """The position written, or that may have been written if there is an error; None: nothing was."""

    error: str | None = None


def oldest_known(backlogs: Iterable[tuple[int | None, datetime | None]]) -> datetime | None:
    """The earliest time of several backlogs, each with its count and the time of its oldest message.

    None where any that is not empty has no time: it may be older than the others.
    """
    times = [oldest for count, oldest in backlogs if count != 0]
    known = [time for time in times if time is not None]
    return min(known) if known and len(known) == len(times) else None


def total_known(counts: Iterable[int | None]) -> int | None:
    """The sum of counts; None where any of them is unknown."""
    found = list(counts)
    return None if None in found else sum(count for count in found if count is not None)


@dataclass(frozen=True, slots=True)
class Found:
    """One subscription in a list of those of a system."""

    name: str
    kind: str | None  # the broker's word: "consumer", "Shared"; None: not known
    topics: tuple[str, ...]
    backlog: int | None  # None: unknown
    members: int | None  # consumers attached; None: unknown
    error: str | None = None
    oldest: datetime | None = (
        None  # when the oldest message of the backlog was published; None: unknown
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """The subscriptions of a system."""

    place: str  # where they are, for people: "Kafka at b:9092"
    unit: str  # of their backlogs, in the plural
    found: tuple[Found, ...]
    notes: tuple[str, ...] = ()
    complete: bool = True  # False: a note states what is missing

"""What an adapter owes the engine, and what the engine promises in return.

An adapter is one package that implements `Source` and `Lane`, with an options model and a line in
`registry`, or an entry point in a distribution outside this one (docs/adapters.md). The contract suite
(`backlog_clearer.testing`) tests every sentence below that can be tested from outside;
`brokers.memory.source` is the reference.

Rules for both protocols:

- **Never retry, never loop to wait.** Raise `TransientError` for what may pass (a lost, refused or
  unanswered connection, a moved leader, throttling) and `BrokerError` for what will not (refused
  credentials). Only the engine waits, opens a lane again and gives up. Switch a library's retries off, or
  bound them: `read` ends about when its wait does, and any call ends within 15 s whatever the broker does.
- **A deterministic failure is not repeated unchanged.** An answer that is too large makes the lane ask for
  half as much with its next read; that read returns an empty sequence, and one message that is too large is
  a `BrokerError` with its partition.
- **One partition's error is its own.** An error that concerns one partition has it as `partition`, from
  every method; figures and results of the others are returned. Without one, the error is the client's:
  the engine gives its claims to other lanes (a limit on consumers means fewer lanes, not an end).
- **Own contention passes.** What lanes and slices of one run do to each other (a lock, a group that is
  joined in turn) is a `TransientError`: the engine waits longer each time. A wait that the protocol itself
  asks for inside a call, as for a turn in an Iggy group, is bounded.
- **A dead connection is noticed.** Where the broker owes an answer, or a heartbeat where it may be silent
  otherwise, the lane raises `TransientError` after `RunOptions.answer_seconds`, which is less than half of
  --stall-seconds.
- **Only this project's errors.** Nothing but a `ClearerError` leaves an adapter.
- **Unknown is None.** An error, a timeout or an empty answer is never turned into 0.
- **Positions move forward.** Only `restore` lowers a position.
- **A name is not an identity.** A log that was deleted and created again under its name is another one.
  `PartitionState.incarnation` distinguishes them where the broker lets one; nothing is read, acknowledged,
  moved or restored in a log of another incarnation than the one that was surveyed or recorded. Check
  it as close to each write as the protocol allows.
- **One client, one thread.** Each `Lane` is used by exactly one thread and owns its clients. The
  methods of `Source` are called by one thread at a time (not a lane's), except `open_lane`, which lanes'
  threads call: it must not use the source's own client, or must guard it with a lock.
- **No secret** in any exception's text, note, state, identity or log record.
- **Work per batch.** Nothing in `read` may run Python code once per message where the library
  offers any other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import (
    Advance,
    Bound,
    Claim,
    Cut,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Remaining,
    Settled,
    Survey,
    Traits,
)


def failed_state(
    partition: Partition, error: ClearerError, position: Position | None = None
) -> PartitionState:
    """The state of a partition of which only an error is known."""
    passing = isinstance(error, TransientError)
    return PartitionState(partition, position, None, None, None, error=str(error), passing=passing)


class Lane(Protocol):
    """One client that reads and acknowledges some claims, on one thread."""

    throttled_s: float
    """For how many seconds the broker has asked this lane's client to wait, all in all; else 0.0.

    Grows with each answer that throttles, by the time given there. The engine reads it from another
    thread, shows it, and does not take that time for a stall.
    """

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Receive the next messages; at most one `Advance` for a partition and call.

        Returns as soon as anything has arrived, and after about `max_wait_s` (less than 1 s) if nothing
        has. An empty result means only that nothing arrived. Messages that are already acknowledged,
        and messages at or beyond the target, are neither counted nor acknowledged later. Messages that
        were delivered to a consumer that is gone, and not acknowledged, are read like any others.

        `max_messages` (None: no limit) bounds the messages counted by this call; where the protocol
        delivers more, the rest is kept for the next call or given back. A partition whose target is
        reached is reported once with `left == 0`, even if there was nothing to read in it, and then
        never again; `left` is 0 only if the broker's figures, or the position reached, prove it. In
        follow mode (no target) `left` counts to the end that the broker reported last, and the
        partition stays claimed.

        Raises `TransientError` or `BrokerError`, with the partition if it concerns one (no leader,
        deleted, refused, taken by another reader); `RecreatedError` where the log is not the claimed one
        any more. After any of them, the engine calls only `settle` and `close`, and opens a lane for the
        other claims. A final error ends the partition that it names; a transient one is retried up to
        --max-retries times in a row, while the others are read.
        """

    def settle(self) -> Sequence[Settled]:
        """Acknowledge everything that `read` returned and that is not yet acknowledged.

        Never acknowledges anything else, and never lowers a position that another process has moved
        further. `messages` counts what the broker confirmed, or, where the protocol confirms nothing,
        what was sent to it; what another process acknowledged meanwhile is not counted where the
        protocol shows it. With nothing to acknowledge, returns an empty sequence. A target reached
        over nothing countable (deleted messages, control records) is stored, with `messages` 0.

        A partition that the broker refuses for good, or whose log has another incarnation than the
        claim, has an `error` and 0 messages; the others are acknowledged. Raises `TransientError` if
        another lane may succeed: then nothing of this call is counted, and messages that the broker did
        acknowledge are neither delivered nor counted again where the protocol shows them. Whether they count
        towards --max-messages once more: `Traits.repeats`, `BrokerError.unsent`.
        """

    def close(self) -> None:
        """Release everything; send acknowledgements that wait to be sent; never raise; idempotent.

        Acknowledges nothing that was not settled. What was delivered and not acknowledged can be
        delivered again.
        """


class Source(Protocol):
    """One subscription on one broker."""

    @property
    def traits(self) -> Traits:
        """Constant facts that the engine needs."""

    def survey(self) -> Survey:
        """Ask the broker for everything the user must see before a change; change nothing.

        Creates nothing: a topic or subscription that does not exist raises `UsageError` with its
        name, and with names like it. Refused credentials and an unreachable broker raise
        `BrokerError` within 15 s, with the address and what to check. An error of one
        partition is that state's `error`, not an exception: no leader, no subscription there, a request
        that failed for it. Of several topics, one that does not exist is such a state, of its partition 0;
        `UsageError` is raised only where none exists. An unknown value is None, with a note that
        gives the reason.

        While a run follows the end, it surveys every 30 s, and reads partitions that were added.

        `identity` is not empty, is the same in every survey, does not depend on the route to the broker,
        and differs from another subscription's. `end` of each state is the frozen target. `backlog`
        includes what was delivered to consumers that are gone, and not acknowledged.

        Slices of a run survey at the same time, some while others read. So only the partitions that
        `RunOptions.choose` leaves need values; the others need only be named. `live` leaves out
        consumers of this run's other slices, and consumers that can receive nothing of the partitions
        chosen.
        """

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> str | None:
        """Create on the broker whatever `restore` will need (a snapshot); most brokers need nothing.

        Returns a sentence about it that the user must know, if there is one.
        Called once, after the receipt that names it was stored and before the first change.
        Raises `RefusedError` if undo cannot be made possible and the user did not waive it.
        """

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """A lane with separate clients for these claims; may be called from any thread.

        Lanes opened for disjoint claims do not disturb each other. Where `traits.competing`, several
        lanes may hold the same claim. Raises like `Lane.read`.
        """

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Ask the broker afresh what is left up to each target; change nothing.

        This proves every "empty" and "verified": `left` is 0 only if the broker's figures show that
        everything before the target is acknowledged. A target of None means the end as it
        is now. One result for each target, in any order, with the `incarnation` of the log that was
        asked; a partition that cannot be asked has an `error` and a `left` of None.
        """

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """Move the position of each claim to its target without transferring messages.

        O(partitions) requests. Never lowers a position that the broker shows. One `Outcome` for
        each claim; a partition that is refused, or has another incarnation than its claim, has an
        `error`, and the others are moved.
        """

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Put each partition back to the position that a receipt recorded (None: nothing was stored).

        One `Outcome` for each; a partition that cannot be restored, or whose log has another
        incarnation than the recorded one (if one was recorded), has an `error` with the reason.
        Called only after `survey`; with consumers attached, only if the user forces it.
        """

    def close(self) -> None:
        """Release everything, never raise; idempotent."""


@runtime_checkable
class Bounded(Protocol):
    """A source that can end a run before the end of the backlog; optional for adapters.

    Without it, --until, --older-than and --keep-last are refused.
    """

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """Where the part of each partition ends that is to be cleared; change nothing.

        One `Cut` for each state, in any order; it is the frozen target in place of `PartitionState.end`,
        and `remaining`, lanes and `skip` take it like that. All messages before it may be cleared, and no
        message that was published at `Bound.until` or later lies before it. Where the broker's
        order of messages is not that of their times, it is the first message that is too young; the
        older ones behind it stay. A partition in which no message is too young ends at its end.
        `Bound.keep_last`: so many of the log's last positions are kept, or more.

        At most two small requests a partition. Raises `UsageError` for the kind of bound that the system
        does not have, otherwise like `survey`; what concerns one partition is the `error` of its cut.
        """

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """What the user must know about a bound on this system, one sentence each; asks the broker nothing."""


@runtime_checkable
class Replicated(Protocol):
    """A source whose logs may lose their last messages when another copy leads; optional for adapters.

    Its survey fills `PartitionState.epoch`. Without it, a later attempt of a run compares incarnations only.
    """

    def lost(self, frozen: Sequence[Recorded]) -> Mapping[Partition, BrokerError]:
        """Which logs no longer have all that lay before targets frozen by an earlier attempt; change nothing.

        Each has an `epoch`. A partition of which that is not known now has a `TransientError`. One request for
        each leader at most; raises like `survey` where nothing can be asked.
        """


@runtime_checkable
class Accountable(Protocol):
    """A source that keeps account of acknowledgements whose answer was lost; optional for adapters.

    Without it, the count of a partition is a lower bound once a settle of it failed.
    """

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """How many messages lanes acknowledged that no settle has reported; asks the broker nothing.

        Called once, when no lane is open any more. `stored` has the positions that the broker shows
        then (None: nothing is stored), without partitions for which it did not answer. None in the
        result: some may be acknowledged, and it is not known how many. Partitions that are left out
        have none.
        """


@runtime_checkable
class Revisable(Protocol):
    """A source whose broker may lose acknowledgements that a settle has reported; optional for adapters."""

    def returned(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """How many messages that settles reported the broker does not show as acknowledged; asks it nothing.

        They are taken off the count. Called once, when no lane is open any more, after the last `remaining`;
        `stored`: see `Accountable`. None: that is not known, and the count is an upper bound. A partition that
        is not in `stored` never has a number; it is left out only if the broker is known to keep what was
        acknowledged. Where some of a number may be acknowledged all the same, `unreported` has None.
        Partitions that are left out have none.
        """


@runtime_checkable
class Interruptible(Protocol):
    """A source that waits only briefly for answers once the run is to stop; optional for adapters.

    Without it, calls that are under way are left behind, and what they do is not known.
    """

    def interrupt_by(self, stopping: Callable[[], bool]) -> None:
        """Once `stopping` is true, a stop has to take less than 5 s, whatever the broker does.

        That includes the calls that are under way then, `settle` and `close` of all lanes, and `remaining`.
        Called before the change; any thread may call `stopping`, as often as it needs to. What does not
        answer in that time is a `BrokerError`.
        """


@runtime_checkable
class Dated(Protocol):
    """A source that reports the age of a backlog; optional for adapters."""

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """When the oldest message of each backlog was published, with a time zone; change nothing.

        At most one small request a partition, and 5 s in all. A partition of which that is not known is
        left out, and so is one whose request failed. Raises like `survey` where nothing can be asked.
        """


@runtime_checkable
class Enumerable(Protocol):
    """A source that names its partitions at less cost than by a survey; optional for adapters."""

    def partitions(self) -> Sequence[Partition]:
        """The partitions that a survey would have; change nothing.

        Asked at the end of a run, which notes partitions that were added meanwhile. Raises like `survey`.
        """


@runtime_checkable
class Keeping(Protocol):
    """A source for whose undo the broker keeps something, as snapshots are; optional for adapters."""

    def kept_notes(self) -> Sequence[str]:
        """What the broker keeps for undos of this subscription, for a status; change nothing.

        What cannot be asked is a sentence, too. Called after `survey`, at most once.
        """

    def discard(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Delete what the broker keeps for these positions, which cannot be restored afterwards.

        One `Outcome` for each, with an `error` where it could not be deleted; what does not exist (any more)
        is not an error. Deletes nothing that was not made for this subscription. Called without a survey.
        """


@runtime_checkable
class Countable(Protocol):
    """A source whose positions can be counted between; optional for adapters.

    Without it, `status --watch` shows how fast a backlog grows or shrinks, but not arrival and drain apart.
    """

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """How much lies between two positions of one log, in `Traits.unit`; below 0 where `last` is earlier.

        None where it is not known. Asks the broker nothing; the last survey's figures may be used.
        """

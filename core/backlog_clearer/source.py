"""What a broker adapter owes the engine, and what the engine promises in return.

An adapter is one package that implements `Source` and `Lane`, an options model in it, and one line in
`registry` or an entry point of its own distribution. The contract suite (`testing.contract`) tests every
sentence below that can be tested from outside; `brokers.memory` is the reference.

Rules for both protocols:

- **Never retry, never loop to wait.** Raise `TransientError` for what may pass and `BrokerError`
  for what will not; the engine alone backs off, reopens and gives up. A library's own reconnects
  are fine if they are bounded (`read` and every other call return within 15 s).
  One exception: where the protocol needs several steps for one call (taking turns as a member of a
  group; looking a few times whether a member stays), a call may take up to 5 s for them. Each step must
  have been answered: after an error, a time-out or a lost connection no request is sent again.
- **Unknown is None.** An error, a timeout or an empty answer is never turned into 0.
- **One client, one thread.** Each `Lane` is used by exactly one thread and owns its clients. The
  methods of `Source` are called by one thread (not a lane's), except `open_lane`, which lanes'
  threads call: it must not touch the source's own client, or guard it with a lock.
- **No secret** in any exception's text, note, state or log record.
- **Work per batch.** Nothing in `read` may run Python code once per message where the library
  offers any other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import (
    Advance,
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    Settled,
    Survey,
    Traits,
)


def failed_state(
    partition: Partition, error: ClearerError, position: Position | None = None
) -> PartitionState:
    """A partition of which nothing else can be told."""
    passing = isinstance(error, TransientError)
    return PartitionState(partition, position, None, None, None, error=str(error), passing=passing)


class Lane(Protocol):
    """One client that reads and acknowledges some claims, on one thread."""

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Receive the next messages; at most one `Advance` for a partition and call.

        Returns as soon as anything has arrived, and after about `max_wait_s` (which is under
        1 s) at the latest. An empty result means only that nothing arrived. Messages already
        acknowledged and messages at or beyond the target are neither counted nor acknowledged
        later. `max_messages` (None: no limit) bounds the messages counted by this call; where
        the protocol only delivers more, the surplus is kept for the next call or left unread.
        A partition whose target is reached is reported once with `left == 0` (also when there
        was nothing to read in it) and then never again; `left == 0` is said only when the
        broker's own figures, or the position reached, prove it. In follow mode (no target)
        `left` counts to the end as last told by the broker, and the partition stays claimed.

        Raises `TransientError` or `BrokerError`, with the partition where one is at fault. After
        either, the engine calls only `settle` and `close`.
        """

    def settle(self) -> Sequence[Settled]:
        """Acknowledge everything that `read` returned and that is not yet acknowledged.

        Never acknowledges what `read` has not returned. `messages` counts only what the broker
        confirmed, or, where the protocol confirms nothing, what was handed to it. Having nothing
        to acknowledge is fine (returns an empty sequence). A target reached over nothing countable
        (deleted messages, control records) is stored all the same, with `messages` 0. A partition
        refused for good carries its own `error`; the others are acknowledged all the same. Raises
        `TransientError` if it may be tried again on a new lane; then nothing of this call may be
        counted as settled, and messages acknowledged after all are not delivered or counted again
        where the protocol permits knowing it.
        """

    def close(self) -> None:
        """Release everything, flush acknowledgements in flight, never raise; idempotent."""


class Source(Protocol):
    """One subscription on one broker."""

    @property
    def traits(self) -> Traits:
        """Constant facts that steer the engine."""

    def survey(self) -> Survey:
        """Ask the broker for everything the user must see before a change; change nothing.

        Also creates nothing: a topic or subscription that does not exist raises `UsageError`
        naming it (and what exists that looks like it). Wrong credentials and an unreachable broker
        raise `BrokerError` in under 15 s, naming the address and what to check. `end` of each
        state is the frozen target. What cannot be told is None, with a note that says why. An
        error that concerns one partition is that state's `error`, not an exception.

        Slices of a run look at the same time, and each at partitions that others read already. So
        only of partitions that `RunOptions.choose` leaves need anything be told, the others need
        be named; and `live` has no consumer of this run's own other slices, nor one that can
        get nothing of those partitions.
        """

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Create on the broker whatever `restore` will need (a snapshot); most need nothing.

        Called once, after the receipt that names it was stored and before the first change.
        Raises `RefusedError` if undo cannot be made possible and the user did not waive it, and
        `TransientError` where the whole call may be repeated.
        """

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """A new lane with clients of its own for these claims; safe from any thread.

        Lanes opened for disjoint claims never disturb each other. Where `traits.competing`, several
        lanes may hold the same claim. Raises like `Lane.read`.
        """

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Ask the broker afresh what is left up to each target; change nothing.

        This is the proof behind every "empty" and "verified": 0 only if the broker's figures say
        that everything before the target is acknowledged. A target of None means the end as it
        is now. One result a target, in any order; a partition that cannot be asked carries its
        `error` and a `left` of None.
        """

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """Move the position of each claim to its target without transferring messages.

        O(partitions) requests. Never moves a position backwards. Every claim gets an `Outcome`;
        a refused partition carries its `error` and the others are still moved. Raises `TransientError`
        where the whole call may be repeated.
        """

    def restore(self, positions: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
        """Put each partition back to the position a receipt recorded (None: nothing was stored).

        Returns one `Outcome` a partition; what cannot be restored carries an `error` that says
        why. Called only after `survey` and, where consumers are attached, only if the user forces it.
        Raises `TransientError` where the whole call may be repeated.
        """

    def close(self) -> None:
        """Release everything, never raise; idempotent."""

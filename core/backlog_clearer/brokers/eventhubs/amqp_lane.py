"""Azure Event Hubs over AMQP: the lane that reads partitions and writes their checkpoints.

What it reads by, the SDK's AMQP layers or its public client, is `access`'s to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from backlog_clearer.brokers.eventhubs.access import EventGroup, EventReceiver, open_group
from backlog_clearer.brokers.eventhubs.errors import PositionRefusedError
from backlog_clearer.brokers.eventhubs.ledger import Ledger
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    event_number,
    events_behind,
    position_from,
    sequence_number,
    start_after,
)
from backlog_clearer.brokers.eventhubs.wire import count_up_to, first_gap
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Position, Settled


class AmqpLane:
    """A lane over AMQP; see `source.Lane`."""

    throttled_s = 0.0

    def __init__(
        self,
        options: EventHubsOptions,
        claims: Sequence[Claim],
        ledger: Ledger,
        batch: int,
        *,
        by_number: set[Partition],
        gaps: set[tuple[Partition, int, int]],
        silence_s: float,
        credit: int,
    ) -> None:
        """A lane that takes a connection for dead after `silence_s` without a byte.

        `credit`: events that the service may send on one link in advance.

        `by_number`: partitions whose offsets were refused before; `gaps`: between which sequence numbers
        events were missing; both shared by all lanes, and added to.
        """
        self._ledger = ledger
        self._claims = {claim.partition: claim for claim in claims}
        self._targets = {claim.partition: sequence_number(claim.target) for claim in claims}
        self._reached: list[Partition] = []  # with nothing to read, and not reported yet
        self._last: dict[Partition, int] = {}  # the last sequence number before what is to be read
        self._unsettled: dict[Partition, tuple[int, Position]] = {}
        self._begins: dict[Partition, Position | None] = {}
        self._turn = 0
        self._by_number = by_number
        self._gaps = gaps
        starts = {}
        for claim in claims:
            begin = claim.resume if claim.resume is not None else claim.state.position
            known = (sequence_number(begin), sequence_number(claim.state.start))
            at = max((number for number in known if number is not None), default=None)
            if at is not None:
                self._last[claim.partition] = at
            if _is_reached(claim, begin):
                self._reached.append(claim.partition)
            else:
                starts[claim.partition] = start_after(begin, by_number=claim.partition in by_number)
                self._begins[claim.partition] = begin
        follows = any(target is None for target in self._targets.values())
        self._group: EventGroup | None = None
        if starts:
            self._group = open_group(
                options,
                starts,
                credit=credit,
                wanted=min(batch, credit),
                metric=follows,
                silence_s=silence_s,
            )
            try:
                self._raise(self._group.attach())
                self._group.start()
            except ClearerError:
                self.close()
                raise

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `source.Lane`."""
        if self._reached:
            advances = [Advance(partition, 0, 0) for partition in self._reached]
            self._reached.clear()
            return advances
        group = self._group
        if group is None or not group.receivers:
            return ()
        if not any(receiver.tally.events for receiver in group.receivers):
            self._raise(group.pump(max_wait_s))
        advances = []
        self._turn += 1  # so that a limit does not favour one
        at = self._turn % len(group.receivers)
        for receiver in [*group.receivers[at:], *group.receivers[:at]]:
            if max_messages == 0:
                break
            advance = self._take(group, receiver, max_messages)
            if advance is not None:
                advances.append(advance)
                if max_messages is not None:
                    max_messages -= advance.messages
        return advances

    def _raise(self, refused: Mapping[Partition, ClearerError]) -> None:
        """Raise the first refusal; where offsets were refused, the next lane resumes by sequence number."""
        passing = None
        for partition, error in refused.items():
            begin = self._begins.get(partition)
            other = start_after(begin, by_number=True) != start_after(begin)
            if isinstance(error, PositionRefusedError) and other and partition not in self._by_number:
                self._by_number.add(partition)
                passing = passing or TransientError(f"{error} Resuming by sequence number.", partition)
        if passing is not None:
            raise passing
        for error in refused.values():
            raise error

    def _take(self, group: EventGroup, receiver: EventReceiver, limit: int | None) -> Advance | None:
        """Report what has arrived on one link, up to the target and the limit.

        Raises `TransientError` for events whose annotations cannot be true.
        """
        try:
            return self._counted(group, receiver, limit)
        except (ValueError, IndexError) as error:
            raise TransientError(f"{receiver.partition}: {error}.", receiver.partition) from error

    def _counted(self, group: EventGroup, receiver: EventReceiver, limit: int | None) -> Advance | None:
        tally, partition = receiver.tally, receiver.partition
        held = len(tally.events)
        count = held if limit is None else min(held, limit)
        if not count:
            return None

        def number(index: int) -> int:
            return event_number(receiver.event(index))

        last = receiver.event(count - 1)
        at, target = event_number(last), self._targets[partition]
        if not self._last.get(partition, -1) < number(0) <= at:
            raise ValueError(
                f"events {number(0)} to {at} arrived after event {self._last.get(partition, -1)}"
            )
        self._check_gaps(number, count, partition)
        size = tally.bytes * count // held
        tally.bytes -= size
        if target is not None and at >= target:
            if at > target:
                count = count_up_to(number, count, target)
            # The event's own offset where it is there: with geo-replication, the survey's may be refused.
            last = receiver.event(count - 1)
            reached = event_number(last) == target
            position = position_from(last) if reached else self._claims[partition].target
            assert position is not None  # noqa: S101 it has a sequence number
            left: int | None = 0
            group.drop(partition)
        else:
            position = position_from(last)
            left = events_behind(last) if target is None else target - at
            receiver.forget(count)
            self._last[partition] = at
        before, _ = self._unsettled.get(partition, (0, None))
        self._unsettled[partition] = (before + count, position)
        return Advance(partition, count, left, size)

    def _check_gaps(self, number: Callable[[int], int], count: int, partition: Partition) -> None:
        """Have events read again that are missing; what is missing twice does not exist."""
        last, first = self._last.get(partition), 0
        expected = None if last is None else last + 1
        while (found := first_gap(number, count, expected, first)) is not None:
            first, wanted = found
            expected = number(first)
            if (partition, wanted, expected) not in self._gaps:
                self._gaps.add((partition, wanted, expected))
                raise TransientError(
                    f"{partition}: events {wanted} to {expected - 1} did not arrive.", partition
                )

    def settle(self) -> Sequence[Settled]:
        """Write the checkpoints; without a checkpoint store events are only counted."""
        done = self._ledger.settle(self._unsettled)
        self._unsettled.clear()
        return done

    def close(self) -> None:
        """See `source.Lane`."""
        group, self._group = self._group, None
        if group is not None:
            group.close()
        self._ledger.close()


def _is_reached(claim: Claim, begin: Position | None) -> bool:
    """Whether a claim's target lies at or before where it begins."""
    target = sequence_number(claim.target)
    if target is None:
        return False
    starts = [sequence_number(begin), sequence_number(claim.state.start)]
    return any(number is not None and number >= target for number in starts)

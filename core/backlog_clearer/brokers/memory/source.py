"""The reference broker: in this process, with every obligation kept and every fault on demand.

The engine is measured and tested against it, and the contract suite proves itself on it. Messages of
one partition have one size and are copied when read, as a socket does.

`broker` has the broker and its client library, whose errors are `LibraryError`s.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from backlog_clearer.brokers.memory.broker import (
    AccessDeniedError,
    AnswerTooLargeError,
    DisconnectedError,
    Log,
    MemoryBroker,
    MemoryClient,
)
from backlog_clearer.errors import (
    BrokerError,
    RecreatedError,
    RefusedError,
    TransientError,
    UsageError,
    recreated,
)
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
from backlog_clearer.source import failed_state
from backlog_clearer.text import counted


@contextmanager
def _translated(doing: str, broker: MemoryBroker) -> Iterator[None]:
    """Turn the library's errors into this project's, without their texts."""
    try:
        yield
    except DisconnectedError:
        raise TransientError(
            f"No answer from {broker.address} while {doing}. Check that the broker runs."
        ) from None
    except AccessDeniedError:
        raise BrokerError(
            f"{broker.address} denied access while {doing}. Check the password."
        ) from None


class MemoryLane:
    """A lane over the in-memory broker."""

    def __init__(self, source: MemorySource, claims: Sequence[Claim]) -> None:
        self._source = source
        self._broker = source.broker
        self._client = MemoryClient(source.broker, source.password)
        self._at: dict[Partition, int] = {}
        self._targets: dict[Partition, int | None] = {}
        self._unsettled: dict[Partition, list[tuple[int, int]]] = {}
        self._turns: deque[Partition] = deque()
        self._limit = source.batch_size  # messages of one request; halved where answers are too large
        self.throttled_s = 0.0
        with _translated("opening a lane", self._broker):
            self._client.request()
        self._claimed = {claim.partition: claim.state.incarnation for claim in claims}
        self._check(self._claimed)
        for claim in claims:
            known = (claim.resume, claim.state.position, claim.state.start)
            stored = self._broker.retained(source.group, claim.partition)
            self._at[claim.partition] = max(stored, *(_offset(each) or 0 for each in known))
            self._targets[claim.partition] = _offset(claim.target)
            self._turns.append(claim.partition)
        self._attach()

    def _attach(self) -> None:
        broker = self._broker
        with broker.lock:
            if broker.places is not None and len(broker.attached) >= broker.places:
                raise BrokerError(f"{broker.address} allows {counted(broker.places, 'consumer')}.")
            broker.attached.add(id(self))

    def _check(self, partitions: Iterable[Partition]) -> None:
        """Raise for a log that cannot be served, or is not the claimed one any more."""
        for partition in partitions:
            if partition in self._broker.broken:
                raise BrokerError(f"{partition}: {self._broker.broken[partition]}", partition)
            if self._source.is_another(partition, self._claimed[partition]):
                raise RecreatedError(partition)

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """Copy the next batch of one partition; see `source.Lane`."""
        broker = self._broker
        with _translated("reading", broker):
            self._client.request()
        self._check(self._turns)
        with broker.lock:
            broker.reads += 1
            if broker.read_faults:
                raise broker.read_faults.popleft()
            self.throttled_s += broker.throttle_s
        limit = self._limit
        if max_messages is not None and max_messages < limit:
            limit = max_messages
        for _ in range(len(self._turns)):
            partition = self._turns[0]
            self._turns.rotate(-1)
            try:
                self._client.check_answer(limit * broker.logs[partition].size)
            except AnswerTooLargeError:
                return self._ask_for_less(partition, limit)
            first, count = self._take(partition, limit)
            target = self._targets[partition]
            left = self._left(partition, target)
            if left == 0 and target is not None:
                self._turns.remove(partition)
                # Deleted messages leave nothing to read up to the target: it is stored nevertheless.
                self._unsettled.setdefault(partition, []).append((target, target))
            elif not count:
                continue
            if count:
                self._unsettled.setdefault(partition, []).append((first, first + count))
            log = broker.logs[partition]
            return (Advance(partition, count, left, self._transfer(log, count)),)
        threading.Event().wait(min(max_wait_s, 0.01))
        return ()

    def _ask_for_less(self, partition: Partition, limit: int) -> Sequence[Advance]:
        """Halve the next request; raises `BrokerError` where one message is too large."""
        if limit == 1:
            raise BrokerError(f"{partition}: a message is too large for this client", partition)
        self._limit = limit // 2
        return ()

    def _take(self, partition: Partition, limit: int) -> tuple[int, int]:
        """Claim the next run of messages: (first offset, count)."""
        broker = self._broker
        log = broker.logs[partition]
        target = self._targets[partition]
        end = log.end if target is None else min(target, log.end)
        if partition in broker.silent:
            return 0, 0
        if self._source.traits.competing:
            return self._source.deliver(partition, limit, end)
        first = self._at[partition] = max(self._at[partition], log.start)
        count = max(0, min(limit, end - first))
        self._at[partition] = first + count
        return first, count

    def _left(self, partition: Partition, target: int | None) -> int | None:
        if not self._broker.figures or self._source.traits.competing:
            return None
        end = self._broker.logs[partition].end if target is None else target
        return max(0, end - self._at[partition])

    @staticmethod
    def _transfer(log: Log, count: int) -> int:
        """Copy as many bytes as the messages have, as a receive does."""
        size = count * log.size
        if len(log.pages) < size:
            log.pages = bytearray(size)
        return len(bytes(memoryview(log.pages)[:size]))

    def settle(self) -> Sequence[Settled]:
        """Store what was read; see `source.Lane`."""
        if not self._unsettled:
            return ()
        broker = self._broker
        with _translated("acknowledging", broker):
            self._client.request()
        with broker.lock:
            if broker.settle_faults:
                raise broker.settle_faults.popleft()
            done = []
            for partition, ranges in self._unsettled.items():
                if partition in broker.broken:
                    done.append(Settled(partition, 0, None, broker.broken[partition]))
                elif self._source.is_another(partition, self._claimed[partition]):
                    done.append(Settled(partition, 0, None, recreated(partition)))
                elif partition in broker.refused:
                    done.append(Settled(partition, 0, None, broker.refused[partition]))
                else:
                    done.append(self._source.acknowledge(partition, ranges))
            self._unsettled.clear()
            return done

    def close(self) -> None:
        """Give back what was not acknowledged, where lanes compete."""
        self._broker.attached.discard(id(self))
        if self._source.traits.competing:
            for partition, ranges in self._unsettled.items():
                self._source.give_back(partition, ranges)
        self._unsettled.clear()


class MemorySource:
    """One group's backlog on one topic of a `MemoryBroker`."""

    def __init__(
        self,
        broker: MemoryBroker,
        topic: str,
        group: str,
        *,
        competing: bool = False,
        batch_size: int = 2000,
        password: str | None = None,
    ) -> None:
        self.broker = broker
        self.password = password
        self._client = MemoryClient(broker, password)
        self.topic = topic
        self.topics = set(topic.split(","))
        self.group = group
        self.batch_size = batch_size
        self.prepared: tuple[Partition, ...] = ()
        self.closed = False
        self._reported: dict[Partition, tuple[int, int]] = {}
        """Messages that settles reported, and how many the broker had as acknowledged then."""
        self._shown: dict[Partition, int] = {}  # how many it had as acknowledged when it was asked last
        self._traits = Traits(
            unit="messages",
            competing=competing,
            repeats=True,
            settle_interval_s=0.0 if competing else 1.0,
        )

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return self._traits

    def _ask(self, doing: str) -> None:
        """One request to the broker; raises `TransientError` or `BrokerError`."""
        with _translated(doing, self.broker):
            self._client.request()

    def survey(self) -> Survey:
        """See `source.Source`."""
        broker = self.broker
        self._ask("surveying")
        with broker.lock:
            partitions = sorted(p for p in broker.logs if p.topic in self.topics)
            missing = self.topics - {partition.topic for partition in partitions}
            if not partitions:
                raise _no_topic(self.topic)
            states = [failed_state(Partition(topic, 0), _no_topic(topic)) for topic in missing]
            for partition in partitions:
                if partition in broker.broken:
                    states.append(failed_state(partition, BrokerError(broker.broken[partition])))
                    continue
                log = broker.logs[partition]
                position = broker.position(self.group, partition)
                states.append(
                    PartitionState(
                        partition,
                        position,
                        log.start,
                        log.end,
                        self._backlog(partition, log.end),
                        incarnation=log.incarnation,
                    )
                )
            return Survey(
                subscription=f"group {self.group} on topic {self.topic}",
                identity={"topic": self.topic, "group": self.group},
                partitions=tuple(sorted(states, key=lambda state: state.partition)),
                live=broker.members.get(self.group, ()),
            )

    def is_another(self, partition: Partition, incarnation: str | None) -> bool:
        """Whether a partition's log is not the one with this incarnation (None: any)."""
        log = self.broker.logs.get(partition)
        return log is None or incarnation not in {None, log.incarnation}

    def _backlog(self, partition: Partition, end: int) -> int | None:
        if not self.broker.figures:
            return None
        position = self.broker.retained(self.group, partition)
        queue = self.broker.queues.get((self.group, partition))
        acked = sum(b - a for a, b in queue.acked if b <= end) if queue else 0
        return max(0, end - position - acked)

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to create; remembers that it was called, for tests."""
        if self.broker.members.get("refuse undo"):
            raise RefusedError(f"The memory broker is set to refuse an undo of {mode}.")
        self.prepared = tuple(partitions)

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """See `source.Source`."""
        return MemoryLane(self, claims)

    def deliver(self, partition: Partition, limit: int, end: int) -> tuple[int, int]:
        """Hand the next run to one of the competing lanes: (first offset, count)."""
        with self.broker.lock:
            queue = self.broker.queue(self.group, partition)
            for ranges in (queue.returned, queue.abandoned):
                if ranges:
                    first, last = ranges.popleft()
                    if last - first > limit:
                        ranges.appendleft((first + limit, last))
                        last = first + limit
                    return first, last - first
            first = queue.next
            count = max(0, min(limit, end - first))
            queue.next = first + count
            return first, count

    def acknowledge(self, partition: Partition, ranges: Sequence[tuple[int, int]]) -> Settled:
        """Acknowledge ranges of offsets, counting what was not acknowledged before."""
        key = (self.group, partition)
        stored = self.broker.retained(self.group, partition)
        count = sum(max(0, last - max(first, stored)) for first, last in ranges)
        if not self.traits.competing:
            position = self.broker.positions[key] = max(stored, *(last for _, last in ranges))
            self._note(partition, count)
            return Settled(partition, count, position)
        queue = self.broker.queue(self.group, partition)
        queue.acked.update(ranges)
        position = stored
        for first, last in sorted(queue.acked):
            if first <= position:
                position = max(position, last)
                queue.acked.discard((first, last))
        self.broker.positions[key] = position
        self._note(partition, count)
        return Settled(partition, count, None)

    def _note(self, partition: Partition, count: int) -> None:
        messages, _ = self._reported.get(partition, (0, 0))
        acknowledged = self.broker.acknowledged(self.group, partition)
        self._reported[partition] = messages + count, acknowledged

    def give_back(self, partition: Partition, ranges: Sequence[tuple[int, int]]) -> None:
        """Make unacknowledged ranges deliverable again."""
        with self.broker.lock:
            self.broker.queue(self.group, partition).returned.extend(ranges)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`."""
        self._ask("asking what is left")
        with self.broker.lock:
            return [self._remaining(partition, target) for partition, target in targets.items()]

    def _remaining(self, partition: Partition, target: Position | None) -> Remaining:
        error = self.broker.broken.get(partition)
        if error is not None:
            return Remaining(partition, None, None, error)
        log = self.broker.logs[partition]
        self._shown[partition] = self.broker.acknowledged(self.group, partition)
        return Remaining(
            partition,
            self.broker.position(self.group, partition),
            self._backlog(partition, log.end if target is None else _offset(target) or 0),
            incarnation=log.incarnation,
        )

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """Nothing: a settle that raises has stored nothing; see `source.Accountable`."""
        del stored
        return {}

    def returned(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """By what is acknowledged less than at the last settle; see `source.Revisable`."""
        found: dict[Partition, int | None] = {}
        for partition, (messages, acknowledged) in self._reported.items():
            if partition not in stored:
                found[partition] = None
            elif acknowledged > self._shown[partition]:
                found[partition] = min(messages, acknowledged - self._shown[partition])
        return found

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`."""
        self._ask("looking for a time")
        with self.broker.lock:
            return [self._cut(state, bound) for state in states]

    def _cut(self, state: PartitionState, bound: Bound) -> Cut:
        error = self.broker.broken.get(state.partition)
        if error is not None:
            return Cut(state.partition, None, error)
        log = self.broker.logs[state.partition]
        if bound.until is not None:
            found = log.first_from(bound.until)
            return Cut(state.partition, found, none_older=found == log.start)
        return Cut(state.partition, max(log.start, (_offset(state.end) or 0) - (bound.keep_last or 0)))

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        del bound
        return ()

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`."""
        self._ask("asking for ages")
        with self.broker.lock:
            found = {
                state.partition: self.broker.logs[state.partition].published(
                    self.broker.retained(self.group, state.partition)
                )
                for state in states
            }
            return {partition: at for partition, at in found.items() if at is not None}

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """See `source.Countable`."""
        del partition
        return (_offset(last) or 0) - (_offset(first) or 0)

    def _refusal(self, partition: Partition) -> str | None:
        """Why a position cannot be written."""
        return self.broker.broken.get(partition) or self.broker.refused.get(partition)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`."""
        self._ask("skipping")
        with self.broker.lock:
            done = []
            for claim in claims:
                error = self._refusal(claim.partition)
                if self.is_another(claim.partition, claim.state.incarnation):
                    error = recreated(claim.partition)
                if error is None:
                    key = (self.group, claim.partition)
                    stored = self.broker.positions.get(key, 0)
                    self.broker.positions[key] = max(stored, _offset(claim.target) or 0)
                done.append(Outcome(claim.partition, None if error else claim.target, error))
            return done

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`."""
        self._ask("restoring")
        with self.broker.lock:
            done = []
            for partition, position, incarnation, *_ in recorded:
                key = (self.group, partition)
                error = self._refusal(partition)
                if self.is_another(partition, incarnation):
                    error = recreated(partition, "since the receipt")
                if error is None and position is None:
                    self.broker.positions.pop(key, None)
                elif error is None:
                    self.broker.positions[key] = _offset(position) or 0
                self.broker.queues.pop(key, None)
                done.append(Outcome(partition, position, error))
            return done

    def close(self) -> None:
        """See `source.Source`."""
        self.closed = True


def _no_topic(name: str) -> UsageError:
    return UsageError(f"There is no topic {name!r} on the memory broker.")


def _offset(position: Position | None) -> int | None:
    """The memory broker's positions are offsets."""
    if position is None or isinstance(position, int):
        return position
    raise TypeError(f"{position!r} is not an offset")


def lost_connection() -> TransientError:
    """The error that the adapter of a real broker raises when its connection breaks."""
    return TransientError("The memory broker is set to lose this connection.")

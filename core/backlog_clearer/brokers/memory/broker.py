"""A broker in this process, and its client library, whose errors are `LibraryError`s.

`brokers.memory.source` is the adapter for it. Messages of one partition have one size.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal, TypeAlias

from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition


@dataclass(slots=True)
class Log:
    """One partition: `end - start` retained messages of `size` bytes."""

    size: int
    incarnation: str
    start: int = 0
    end: int = 0
    times: list[tuple[int, datetime]] = field(default_factory=list)
    """When messages were published: (the first offset, the time) of each call, in order of offsets."""
    pages: bytearray = field(default_factory=bytearray)  # only what a read can copy at a time

    def first_from(self, time: datetime) -> int | None:
        """The first offset that was published at a time or later; None: there is none."""
        return next((max(first, self.start) for first, at in self.times if at >= time), None)

    def published(self, offset: int) -> datetime | None:
        """When the message at an offset was published; None: it does not exist."""
        if not self.start <= offset < self.end:
            return None
        return next((at for first, at in reversed(self.times) if first <= offset), None)


@dataclass(slots=True)
class Queue:
    """Delivery state of one partition where lanes compete: who may read what next."""

    next: int
    returned: deque[tuple[int, int]] = field(default_factory=deque)  # ranges to deliver again
    abandoned: deque[tuple[int, int]] = field(default_factory=deque)  # held by vanished consumers
    acked: set[tuple[int, int]] = field(default_factory=set)  # ranges above the stored position


Way: TypeAlias = Literal["open", "refused", "stalled"]
"""How requests reach the broker: answered, refused, or never answered."""


class LibraryError(Exception):
    """An error of the client library; like many a library's, its text may hold a password."""


class DisconnectedError(LibraryError):
    """The connection broke, or was refused, or the answer did not arrive in time."""


class AccessDeniedError(LibraryError):
    """The broker refuses this password."""


class AnswerTooLargeError(LibraryError):
    """The answer would be larger than the client takes."""


class MemoryBroker:
    """Topics, groups, members and faults. All methods may be called from any thread."""

    address = "memory:0"

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.logs: dict[Partition, Log] = {}
        self.positions: dict[tuple[str, Partition], int] = {}
        self.members: dict[str, tuple[str, ...]] = {}
        self.queues: dict[tuple[str, Partition], Queue] = {}
        self.read_faults: deque[BrokerError] = deque()  # the next reads raise these
        self.settle_faults: deque[BrokerError] = deque()  # the next settles raise these
        self.refused: dict[Partition, str] = {}  # partitions whose position cannot be written
        self.broken: dict[Partition, str] = {}  # partitions that cannot be served at all, and why
        self.silent: set[Partition] = set()  # partitions that deliver nothing of what they hold
        self.places: int | None = None  # consumers that a subscription may have; None: any number
        self.attached: set[int] = set()  # consumers that are attached
        self.throttle_s = 0.0  # how long each answer to a read asks the client to wait
        self.largest_answer: int | None = None  # bytes that a client takes; None: any number
        self.figures = True  # whether the broker reports how much is left
        self.reads = 0
        self.password: str | None = None  # what clients must present; None: nothing
        self.way: Way = "open"
        self.timeout_s = 0.3  # how long a client waits for an answer
        self.requests = 0  # requests of clients, refused ones included
        self.cuts = 0  # how often all connections were cut
        self.created = 0  # logs so far

    def create(self, topic: str, partitions: int, *, size: int = 100) -> None:
        """Create a topic whose messages are `size` bytes each."""
        with self.lock:
            for number in range(partitions):
                self.created += 1
                self.logs[Partition(topic, number)] = Log(size, f"log-{self.created}")

    def add_partition(self, topic: str, *, size: int = 100) -> None:
        """Give a topic one more partition."""
        with self.lock:
            number = sum(partition.topic == topic for partition in self.logs)
            self.created += 1
            self.logs[Partition(topic, number)] = Log(size, f"log-{self.created}")

    def delete(self, topic: str) -> None:
        """Delete a topic, and what groups stored for it."""
        with self.lock:
            self.logs = {key: log for key, log in self.logs.items() if key.topic != topic}
            self.positions = {key: at for key, at in self.positions.items() if key[1].topic != topic}
            self.queues = {key: queue for key, queue in self.queues.items() if key[1].topic != topic}

    def produce(self, topic: str, number: int, count: int, at: datetime | None = None) -> None:
        """Append `count` messages to one partition, published at a time (None: now)."""
        with self.lock:
            log = self.logs[Partition(topic, number)]
            log.times.append((log.end, at or datetime.now(timezone.utc)))
            log.end += count

    def trim(self, topic: str, number: int, start: int) -> None:
        """Delete the messages before `start`, as retention does."""
        with self.lock:
            log = self.logs[Partition(topic, number)]
            log.start = max(log.start, min(start, log.end))

    def position(self, group: str, partition: Partition) -> int | None:
        """The stored position of a group; None: nothing stored."""
        with self.lock:
            return self.positions.get((group, partition))

    def retained(self, group: str, partition: Partition) -> int:
        """The first offset that a group has not acknowledged and that is retained."""
        with self.lock:
            return max(self.positions.get((group, partition), 0), self.logs[partition].start)

    def queue(self, group: str, partition: Partition) -> Queue:
        """A group's delivery state in one partition; made where there is none."""
        with self.lock:
            key = (group, partition)
            if key not in self.queues:
                self.queues[key] = Queue(self.retained(group, partition))
            return self.queues[key]

    def abandon(self, group: str, partition: Partition, count: int) -> None:
        """Deliver messages to a consumer that acknowledges none of them and vanishes."""
        with self.lock:
            queue = self.queue(group, partition)
            last = min(queue.next + count, self.logs[partition].end)
            queue.abandoned.append((queue.next, last))
            queue.next = last

    def advance(self, group: str, partition: Partition, to: int) -> None:
        """Acknowledge everything before an offset, as another consumer does."""
        with self.lock:
            self.positions[group, partition] = max(to, self.positions.get((group, partition), 0))
            if (group, partition) in self.queues:
                queue = self.queues[group, partition]
                queue.next = max(queue.next, to)

    def acknowledged(self, group: str, partition: Partition) -> int:
        """How many messages a group has acknowledged, from offset 0 on; those deleted count as such."""
        with self.lock:
            queue = self.queues.get((group, partition))
            ahead = sum(last - first for first, last in queue.acked) if queue else 0
            return self.retained(group, partition) + ahead

    def forget(self, group: str, partition: Partition, to: int) -> None:
        """Lose the acknowledgements after an offset, as a broker that keeps them in memory does."""
        with self.lock:
            self.positions[group, partition] = min(to, self.positions.get((group, partition), 0))
            self.queues.pop((group, partition), None)


class MemoryClient:
    """A connection to a `MemoryBroker`: each of its requests may fail as a network's do."""

    def __init__(self, broker: MemoryBroker, password: str | None = None) -> None:
        self.broker = broker
        self._password = password
        self._cuts = broker.cuts

    def request(self) -> None:
        """One request, answered or not; raises `LibraryError`."""
        broker = self.broker
        broker.requests += 1
        if self._cuts != broker.cuts:
            self._cuts = broker.cuts
            raise DisconnectedError(
                f"{broker.address} closed the connection of password {self._password}"
            )
        if broker.way == "refused":
            raise DisconnectedError(
                f"{broker.address} refused a connection with password {self._password}"
            )
        if broker.way == "stalled":
            threading.Event().wait(broker.timeout_s)
            raise DisconnectedError(f"{broker.address} did not answer password {self._password}")
        if broker.password is not None and self._password != broker.password:
            raise AccessDeniedError(f"{broker.address} denies access with password {self._password}")

    def check_answer(self, size: int) -> None:
        """Raise `AnswerTooLargeError` where an answer may have so many bytes."""
        limit = self.broker.largest_answer
        if limit is not None and size > limit:
            raise AnswerTooLargeError(f"{size} bytes for password {self._password}")

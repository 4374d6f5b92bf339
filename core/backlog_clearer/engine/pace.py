"""`--max-rate`: a token bucket, and the grants that a run's workers take from it.

A worker takes a grant before each read and reports afterwards what was read. A read that brought more than
its grant (a batch that cannot be divided) leaves a debt, which is paid before the next grant. So the limit
holds over time, whatever the sizes of batches and messages are, and costs nothing per message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backlog_clearer.options.rate import Rate

DEPTH_S = 0.3  # of the rate: as much is allowed at once after a pause, 3 % of ten seconds
QUANTUM_S = 0.05  # of the rate: less is not granted, so that reads do not become small and many


@dataclass(slots=True)
class Bucket:
    """A token bucket that may go into debt; every `now` is a `time.monotonic()`."""

    per_s: float
    at: float  # when `level` was true
    level: float = 0.0  # negative: a debt

    @property
    def quantum(self) -> float:
        """The least that is granted, unless a part of it is asked for."""
        return max(1.0, self.per_s * QUANTUM_S)

    def refill(self, now: float) -> None:
        """Add what the time since the last call allows."""
        most = max(self.quantum, self.per_s * DEPTH_S)
        self.level = min(most, self.level + max(0.0, now - self.at) * self.per_s)
        self.at = max(self.at, now)

    def take(self, part: float, now: float) -> float:
        """Reserve this part (0 to 1) of what is allowed now, at least 1; 0.0: nothing is allowed yet."""
        self.refill(now)
        if self.level < self.quantum:
            return 0.0
        amount = max(1.0, self.level * part)
        self.level -= amount
        return amount

    def give_back(self, amount: float) -> None:
        """Return what was reserved and not used; negative: what was used beyond it."""
        self.level += amount

    def wait_s(self, now: float) -> float:
        """How long until something is allowed."""
        self.refill(now)
        return max(0.0, (self.quantum - self.level) / self.per_s)


@dataclass(slots=True)
class MessageSize:
    """The average size of messages lately; in bytes."""

    window: float  # bytes after which older messages count half
    messages: float = 0.0
    bytes: float = 0.0

    def add(self, messages: int, size: int) -> None:
        """Note what a read brought."""
        if self.bytes > self.window:
            self.messages, self.bytes = self.messages / 2, self.bytes / 2
        self.messages += messages
        self.bytes += size

    def fit(self, size: float) -> int:
        """How many messages have this size, at least 1; 1 while nothing is known."""
        if not self.messages or not self.bytes:
            return 1
        return max(1, int(size * self.messages / self.bytes))


class Pace:
    """One limit for all workers of a run; any thread may call it."""

    def __init__(self, rate: Rate, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_bytes = rate.of_bytes
        self._part = 1.0 / max(1, workers)
        self._clock = clock
        self._bucket = Bucket(rate.per_s, clock())
        self._size = MessageSize(rate.per_s)
        self._lock = threading.Lock()

    def take(self) -> tuple[int, float]:
        """Reserve for one read: messages (0: none are allowed now), and the amount reserved for them."""
        with self._lock:
            amount = self._bucket.take(self._part, self._clock())
            if not amount:
                return 0, 0.0
            return (self._size.fit(amount) if self._of_bytes else int(amount)), amount

    def used(self, reserved: float, messages: int, size: int) -> None:
        """Report what a read brought for the amount reserved, in messages and bytes; (0, 0): nothing."""
        with self._lock:
            self._bucket.give_back(reserved - (size if self._of_bytes else messages))
            self._size.add(messages, size)

    def wait_s(self) -> float:
        """How long until the limit allows something again."""
        with self._lock:
            return self._bucket.wait_s(self._clock())

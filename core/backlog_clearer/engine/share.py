"""What workers pass to each other: the progress on one claim, and the rest of `max_messages`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from backlog_clearer.model import Claim, Position


@dataclass(slots=True)
class Share:
    """The progress on one claim; only the worker that has it writes it, and passes it on closed."""

    claim: Claim
    read: int = 0  # messages read, including those settled
    settled: int = 0  # messages acknowledged
    bytes: int = 0
    owed: int = 0  # charged to `max_messages`, uncounted, and expected to be read again
    spent: int = 0  # charged, uncounted, and perhaps acknowledged
    doubted: bool = False  # a settle failed: more than `settled` may be acknowledged
    left: int | None = None
    reached: bool = False  # read up to the target, not necessarily settled
    done: bool = False  # reached and settled
    error: str | None = None  # why nothing more is read of it
    resume: Position | None = None
    failures: int = 0  # transient errors that named it, without progress between them
    failing_since: float = 0.0  # on the monotonic clock: the first of these failures
    tried: bool = False  # a lane has read it, if only to find nothing
    troubled: bool = False  # between a transient error and the next read that works
    due_at: float = 0.0  # on the monotonic clock: not tried again before
    refused_by: set[str] = field(default_factory=set)  # workers whose client failed for good with it
    exhausted: bool = False  # at least one of these failed with too many transient errors
    doubts: int = 0  # of these, workers whose client had worked before
    refusal: str | None = None  # the first of these errors
    yielded: bool = False  # another worker has the same claim, and this one does not continue

    @property
    def over(self) -> bool:
        """Whether no lane is to read it any more."""
        return self.done or self.yielded or self.error is not None

    @property
    def charged(self) -> int:
        """The messages that `max_messages` has to count for good, as far as is known now."""
        return self.read + self.spent + (self.owed if self.over else 0)

    def forget(self, *, gone: bool) -> None:
        """Uncount messages that were not reported as acknowledged, since they will be read again.

        They stay charged to `max_messages`: the broker may have carried out an acknowledgement whose answer
        was lost, so that no other worker may read as many instead. `gone`: if it did, they do not come again.
        """
        lost = self.read - self.settled
        if gone:
            self.spent += lost
        else:
            self.owed += lost
        self.read = self.settled
        if lost or self.reached != self.done:
            self.left = None  # an earlier 0 would keep the drain waiting for a lane that reads nothing
        self.reached = self.done

    def repeat(self, messages: int) -> int:
        """How many of the messages just read are those expected again; they are not any more."""
        again = min(self.owed, messages)
        self.owed -= again
        return again

    def give_up_repeats(self) -> None:
        """The broker works and does not deliver them: they may be acknowledged, and stay charged."""
        self.spent += self.owed
        self.owed = 0


class Budget:
    """`max_messages`, shared by workers without any of them exceeding it."""

    def __init__(self, limit: int, workers: int) -> None:
        self._left = limit
        self._workers = workers
        self._lock = threading.Lock()

    def take(self) -> int:
        """Reserve a fair part of the rest; 0 when all of it is reserved or used."""
        with self._lock:
            # Messages that turn out to be acknowledged later may exceed the limit.
            grant = max(0, -(-self._left // self._workers))
            self._left -= grant
            return grant

    def refund(self, unused: int) -> None:
        """Give back the unused part of a reservation."""
        with self._lock:
            self._left += unused

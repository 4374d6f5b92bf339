"""How long answers are waited for: as long as asked, and only briefly once the run is to stop.

A stop takes less than 5 s in all, whatever the server does: the last read, the last acknowledgement, and the
verification. An answer that arrives is worth waiting for: only waits use up the time, not requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from backlog_clearer.brokers.iggy.errors import SilentError, StoppedError
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition

TICK_S = 0.2  # how soon a wait notices a stop
_ANSWER_S = 1.2  # for one answer after a stop
_LANES_S = 1.6  # for all answers after a stop, until the verification
_VERIFY_S = 1.0  # for its answers; half of that when it is repeated
_LEAST_S = 0.3  # for one answer once that time is used up
_LAST_S = 0.05  # the same, once one is missing


class Waits:
    """The limits of one source's waits; shared by its threads."""

    def __init__(self) -> None:
        self._stopping: Callable[[], bool] = lambda: False
        self._stopped_at: float | None = None
        self._left_s = _LANES_S  # of the time for answers after a stop
        self._least_s = _LEAST_S
        self._verify_s = _VERIFY_S

    def interrupt_by(self, stopping: Callable[[], bool]) -> None:
        """Be brief once this is true."""
        self._stopping = stopping

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop."""
        if self._stopped_at is None and self._stopping():
            self._stopped_at = time.monotonic()
        return self._stopped_at is not None

    def left_s(self, begun: float, most_s: float) -> float:
        """Seconds for which a wait still may last that began then; 0 or less: it is over."""
        until = begun + most_s
        if self.stopping and self._stopped_at is not None:
            allowed = max(self._least_s, min(_ANSWER_S, self._left_s))
            until = min(until, max(begun, self._stopped_at) + allowed)
        return until - time.monotonic()

    def answered(self, begun: float) -> None:
        """A wait has ended with an answer."""
        if self._stopped_at is not None:
            self._left_s -= time.monotonic() - max(begun, self._stopped_at)

    def silent(self, where: str, begun: float, partition: Partition | None = None) -> BrokerError:
        """The error of a wait that has ended without an answer."""
        seconds = time.monotonic() - begun
        if self._stopped_at is None:
            return SilentError(f"{where} did not answer within {seconds:.0f} s.", partition)
        self.answered(begun)
        if self._left_s <= 0:
            self._least_s = _LAST_S
        return StoppedError(
            f"{where} did not answer within {seconds:.1f} s, and the run was to stop.", partition
        )

    def verify(self) -> None:
        """The verification begins, or is repeated: it has separate time."""
        if self.stopping:
            self._left_s, self._least_s = max(self._left_s, self._verify_s), _LEAST_S
            self._verify_s /= 2

"""Receiving Fetch responses through a small window, and letting go of records where they arrive.

Where batches are large, only their headers are received, and the kernel drops the rest without copying
it (plain sockets on Linux; see `shared.sockets.DROP`). Where they are small, two calls for each would cost
more than the copy: then a window that stays in the processor's cache takes many of them at a time.
The size of the last batch decides (bench/README-kafka.md has the figures).
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping

from backlog_clearer.brokers.kafka.answer_wire import AnswerWalk
from backlog_clearer.brokers.kafka.batch_wire import HEADER_BYTES
from backlog_clearer.brokers.kafka.connection import FRAME_BYTES, Connection
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Partition

_LARGEST = 256 * 1024
_SMALLEST = 64 * 1024  # holds the fields of any topic
_ALL_LANES = 2 * 1024 * 1024
_FIELDS_BYTES = 4 * 1024  # received at a time between the records of partitions with large batches
_DROP_FROM = 32 * 1024  # fewer bytes are received with what follows them
_DROP_AT_MOST = 64 * 1024 * 1024  # in one call
_ANSWER_TIMES = 3  # how many time-outs a whole response may take; it should take a second
_SINK = memoryview(mmap.mmap(-1, _DROP_AT_MOST))  # nothing is written to it: it takes no memory


def window_bytes(lanes: int) -> int:
    """How many bytes one lane receives at a time at most."""
    return max(_SMALLEST, min(_LARGEST, _ALL_LANES // max(1, lanes)))


def window(lanes: int) -> memoryview:
    """What one lane receives into, of `window_bytes`; a page of it takes memory once it is written to."""
    return memoryview(mmap.mmap(-1, window_bytes(lanes)))


class Inlet:
    """Receives the Fetch responses of one connection, one after another; used by one thread."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.expecting = False
        """Whether a request was sent whose response is not walked to its end."""
        self.answer: AnswerWalk | None = None
        """The response that arrives; None: its size is not known yet."""
        self.begun_at = 0.0
        """When the size was known, as a `time.monotonic()`."""
        self._version = 0
        self._wanted: Mapping[Partition, tuple[int, int | None]] = {}
        self._names: Mapping[str, str] = {}
        self._kept = b""  # received, but not walked yet
        self._skip = 0  # bytes to come that are not needed
        self._batch_bytes = 0  # of the last batch
        self._waited = 0.0  # seconds for the whole response so far

    @property
    def ready(self) -> bool:
        """Whether a budget ended the walk: what is to be walked next may have been received already."""
        return self.expecting and self.answer is not None and self.answer.paused

    def expect(
        self,
        version: int,
        wanted: Mapping[Partition, tuple[int, int | None]],
        names: Mapping[str, str] | None = None,
    ) -> None:
        """A request was sent, for these positions and targets (None: none); `names`: see `AnswerWalk`."""
        self.expecting, self.answer, self._waited = True, None, 0.0
        self._version, self._wanted, self._names = version, wanted, names or {}

    def receive(
        self, window: memoryview, budget: int | None, until: float, *, patient: bool
    ) -> AnswerWalk | None:
        """Walk what arrives until the response or the budget (records; None: none) ends, or the time comes.

        `until`: a `time.monotonic()`. `patient`: wait for what does not arrive at once. None: not even the
        size has arrived. Raises `TransientError` if the connection breaks, and like `AnswerWalk.feed`.
        """
        self.connection.be_patient(patient=patient)
        answer = self.answer
        if answer is None:
            answer = self._begin(window, until)
            if answer is None:
                return None
        answer.budget = budget
        try:
            self._walk(answer, window, until)
        finally:
            self.expecting = answer.left + self._skip > 0
        if self.ready:
            self._waited = 0.0  # the caller is awaited, not the broker
        return answer

    def late(self, seconds: float) -> TransientError | None:
        """Count seconds in which the response was awaited; the error of one that is not there in time."""
        self._waited += seconds
        most = _ANSWER_TIMES * self.connection.timeout_s
        return self.connection.late(most) if self.expecting and self._waited >= most else None

    def _begin(self, window: memoryview, until: float) -> AnswerWalk | None:
        """Receive the frame's header."""
        missing = FRAME_BYTES - len(self._kept)
        got = self.connection.gather(window[:missing], until)
        self._kept += bytes(window[:got])
        if got < missing:
            return None
        size = self.connection.answer_size(self._kept)
        self._kept, self._skip = b"", 0
        self.begun_at = time.monotonic()
        self.answer = AnswerWalk(size, self._version, self._wanted, self._names)
        return self.answer

    def _walk(self, answer: AnswerWalk, window: memoryview, until: float) -> None:
        connection, skip = self.connection, self._skip
        head, nothing = window[:HEADER_BYTES], window[:0]
        at, end = 0, len(self._kept)
        window[:end] = self._kept
        while True:
            if end == at:
                end = 0
            else:
                at = answer.feed(window, at, end)
                if at > end:
                    skip, end = at - end, 0
                else:
                    end -= at
                    window[:end] = window[at : at + end]
            at = 0
            if not answer.left + skip or answer.paused or time.monotonic() >= until:
                break
            if connection.drops and skip >= _DROP_FROM:
                follows = head if answer.left >= HEADER_BYTES and answer.in_records else nothing
                got, end = connection.drop(_SINK, skip, follows)
                skip -= got
            else:
                size = min(self._next_bytes(answer, skip, end, len(window)), skip + answer.left - end)
                got = connection.gather(window[end : end + size], until)
                end += got
                at = min(skip, end)  # while bytes are skipped, the window holds nothing else
                skip -= at
            if not got:
                break
        self._kept, self._skip = bytes(window[:end]), skip

    def _next_bytes(self, answer: AnswerWalk, skip: int, end: int, size: int) -> int:
        """How many bytes to receive next, behind `end` in a window of `size`."""
        self._batch_bytes = answer.last_batch_bytes or self._batch_bytes
        if not self.connection.drops or 0 < self._batch_bytes < HEADER_BYTES + _DROP_FROM:
            return size - end
        if not self._batch_bytes or not answer.in_records:
            return min(skip + _FIELDS_BYTES, size - end)
        if skip or end < HEADER_BYTES:
            return min(skip + HEADER_BYTES - end, size - end)
        return size - end

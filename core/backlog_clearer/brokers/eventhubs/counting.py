"""Azure Event Hubs over AMQP: a transport of the SDK that counts events.

The SDK spends about 30 µs on an event: two socket reads, a decoded performative, a decoded message.
A drain needs only how many events arrived and the sequence number and offset of the last. So the SDK's
transport is replaced by one that reads in bulk and counts the transfers where they lie (`wire`); every
other frame is left to the SDK.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backlog_clearer.brokers.eventhubs.limits import MESSAGE_BYTES
from backlog_clearer.brokers.eventhubs.sdk import SASLTransport
from backlog_clearer.brokers.eventhubs.wire import (
    FRAME,
    FRAME_HEADER_BYTES,
    Tally,
    check_frame,
    check_message,
    message_annotations,
    walk_frames,
)
from backlog_clearer.deadline import within

TIMEOUT_S = 12.0
"""The longest time that a request to the service may take."""

_HEAD_BYTES = 4096  # kept of an event that spans buffers: more than its annotations take


class Counting:
    """A transport of the SDK with bulk reads and, for the links in `tallies`, counting.

    It stops reading while counted events have not been taken, so the buffer that `Tally.events` points
    into stays as it is, and memory is bounded by it.
    """

    sock: Any

    def __init__(self, host: str, *, size: int = 1 << 20, **options: Any) -> None:
        super().__init__(host, connect_timeout=TIMEOUT_S, **options)  # type: ignore[call-arg]  # the SDK's
        self.tallies: dict[int, Tally] = {}
        self.buffer = bytearray(size)
        self.received = 0  # bytes
        self.received_at = time.time()  # a whole frame; on the SDK's clock for idle connections
        self.wait_s = 0.2  # how long a read waits for the first byte
        self.wanted = 1000  # events after which a read stops
        self.give_up_at: float | None = None  # when (monotonic) the SDK's endless loops have to end
        self._view = memoryview(self.buffer)
        self._pieces: dict[tuple[int, bytes], bytes] = {}  # of messages, by channel and link
        self._at = 0
        self._end = 0

    @contextmanager
    def block(self) -> Iterator[Any]:
        """Limit the time of the SDK's sign-in, which has no limit."""
        before = self.wait_s, self.give_up_at
        self.wait_s, self.give_up_at = TIMEOUT_S, time.monotonic() + TIMEOUT_S
        try:
            yield self.sock
        finally:
            self.wait_s, self.give_up_at = before

    def read(self, verify_frame_type: int | None = 0) -> tuple[memoryview, int, memoryview | None]:
        """The next frame that is not a counted transfer: (header, channel, body).

        Counts transfers meanwhile. Raises `TimeoutError`, which means "nothing arrived" to the SDK, if there
        is none within `wait_s` or as soon as counted events wait to be taken; and `OSError` after
        `give_up_at`.
        """
        del verify_frame_type  # a frame of the wrong type fails to decode, too
        deadline = time.monotonic() + self.wait_s
        if self.give_up_at is not None and time.monotonic() >= self.give_up_at:
            raise OSError("it did not answer in time")  # although it sends something
        while True:
            before, self._at = self._at, walk_frames(self.buffer, self._at, self._end, self.tallies)
            frame = self._take()
            if self._at > before:
                self.received_at = time.time()
            if frame is not None:
                return frame
            counted = sum(len(tally.events) for tally in self.tallies.values())
            full = counted >= self.wanted or (counted > 0 and self._end == len(self.buffer))
            wait = 0.0 if counted else max(0.0, deadline - time.monotonic())
            if not full and self._fill(wait, keep=counted > 0):
                continue
            now = time.monotonic()
            if self.give_up_at is not None and now >= self.give_up_at:
                raise OSError("it did not answer in time")
            if counted or now >= deadline:
                raise TimeoutError

    def _take(self) -> tuple[memoryview, int, memoryview | None] | None:
        """One complete frame, in the form that the SDK expects."""
        at = self._at
        if self._end - at < FRAME_HEADER_BYTES:
            return None
        header = memoryview(bytes(self._view[at : at + 8]))
        if bytes(header[:4]) == b"AMQP":
            self._at = at + 8
            return header, 0, None
        size, words, _, channel = FRAME(self.buffer, at)
        if size > len(self.buffer) or size < FRAME_HEADER_BYTES:
            raise OSError(f"a frame of {size} bytes, which is not an AMQP frame")
        if self._end - at < size:
            return None
        self._at = at + size
        body = bytes(self._view[at + words * 4 : at + size])
        try:
            self._check(channel, body)
        except ValueError as error:
            raise OSError(f"it sent what is not AMQP: {error}") from error
        return header, channel, memoryview(body)

    def _check(self, channel: int, body: bytes) -> None:
        """Raise `ValueError` for what the SDK cannot decode, in pieces of messages, too."""
        piece = check_frame(body)
        if piece is None:
            return
        payload = self._pieces.pop((channel, piece.handle), b"") + body[piece.at :]
        if len(payload) > MESSAGE_BYTES:
            raise ValueError(f"a message of more than {MESSAGE_BYTES:,} bytes")
        if piece.more:
            self._pieces[channel, piece.handle] = payload
        else:
            check_message(payload)

    def _fill(self, wait_s: float, *, keep: bool) -> bool:
        """Receive the bytes that are there; False if none came. `keep`: do not move the buffer's content."""
        if not keep:
            self._compact()
        try:
            self.sock.settimeout(wait_s)
            got = self._receive(self._view[self._end :])
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        except ssl.SSLError as error:
            if "timed out" in str(error):
                return False
            raise
        finally:
            if self.sock is not None:
                self.sock.settimeout(TIMEOUT_S)  # for what the SDK writes
        if not got:
            raise ConnectionResetError("Server unexpectedly closed connection")
        self._end += got
        self.received += got
        return True

    def _receive(self, view: memoryview) -> int:
        """Receive some bytes, within the socket's time-out; 0: the other side has closed."""
        return int(self.sock.recv_into(view))

    def _compact(self) -> None:
        """Move an incomplete frame to the front, and keep the head of an incomplete event."""
        if self._at == 0:
            return
        for tally in self.tallies.values():
            if tally.first is not None and tally.first >= 0:
                tally.head = bytes(self._view[tally.first : min(self._at, tally.first + _HEAD_BYTES)])
                tally.first = -1
        rest = self._end - self._at
        self.buffer[:rest] = self.buffer[self._at : self._end]
        self._at, self._end = 0, rest

    def event(self, tally: Tally, index: int) -> dict[bytes, int | bytes]:
        """The annotations of an event that is counted and not taken yet."""
        start = tally.events[index]
        if start < 0:
            return message_annotations(tally.head, 0)
        return message_annotations(self.buffer, start)


class CountingTransport(Counting, SASLTransport):  # type: ignore[misc]  # the SDK's layers are untyped
    """AMQP over TCP, counting."""

    def connect(self) -> None:
        """Connect, within a bounded time; raises as the SDK does."""
        within(TIMEOUT_S, super().connect)

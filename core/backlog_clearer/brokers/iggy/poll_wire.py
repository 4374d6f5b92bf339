"""The reply to an Iggy poll, read while it arrives: only the headers of its batches count.

A reply has a head and batches, each a header and messages. Offsets may have gaps between batches (after a
crash a server continues at a later offset), but not within one, so each header is read. A batch may be a
part of a stored one: its first message's header has the distance from the batch's base offset. Layouts:
`iggy_binary_protocol` 0.11.0 (batch.rs, responses/messages/poll_messages.rs). Little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from backlog_clearer.brokers.iggy.wire import MAX_OFFSET, UNROUTED, ReplyError

_HEAD = struct.Struct("<IQI")  # partition, its current offset, messages in this reply
_BATCH = struct.Struct("<8xQQ8xQ8xI204xQ16xI")
"""A batch's base offset, time of storing, bytes and messages; its first message's checksum and distance."""
HEAD_BYTES, BATCH_BYTES = _HEAD.size, _BATCH.size
_LARGE_BYTES = 16 * 1024
_LEAST_BATCH_BYTES = 256 + 48  # a batch's header and one message's


class Polled(NamedTuple):
    """What a poll's reply contains."""

    partition: int | None  # None: the server did not read any
    current: int  # offset of the partition's last message
    messages: int  # of those in it, the ones up to the limit
    first: int | None = None  # offset of the first message in it; None: there is none
    last: int | None = None  # offset of the last message in it
    mark: tuple[int, int] | None = None  # time of storing and checksum of the first message
    holes: tuple[
        tuple[int, int], ...
    ] = ()  # offsets between its batches that have no message, and the next


class PollWalk:
    """Reads one reply. `need` is where the next header begins, in bytes of the reply, and its length.

    `asked` messages at most are allowed. Messages beyond the offset `limit` are not counted. `large`: the
    last batch was so large that only headers are worth to be received; smaller ones cost less whole.
    """

    def __init__(self, asked: int, limit: int = MAX_OFFSET) -> None:
        self._asked, self._limit = asked, limit
        self.at, self.length, self.large = 0, HEAD_BYTES + BATCH_BYTES, True
        self._partition = self._current = self._expected = 0
        self._found = self._counted = 0
        self._first: int | None = None
        self._last = -1
        self._mark: tuple[int, int] | None = None
        self._holes: list[tuple[int, int]] = []

    def feed(self, data: bytearray, begin: int, end: int) -> None:
        """Read the headers in `data[: end - begin]`, which is the reply from byte `begin` to `end`.

        Raises `ReplyError`.
        """
        if not self.at and end >= HEAD_BYTES:
            self._partition, self._current, self._expected = _HEAD.unpack_from(data)
            self.at, self.length = HEAD_BYTES, BATCH_BYTES
        while self.at and begin <= self.at and self.at + BATCH_BYTES <= end:
            self._batch(data, self.at - begin)

    def _batch(self, data: bytearray, at: int) -> None:
        base, stored_at, size, messages, checksum, distance = _BATCH.unpack_from(data, at)
        first = base + distance
        last = first + messages - 1
        if not messages or size < _LEAST_BATCH_BYTES or not self._last < first <= last <= MAX_OFFSET:
            raise ReplyError(
                f"a poll's reply has a batch of {messages} messages and {size} bytes from offset {first} on,"
                f" after offset {self._last}"
            )
        if self._first is None:
            self._first, self._mark = first, (stored_at, checksum)
        elif first > self._last + 1:
            self._holes.append((self._last + 1, first))
        self._found += messages
        if self._found > self._asked:  # so that neither batches nor holes are more than was asked for
            raise ReplyError(f"a poll for {self._asked} messages was answered with more than these")
        self._counted += max(0, min(last, self._limit) + 1 - first)
        self._last = last
        self.at += size
        self.large = size >= _LARGE_BYTES

    def end(self, size: int) -> Polled:
        """The reply of `size` bytes, all of it read; raises `ReplyError`."""
        if size < HEAD_BYTES:
            raise ReplyError(f"a poll's reply of {size} bytes ends too early")
        if self._partition == UNROUTED:
            return Polled(None, self._current, 0)
        # `first` may not exceed `current`, which the server reads first; the last message may.
        if (
            self._current > MAX_OFFSET
            or self._expected > self._asked
            or self._found != self._expected
            or (self._first is not None and (self._first > self._current or self.at != size))
        ):
            raise ReplyError(
                f"a poll for {self._asked} messages was answered with {self._expected}, of which"
                f" {self._found} are there from offset {self._first} on, of a partition that ends at"
                f" {self._current}"
            )
        last = None if self._first is None else self._last
        return Polled(
            self._partition,
            self._current,
            self._counted,
            self._first,
            last,
            self._mark,
            tuple(self._holes),
        )


def polled(reply: bytes, asked: int, limit: int = MAX_OFFSET) -> Polled:
    """A complete reply; raises `ReplyError`."""
    walk = PollWalk(asked, limit)
    walk.feed(bytearray(reply), 0, len(reply))
    return walk.end(len(reply))

"""Azure Event Hubs: counting AMQP transfers where they lie in a receive buffer.

Only the annotations of single events are ever decoded. Frames, performatives and encodings: OASIS AMQP
1.0, parts 1.6, 2.3 and 2.7.5; sections and annotations: part 3.2.
"""

# ruff: noqa: PLR2004 the bytes are the specification's; the comments name them

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

Buffer = bytearray | bytes | memoryview

FRAME = struct.Struct(">IBBH").unpack_from
"""A frame's header: size, data offset in words, type, channel."""
FRAME_HEADER_BYTES = 8

_U32 = struct.Struct(">I").unpack_from
_TRANSFER = 0x14
_SECTION_HEADER = 0x70
_SECTIONS_BEFORE_BODY = {_SECTION_HEADER, 0x71, 0x72}  # header, delivery and message annotations

# Width of a value with its constructor, by the constructor's upper half; longer types have their own size.
_WIDTHS = (0, 0, 0, 0, 1, 2, 3, 5, 9, 17)
_SIZED_BY_U8 = {0xA, 0xC, 0xE}
_NUMBERS = {
    0x50: struct.Struct(">B").unpack_from,
    0x51: struct.Struct(">b").unpack_from,
    0x52: struct.Struct(">B").unpack_from,
    0x53: struct.Struct(">B").unpack_from,
    0x54: struct.Struct(">b").unpack_from,
    0x55: struct.Struct(">b").unpack_from,
    0x70: struct.Struct(">I").unpack_from,
    0x71: struct.Struct(">i").unpack_from,
    0x80: struct.Struct(">Q").unpack_from,
    0x81: struct.Struct(">q").unpack_from,
    0x83: struct.Struct(">q").unpack_from,  # a time, in milliseconds since 1970
}
_ZEROS = {0x43, 0x44}
_CONSTRUCTORS = {
    *(0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x60, 0x61),
    *(0x70, 0x71, 0x72, 0x80, 0x81, 0x82, 0x83, 0x94, 0x98, 0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3),
}
"""Of values that are neither described nor compound, as the SDK decodes them."""
_SCALARS = frozenset(range(4, 12))
_DEEPEST = 32  # the service nests four deep

SEQUENCE_NUMBER = b"x-opt-sequence-number"
OFFSET = b"x-opt-offset"
ENQUEUED_TIME = b"x-opt-enqueued-time"
LAST_ENQUEUED = b"last_enqueued_sequence_number"


def skip_value(buffer: Buffer, at: int) -> int:
    """Where the value at `at` ends; raises `ValueError` for a constructor that AMQP does not have."""
    code = buffer[at]
    kind = code >> 4
    if code == 0:  # described: a descriptor, then the value
        return skip_value(buffer, skip_value(buffer, at + 1))
    if kind in _SIZED_BY_U8:
        return at + 2 + buffer[at + 1]
    if kind in {0xB, 0xD, 0xF}:
        return at + 5 + int(_U32(buffer, at + 1)[0])
    if kind < 4 or kind > 9:  # the fixed widths' range
        raise ValueError(f"{code:#x} is not an AMQP constructor")
    return at + _WIDTHS[kind]


def _scalar(buffer: Buffer, at: int) -> int | bytes | None:
    """The number, string or symbol at `at`; None for anything else."""
    code = buffer[at]
    if code in _NUMBERS:
        return int(_NUMBERS[code](buffer, at + 1)[0])
    if code in _ZEROS:
        return 0
    if code >> 4 == 0xA:  # AMQP's variable-width types of up to 255 bytes
        return bytes(buffer[at + 2 : at + 2 + buffer[at + 1]])
    if code >> 4 == 0xB:  # and the longer ones
        return bytes(buffer[at + 5 : at + 5 + int(_U32(buffer, at + 1)[0])])
    return None


def check_value(buffer: Buffer, at: int, end: int, depth: int = 0) -> int:
    """Where the value at `at` ends, as the SDK decodes it; raises `ValueError` if it cannot be decoded.

    The SDK allocates as many values as a list or an array announces, and trusts every size.
    """
    if at >= end or depth > _DEEPEST:
        raise ValueError("a value that ends too early, or is nested too deep")
    code = buffer[at]
    if code == 0:
        return check_value(buffer, check_value(buffer, at + 1, end, depth + 1), end, depth + 1)
    kind = code >> 4
    if kind in {0xC, 0xD}:
        at, count = _compound(buffer, at, end)
        for _ in range(count):
            at = check_value(buffer, at, end, depth + 1)
        return at
    if kind in {0xE, 0xF}:
        at, count = _compound(buffer, at, end)
        return _checked_array(buffer, at, end, count) if count else at
    return _checked_scalar(buffer, code, at + 1, end)


def _compound(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """Where the elements of a list, map or array begin, and how many there are."""
    wide = buffer[at] >> 4 in {0xD, 0xF}
    first = at + (9 if wide else 3)
    if first > end:
        raise ValueError("a list that ends too early")
    count = int(_U32(buffer, at + 5)[0]) if wide else buffer[at + 2]
    if count > end - first:  # the smallest element takes a byte
        raise ValueError(f"a list of {count:,} elements in {end - first:,} bytes")
    return first, count


def _checked_array(buffer: Buffer, at: int, end: int, count: int) -> int:
    """The same for an array's elements, which share the constructor at `at`."""
    code, at = buffer[at], at + 1
    if code >> 4 not in _SCALARS:
        raise ValueError(f"an array of {code:#x}")
    for _ in range(count):
        at = _checked_scalar(buffer, code, at, end)
    return at


def _checked_scalar(buffer: Buffer, code: int, at: int, end: int) -> int:
    """Where the value ends whose constructor is `code`, and whose bytes begin at `at`."""
    if code not in _CONSTRUCTORS:
        raise ValueError(f"{code:#x} is not an AMQP constructor")
    kind = code >> 4
    if kind == 0xA and at < end:
        at += 1 + buffer[at]
    elif kind == 0xB and at + 4 <= end:
        at += 4 + int(_U32(buffer, at)[0])
    elif kind in {0xA, 0xB}:
        at = end + 1
    else:
        at += _WIDTHS[kind] - 1
    if at > end:
        raise ValueError("a value that ends too early")
    return at


class Piece(NamedTuple):
    """What a transfer's frame has of a message."""

    handle: bytes  # of its link, as it was encoded
    more: bool  # whether the message continues in another frame
    at: int  # where the payload begins


def check_frame(body: Buffer) -> Piece | None:
    """Raise `ValueError` for a frame's body that the SDK cannot decode without harm; None: not a transfer.

    The payload of a transfer is checked by `check_message`, once all of it is there.
    """
    end = len(body)
    if not end:
        return None  # a heartbeat
    if end < 4 or body[0] or body[1] != 0x53 or body[3] not in {0xC0, 0xD0}:
        raise ValueError("a frame without a performative")
    at, count = _compound(body, 3, end)
    starts = []
    for _ in range(count):
        starts.append(at)
        at = check_value(body, at, end)
    if body[2] != _TRANSFER:
        return None
    if not starts:
        raise ValueError("a transfer without a link")
    handle = bytes(body[starts[0] : [*starts, at][1]])
    more = count > 5 and body[starts[5]] in {0x41, 0x56} and body[[*starts, at][6] - 1] != 0
    return Piece(handle, more, at)


def check_message(payload: Buffer) -> None:
    """Raise `ValueError` for a message that the SDK cannot decode without harm."""
    at, end = 0, len(payload)
    while at < end:
        if end - at < 4 or payload[at] or payload[at + 1] != 0x53:
            raise ValueError("a message with bytes that are not a section")
        at = check_value(payload, at, end)


def message_annotations(buffer: Buffer, at: int) -> dict[bytes, int | bytes]:
    """The delivery and message annotations of the message that starts at `at`, only scalars.

    Raises `ValueError` or `IndexError` for bytes that are not a message.
    """
    found: dict[bytes, int | bytes] = {}
    while at < len(buffer) and buffer[at] == 0:
        section = _scalar(buffer, at + 1)
        if section not in _SECTIONS_BEFORE_BODY:
            break
        value = skip_value(buffer, at + 1)
        at = skip_value(buffer, value)
        if section == _SECTION_HEADER:
            continue
        entry = value + (3 if buffer[value] == 0xC1 else 9)  # map8 or map32: size and count
        while entry < at:
            key, held = _scalar(buffer, entry), skip_value(buffer, entry)
            scalar = _scalar(buffer, held)
            if isinstance(key, bytes) and scalar is not None:
                found[key] = scalar
            entry = skip_value(buffer, held)
    return found


class Tally:
    """Events that arrived on one link and were not taken yet: where each starts in the buffer."""

    __slots__ = ("bytes", "events", "first", "frames", "head")

    def __init__(self) -> None:
        self.events: list[int] = []  # where events start; -1: in `head`
        self.frames = 0  # transfers, of which an event may take several
        self.bytes = 0
        self.first: int | None = None  # where the event starts whose last frame is still to come
        self.head = b""  # the start of that event, once the buffer has moved on

    def discard(self) -> None:
        """Forget the counted events, and count no more of them."""
        self.events = _Nothing()


class _Nothing(list[int]):
    """A list that stays empty."""

    def append(self, _: int) -> None:
        """Drop it."""


def walk_frames(  # noqa: C901, PLR0912 the hot loop: a call for each frame would cost more than it explains
    buffer: bytearray, at: int, end: int, tallies: dict[int, Tally]
) -> int:
    """Count the complete transfers from `at` on; returns where the first other frame starts.

    `tallies` holds the links to count by `channel << 32 | handle`. A transfer of another link, any
    other frame, and one that is not complete at `end`, stop the walk.
    """
    last, run, tally = -1, at, _NOBODY
    while end - at >= FRAME_HEADER_BYTES:
        size, words, kind, channel = FRAME(buffer, at)
        field = at + words * 4
        # A transfer's descriptor is 00 53 14; the SDK, too, relies on the service's short form of it.
        if at + size > end or kind or size < 16 or buffer[field + 2] != 0x14:
            break
        if buffer[field + 3] == 0xC0:  # list8: size and count are bytes
            payload, count = field + 5 + buffer[field + 4], buffer[field + 5]
            field += 6
        else:  # list32
            payload, count = field + 8 + _U32(buffer, field + 4)[0], _U32(buffer, field + 8)[0]
            field += 12
        code = buffer[field]
        # the handle as one byte, none or four
        short = code == 0x52
        handle = buffer[field + 1] if short else 0 if code == 0x43 else _U32(buffer, field + 1)[0]
        key = channel << 32 | handle
        if key != last:
            tally.bytes += at - run
            last, run, tally = key, at, tallies.get(key, _NOBODY)
        if tally is _NOBODY:
            break
        more = False
        if count > 5:  # the sixth field is "more": whether the event continues in another frame
            field += _WIDTHS[code >> 4]
            field += _WIDTHS[buffer[field] >> 4]  # over the delivery id
            if buffer[field] == 0xA0:  # over the delivery tag: short binary,
                field += 2 + buffer[field + 1]
            else:  # null, or long
                field = skip_value(buffer, field)
            field += _WIDTHS[buffer[field] >> 4]  # over the message format
            field += _WIDTHS[buffer[field] >> 4]  # over settled
            code = buffer[field]
            more = code == 0x41 or (code == 0x56 and buffer[field + 1] == 1)
        tally.frames += 1
        if more:
            if tally.first is None:
                tally.first = payload
        elif tally.first is None:
            tally.events.append(payload)
        else:
            tally.events.append(tally.first)
            tally.first = None
        at += size
    tally.bytes += at - run
    return at


def first_gap(
    read: Callable[[int], int], count: int, expected: int | None, first: int = 0
) -> tuple[int, int] | None:
    """The index of the first of `count` events that does not follow the one before, and what it should be.

    `read` returns an event's sequence number; `expected` is that of the event `first`, None: any. None: there
    is not a gap. Sequence numbers increase.
    """
    wanted = read(first) if expected is None else expected
    if read(count - 1) == wanted + count - 1 - first:
        return None
    low, high = first, count - 1
    while low < high:
        middle = (low + high) // 2
        if read(middle) == wanted + middle - first:
            low = middle + 1
        else:
            high = middle
    return low, wanted + low - first


_NOBODY = Tally()  # of links that are not counted


def count_up_to(read: Callable[[int], int], count: int, target: int) -> int:
    """How many of `count` events, in order, have a sequence number up to `target`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if read(middle) <= target:
            low = middle + 1
        else:
            high = middle
    return low

"""The events of the AMQP test server: logs and links, and their transfers made in bulk."""

from __future__ import annotations

import math
import re
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

BAD_ARGUMENT = b"com.microsoft:argument-out-of-range"
BAD_OFFSET = b"com.microsoft:georeplication:invalid-offset"
_SELECTOR = re.compile(r"amqp\.annotation\.x-opt-([a-z-]+) (>=?) '([^']*)'")
_OFFSET_BASE, _OFFSET_STEP, _OFFSET_DIGITS = 1_000_000_000, 64, 10


def offset_of(sequence_number: int) -> str:
    """The offset of an event: as in the service, not its sequence number; "-1" before the first."""
    return "-1" if sequence_number < 0 else str(_OFFSET_BASE + _OFFSET_STEP * sequence_number)


def _sequence_of(offset: str) -> int:
    return -1 if offset == "-1" else (int(offset) - _OFFSET_BASE) // _OFFSET_STEP


@dataclass(slots=True)
class EventLog:
    """One partition: events `begin` to `end - 1` are retained."""

    begin: int = 0
    end: int = 0
    times: list[tuple[int, int]] = field(default_factory=list)
    """When events were enqueued: (first sequence number, milliseconds since 1970) of each call."""

    def append(self, count: int) -> None:
        """Enqueue events now."""
        self.times.append((self.end, time.time_ns() // 1_000_000))
        self.end += count

    def time_of(self, number: int) -> int:
        """When an event was enqueued; 0: not known."""
        return next((at for first, at in reversed(self.times) if first <= number), 0)

    def first_from(self, moment: int) -> int:
        """The first event that was enqueued at a time or later; the next one, if there is none."""
        return next((max(first, self.begin) for first, at in self.times if at >= moment), self.end)

    def stamps(self, first: int, count: int) -> bytes:
        """The times of events as AMQP has them, one after the other."""
        found, at, end = [], first, first + count
        for start, _ in [*self.times, (end, 0)]:
            if start > at:
                found.append(struct.pack(">q", self.time_of(at)) * (min(start, end) - at))
                at = min(start, end)
        return b"".join(found)


@dataclass(slots=True)
class Hub:
    """One Event Hub."""

    partitions: list[EventLog]
    groups: set[str] = field(default_factory=lambda: {"$Default"})
    body: bytes = b"x" * 100
    created_ms: int = 0  # 0: the service does not report it


@dataclass(slots=True)
class Faults:
    """Faults to come; each entry of a queue is used once."""

    attach: deque[tuple[bytes, str]] = field(default_factory=deque)  # the next receivers are refused
    management: deque[tuple[int, str]] = field(default_factory=deque)  # the next requests fail
    garbled: dict[int, dict[str, Any]] = field(default_factory=dict)  # in each answer about a partition
    detach_after: deque[tuple[int, bytes, str]] = field(default_factory=deque)  # after n events sent
    drop_after: deque[int] = field(default_factory=deque)  # the connection breaks after n events
    disabled: set[tuple[str, int]] = field(default_factory=set)  # partitions of hubs: nothing works
    refused_offsets: set[int] = field(default_factory=set)  # partitions, as with geo-replication
    silent_after: float = math.inf  # after so many reads a connection is not answered
    missing_hub_at_cbs: bool = False  # a missing hub is reported when the token is put, not later


@dataclass(slots=True, eq=False)
class Link:
    """One link, from the server's side."""

    channel: int
    handle: int
    address: str
    sends: bool  # the server sends on it
    group: str = ""
    log: EventLog | None = None
    hub: Hub | None = None
    partition: str = ""
    level: int | None = None
    metric: bool = False
    next: int = 0  # sequence number of the next event
    credit: int = 0
    delivery_count: int = 0
    limit: tuple[int, bytes, str] | None = None
    drop: int | None = None
    open: bool = True


@dataclass(slots=True)
class TransferWindow:
    """One session's transfer window."""

    window: int
    next_outgoing: int = 0


def _symbol(text: str) -> bytes:
    return b"\xa3" + bytes([len(text)]) + text.encode()


def _map(section: int, pairs: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(_symbol(key) + value for key, value in pairs)
    return b"\x00\x53" + bytes([section, 0xC1, len(body) + 1, 2 * len(pairs)]) + body


def _payload(link: Link) -> bytes:
    """The message of an event whose numbers are still 0."""
    assert link.hub is not None
    assert link.log is not None
    metric = b""
    if link.metric:
        last = link.log.end - 1
        metric = _map(
            0x71,
            [
                ("last_enqueued_sequence_number", b"\x81" + struct.pack(">q", last)),
                ("last_enqueued_offset", b"\xa1\x0a" + offset_of(last).encode()),
                ("last_enqueued_time_utc", b"\x83" + bytes(8)),
                ("runtime_info_retrieval_time_utc", b"\x83" + bytes(8)),
            ],
        )
    annotations = _map(
        0x72,
        [
            ("x-opt-sequence-number", b"\x81" + bytes(8)),
            ("x-opt-offset", b"\xa1" + bytes([_OFFSET_DIGITS]) + bytes(_OFFSET_DIGITS)),
            ("x-opt-enqueued-time", b"\x83" + bytes(8)),
        ],
    )
    body = link.hub.body
    return metric + annotations + b"\x00\x53\x75\xb0" + struct.pack(">I", len(body)) + body


def _transfer(link: Link, payload: bytes, more: bool) -> bytes:
    """A settled transfer whose delivery id and tag are still 0."""
    fields = b"\x52" + bytes([link.handle]) + b"\x70" + bytes(4) + b"\xa0\x04" + bytes(4)
    # The service writes all eleven fields, and its clients rely on it.
    fields += b"\x43\x41" + (b"\x41" if more else b"\x42") + b"\x40" * 5
    performative = b"\x00\x53\x14\xc0" + bytes([len(fields) + 1, 11]) + fields
    size = 8 + len(performative) + len(payload)
    return struct.pack(">IBBH", size, 2, 0, link.channel) + performative + payload


def bulk_transfers(link: Link, delivery_id: int, count: int) -> bytes:
    """Transfers of `count` events: one template, and each of its changing bytes set in one stride."""
    template = _transfer(link, _payload(link), more=False)
    size = len(template)
    block = bytearray(template * count)
    first = link.next
    ids = struct.pack(f">{count}I", *range(delivery_id, delivery_id + count))
    numbers = struct.pack(f">{count}q", *range(first, first + count))
    start = _OFFSET_BASE + _OFFSET_STEP * first
    stop = _OFFSET_BASE + _OFFSET_STEP * (first + count)
    offsets = "".join(map(str, range(start, stop, _OFFSET_STEP))).encode()
    at_sequence = template.index(b"x-opt-sequence-number") + len("x-opt-sequence-number") + 1
    at_offset = template.index(b"x-opt-offset") + len("x-opt-offset") + 2
    at_time = template.index(b"x-opt-enqueued-time") + len("x-opt-enqueued-time") + 1
    assert link.log is not None
    for at, width, values in (
        (17, 4, ids),
        (23, 4, ids),
        (at_sequence, 8, numbers),
        (at_offset, _OFFSET_DIGITS, offsets),
        (at_time, 8, link.log.stamps(first, count)),
    ):
        for byte in range(width):
            block[at + byte :: size] = values[byte::width]
    return bytes(block)


def split_transfers(link: Link, delivery_id: int, frame_size: int) -> tuple[bytes, int]:
    """One event in as many transfers as it takes."""
    payload = bytearray(_payload(link))
    at_sequence = payload.index(b"x-opt-sequence-number") + len("x-opt-sequence-number") + 1
    payload[at_sequence : at_sequence + 8] = struct.pack(">q", link.next)
    at_offset = payload.index(b"x-opt-offset") + len("x-opt-offset") + 2
    payload[at_offset : at_offset + _OFFSET_DIGITS] = offset_of(link.next).encode()
    parts = [
        bytes(payload[at : at + frame_size - 64]) for at in range(0, len(payload), frame_size - 64)
    ]
    frames = []
    for index, part in enumerate(parts):
        frame = bytearray(_transfer(link, part, more=index + 1 < len(parts)))
        frame[17:21] = frame[23:27] = struct.pack(">I", delivery_id)
        frames.append(bytes(frame))
    return b"".join(frames), len(frames)


def text_of(value: object) -> str:
    """Bytes or text from AMQP, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def place_link(link: Link, filters: dict[bytes, Any], *, geo: bool = False) -> tuple[bytes, str] | None:
    """Start a link at the position that its selectors name; returns the refusal, or None.

    `geo`: offsets are refused, as those of another region are.
    """
    assert link.log is not None
    link.next = link.log.begin
    for value in filters.values():
        found = _SELECTOR.fullmatch(text_of(value))
        if not found:
            return BAD_ARGUMENT, f"The selector '{text_of(value)}' is not understood."
        kind, sign, text = found.groups()
        if text == "@latest":
            at = link.log.end - 1
        elif kind == "offset" and geo and text != "-1":
            return BAD_OFFSET, f"The offset '{text}' is not valid for this region."
        elif kind == "enqueued-time":
            link.next = link.log.first_from(int(text))
            continue
        elif kind == "offset":
            at = _sequence_of(text)
        else:
            at = int(text)
        if at >= link.log.end:
            return BAD_ARGUMENT, (
                f"The supplied {kind} '{text}' is invalid. The last offset in the system is"
                f" '{offset_of(link.log.end - 1)}'"
            )
        link.next = max(link.log.begin, at if sign == ">=" else at + 1)
    return None

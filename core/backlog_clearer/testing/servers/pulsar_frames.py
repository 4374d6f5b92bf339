"""Frames of Pulsar's binary protocol by field numbers (PulsarApi.proto), without the adapter's code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

CONNECT, CONNECTED, SUBSCRIBE, MESSAGE, ACK, FLOW, ERROR, CLOSE_CONSUMER = 2, 3, 4, 9, 10, 11, 14, 16
PING, PONG, LOOKUP, LOOKUP_RESPONSE, AUTH_CHALLENGE, AUTH_RESPONSE = 18, 19, 23, 24, 36, 37
PARTITIONED_METADATA_RESPONSE, GET_LAST_MESSAGE_ID_RESPONSE = 22, 30
"""Types of BaseCommand, which are also the numbers of its fields."""

Value = int | str | bytes | Sequence[int]
Fields = Mapping[int, Sequence[int | bytes]]
"""Fields that were read: the values of each; values with a length are bytes."""


def varint(value: int) -> bytes:
    """A number, 7 bits a byte, the lowest first; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def field(number: int, value: Value) -> bytes:
    """One field, or one that repeats."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(data)) + data
    return b"".join(field(number, each) for each in value)


def fields(**values: Value) -> bytes:
    """Fields named f1, f2, … by their numbers."""
    return b"".join(field(int(name[1:]), value) for name, value in values.items())


def frame(kind: int, payload: bytes = b"", **values: Value) -> bytes:
    """A command, and what follows it."""
    command = field(1, kind) + field(kind, fields(**values))
    return struct.pack(">II", 4 + len(command) + len(payload), len(command)) + command + payload


def message(
    consumer: int,
    place: tuple[int, int],
    *,
    metadata: bytes = b"",
    payload: bytes = b"",
    checksum: bool = True,
    ack_set: Sequence[int] = (),
) -> bytes:
    """A message's frame; its checksum is not valid."""
    head = struct.pack(">HI", 0x0E01, 0) if checksum else b""
    at = fields(f1=place[0], f2=place[1])
    rest = head + struct.pack(">I", len(metadata)) + metadata + payload
    return frame(MESSAGE, rest, f1=consumer, f2=at, f4=ack_set)


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7


def parse_fields(data: bytes) -> Fields:
    """The fields of a message, of the wire types 0 and 2."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        value, at = _number(data, at)
        values = found.setdefault(tag >> 3, [])
        if tag & 7 == 2:
            values.append(data[at : at + value])
            at += value
        else:
            values.append(value)
    return found


def parse_command(whole: bytes) -> tuple[int, Fields]:
    """The type and the fields of a frame's command."""
    (size,) = struct.unpack_from(">I", whole, 4)
    found = parse_fields(whole[8 : 8 + size])
    kind = found[1][0]
    assert isinstance(kind, int)
    body = found.get(kind, [b""])[0]
    return kind, parse_fields(body) if isinstance(body, bytes) else {}

"""Bytes in and out of the Iggy test server's connections."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from typing import BinaryIO


@dataclass
class ClientSession:
    """One connection."""

    id: int
    logged_in: bool = False
    frames: bytes = b""  # the messages that follow the reply being built


def receive(requests: BinaryIO, size: int) -> bytes:
    """Exactly this many bytes; raises `ConnectionError` where they end earlier."""
    data = requests.read(size)
    if len(data) < size:
        raise ConnectionError
    return data


def send(connection: socket.socket, parts: list[bytes]) -> None:
    """Send all parts without copying them: a benchmark sends the same messages over and over."""
    if isinstance(connection, ssl.SSLSocket):
        connection.sendall(b"".join(parts))
        return
    left = [memoryview(part) for part in parts if part]
    while left:
        sent = connection.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]


def serve_old(_client: ClientSession, connection: socket.socket, requests: BinaryIO) -> None:
    """Answer pings as a server before 0.9 does."""
    while True:
        (size,) = struct.unpack("<I", receive(requests, 4))
        if not size:  # the first bytes of a newer client: it gets no answer
            requests.read()
            return
        receive(requests, size)
        connection.sendall(bytes(8))

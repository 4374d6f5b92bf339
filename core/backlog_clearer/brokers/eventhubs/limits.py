"""Azure Event Hubs: no frame, and no message of a WebSocket, is larger than any can be.

The SDK's transports allocate a frame when its size is announced, and websocket-client keeps a message until
it is whole.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from functools import wraps
from typing import Any

MESSAGE_BYTES = 4 * 1024 * 1024
"""More than a frame, an answer of the management node, or an event can have."""

_MARK = "_backlog_clearer_bounded"
_PROTOCOL = b"AMQP"  # what is sent once instead of a size


def bound_socket(sock: Any) -> None:
    """Have a WebSocket refuse a message that is too large, also one of several frames, when it begins."""
    received = sock.frame_buffer.recv

    def receive(size: int) -> bytes:
        begun = sock.cont_frame.cont_data
        announced = (sock.frame_buffer.length or 0) + (len(begun[1]) if begun else 0)
        _check(announced, "a message")
        found: bytes = received(size)
        return found

    sock.frame_buffer.recv = receive


def bound_transports() -> None:
    """Have the transports of the SDK's public client refuse frames that are too large.

    They are not the SDK's API: where a version has others, nothing is changed.
    """
    try:
        module = importlib.import_module("azure.eventhub._pyamqp._transport")
    except ImportError:
        return
    for kind in [each for each in vars(module).values() if isinstance(each, type)]:
        if "_read" in vars(kind) and _MARK not in vars(kind):
            setattr(kind, _MARK, True)
            kind._read = _bounded(kind._read)  # type: ignore[attr-defined]  # noqa: SLF001 the SDK has no public hook
            if "WebSocket" in kind.__name__ and "connect" in vars(kind):
                kind.connect = _connecting(kind.connect)  # type: ignore[attr-defined]


def _bounded(read: Callable[..., Any]) -> Callable[..., Any]:
    """A read of a frame's header, which the SDK calls `initial`, that checks the size in it."""

    @wraps(read)
    def reading(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        head = kwargs.get("buffer")
        if kwargs.get("initial") and head is not None and bytes(head[:4]) != _PROTOCOL:
            _check(struct.unpack(">I", head[:4])[0], "a frame")
        return found

    return reading


def _connecting(connect: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(connect)
    def connected(transport: Any, *args: Any, **kwargs: Any) -> Any:
        found = connect(transport, *args, **kwargs)
        bound_socket(transport.sock)
        return found

    return connected


def _check(size: int, what: str) -> None:
    if size > MESSAGE_BYTES:
        raise OSError(f"{what} of {size:,} bytes, which cannot be")

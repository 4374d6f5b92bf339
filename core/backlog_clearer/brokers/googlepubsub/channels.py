"""What every channel of gRPC is given: how large an answer may be, and how soon it connects again.

Google's libraries set no limit for an answer, and one for its metadata. After a connection that failed, gRPC
answers requests with that failure for 1 s, then longer, up to 2 minutes: an attempt that is made again after
a second would not reach a service that is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SETTINGS = {
    "grpc.max_receive_message_length": 64 << 20,  # a message has 10 MB at most; an answer has several
    # An error of exactly-once delivery lists up to 1,000 ids of 220 bytes; gRPC's own limit is 16 KiB.
    "grpc.max_metadata_size": 4 << 20,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
}


def bounded(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A channel's options with the limits: a larger answer is refused when its size is announced."""
    return [*(option for option in options if option[0] not in _SETTINGS), *_SETTINGS.items()]

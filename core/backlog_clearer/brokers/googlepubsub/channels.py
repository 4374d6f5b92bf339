"""How large an answer gRPC may receive: Google's libraries set no limit for it, and one for its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LIMITS = {
    "grpc.max_receive_message_length": 64 << 20,  # a message has 10 MB at most; an answer has several
    # An error of exactly-once delivery lists up to 1,000 ids of 220 bytes; gRPC's own limit is 16 KiB.
    "grpc.max_metadata_size": 4 << 20,
}


def bounded(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A channel's options with the limits: a larger answer is refused when its size is announced."""
    return [*(option for option in options if option[0] not in _LIMITS), *_LIMITS.items()]

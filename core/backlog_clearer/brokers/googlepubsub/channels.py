"""How large an answer gRPC may receive: Google's libraries set no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LIMIT = "grpc.max_receive_message_length"
_MOST_BYTES = 64 * 1024 * 1024  # a message has 10 MB at most; an answer has several


def bounded(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A channel's options with the limit: a larger answer is refused when its size is announced."""
    return [*(option for option in options if option[0] != _LIMIT), (_LIMIT, _MOST_BYTES)]

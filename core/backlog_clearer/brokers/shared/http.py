"""HTTP answers that are bounded in time and size as a whole.

`requests` limits only the time between two bytes, and keeps all that arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import requests

from backlog_clearer.deadline import within

MOST_BYTES = 32 * 1024 * 1024
"""More than any answer has that is asked for here."""

_PIECE_BYTES = 16 * 1024


def whole_answer(
    ask: Callable[..., requests.Response], *where: str, timeout_s: float, **asked: Any
) -> requests.Response:
    """The answer of `requests.get`, `session.request` and the like, with all of its content.

    `timeout_s`: seconds for all of it. Raises `requests.RequestException`, also for an answer that takes
    too long or is too large.
    """
    try:
        return within(timeout_s, partial(_read, ask, *where, timeout=timeout_s, **asked))
    except TimeoutError as error:
        raise requests.Timeout(str(error)) from None


def parsed(answer: requests.Response) -> Any:
    """The JSON value of an answer; raises `ValueError`, also for one that is nested too deep."""
    try:
        return answer.json()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _read(ask: Callable[..., requests.Response], *where: str, **asked: Any) -> requests.Response:
    answer = ask(*where, stream=True, **asked)
    content = bytearray()
    for piece in answer.iter_content(_PIECE_BYTES):
        content += piece
        if len(content) > MOST_BYTES:
            answer.close()
            raise requests.exceptions.ContentDecodingError(f"more than {MOST_BYTES:,} bytes")
    answer._content = bytes(content)  # noqa: SLF001 where `content` and `json` look
    return answer

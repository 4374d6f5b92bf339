"""HTTP answers that are bounded in size as a whole, for every session of `requests`, ours or a library's.

`requests` keeps all that arrives, of redirects and refusals, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from urllib3 import HTTPResponse

MOST_BYTES = 12 * 1024 * 1024
"""More than any answer has that is asked for here."""

_PIECE_BYTES = 16 * 1024


def kept_whole(answer: Any, *, too_large: Callable[[str], Exception] = OSError, **_: Any) -> Any:
    """A response hook: the answer with all of its content, and nothing left to receive.

    Raises `too_large` with a text for content that is larger than `MOST_BYTES`.
    """
    content = bytearray()
    for piece in answer.iter_content(_PIECE_BYTES):
        content += piece
        if len(content) > MOST_BYTES:
            answer.close()
            raise too_large(f"more than {MOST_BYTES:,} bytes")
    whole = bytes(content)
    answer._content, answer._content_consumed = whole, True  # noqa: SLF001 where `content` looks
    if answer.raw is not None:  # some libraries read it from there
        answer.raw = HTTPResponse(io.BytesIO(whole), status=answer.status_code, preload_content=False)
    return answer

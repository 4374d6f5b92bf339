"""Characters that a terminal acts on instead of showing them, and that JSON cannot have; pure."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Controls (not tab and line feed), what changes the direction of a line, and bytes that are not UTF-8."""


def spelled_out(text: str) -> str:
    """A text that a terminal only shows, and that JSON can have: other characters become Python's escapes."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

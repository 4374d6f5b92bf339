"""A limit on the rate of a run, as in 50MB/s or 200k/s: pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from backlog_clearer.text import shown_value

_RATE = re.compile(r"(\d+(?:\.\d+)?) ?([kMG]?)(i?)(B?)/s")
_FACTORS = {"": 0, "k": 1, "M": 2, "G": 3}
_USUAL_BYTES = 1000  # of a message, where a limit is of the other kind than what a protocol can ask for
AHEAD_S = 0.2  # of the rate: what all lanes together may have asked for in advance
_LEAST_MESSAGES, _LEAST_BYTES = 2, 16 * 1024


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of messages or bytes a second."""

    per_s: float
    of_bytes: bool

    def share(self, parts: int) -> Rate:
        """The rate of one of so many equal parts."""
        return Rate(self.per_s / parts, self.of_bytes)

    def __str__(self) -> str:
        return f"{self.per_s:,.0f} {'bytes' if self.of_bytes else 'messages'}/s"

    def ahead_messages(self, lanes: int, most: int, ahead_s: float = AHEAD_S) -> int:
        """How many messages one of so many lanes may ask for in advance: `most`, or fewer."""
        per_s = self.per_s / _USUAL_BYTES if self.of_bytes else self.per_s
        return max(_LEAST_MESSAGES, min(most, int(per_s * ahead_s / lanes)))

    def ahead_bytes(self, lanes: int, most: int, ahead_s: float = AHEAD_S) -> int:
        """How many bytes one of so many lanes may ask for in advance: `most`, or fewer."""
        per_s = self.per_s if self.of_bytes else self.per_s * _USUAL_BYTES
        return max(_LEAST_BYTES, min(most, int(per_s * ahead_s / lanes)))


def rate_of(text: str) -> Rate:
    """The rate that a text spells; raises `ValueError`."""
    match = _RATE.fullmatch(text.strip())
    if not match or (match[3] and not (match[2] and match[4])):
        raise ValueError(
            f"{shown_value(text)} is not a valid rate; write bytes as in 50MB/s, messages as in 200k/s"
        )
    rate = Rate(float(match[1]) * (1024 if match[3] else 1000) ** _FACTORS[match[2]], bool(match[4]))
    if rate.per_s < 1:
        raise ValueError(f"{shown_value(text)} is too low: the lowest rate is 1/s or 1B/s")
    return rate


def lower_rate(asked: str | None, most: str | None) -> str | None:
    """The rate that a request asks for, within the configured one; either may be missing.

    Raises `ValueError` for one that is higher, or that cannot be compared.
    """
    if asked is None or most is None:
        return asked or most
    wanted, limit = rate_of(asked), rate_of(most)
    if wanted.of_bytes != limit.of_bytes:
        raise ValueError(f"is {asked}, but the configuration has {most}: give it in the same unit")
    if wanted.per_s > limit.per_s:
        raise ValueError(f"is {asked}, but the configuration allows at most {most}")
    return asked


def _checked(text: str) -> str:
    rate_of(text)
    return text.strip()


RateText = Annotated[
    str,
    AfterValidator(_checked),
    Field(json_schema_extra={"pattern": r"^\d+(\.\d+)? ?([kMG]?|[kMG]i?B|B)/s$"}),
]
"""A rate as it is written: 50MB/s, 20MiB/s (bytes), 200k/s (messages)."""

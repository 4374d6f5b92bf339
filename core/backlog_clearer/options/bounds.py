"""The options that bound what is cleared; the same for a run, a configured backlog and a request."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, model_validator
from typing_extensions import Self

from backlog_clearer.model import Bound
from backlog_clearer.options.base import Options
from backlog_clearer.options.times import Duration, Time, parse_duration

BOUNDS = ("until", "older_than", "keep_last")
"""The names of the options that bound what is cleared."""


class BoundOptions(Options):
    """At most one bound of what is cleared; none: everything up to the end."""

    until: Time | None = Field(
        None, description="clear only messages published before this time, as in 2026-11-25T10:00:00Z"
    )
    older_than: Duration | None = Field(
        None,
        description="clear only messages that are older than this at the start, as in 90s, 30m, 2h, 7d",
    )
    keep_last: int | None = Field(
        None, ge=1, description="clear all but this many of each partition, where positions are numbers"
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(getattr(self, name) is not None for name in BOUNDS) > 1:
            raise ValueError("--until, --older-than and --keep-last exclude each other")
        return self

    @property
    def bounded(self) -> bool:
        """Whether not everything is to be cleared."""
        return any(getattr(self, name) is not None for name in BOUNDS)

    def bound(self, now: datetime) -> Bound | None:
        """The bound of a run that starts now; None: there is none."""
        if self.keep_last is not None:
            return Bound(keep_last=self.keep_last)
        if self.older_than is not None:
            return Bound(until=(now - parse_duration(self.older_than)).replace(microsecond=0))
        return None if self.until is None else Bound(until=self.until)

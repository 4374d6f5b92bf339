"""What a list of a system's subscriptions takes, whatever the system."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar

from pydantic import Field

from backlog_clearer.options.base import SystemOptions


class ListOptions(SystemOptions):
    """Base of the models for `list`."""

    HOW: ClassVar[frozenset[str]] = frozenset({"matching", "ages"})
    """Fields that choose which subscriptions are listed, and how, but not where they are."""

    matching: str = Field(
        "*",
        min_length=1,
        description="only subscriptions with such a name: * and ? match any characters",
    )
    ages: bool = Field(True, description="find out how old the oldest message of each backlog is")

    def matches(self, name: str) -> bool:
        """Whether a subscription of this name is to be listed."""
        return fnmatchcase(name, self.matching)

"""How to reach an Event Hub, and the container whose checkpoints show its consumer groups."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar

from pydantic import model_validator
from typing_extensions import Self

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.options.listing import ListOptions


class EventHubsListOptions(ListOptions, EventHubsOptions):
    """The consumer groups of one Event Hub that have checkpoints in a container."""

    LISTED: ClassVar[tuple[str, ...]] = (
        "connection_string", "fully_qualified_namespace", "eventhub_name", "checkpoint_store",
        "checkpoint_container", "checkpoint_format", "matching", "transport", "http_proxy",
        "ownership_expiration", "custom_endpoint_address", "connection_verify",
    )  # fmt: skip

    def matches(self, name: str) -> bool:
        """See `ListOptions`; the service takes names of consumer groups in any case."""
        return fnmatchcase(name.lower(), self.matching.lower())

    @model_validator(mode="after")
    def _has_store(self) -> Self:
        if self.checkpoint_store is None:
            raise ValueError(
                "--checkpoint-store is needed: only checkpoints show which consumer groups there are"
            )
        return self

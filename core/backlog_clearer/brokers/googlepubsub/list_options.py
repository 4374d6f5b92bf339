"""How to reach the project whose subscriptions are listed."""

from __future__ import annotations

from pydantic import Field

from backlog_clearer.options.base import Name
from backlog_clearer.options.listing import ListOptions


class PubSubListOptions(ListOptions):
    """The subscriptions of a project."""

    project_id: Name = Field(min_length=1, description="project of the subscriptions")
    credentials_file: str | None = Field(
        None, description="service account key or other credentials file; otherwise ADC is used"
    )
    api_endpoint: str | None = Field(
        None, description="host:port of a regional or private Pub/Sub endpoint"
    )
    monitoring_endpoint: str | None = Field(
        None,
        description="host:port of Cloud Monitoring, if not the public one;"
        " http://host:port is plain text without credentials",
    )

    @classmethod
    def sent_files(cls) -> frozenset[str]:
        """See `SystemOptions`."""
        return frozenset({"credentials_file"})

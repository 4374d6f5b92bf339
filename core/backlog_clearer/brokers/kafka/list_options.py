"""How to reach a cluster whose consumer groups are listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import Self

from backlog_clearer.brokers.kafka.java import in_librdkafkas_words
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.options.base import Names
from backlog_clearer.options.listing import ListOptions

_NO_GROUP = "backlog-clearer-list"  # neither joined nor asked for


class KafkaListOptions(ListOptions):
    """The consumer groups of a cluster."""

    bootstrap_servers: Names = Field(
        description="brokers to ask first, comma-separated HOST:PORT", min_length=1
    )
    topic: Names = Field((), description="only the backlog on these topics, comma-separated")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="a librdkafka setting, as in security.protocol=SASL_SSL; may be repeated",
    )

    @classmethod
    def understood(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See `SystemOptions`."""
        return in_librdkafkas_words(settings)

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        self.reach()
        return self

    def reach(self) -> KafkaOptions:
        """The same for code that is about one group; raises `ValueError`."""
        return KafkaOptions(
            bootstrap_servers=self.bootstrap_servers,
            topic=self.topic or (_NO_GROUP,),
            group_id=_NO_GROUP,
            settings=self.settings,
        )

"""How to reach the topics whose groups, and known consumers, are listed."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.options.base import Name, Names
from backlog_clearer.options.listing import ListOptions


class IggyListOptions(ListOptions, IggyOptions):
    """The groups of one topic, of a stream's topics, or of all of them."""

    LISTED: ClassVar[tuple[str, ...]] = (
        "host", "port", "stream_id", "topic_id", "matching", "ages", "consumer_ids", "username",
        "password", "token", "tls", "tls_ca_file", "tls_domain",
    )  # fmt: skip

    HOW: ClassVar[frozenset[str]] = ListOptions.HOW | {"consumer_ids"}

    stream_id: Name = Field("", description="number or name of the stream [default all]")
    topic_id: Name = Field("", description="number or name of the topic [default all of the stream]")
    consumer_ids: Names = Field(
        (),
        description="also these single consumers, by numbers or names, comma-separated: the server does"
        " not list them",
    )

    @model_validator(mode="after")
    def _names_a_place(self) -> Self:
        if self.topic_id and not self.stream_id:
            raise ValueError("--topic-id needs --stream-id")
        return self

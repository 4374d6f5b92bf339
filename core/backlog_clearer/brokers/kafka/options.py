"""How to reach a consumer group's backlog on Apache Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from backlog_clearer.model import StrEnum
from backlog_clearer.options.base import Name, Names, SystemOptions

_PUBLIC_SETTINGS = frozenset(
    {
        "broker.address.family",
        "client.id",
        "client.rack",
        "sasl.mechanism",
        "sasl.mechanisms",
        "security.protocol",
        "ssl.ca.location",
        "ssl.endpoint.identification.algorithm",
    }
)
"""librdkafka settings without secrets that a restore needs; no others are written to receipts."""


_OURS = {
    "bootstrap.servers": "use --bootstrap-servers",
    "metadata.broker.list": "use --bootstrap-servers",
    "group.id": "use --group-id",
    "allow.auto.create.topics": "a mistyped topic must not be created",
    "auto.offset.reset": "reading starts at the committed offset, or where the log starts",
    "enable.auto.commit": "only what was counted is committed",
    "enable.auto.offset.store": "only what was counted is committed",
    "enable.partition.eof": "it is needed to detect the end",
    "isolation.level": "messages of aborted and open transactions are backlog, too",
}
"""librdkafka settings that would change what the tool guarantees, and why they are refused."""


class Reader(StrEnum):
    """How messages are read."""

    AUTO = "auto"  # headers where that is possible, else client
    HEADERS = "headers"  # only the headers of record batches: nothing decompressed, no objects
    CLIENT = "client"  # librdkafka's consumer


class KafkaOptions(SystemOptions):
    """One consumer group on one or more topics."""

    bootstrap_servers: Names = Field(
        description="brokers to ask first, comma-separated HOST:PORT", min_length=1
    )
    topic: Names = Field(description="topic, or several, comma-separated", min_length=1)
    group_id: Name = Field(description="consumer group whose backlog is cleared", min_length=1)
    reader: Reader = Field(
        Reader.AUTO,
        description="headers: count by the headers of record batches only, the fastest;"
        " client: librdkafka's consumer; auto: headers, or client where headers cannot be used",
    )
    lower_to_end: bool = Field(
        False,
        description="set a committed offset that lies beyond the end of its log to the end; without it, such"
        " a partition is an error",
    )
    delete_group: bool = Field(
        False,
        description="restore: where the broker cannot forget single offsets (before 2.4), delete the whole"
        " group to forget them",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="a librdkafka setting, as in security.protocol=SASL_SSL; may be repeated",
    )

    @model_validator(mode="before")
    @classmethod
    def _collect_dotted(cls, values: object) -> object:
        """Take keys with a dot for librdkafka settings."""
        if not isinstance(values, Mapping):
            return values
        settings = values.get("settings") or {}
        dotted = {key: value for key, value in values.items() if isinstance(key, str) and "." in key}
        if not dotted or not isinstance(settings, Mapping):
            return values
        plain = {key: value for key, value in values.items() if key not in dotted}
        return {**plain, "settings": {**settings, **dotted}}

    @field_validator("bootstrap_servers", "topic")
    @classmethod
    def _without_repeats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @field_validator("settings")
    @classmethod
    def _not_ours(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Refuse settings that have a separate option, and settings whose value is fixed."""
        for key, why in _OURS.items():
            if key in settings:
                raise ValueError(f"{key} cannot be set here: {why}")
        return settings

    def public(self) -> dict[str, Any]:
        """Everything but the secrets: of the settings, only those known to hold none."""
        shown = {key: value for key, value in self.settings.items() if key in _PUBLIC_SETTINGS}
        public = {key: value for key, value in super().public().items() if key != "settings"}
        return {**public, "settings": shown} if shown else public

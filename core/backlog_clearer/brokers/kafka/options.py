"""How to reach a consumer group's backlog on Apache Kafka."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from backlog_clearer.brokers.kafka.java import in_librdkafkas_words
from backlog_clearer.brokers.kafka.settings import passed_on, refused
from backlog_clearer.model import StrEnum
from backlog_clearer.options.addresses import checked_address
from backlog_clearer.options.base import Name, Names, SystemOptions

_PUBLIC_SETTINGS = frozenset(
    {
        "broker.address.family",
        "client.id",
        "client.rack",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.username",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
        "ssl.keystore.location",
    }
)
"""librdkafka settings that a restore needs, whose values are not secrets and do not run code.

Not among them: whatever loads a library (`plugin.library.paths`, `ssl.engine.location`, `ssl.providers`)
and what librdkafka puts into a shell command (`sasl.kerberos.*`).
"""

_SECRET_SETTINGS = frozenset(
    {
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.password",
        "ssl.ca.pem",
        "ssl.certificate.pem",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }
)
"""librdkafka settings whose references are written to receipts, but never their values."""


_SCHEMES = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PATTERN = re.compile(r"[*^$+?()|\[\]{}\\]")

_ONCE = frozenset({"lower_to_end", "delete_group"})
"""What a user allows for one call: a receipt does not bring it into another."""


class Reader(StrEnum):
    """How messages are read."""

    AUTO = "auto"  # headers where that is possible, else client
    HEADERS = "headers"  # only the headers of record batches: nothing decompressed, no objects
    CLIENT = "client"  # librdkafka's consumer


class KafkaOptions(SystemOptions):
    """One consumer group on one or more topics."""

    NAMES: ClassVar[tuple[str, ...]] = ("group_id",)

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

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_address(name, schemes=_SCHEMES) for name in names)

    @field_validator("topic")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _TOPIC.fullmatch(name):
                kind = "a pattern" if _PATTERN.search(name) else "not the name of a topic"
                raise ValueError(f"{name[:60]!r} is {kind}: give the names of topics, comma-separated")
        return names

    @field_validator("settings")
    @classmethod
    def _not_ours(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Refuse what cannot be set here, all of it at once, and leave out what has no effect."""
        lines = refused(settings)
        if lines:
            raise ValueError("\n  ".join(["these settings cannot be used here:", *lines]))
        return passed_on(settings)

    @property
    def place(self) -> str:
        """See `SystemOptions`."""
        return ",".join(self.bootstrap_servers)

    @classmethod
    def understood(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See `SystemOptions`: settings of Java clients are taken where they mean just one thing."""
        return in_librdkafkas_words(settings)

    @classmethod
    def public_settings(cls) -> frozenset[str]:
        """See `SystemOptions`."""
        return _PUBLIC_SETTINGS

    @classmethod
    def secret_settings(cls) -> frozenset[str]:
        """See `SystemOptions`."""
        return _SECRET_SETTINGS

    def public(self) -> dict[str, Any]:
        """See `SystemOptions`."""
        return {name: value for name, value in super().public().items() if name not in _ONCE}

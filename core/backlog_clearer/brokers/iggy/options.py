"""How to reach the offsets of one consumer, or one consumer group, on Apache Iggy."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator, model_validator
from typing_extensions import Self

from backlog_clearer.options.base import ExistingFile, Name, PartitionNumbers, SystemOptions

_MAX_ID = 2**32 - 1
_MAX_NAME_BYTES = 255


class IggyOptions(SystemOptions):
    """A consumer's or a group's offsets on one topic."""

    NAMES: ClassVar[tuple[str, ...]] = ("consumer_id", "group_id")

    host: str = Field("127.0.0.1", min_length=1, description="address of the server")
    port: int = Field(8090, ge=1, le=65535, description="its TCP port")
    stream_id: Name = Field(description="number or name of the stream")
    topic_id: Name = Field(description="number or name of the topic")
    partition_ids: PartitionNumbers | None = Field(
        None, description="only these partitions, by the server's own ids, as in 0,1,4-7 [default all]"
    )
    consumer_id: Name | None = Field(
        None, description="number or name of the consumer whose offsets are cleared [default 0]"
    )
    group_id: Name | None = Field(
        None, description="number or name of the consumer group whose offsets are cleared instead"
    )
    username: str | None = Field(None, description="user to log in as")
    password: SecretStr | None = Field(None, description="the user's password, better as ${env:NAME}")
    token: SecretStr | None = Field(
        None, description="personal access token instead, better as ${env:NAME} or ${file:PATH}"
    )
    tls: bool = Field(False, description="connect with TLS")
    tls_ca_file: ExistingFile | None = Field(
        None, description="PEM file with the authority to trust instead of the system's"
    )
    tls_domain: str | None = Field(
        None, description="name that the server's certificate must have [default the host]"
    )

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        """Refuse a URL, and a port: it has a separate option."""
        if "://" in host or "/" in host:
            raise ValueError("give the host's name or address, without a scheme or path")
        if host.count(":") == 1:
            raise ValueError("give the port by --port")
        return host

    @field_validator("stream_id", "topic_id", "consumer_id", "group_id")
    @classmethod
    def _is_identifier(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value.isdecimal() and int(value) > _MAX_ID:
            raise ValueError("a numeric id is below 4294967296")
        if not 1 <= len(value.encode()) <= _MAX_NAME_BYTES:
            raise ValueError("give a number, or a name of 1 to 255 bytes")
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.consumer_id is not None and self.group_id is not None:
            raise ValueError("give either --consumer-id or --group-id")
        if self.token is not None and (self.username is not None or self.password is not None):
            raise ValueError("give either --token, or --username and --password")
        if (self.username is None) != (self.password is None):
            raise ValueError("--username and --password go together")
        if not self.tls and (self.tls_ca_file or self.tls_domain):
            raise ValueError("--tls-ca-file and --tls-domain need --tls")
        return self

    @property
    def consumer_name(self) -> str:
        """See `SystemOptions`."""
        return self.consumer

    @property
    def place(self) -> str:
        """See `SystemOptions`."""
        return f"{self.host}:{self.port}"

    @property
    def consumer(self) -> str:
        """The consumer or the group, by number or name."""
        return self.group_id or self.consumer_id or "0"

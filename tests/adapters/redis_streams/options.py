"""How to reach a consumer group on a Redis stream; imports without redis-py."""

from __future__ import annotations

from pydantic import Field, SecretStr

from backlog_clearer.options.base import SystemOptions


class RedisOptions(SystemOptions):
    """How to reach a consumer group on a Redis stream."""

    host: str = Field("127.0.0.1", description="the server's name or address")
    port: int = Field(6379, ge=1, le=65535, description="the server's port")
    db: int = Field(0, ge=0, description="number of the database")
    username: str | None = Field(None, description="user of an access control list")
    password: SecretStr | None = Field(None, description="the user's password")
    tls: bool = Field(False, description="connect with TLS")
    stream: str = Field(description="key of the stream")
    group: str = Field(description="consumer group whose backlog is cleared")
    live_idle_seconds: float = Field(
        60.0, ge=0, description="a consumer that was idle for less than this counts as attached"
    )

"""librdkafka's settings in the form that a socket needs: TLS context, SASL mechanism, time-outs.

Settings that `connection` does not support raise `HeadersUnsupportedError` with their name, so that
librdkafka, which supports them, is used instead: none is silently ignored.
Names and defaults: librdkafka's CONFIGURATION.md.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backlog_clearer.brokers.kafka import msk_iam
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.options import KafkaOptions

TIMEOUT_S = 10.0
"""Longest wait for a connection or an answer; settings may only shorten it."""

_QUEUEING = frozenset(
    {
        "debug",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "heartbeat.interval.ms",
        "log.connection.close",
        "log_level",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "metadata.max.age.ms",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "receive.message.max.bytes",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "session.timeout.ms",
        "socket.receive.buffer.bytes",
        "socket.send.buffer.bytes",
        "statistics.interval.ms",
        "topic.metadata.refresh.interval.ms",
    }
)
"""Settings of librdkafka's queues, logs and group membership; a bare Fetch request uses none of them."""

_CONNECTION = frozenset(
    {
        "client.id",
        "client.rack",
        "enable.sasl.oauthbearer.unsecure.jwt",
        "enable.ssl.certificate.verification",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.extensions",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "socket.connection.setup.timeout.ms",
        "socket.timeout.ms",
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
        "ssl.key.password",
    }
)

_MECHANISMS = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"})


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """How to connect and log in."""

    client_id: str
    rack: str
    connect_timeout_s: float
    timeout_s: float
    tls: ssl.SSLContext | None
    mechanism: str | None  # of SASL; None: no login
    login: Mapping[str, Any]  # parameters of kafka-python's mechanism; holds secrets, never shown


def socket_settings(options: KafkaOptions) -> SocketSettings:
    """The connection's part of the settings.

    Raises `HeadersUnsupportedError` naming a setting that only librdkafka supports.
    """
    given = options.settings
    for name in sorted(given):
        if name not in _CONNECTION and name not in _QUEUEING:
            raise HeadersUnsupportedError(f"only librdkafka supports the setting {name}")
    protocol = str(given.get("security.protocol", "plaintext")).upper()
    if protocol not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
        raise HeadersUnsupportedError("only librdkafka supports this security.protocol")
    mechanism, login = _login(given) if protocol.startswith("SASL") else (None, {})
    return SocketSettings(
        client_id=str(given.get("client.id", "backlog-clearer")),
        rack=str(given.get("client.rack", "")),
        connect_timeout_s=_seconds(given, "socket.connection.setup.timeout.ms"),
        timeout_s=_seconds(given, "socket.timeout.ms"),
        tls=_tls(given) if protocol.endswith("SSL") else None,
        mechanism=mechanism,
        login=login,
    )


def _seconds(given: Mapping[str, Any], name: str) -> float:
    try:
        return min(TIMEOUT_S, float(given.get(name, TIMEOUT_S * 1000)) / 1000)
    except ValueError:
        raise HeadersUnsupportedError(f"only librdkafka accepts this value of {name}") from None


def _yes(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    return str(given.get(name, default)).lower() in {"true", "1", "yes", "t"}


def _tls(given: Mapping[str, Any]) -> ssl.SSLContext:
    """The context for the settings `ssl.*`; system authorities where none is named."""
    try:
        where = given.get("ssl.ca.location")
        folder = where is not None and Path(where).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else where,
            capath=where if folder else None,
            cadata=given.get("ssl.ca.pem"),
        )
        if "ssl.certificate.location" in given:
            context.load_cert_chain(
                given["ssl.certificate.location"],
                given.get("ssl.key.location"),
                given.get("ssl.key.password"),
            )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise HeadersUnsupportedError(
            f"the TLS files cannot be used by Python: {type(error).__name__}"
        ) from None
    if str(given.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    if not _yes(given, "enable.ssl.certificate.verification", default=True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _login(given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The SASL mechanism and its parameters."""
    mechanism = str(given.get("sasl.mechanisms", given.get("sasl.mechanism", "GSSAPI"))).upper()
    if msk_iam.asks_for_iam(given):
        return "OAUTHBEARER", {"sasl_oauth_token_provider": msk_iam.MskToken()}
    if mechanism not in _MECHANISMS:
        raise HeadersUnsupportedError(f"only librdkafka supports SASL {mechanism}")
    if mechanism == "OAUTHBEARER":
        return mechanism, {"sasl_oauth_token_provider": _token_provider(given)}
    if "sasl.username" not in given or "sasl.password" not in given:
        raise HeadersUnsupportedError("sasl.username and sasl.password are not both set")
    return mechanism, {
        "sasl_plain_username": str(given["sasl.username"]),
        "sasl_plain_password": str(given["sasl.password"]),
        "sasl_mechanism": mechanism,
    }


class _Token:
    """A token fetched when a connection logs in: a token provider of kafka-python."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def token(self) -> str:
        """A fresh token."""
        if str(self._given.get("sasl.oauthbearer.method", "default")).lower() == "oidc":
            from backlog_clearer.brokers.kafka.token_endpoint import client_credentials  # noqa: PLC0415 loads an HTTP client

            return client_credentials(self._given, TIMEOUT_S)
        return unsecured_token(str(self._given.get("sasl.oauthbearer.config", "")), time.time())

    def extensions(self) -> dict[str, str]:
        """SASL extensions, as in "logicalCluster=lkc-1,identityPoolId=pool-2"."""
        return _pairs(str(self._given.get("sasl.oauthbearer.extensions", "")), ",")


def _token_provider(given: Mapping[str, Any]) -> _Token:
    if str(given.get("sasl.oauthbearer.method", "default")).lower() == "oidc":
        if not given.get("sasl.oauthbearer.token.endpoint.url"):
            raise HeadersUnsupportedError("sasl.oauthbearer.token.endpoint.url is not set")
    elif not _yes(given, "enable.sasl.oauthbearer.unsecure.jwt", default=False):
        raise HeadersUnsupportedError("sasl.oauthbearer.method is neither oidc nor unsecured")
    return _Token(given)


def _pairs(text: str, separator: str | None) -> dict[str, str]:
    """`a=b` pairs; other words are ignored, as librdkafka ignores them."""
    return dict(part.strip().split("=", 1) for part in text.split(separator) if "=" in part)


def unsecured_token(config: str, now: float) -> str:
    """An unsigned JWT, for clusters that test OAUTHBEARER (RFC 7515, "alg": "none").

    `config` is `sasl.oauthbearer.config`: "principal=alice scope=a,b lifeSeconds=3600".
    """
    values = _pairs(config, None)
    issued = int(now)  # a fraction, rounded by the broker, may lie in its future, which it refuses
    claims: dict[str, Any] = {
        values.get("principalClaimName", "sub"): values.get("principal", ""),
        "iat": issued,
        "exp": issued + int(values.get("lifeSeconds", "3600")),
    }
    if "scope" in values:
        claims[values.get("scopeClaimName", "scope")] = values["scope"].split(",")
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."

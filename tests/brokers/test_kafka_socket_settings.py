"""librdkafka's settings on the header reader: honoured, without meaning, or handed to librdkafka."""

from __future__ import annotations

import base64
import json
import ssl
from typing import Any

import pytest

from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import (
    SocketSettings,
    socket_settings,
    unsecured_token,
)


def judged(**settings: Any) -> SocketSettings:
    """The connection for settings, written with underscores for dots."""
    given = {key.replace("__", "-").replace("_", "."): value for key, value in settings.items()}
    options = KafkaOptions.model_validate(
        {"bootstrap_servers": "h:1", "topic": "t", "group_id": "g", "settings": given}
    )
    return socket_settings(options)


def test_plain_by_default() -> None:
    """Without settings: no TLS, no login."""
    found = judged()
    assert (found.tls, found.mechanism, dict(found.login)) == (None, None, {})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sasl_kerberos_service_name": "kafka"}, "sasl.kerberos.service.name"),
        ({"ssl_keystore_location": "k.p12"}, "ssl.keystore.location"),
        ({"ssl_cipher_suites": "ALL"}, "ssl.cipher.suites"),
        ({"security_protocol": "SASL_SSL"}, "GSSAPI"),
        ({"security_protocol": "nonsense"}, "security.protocol"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanisms": "PLAIN"}, "sasl.username"),
        ({"security_protocol": "ssl", "ssl_ca_location": "/no/such.pem"}, "TLS files"),
        ({"socket_timeout_ms": "soon"}, "socket.timeout.ms"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanisms": "OAUTHBEARER"}, "oidc"),
    ],
)
def test_what_only_librdkafka_can(settings: dict[str, Any], named: str) -> None:
    """A setting that this connection cannot honour is named, never ignored."""
    with pytest.raises(HeadersUnsupportedError, match=named.replace(".", r"\.")):
        judged(**settings)


def test_secrets_stay_out_of_reasons() -> None:
    """The reason for handing over holds no password."""
    with pytest.raises(HeadersUnsupportedError) as raised:
        judged(
            security_protocol="SASL_SSL", sasl_mechanisms="GSSAPI", sasl_password="hunter2",
            sasl_username="u",
        )  # fmt: skip
    assert "hunter2" not in str(raised.value)


def test_login_and_rack() -> None:
    """A mechanism, its user, the rack and the time-outs arrive where they are used."""
    found = judged(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_username="u",
        sasl_password="p", client_rack="eu-1", socket_timeout_ms=3000,
    )  # fmt: skip
    assert (found.mechanism, found.login["sasl_plain_username"]) == ("SCRAM-SHA-256", "u")
    assert (found.rack, found.timeout_s, found.tls) == ("eu-1", 3.0, None)


def test_verification_is_on_unless_switched_off() -> None:
    """Certificates and host names are checked unless the setting says otherwise."""
    strict = judged(security_protocol="ssl").tls
    loose = judged(security_protocol="ssl", enable_ssl_certificate_verification="false").tls
    unnamed = judged(security_protocol="ssl", ssl_endpoint_identification_algorithm="none").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert loose is not None
    assert loose.verify_mode is ssl.CERT_NONE
    assert unnamed is not None
    assert (unnamed.verify_mode, unnamed.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_unsecured_token() -> None:
    """An unsigned token carries the principal, its life and its scopes, issued in the past."""
    head, body, signature = unsecured_token(
        "principal=alice scope=a,b lifeSeconds=60", 1000.9996
    ).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "none"}
    assert json.loads(base64.urlsafe_b64decode(body + "==")) == {
        "sub": "alice", "iat": 1000, "exp": 1060, "scope": ["a", "b"],
    }  # fmt: skip
    assert signature == ""

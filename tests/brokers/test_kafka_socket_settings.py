"""librdkafka's settings for the header reader: supported, without effect, or left to librdkafka."""

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


def settings_for(**settings: Any) -> SocketSettings:
    """The connection for settings, written with underscores for dots."""
    given = {key.replace("__", "-").replace("_", "."): value for key, value in settings.items()}
    options = KafkaOptions.model_validate(
        {"bootstrap_servers": "h:1", "topic": "t", "group_id": "g", "settings": given}
    )
    return socket_settings(options)


def test_default_is_plain_without_login() -> None:
    """Without settings: no TLS, no login."""
    found = settings_for()
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
def test_settings_for_librdkafka_only_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    """A setting that this connection does not support is named, never ignored."""
    with pytest.raises(HeadersUnsupportedError, match=named.replace(".", r"\.")):
        settings_for(**settings)


def test_secrets_stay_out_of_reasons() -> None:
    """The reason for leaving it to librdkafka holds no password."""
    with pytest.raises(HeadersUnsupportedError) as raised:
        settings_for(
            security_protocol="SASL_SSL", sasl_mechanisms="GSSAPI", sasl_password="hunter2",
            sasl_username="u",
        )  # fmt: skip
    assert "hunter2" not in str(raised.value)


def test_login_rack_and_time_outs_are_taken_over() -> None:
    """A mechanism, its user, the rack and the time-outs appear in the connection's settings."""
    found = settings_for(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_username="u",
        sasl_password="p", client_rack="eu-1", socket_timeout_ms=3000,
    )  # fmt: skip
    assert (found.mechanism, found.login["sasl_plain_username"]) == ("SCRAM-SHA-256", "u")
    assert (found.rack, found.timeout_s, found.tls) == ("eu-1", 3.0, None)


def test_verification_is_on_unless_switched_off() -> None:
    """Certificates and host names are checked unless a setting turns that off."""
    strict = settings_for(security_protocol="ssl").tls
    loose = settings_for(security_protocol="ssl", enable_ssl_certificate_verification="false").tls
    unnamed = settings_for(security_protocol="ssl", ssl_endpoint_identification_algorithm="none").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert loose is not None
    assert loose.verify_mode is ssl.CERT_NONE
    assert unnamed is not None
    assert (unnamed.verify_mode, unnamed.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_unsecured_token_carries_its_claims() -> None:
    """An unsigned token carries the principal, its life and its scopes, issued in the past."""
    head, body, signature = unsecured_token(
        "principal=alice scope=a,b lifeSeconds=60", 1000.9996
    ).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "none"}
    assert json.loads(base64.urlsafe_b64decode(body + "==")) == {
        "sub": "alice", "iat": 1000, "exp": 1060, "scope": ["a", "b"],
    }  # fmt: skip
    assert signature == ""

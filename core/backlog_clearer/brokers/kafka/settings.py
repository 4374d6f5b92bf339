"""Settings as users of Kafka's Java clients and of librdkafka write them: which have a meaning here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIXED: dict[str, tuple[str, str]] = {
    "allow.auto.create.topics": ("false", "a mistyped topic must not be created"),
    "auto.offset.reset": (
        "earliest",
        "reading starts at the committed offset, or where the log starts",
    ),
    "enable.auto.commit": ("false", "only what was counted is committed"),
    "enable.auto.offset.store": ("false", "only what was counted is committed"),
    "enable.partition.eof": ("true", "it is needed to detect the end"),
    "isolation.level": (
        "read_uncommitted",
        "messages of aborted and open transactions are backlog, too",
    ),
}
"""librdkafka settings with a fixed value, which may be given, and why another one is refused."""

_OURS = {
    "bootstrap.servers": "use --bootstrap-servers",
    "metadata.broker.list": "use --bootstrap-servers",
    "group.id": "use --group-id",
}
"""librdkafka settings that have a separate option."""

_OF_JAVA = {
    "sasl.jaas.config": "only a login of PlainLoginModule or ScramLoginModule by username and password is"
    " understood; use sasl.username and sasl.password, as in -X sasl.password='${env:NAME}'",
    "sasl.login.callback.handler.class": "use sasl.mechanisms=OAUTHBEARER with sasl.oauthbearer.method=oidc,"
    " or sasl.mechanisms=AWS_MSK_IAM",
    "sasl.client.callback.handler.class": "use sasl.mechanisms=OAUTHBEARER with"
    " sasl.oauthbearer.method=oidc, or sasl.mechanisms=AWS_MSK_IAM",
    "ssl.truststore.location": "use ssl.ca.location with a PEM file (keytool -exportcert -rfc writes one);"
    " with ssl.truststore.type=PEM it is taken as it is",
    "ssl.truststore.password": "leave it out: the PEM file of ssl.ca.location has no password",
    "ssl.truststore.type": "leave it out: ssl.ca.location takes PEM",
    "ssl.truststore.certificates": "use ssl.ca.pem",
    "ssl.keystore.type": "leave it out: ssl.keystore.location takes PKCS#12, ssl.certificate.location PEM",
    "ssl.keystore.certificate.chain": "use ssl.certificate.pem",
    "ssl.keystore.key": "use ssl.key.pem",
    "ssl.enabled.protocols": "leave it out: TLS 1.2 and later are used",
    "ssl.protocol": "leave it out: TLS 1.2 and later are used",
    "ssl.engine.factory.class": "leave it out: no code of a class path can be run",
    "ssl.provider": "leave it out: OpenSSL is used",
    "ssl.keymanager.algorithm": "leave it out: OpenSSL is used",
    "ssl.trustmanager.algorithm": "leave it out: OpenSSL is used",
    "ssl.secure.random.implementation": "leave it out: OpenSSL is used",
    "sasl.login.class": "leave it out: no code of a class path can be run",
    "sasl.oauthbearer.jwks.endpoint.url": "leave it out: only the broker checks tokens",
    "sasl.oauthbearer.expected.audience": "leave it out: only the broker checks tokens",
    "sasl.oauthbearer.expected.issuer": "leave it out: only the broker checks tokens",
    "fetch.max.wait.ms": "use fetch.wait.max.ms",
    "receive.buffer.bytes": "use socket.receive.buffer.bytes",
    "send.buffer.bytes": "use socket.send.buffer.bytes",
    "key.deserializer": "leave it out: no message is decoded",
    "value.deserializer": "leave it out: no message is decoded",
    "max.poll.records": "use --batch-size",
    "request.timeout.ms": "use socket.timeout.ms",
    "default.api.timeout.ms": "use socket.timeout.ms",
    "reconnect.backoff.ms.max": "use reconnect.backoff.max.ms",
    "interceptor.classes": "leave it out: no code of a class path can be run",
    "metric.reporters": "leave it out: no code of a class path can be run",
    "security.providers": "leave it out: no code of a class path can be run",
}
"""Settings that only Kafka's Java clients have, and what does the same here."""

NO_EFFECT = frozenset(
    {
        "auto.commit.interval.ms",
        "auto.include.jmx.reporter",
        "exclude.internal.topics",
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "metrics.num.samples",
        "metrics.recording.level",
        "metrics.sample.window.ms",
        "partition.assignment.strategy",
        "sasl.kerberos.ticket.renew.jitter",
        "sasl.kerberos.ticket.renew.window.factor",
        "sasl.login.connect.timeout.ms",
        "sasl.login.read.timeout.ms",
        "sasl.login.refresh.buffer.seconds",
        "sasl.login.refresh.min.period.seconds",
        "sasl.login.refresh.window.factor",
        "sasl.login.refresh.window.jitter",
        "sasl.login.retry.backoff.max.ms",
        "sasl.login.retry.backoff.ms",
        "sasl.oauthbearer.clock.skew.seconds",
        "sasl.oauthbearer.header.urlencode",
        "sasl.oauthbearer.scope.claim.name",
        "session.timeout.ms",
        "socket.connection.setup.timeout.max.ms",
    }
)
"""Settings that may be given, and change nothing here.

No client joins the group, and the others are about details of the Java client's metrics and retries.
"""


def passed_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that librdkafka gets; the others have no effect, or the value that they have anyway."""
    return {key: value for key, value in settings.items() if key not in NO_EFFECT and key not in _FIXED}


def refused(settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting that cannot be used here, with what to do; values are not shown."""
    lines = []
    for key, value in settings.items():
        if key in _FIXED:
            only, why = _FIXED[key]
            if str(value).strip().lower() != only:
                lines.append(f"{key} can only be {only}: {why}")
        elif key in _OURS:
            lines.append(f"{key}: {_OURS[key]}")
        elif key in _OF_JAVA:
            lines.append(f"{key} is a setting of Kafka's Java clients: {_OF_JAVA[key]}")
    return lines

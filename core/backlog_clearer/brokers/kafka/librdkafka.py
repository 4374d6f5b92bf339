"""librdkafka clients for one subscription: their settings, and the errors that they report."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from backlog_clearer.brokers.kafka import msk_iam
from backlog_clearer.brokers.kafka.errors import REFUSALS, bad_setting, reason, refusal
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import TransientError
from backlog_clearer.redaction.redact import redacted

REQUEST_TIMEOUT_S = 10.0
"""Longest wait for any answer; every call of an adapter has to return within 15 s."""

_QUEUE_LASTS_S = 5.0  # messages fetched before a connection was lost are delivered within this time

_ADVERTISED = re.compile(r"(?:\w+://)?(\S+)/(\d+): ")
"""How librdkafka's errors begin that are about a broker whose address another broker gave: HOST:PORT/NODE."""

_LOG = logging.getLogger("backlog_clearer.librdkafka")


def librdkafka_config(options: KafkaOptions) -> dict[str, Any]:
    """Settings for any client of this subscription; the user's own come last and win.

    `group.id` is needed for committing: no client joins the group. Raises `UsageError` where a token of
    AWS is asked for and cannot be made.
    """
    timeout_ms = int(REQUEST_TIMEOUT_S * 1000)
    ours: dict[str, Any] = {
        "bootstrap.servers": ",".join(options.bootstrap_servers),
        "group.id": options.group_id,
        "client.id": "backlog-clearer",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        "socket.timeout.ms": timeout_ms,
        "socket.connection.setup.timeout.ms": timeout_ms,
        # A commit waits this long for the group's coordinator; the group is never joined.
        "session.timeout.ms": timeout_ms,
        "heartbeat.interval.ms": timeout_ms // 5,
        "reconnect.backoff.max.ms": 1000,
    }
    given = {key: _plain(value) for key, value in options.settings.items()}
    return {**ours, **(msk_iam.librdkafka_settings(given) if msk_iam.asks_for_iam(given) else given)}


def _plain(value: Any) -> Any:
    """A boolean of JSON as librdkafka spells it."""
    return str(value).lower() if isinstance(value, bool) else value


class Complaints:
    """The errors that a client reports through `error_cb`: reasons of time-outs, and refused logins."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._refused: KafkaError | None = None
        self.down_at: float | None = None  # when the last connection was lost; see `recovered`
        self.last: str | None = None  # the latest reason, for people
        self.last_at = -math.inf  # when a connection failed last, by `time.monotonic`

    def __call__(self, error: KafkaError) -> None:
        """Called by librdkafka from within a call of the client's own thread."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 librdkafka's public name
            self.down_at = time.monotonic()
            return
        if error.code() in REFUSALS:
            self._refused = error
        self.last = reason(error)

    def log(self, _level: int, message: str, facility: str, *rest: str) -> None:
        """Called by librdkafka in place of `logging.Logger.log`; keeps the reason of a failed connection.

        A broker that closes the connection at once (it expects TLS, for example) is reported only here.
        """
        texts = [redacted(text) for text in rest]
        if facility == "FAIL" and texts:
            self.last_at = time.monotonic()
            self.last = texts[-1].partition("]: ")[2] or texts[-1]
        _LOG.debug(message, facility, *texts)

    def recovered(self) -> None:
        """Note that messages came: no sign of a connection while the queue may still hold old ones."""
        if self.down_at is not None and time.monotonic() - self.down_at > _QUEUE_LASTS_S:
            self.down_at = None

    def raise_refusal(self) -> None:
        """Raise `BrokerError` if the broker refused the login."""
        if self._refused is not None:
            raise refusal(self._refused, self._options)

    def unreachable(self, doing: str) -> TransientError:
        """The error for a request that was never answered."""
        servers = ",".join(self._options.bootstrap_servers)
        last = (self.last or "no answer, and no connection error either").rstrip(".")
        advertised = _ADVERTISED.match(last)
        if advertised and advertised[1] not in self._options.bootstrap_servers:
            return TransientError(
                f"Kafka at {servers} gives {advertised[1]} as the address of broker {advertised[2]}, which"
                f" cannot be reached while {doing}: {last}. Check the broker's advertised.listeners, and the"
                " network between here and that address."
            )
        return TransientError(
            f"Kafka at {servers} cannot be reached while {doing}: {last}. Check --bootstrap-servers,"
            " the network, and that security.protocol fits the listener."
        )


def open_consumer(
    options: KafkaOptions, complaints: Complaints, settings: Mapping[str, Any] | None = None
) -> Consumer:
    """A consumer with separate connections; `settings` are overridden by the user's.

    Raises `UsageError` for settings that librdkafka does not accept.
    """
    # Read committed, `committed()` would time out for as long as a transaction with offsets is open.
    ours = {"isolation.level": "read_uncommitted", **(settings or {})}
    config = {**ours, **librdkafka_config(options)}
    try:
        return Consumer({**config, "error_cb": complaints, "logger": complaints})
    except (KafkaException, ValueError, TypeError) as failure:
        raise bad_setting(failure) from None


def open_admin(options: KafkaOptions, complaints: Complaints) -> AdminClient:
    """An admin client; raises `UsageError` for settings that librdkafka does not accept."""
    config = {**librdkafka_config(options), "error_cb": complaints, "logger": complaints}
    try:
        return AdminClient(config)
    except (KafkaException, ValueError, TypeError) as failure:
        raise bad_setting(failure) from None

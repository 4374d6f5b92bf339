"""Azure Event Hubs over AMQP: the SDK's client and connection, over a transport that counts events."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any
from urllib.parse import urlsplit

import certifi

from backlog_clearer.brokers.eventhubs.client import CLIENT_FAILURES, consumer_client, proxy_of
from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S, Counting, CountingTransport
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventTransport
from backlog_clearer.brokers.eventhubs.sdk import AMQPException, Connection

FRAME_SIZE = 65536
"""Bytes; the size that the service uses."""

FAILURES = (AMQPException, *CLIENT_FAILURES)
"""The exceptions of the SDK's AMQP layers."""

_WEBSOCKET_PATH = "/$servicebus/websocket/"  # azure-eventhub, `_client_base`


def _transport(options: EventHubsOptions, sasl: Any) -> Counting:
    """The transport that was asked for, not connected."""
    host = urlsplit(f"//{options.namespace}")
    custom = urlsplit(options.custom_endpoint_address or "")
    common: dict[str, Any] = {
        "credential": sasl,
        "socket_timeout": TIMEOUT_S,
        "ssl_opts": {"ca_certs": options.connection_verify or certifi.where()},
        "use_tls": not options.emulated,
        "network_trace_params": {},
    }
    if options.transport is EventTransport.AMQP:
        return CountingTransport(
            host.hostname or "",
            port=host.port or options.port,
            custom_endpoint=custom.hostname,
            custom_port=custom.port,
            **common,
        )
    from backlog_clearer.brokers.eventhubs.websockets import CountingWebSocket  # noqa: PLC0415 only here

    proxy = proxy_of(options)
    if proxy is not None:
        common["http_proxy"] = proxy
    return CountingWebSocket(
        host.hostname or "",
        custom_endpoint=f"{custom.netloc or options.namespace}{_WEBSOCKET_PATH}",
        **common,
    )


class AmqpConnection:
    """The SDK's connection over `CountingTransport`; belongs to one thread.

    Raises `ClearerError` if the service does not answer, or refuses.
    """

    def __init__(self, options: EventHubsOptions, idle_s: int | None = None) -> None:
        """`idle_s`: the service is to send a heartbeat at least so often (AMQP 1.0, part 2.4.5)."""
        self.options = options
        self.auth = consumer_client(options)._create_auth()  # noqa: SLF001 every kind of credential
        self.transport = _transport(options, self.auth.sasl)
        self.connection = Connection(
            f"amqps://{options.namespace}",
            transport=self.transport,
            container_id=f"backlog-clearer-{uuid.uuid4()}",
            max_frame_size=FRAME_SIZE,
            idle_timeout=idle_s,
        )
        try:
            self.connection.open()
        except FAILURES as error:
            self.close()
            raise service_error(error, options) from error

    def close(self) -> None:
        """Close it, whatever state it is in."""
        with contextlib.suppress(*FAILURES):
            self.connection.close()

"""Azure Event Hubs over AMQP: the SDK's client and connection, over a transport that counts events."""

from __future__ import annotations

import contextlib
import struct
import uuid
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.eventhub import EventHubConsumerClient, TransportType
from azure.identity import DefaultAzureCredential

from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S, Counting, CountingTransport
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventTransport
from backlog_clearer.brokers.eventhubs.sdk import AMQPException, Connection
from backlog_clearer.errors import UsageError

FRAME_SIZE = 65536
"""Bytes; the size that the service uses."""

FAILURES = (
    *(AMQPException, AzureError, OSError, ValueError, TimeoutError),
    *(LookupError, TypeError, AttributeError, RecursionError, struct.error),
)
"""The exceptions of the SDK's AMQP layers; the second line: for values of other types than it expects."""

_WEBSOCKET_PATH = "/$servicebus/websocket/"  # azure-eventhub, `_client_base`


def credential() -> TokenCredential:
    """The Microsoft Entra ID credential of the environment, without one that needs a browser."""
    return DefaultAzureCredential(exclude_interactive_browser_credential=True)


def consumer_client(options: EventHubsOptions) -> EventHubConsumerClient:
    """The SDK's client: not connected yet, without retries; belongs to one thread.

    Raises `UsageError` for a connection string that cannot be read.
    """
    common: dict[str, Any] = {
        "retry_total": 0,
        "auth_timeout": 10,
        "custom_endpoint_address": options.custom_endpoint_address,
        "connection_verify": options.connection_verify,
        "transport_type": TransportType.Amqp,
    }
    if options.connection_string is None:
        return EventHubConsumerClient(
            options.namespace, options.hub, options.consumer_group, credential(), **common
        )
    try:
        return EventHubConsumerClient.from_connection_string(
            options.connection_string.get_secret_value(),
            options.consumer_group,
            eventhub_name=options.eventhub_name,
            **common,
        )
    except ValueError:  # its text may quote the connection string
        raise UsageError(
            "--connection-string cannot be read; it has the form Endpoint=sb://<namespace>."
            "servicebus.windows.net/;SharedAccessKeyName=<name>;SharedAccessKey=<key>."
        ) from None


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
    try:
        from backlog_clearer.brokers.eventhubs.websockets import CountingWebSocket  # noqa: PLC0415 only here
    except ModuleNotFoundError as error:
        raise UsageError(
            "--transport websocket needs the Python package websocket-client, which is not installed;"
            " install it with: pip install 'websocket-client>=1.9,<2'"
        ) from error
    proxy = options.proxy
    if proxy is not None:
        common["http_proxy"] = {
            "proxy_hostname": proxy.hostname,
            "proxy_port": proxy.port,
            "username": proxy.username and unquote(proxy.username),
            "password": proxy.password and unquote(proxy.password),
        }
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

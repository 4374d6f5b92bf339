"""Azure Event Hubs: the SDK's client by its public API, and the errors that it may raise."""

from __future__ import annotations

import importlib.util
import logging
import struct
from typing import Any
from urllib.parse import unquote

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.eventhub import EventHubConsumerClient, TransportType
from azure.eventhub.exceptions import EventHubError
from azure.identity import DefaultAzureCredential

from backlog_clearer.brokers.eventhubs.limits import bound_transports
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventTransport
from backlog_clearer.brokers.eventhubs.storage_transport import BoundedTransport
from backlog_clearer.errors import UsageError

CLIENT_FAILURES = (
    *(AzureError, EventHubError, OSError, ValueError, TimeoutError),
    *(LookupError, TypeError, AttributeError, OverflowError, RecursionError, struct.error),
)
"""The exceptions of the SDK's client; the second line: for values of other types than it expects."""

_TRANSPORTS = {
    EventTransport.AMQP: TransportType.Amqp,
    EventTransport.WEBSOCKET: TransportType.AmqpOverWebsocket,
}
_INTERVAL_S = 1  # for which a thread of `receive_batch` sleeps on after the client was closed

# What it warns of is raised as an error too; this keeps Python from printing it where no handler is set.
logging.getLogger("azure.eventhub").addHandler(logging.NullHandler())


def credential() -> TokenCredential:
    """The Microsoft Entra ID credential of the environment, without one that needs a browser."""
    return DefaultAzureCredential(
        exclude_interactive_browser_credential=True, transport=BoundedTransport()
    )


def consumer_client(options: EventHubsOptions, idle_s: int | None = None) -> EventHubConsumerClient:
    """The SDK's client: not connected yet, without retries; belongs to one thread.

    `idle_s`: the service is to send a heartbeat at least so often (AMQP 1.0, part 2.4.5). Raises
    `UsageError` for a connection string that cannot be read, and where websocket-client is missing.
    """
    if options.transport is EventTransport.WEBSOCKET and importlib.util.find_spec("websocket") is None:
        raise UsageError(
            "--transport websocket needs the Python package websocket-client, which is not installed;"
            " install it with: pip install 'websocket-client>=1.9,<2'"
        )
    bound_transports()
    common: dict[str, Any] = {
        "retry_total": 0,
        "retry_backoff_factor": 0,
        "auth_timeout": 10,
        "custom_endpoint_address": options.custom_endpoint_address,
        "connection_verify": options.connection_verify,
        "transport_type": _TRANSPORTS[options.transport],
        "http_proxy": proxy_of(options),
        "idle_timeout": idle_s,
        "load_balancing_interval": _INTERVAL_S,
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


def proxy_of(options: EventHubsOptions) -> dict[str, Any] | None:
    """The proxy in the SDK's form; None: there is none."""
    proxy = options.proxy
    if proxy is None:
        return None
    return {
        "proxy_hostname": proxy.hostname,
        "proxy_port": proxy.port,
        "username": proxy.username and unquote(proxy.username),
        "password": proxy.password and unquote(proxy.password),
    }

"""Azure Event Hubs: the SDK's client, its management requests, its errors in this project's terms."""

from __future__ import annotations

import re
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.eventhub import EventHubConsumerClient, TransportType
from azure.eventhub.exceptions import AuthenticationError
from azure.identity import DefaultAzureCredential

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition

TIMEOUT_S = 12.0
"""Longest time that anything asked of the service may take."""

_TRANSIENT = (
    "serverbusy",
    "microsofttimeout",
    "operationcancelled",
    "containerclose",
    "internalerror",
    "detachforced",
    "connectionforced",
    "connectioncloseforced",
    "socketerror",
    "unknownerror",
    "statuscode500",
    "statuscode503",
    "timedout",
    "timeout",
    "closed",
    "detached",
)
"""Conditions that may pass, as they read in the SDK's texts without punctuation."""


def credential() -> TokenCredential:
    """The Microsoft Entra ID credential of the environment, without one that needs a browser."""
    return DefaultAzureCredential(exclude_interactive_browser_credential=True)


def consumer_client(options: EventHubsOptions) -> EventHubConsumerClient:
    """The SDK's client: it does not connect yet, never retries by itself, and belongs to one thread.

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


class AttachedElsewhereError(BrokerError):
    """Other consumers hold the partition: reading is possible once they are gone."""


def translate(
    error: BaseException, options: EventHubsOptions, partition: Partition | None = None
) -> ClearerError:
    """An error of the SDK as one that says what was wrong, where, and what to do.

    The service's conditions are told apart by their names, which every text of the SDK carries: the
    classes differ between its layers for one and the same condition.
    """
    text = " ".join(str(error).split())
    said = text.split(" Error condition:", maxsplit=1)[0].split(" TrackingId:", maxsplit=1)[0]
    said = said[:300].rstrip(" .") or type(error).__name__
    name = re.sub(r"[^a-z0-9]", "", text.lower())
    place = f"{partition}" if partition else f"{options.hub} on {options.namespace}"

    def has(*words: str) -> bool:
        return any(word in name for word in words)

    denied = isinstance(error, (AuthenticationError, ClientAuthenticationError)) or has(
        "unauthorized", "authenticationfailed", "authfailed", "statuscode401"
    )
    message, kind = f"{place}: {said}.", BrokerError
    if has("notfound", "statuscode404"):
        return UsageError(
            f"There is no Event Hub {options.hub!r} with a consumer group {options.consumer_group!r} on"
            f" {options.namespace}: {said}. Check --eventhub-name and --consumer-group."
        )
    if has("linkstolen", "higherepoch"):
        kind = AttachedElsewhereError
        message = (
            f"Another consumer of {options.consumer_group} reads {place} with an owner level: {said}."
            " Stop it, or give a higher --owner-level to disconnect it."
        )
    elif has("resourcelimitexceeded"):
        kind = AttachedElsewhereError
        message = f"The service allows no more readers on {place}: {said}. Stop others of this consumer group."
    elif denied and not has("timedout", "timeout"):
        message = (
            f"{options.namespace} refused the sign-in for {options.hub!r}: {said}. Check the key and its"
            " Listen claim (with Microsoft Entra ID: the role Azure Event Hubs Data Receiver)."
        )
    elif has("failedtoinitiatetheconnection") or isinstance(error, FileNotFoundError):
        message = (
            f"{options.custom_endpoint_address or options.namespace} cannot be reached: {said}. Check the"
            " name, the network and that port 5671 is open."
        )
    elif has("argumentoutofrange", "argumenterror"):
        message = (
            f"The service does not know the position in {place}: {said}. The Event Hub was probably"
            " created anew since the checkpoint was written."
        )
    elif denied or has(*_TRANSIENT):
        kind = TransientError
        if has("serverbusy"):
            message += " It is throttled: more throughput units would help."
    return kind(message, partition)

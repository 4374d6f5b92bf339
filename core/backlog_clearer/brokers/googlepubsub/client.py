"""Clients of the official library, for the service and for an emulator."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import Subscription

from backlog_clearer.brokers.googlepubsub.channels import bounded
from backlog_clearer.brokers.googlepubsub.errors import Call, to_broker_error
from backlog_clearer.brokers.shared.pages import bounded_pages
from backlog_clearer.errors import UsageError
from backlog_clearer.options.addresses import checked_address

_TIMEOUT_S = 10.0
_PAGE = 1000  # subscriptions of one answer
_OWN = ("grpc.use_local_subchannel_pool", 1)  # a separate connection


def emulator_address() -> str | None:
    """The emulator's address from the environment; None: there is none. Raises `UsageError`."""
    text = os.environ.get("PUBSUB_EMULATOR_HOST")
    try:
        return checked_address(text) if text else None
    except ValueError as error:
        raise UsageError(f"PUBSUB_EMULATOR_HOST: {error}.") from None


def open_subscriber(emulator: str | None, credentials: Any, endpoint: str | None) -> SubscriberClient:
    """A client on a separate connection; `endpoint` (None: the public one) is that of the service."""
    if emulator:
        # The library's own channel to an emulator refuses messages of more than 4 MB.
        channel = grpc.insecure_channel(emulator, options=bounded([_OWN]))
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel, host=emulator))
    return SubscriberClient(
        credentials=credentials,
        transport=functools.partial(SubscriberGrpcTransport, channel=_channel),
        client_options={"api_endpoint": endpoint} if endpoint else None,
    )


def subscriptions(client: SubscriberClient, project_id: str, host: str) -> Iterator[Subscription]:
    """The subscriptions of a project, a request for each thousand of them; raises `BrokerError`."""
    project = f"projects/{project_id}"
    request = {"project": project, "page_size": _PAGE}
    try:
        found = client.list_subscriptions(request=request, timeout=_TIMEOUT_S, retry=None)
        for page in bounded_pages(found.pages, f"The list of subscriptions of {project} at {host}"):
            yield from page.subscriptions
    except (GoogleAPICallError, GoogleAuthError) as error:
        call = Call("list", project, "pubsub.subscriptions.list", host)
        raise to_broker_error(error, call) from error


def _channel(*args: Any, options: Sequence[tuple[str, Any]], **rest: Any) -> grpc.Channel:
    return SubscriberGrpcTransport.create_channel(*args, options=bounded([*options, _OWN]), **rest)

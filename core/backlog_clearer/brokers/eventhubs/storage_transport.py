"""Azure Event Hubs: the storage SDK's HTTP transport, with a deadline for the whole of an answer."""

from __future__ import annotations

from typing import Any

from azure.core.exceptions import ServiceResponseTimeoutError
from azure.core.pipeline.transport import RequestsTransport

from backlog_clearer.deadline import within

WHOLE_S = 12.0
"""Seconds for all of an answer; the SDK's own time-outs are those between two bytes."""


class BoundedTransport(RequestsTransport):  # type: ignore[misc]  # the SDK exports it lazily
    """The SDK's transport; raises `ServiceResponseTimeoutError` for an answer that takes too long."""

    def send(self, request: Any, **options: Any) -> Any:
        """The answer to a request, with its content unless it is streamed."""
        send = super().send
        try:
            return within(WHOLE_S, lambda: send(request, **options))
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(str(error)) from None

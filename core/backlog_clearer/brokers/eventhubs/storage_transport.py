"""Azure Event Hubs: the SDKs' HTTP transport, with a deadline and a size for the whole of an answer."""

from __future__ import annotations

from functools import partial
from typing import Any

import requests
from azure.core.exceptions import ServiceResponseTimeoutError
from azure.core.pipeline.transport import RequestsTransport

from backlog_clearer.brokers.shared.http import whole_content
from backlog_clearer.deadline import within

WHOLE_S = 12.0
"""Seconds for all of an answer; the SDK's own time-outs are those between two bytes."""


_MOST_TAGS = 500_000  # of XML; a page of a listing, which has 5,000 blobs, has 250,000


def _bounded(answer: requests.Response, **_: Any) -> requests.Response:
    """A response hook; raises `requests.RequestException` for an answer that is too large."""
    whole = whole_content(answer)
    if whole.content.count(b"<") > _MOST_TAGS:
        raise requests.exceptions.ContentDecodingError(f"more than {_MOST_TAGS:,} tags")
    return whole


class BoundedTransport(RequestsTransport):  # type: ignore[misc]  # the SDK exports it lazily
    """The SDK's transport; raises `ServiceResponseTimeoutError` for an answer that takes too long."""

    def send(self, request: Any, **options: Any) -> Any:
        """The answer to a request, with its content; `ServiceRequestError` for one that is too large."""
        send = partial(super().send, hooks={"response": _bounded})
        try:
            return within(WHOLE_S, lambda: send(request, **options))
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(str(error)) from None

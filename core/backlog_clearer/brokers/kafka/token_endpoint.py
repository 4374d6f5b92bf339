"""Access tokens from a token endpoint: OAuth 2.0 client credentials, RFC 6749 4.4.

Imported when a connection logs in with one, because it loads an HTTP client.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

from backlog_clearer.deadline import within
from backlog_clearer.redaction.redact import remember
from backlog_clearer.redirects import NoRedirects

_MOST_TOKEN_BYTES = 1024 * 1024  # of an answer with a token, which has a few kilobytes


def client_credentials(given: Mapping[str, Any], timeout_s: float) -> str:
    """An access token from the endpoint that `sasl.oauthbearer.token.endpoint.url` names.

    `timeout_s`: longest wait, in seconds. Follows no redirect, which would get the secret. Raises `OSError`
    or `ValueError` whose text holds no secret.
    """
    url = str(given["sasl.oauthbearer.token.endpoint.url"])
    if not url.startswith(("https://", "http://")):
        raise ValueError("sasl.oauthbearer.token.endpoint.url is not an HTTP address")
    names = ("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret")
    login = ":".join(str(given.get(name, "")) for name in names)
    form = {"grant_type": "client_credentials"}
    if "sasl.oauthbearer.scope" in given:
        form["scope"] = str(given["sasl.oauthbearer.scope"])
    request = urllib.request.Request(  # noqa: S310 the scheme is checked above
        url,
        data=urllib.parse.urlencode(form).encode(),
        headers={"Accept": "application/json"},
    )
    request.add_unredirected_header(
        "Authorization", "Basic " + base64.b64encode(login.encode()).decode()
    )
    try:
        answer = json.loads(within(timeout_s, partial(_answer, request, timeout_s)))
    except (http.client.HTTPException, RecursionError) as error:
        raise ValueError(f"the token endpoint's answer cannot be read: {error!r}") from None
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str):
        raise ValueError("the token endpoint returned no access_token")  # noqa: TRY004 it is a value of JSON
    remember(token)
    return token


def _answer(request: urllib.request.Request, timeout_s: float) -> bytes:
    """The whole body of an answer."""
    with urllib.request.build_opener(NoRedirects()).open(request, timeout=timeout_s) as answer:
        body: bytes = answer.read(_MOST_TOKEN_BYTES + 1)
    if len(body) > _MOST_TOKEN_BYTES:
        raise ValueError(f"the token endpoint sent more than {_MOST_TOKEN_BYTES:,} bytes")
    return body

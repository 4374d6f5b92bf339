"""OAuth2 client credentials: the key, and the issuer's tokens."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import requests

from backlog_clearer.brokers.pulsar.login import Login, file_of
from backlog_clearer.brokers.shared.http import parsed, whole_answer
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.options.references import bounded_bytes
from backlog_clearer.redaction.redact import remember, remember_login
from backlog_clearer.text import shown_path

TIMEOUT_S = 10.0
_ISSUER_S = 5.0  # for each of the two requests to an issuer
_EARLY_S = 60.0  # a token is renewed this long before it expires
_REFUSALS = frozenset(
    {
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"),
        *("unsupported_grant_type", "invalid_scope", "access_denied"),
    }
)
"""Codes that may be shown: RFC 6749, section 5.2, and Auth0's. Other text of an issuer may repeat a secret."""


def login_file(name: str, flag: str) -> str:
    """A file's content, without blanks around it; raises `UsageError` with the option."""
    try:
        text = bounded_bytes(name).decode().strip()
    except (OSError, ValueError):  # ValueError: not UTF-8, or a NUL in the name
        raise UsageError(f"The file given as {flag} cannot be read: {shown_path(name)}.") from None
    remember(text)
    return text


def read_key(private_key: str) -> tuple[str, Mapping[str, Any]]:
    """What to call a key in errors, and the JSON object of it: client_id, client_secret, issuer_url.

    As in Pulsar's clients it is the path of a file, a `file:` URL or a `data:` URL; the JSON object itself is
    accepted, too. Raises `UsageError`, which names a file and shows nothing of the content.
    """
    text, where = private_key.strip(), "the key given as --oauth2-private-key"
    scheme = text.partition(":")[0].lower()
    if scheme == "data":
        text = _data(text)
    elif not text.startswith("{"):
        path = file_of(text) if scheme == "file" else text
        text, where = login_file(path, "--oauth2-key-file or --oauth2-private-key"), path
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    names = ("client_id", "client_secret")
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), str) and found[name] for name in names
    ):
        raise UsageError(
            f"{where[0].upper()}{where[1:]} is not an OAuth2 key: it must be a JSON object with client_id"
            " and client_secret."
        )
    remember_login(found["client_id"], found["client_secret"])
    return where, found


def _data(url: str) -> str:
    """The content of a data: URL (RFC 2397)."""
    head, comma, content = url.partition(",")
    try:
        data = unquote_to_bytes(content)
        if head.lower().endswith(";base64"):
            data = base64.b64decode(data, validate=True)
        return data.decode() if comma else ""
    except (binascii.Error, UnicodeDecodeError):
        return ""  # which is not an OAuth2 key either


class ClientCredentials:
    """Tokens of an OAuth2 client, from the issuer that its discovery document describes."""

    def __init__(self, login: Login, default_issuer: str | None) -> None:
        """`default_issuer`: where neither the options nor the key name one. Raises `UsageError`."""
        self._key_name, key = read_key(login.private_key or "")
        issuer = login.issuer or key.get("issuer_url") or default_issuer
        if not isinstance(issuer, str) or urlsplit(issuer).scheme not in ("http", "https"):
            raise UsageError(
                "OAuth2 needs --oauth2-issuer-url, or an issuer_url in the key, as in https://HOST."
            )
        self._issuer = issuer.rstrip("/")
        self._form = {
            "grant_type": "client_credentials",
            "client_id": key["client_id"],
            "client_secret": key["client_secret"],
        }
        if login.audience:
            self._form["audience"] = login.audience
        if login.scope:
            self._form["scope"] = login.scope
        self._verify = login.trust_certs or True
        self._token = ""
        self._until = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """A token that is valid for another minute; raises `BrokerError` or `TransientError`."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._token, seconds = self._fetch()
                self._until = time.monotonic() + max(0.0, seconds - _EARLY_S)
            return self._token

    def _fetch(self) -> tuple[str, float]:
        try:
            answer = whole_answer(
                requests.post,
                self._endpoint(),
                timeout_s=_ISSUER_S,
                data=self._form,
                verify=self._verify,
                allow_redirects=False,  # would send the secret elsewhere
            )
            if answer.status_code in (400, 401, 403):
                raise BrokerError(self._refusal(answer))
            if answer.status_code != requests.codes.ok:
                raise TransientError(
                    f"The OAuth2 issuer {self._issuer} answered {answer.status_code} instead of a token."
                )
            body = parsed(answer.content)
            issued, seconds = body["access_token"], float(body.get("expires_in") or 0)
        except requests.exceptions.SSLError:
            raise BrokerError(
                f"The OAuth2 issuer {self._issuer} has a certificate that is not trusted, or does not use"
                " TLS: check --oauth2-trust-certs and --oauth2-issuer-url."
            ) from None
        except requests.RequestException:
            raise TransientError(
                f"The OAuth2 issuer {self._issuer} does not answer: check --oauth2-issuer-url."
            ) from None
        except OSError:  # raised for a file of authorities that cannot be read
            raise UsageError(
                f"The file given as --oauth2-trust-certs cannot be used: {self._verify}."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            issued, seconds = None, 0.0
        if not isinstance(issued, str) or not issued:
            raise TransientError(
                f"The OAuth2 issuer {self._issuer} returned no token: check --oauth2-issuer-url."
            )
        remember(issued)
        return issued, seconds

    def _endpoint(self) -> str:
        """Where tokens are issued, by the issuer's discovery document (OpenID Connect Discovery 1.0)."""
        about = f"{self._issuer}/.well-known/openid-configuration"
        found = whole_answer(requests.get, about, timeout_s=_ISSUER_S, verify=self._verify)
        if found.status_code == requests.codes.not_found:
            raise BrokerError(
                f"The OAuth2 issuer {self._issuer} has no discovery document"
                " (/.well-known/openid-configuration): check --oauth2-issuer-url."
            )
        endpoint = str(parsed(found.content)["token_endpoint"])
        if self._issuer.startswith("https:") and not endpoint.startswith("https:"):
            raise BrokerError(
                f"The OAuth2 issuer {self._issuer} names an address for tokens that does not use TLS; the"
                " client's secret was not sent there."
            )
        return endpoint

    def _refusal(self, answer: requests.Response) -> str:
        try:
            code = parsed(answer.content).get("error")
        except (ValueError, AttributeError):
            code = None
        shown = f", {code}" if code in _REFUSALS else ""
        return (
            f"The OAuth2 issuer {self._issuer} refused the client of {self._key_name} (HTTP"
            f" {answer.status_code}{shown}): check the key, --oauth2-audience and --oauth2-scope."
        )

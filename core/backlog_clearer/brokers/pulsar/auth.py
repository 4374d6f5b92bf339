"""Logins to a broker and its admin API: tokens, OAuth2 client credentials, certificates."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.shared.http import whole_answer
from backlog_clearer.errors import BrokerError, TransientError, UsageError

Bearer = Callable[[], str]
"""Returns the token to present now; may be called from any thread."""

TIMEOUT_S = 10.0
_EARLY_S = 60.0  # a token is renewed this long before it expires


def _read(name: str, flag: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"The file given as {flag} cannot be read: {name}.") from None


class ClientCredentials:
    """Tokens of an OAuth2 client, from the issuer that its discovery document describes."""

    def __init__(self, options: PulsarOptions) -> None:
        text = _read(options.oauth2_key_file or "", "--oauth2-key-file")
        try:
            key = json.loads(text)
            self._id, self._secret = str(key["client_id"]), str(key["client_secret"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{options.oauth2_key_file} is not an OAuth2 key file: it must be a JSON object with"
                " client_id and client_secret."
            ) from None
        self._issuer = (options.issuer or "").rstrip("/")
        self._options = options
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
        form = {
            "grant_type": "client_credentials",
            "client_id": self._id,
            "client_secret": self._secret,
            "audience": self._options.oauth2_audience or "",
        }
        if self._options.oauth2_scope:
            form["scope"] = self._options.oauth2_scope
        try:
            about = f"{self._issuer}/.well-known/openid-configuration"
            found = whole_answer(requests.get, about, timeout_s=TIMEOUT_S)
            endpoint = found.json()["token_endpoint"]
            answer = whole_answer(requests.post, str(endpoint), timeout_s=TIMEOUT_S, data=form)
            if answer.status_code in (400, 401, 403):
                raise BrokerError(
                    f"The OAuth2 issuer {self._issuer} refused the client of"
                    f" {self._options.oauth2_key_file} (HTTP {answer.status_code}): check the key"
                    " file and --oauth2-audience."
                )
            answer.raise_for_status()
            body = answer.json()
            issued, seconds = body["access_token"], float(body.get("expires_in", 0))
        except (requests.RequestException, ValueError, KeyError, TypeError):
            issued, seconds = None, 0.0
        if not isinstance(issued, str) or not issued:
            raise TransientError(
                f"The OAuth2 issuer {self._issuer} returned no token: check --oauth2-issuer-url."
            )
        return issued, seconds


def bearer(options: PulsarOptions) -> Bearer | None:
    """The source of tokens that the options name; None: no token. Raises `UsageError` for an unusable file."""
    if options.token:
        token = options.token.get_secret_value()
        return lambda: token
    if options.token_file:
        name = options.token_file
        return lambda: _read(name, "--token-file")
    return ClientCredentials(options) if options.oauth2_key_file else None


@dataclass(frozen=True, slots=True)
class Access:
    """How a connection to a broker is opened."""

    bearer: Bearer | None
    tls: ssl.SSLContext  # for addresses with TLS
    certificate: bool  # whether there is one to log in with

    def credentials(self) -> dict[str, Any]:
        """The login fields of CONNECT and of AuthData; a token is preferred to a certificate."""
        if self.bearer:
            return {"auth_method_name": "token", "auth_data": self.bearer().encode()}
        return {"auth_method_name": "tls", "auth_data": b""} if self.certificate else {}


def access(options: PulsarOptions) -> Access:
    """The login and the trusted authorities. Raises `UsageError` for a file that cannot be used."""
    try:
        tls = ssl.create_default_context(cafile=options.tls_trust_certs)
    except OSError:  # an ssl.SSLError is one
        raise UsageError(
            f"The file given as --tls-trust-certs holds no certificates: {options.tls_trust_certs}."
        ) from None
    if options.tls_certificate:
        try:
            # Without a password here, OpenSSL asks for one on the terminal.
            tls.load_cert_chain(options.tls_certificate, options.tls_key, password=lambda: "")
        except OSError:
            raise UsageError(
                f"--tls-certificate {options.tls_certificate} and --tls-key"
                f" {options.tls_key or '(in the same file)'} are not a certificate and its private key"
                " in PEM, not encrypted."
            ) from None
    return Access(bearer(options), tls, options.tls_certificate is not None)

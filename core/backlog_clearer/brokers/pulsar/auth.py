"""Logins to a broker and its admin API: tokens, users, OAuth2 client credentials, certificates."""

from __future__ import annotations

import base64
import functools
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backlog_clearer.brokers.pulsar.login import Login, checked_token, plugin_kind, plugin_login
from backlog_clearer.brokers.pulsar.oauth2 import ClientCredentials, login_file
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.service_url import Address, addresses
from backlog_clearer.errors import TransientError, UsageError
from backlog_clearer.redaction.redact import remember, remember_login

Bearer = Callable[[], str]
"""Returns the token to present now; may be called from any thread."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a connection to a broker, and to its admin API, is opened."""

    login: Login
    bearer: Bearer | None
    trust: Callable[[], ssl.SSLContext]
    check_names: bool  # whether a certificate has to be of the host that is asked
    proxy: Address | None = None  # an SNI proxy, which all connections to brokers go to

    @property
    def tls(self) -> ssl.SSLContext:
        """For addresses with TLS."""
        return self.trust()

    def credentials(self) -> dict[str, Any]:
        """The login fields of CONNECT and of AuthData; a token or a user is preferred to a certificate."""
        if self.bearer:
            return {"auth_method_name": "token", "auth_data": self.bearer().encode()}
        if self.login.basic:
            return {"auth_method_name": "basic", "auth_data": self.login.basic.encode()}
        return {"auth_method_name": "tls", "auth_data": b""} if self.login.certificate else {}

    def headers(self) -> Mapping[str, str]:
        """The login fields of a request to the admin API."""
        if self.bearer:
            return {"Authorization": f"Bearer {self.bearer()}"}
        if self.login.basic:
            value = base64.b64encode(self.login.basic.encode()).decode()
            return {"Authorization": f"Basic {value}"}
        return {}


def _bearer(login: Login, issuer: str | None) -> Bearer | None:
    """The source of tokens; None: no token. Raises `UsageError` for a token or a file that cannot be used."""
    if login.token is not None:
        token = checked_token(login.token, "--token")
        return lambda: token
    if login.token_file:
        name = login.token_file

        def read() -> str:
            return checked_token(login_file(name, "--token-file"), f"--token-file {name}")

        def read_again() -> str:
            try:
                return read()
            except UsageError as error:  # the file may be about to be written
                raise TransientError(str(error)) from None

        read()
        return read_again
    return ClientCredentials(login, issuer) if login.private_key else None


def chosen_login(options: PulsarOptions) -> Login:
    """The login of the options, without one that only the client library has. Raises `UsageError`."""
    found = _named_login(options)
    user, _, password = (found.basic or "").partition(":")
    remember_login(user, password)
    remember(found.token)
    return found


def _named_login(options: PulsarOptions) -> Login:
    kind = plugin_kind(options.auth_plugin) if options.auth_plugin else None
    if kind and kind != "athenz":
        params = options.auth_params.get_secret_value() if options.auth_params else ""
        return plugin_login(kind, params)
    key = options.oauth2_private_key
    return Login(
        token=options.token.get_secret_value() if options.token else None,
        token_file=options.token_file,
        basic=options.basic.get_secret_value() if options.basic else None,
        private_key=key.get_secret_value() if key else options.oauth2_key_file,
        issuer=options.oauth2_issuer_url,
        audience=options.oauth2_audience,
        scope=options.oauth2_scope,
        trust_certs=options.oauth2_trust_certs,
        certificate=options.tls_certificate,
        certificate_key=options.tls_key,
    )


def access(options: PulsarOptions) -> Access:
    """The login and the trusted authorities. Raises `UsageError` for a file that cannot be used."""
    login = chosen_login(options)
    trust = functools.cache(functools.partial(_trust, options, login))
    if options.tls_trust_certs or login.certificate:
        trust()  # files that cannot be used are reported at once
    # Otherwise only where TLS is used: to read the many certificates of a system takes 30 ms or more.
    proxy = addresses(options.proxy_service_url)[0] if options.proxy_service_url else None
    return Access(login, _bearer(login, options.issuer), trust, options.tls_validate_hostname, proxy)


def _trust(options: PulsarOptions, login: Login) -> ssl.SSLContext:
    """Trusted authorities, and the login's certificate. Raises `UsageError` for a file that cannot be used."""
    try:
        tls = ssl.create_default_context(cafile=options.tls_trust_certs)
    except OSError:  # an ssl.SSLError is one
        raise UsageError(
            f"The file given as --tls-trust-certs holds no certificates: {options.tls_trust_certs}."
        ) from None
    tls.check_hostname = options.tls_validate_hostname
    if login.certificate:
        try:
            # Without a password here, OpenSSL asks for one on the terminal.
            tls.load_cert_chain(login.certificate, login.certificate_key, password=lambda: "")
        except OSError:
            raise UsageError(
                f"--tls-certificate {login.certificate} and --tls-key"
                f" {login.certificate_key or '(in the same file)'} are not a certificate and its private"
                " key in PEM, not encrypted."
            ) from None
    return tls

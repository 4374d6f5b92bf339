"""Which login the options name, also where they spell it as Pulsar's clients do: pure.

`authPlugin` and `authParams` are those of a client's `client.conf`; the forms of their parameters are the ones
that Pulsar's Java and C++ clients read (AuthenticationUtil, AuthFactory).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from backlog_clearer.errors import UsageError
from backlog_clearer.text import listed

_JAVA = re.compile(r"org\.apache\.pulsar\.client\.impl\.auth\.(?:\w+\.)?Authentication", re.ASCII)
_PLUGINS = {
    "token": "token",
    "basic": "basic",
    "tls": "tls",
    "oauth2": "oauth2",
    "oauth2token": "oauth2",  # the C++ client's name
    "athenz": "athenz",
}
_WRAPPED = re.compile(r"[\"'{]|(token|file|env):")
_KERBEROS = frozenset({"sasl", "kerberos"})


@dataclass(frozen=True, slots=True)
class Login:
    """At most one way to log in, and a certificate, which may be the login or accompany it."""

    token: str | None = None
    token_file: str | None = None
    basic: str | None = None  # "USER:PASSWORD"
    private_key: str | None = None  # of OAuth2: a path, a file: or data: URL, or the JSON itself
    issuer: str | None = None
    audience: str | None = None
    scope: str | None = None
    trust_certs: str | None = None  # PEM file: the authorities to trust for the issuer
    certificate: str | None = None  # PEM file
    certificate_key: str | None = None  # PEM file; None: in the certificate's

    def __post_init__(self) -> None:
        """Raise `UsageError` for a token or a user that no server can accept."""
        if self.token is not None:
            checked_token(self.token, "--token")
        if self.basic is not None and not self.basic.partition(":")[1]:
            raise UsageError("--basic is not USER:PASSWORD: it has no colon.")


def checked_token(text: str, origin: str) -> str:
    """A token without blanks around it, such as the line break at the end of a file.

    `origin`: the option, or the option and the file. Raises `UsageError` without the token.
    """
    token = text.strip()
    if not token:
        raise UsageError(f"The token of {origin} is empty.")
    if re.search(r"[^\x21-\x7e]", token):
        raise UsageError(
            f"The token of {origin} has a blank, a line break or another character that no token has"
            " within it: give only the token."
        )
    if _WRAPPED.match(token):
        raise UsageError(
            f"The token of {origin} is in quotes, or in another form: give only the token."
        )
    return token


def plugin_kind(name: str) -> str | None:
    """The login that `authPlugin` names: token, basic, tls, oauth2 or athenz; None: the path of a library.

    Raises `UsageError` for other names.
    """
    bare = _JAVA.sub("", name).lower()
    if bare in _PLUGINS:
        return _PLUGINS[bare]
    if bare in _KERBEROS:
        raise UsageError(
            f"--auth-plugin {name}: Pulsar has Kerberos only in its Java client. Use another login that the"
            " cluster accepts, or the path of a plugin library for the C++ client."
        )
    if "/" in name:
        return None
    raise UsageError(
        f"--auth-plugin {name} is not known: it is token, basic, tls, oauth2, athenz, the name of the Java"
        " client's class for one of these, or the path of a plugin library for the C++ client."
    )


def plugin_login(kind: str, params: str) -> Login:
    """The login of `authParams` for token, basic, tls or oauth2; raises `UsageError` without a value."""
    if kind == "token":
        return _token(params)
    found = _parameters(params)
    try:
        if kind == "basic":
            return Login(basic=f"{_first(found, 'userId', 'username')}:{_first(found, 'password')}")
        if kind == "tls":
            return Login(
                certificate=_first(found, "tlsCertFile"), certificate_key=found.get("tlsKeyFile")
            )
        return Login(
            private_key=_first(found, "privateKey", "private_key"),
            issuer=found.get("issuerUrl") or found.get("issuer_url"),
            audience=found.get("audience"),
            scope=found.get("scope"),
            trust_certs=found.get("trustCertsFilePath"),
        )
    except KeyError as error:
        raise UsageError(f"--auth-params for --auth-plugin {kind} lacks {error.args[0]}.") from None


def checked_athenz(params: str) -> str:
    """`authParams` for Athenz as the C++ client requires them; raises `UsageError` without a value."""
    found = _parameters(params) if params.lstrip().startswith("{") else {}
    required = ["providerDomain", "privateKey", "ztsUrl"]
    if not found.get("x509CertChain"):
        required += ["tenantDomain", "tenantService"]
    missing = [name for name in required if not found.get(name)]
    if missing:
        raise UsageError(
            f"--auth-params for --auth-plugin athenz must be a JSON object with {listed(missing)}."
        )
    return params


def _token(params: str) -> Login:
    scheme, colon, rest = params.strip().partition(":")
    if colon and scheme == "file":
        return Login(token_file=file_of(params.strip()))
    if colon and scheme == "env":
        raise UsageError("--auth-params for a token in the environment is written as '${env:NAME}'.")
    if params.lstrip().startswith("{"):
        token = _parameters(params).get("token")
        if not token:
            raise UsageError("--auth-params for --auth-plugin token lacks token.")
        return Login(token=token)
    return Login(token=rest if colon and scheme == "token" else params)


def file_of(url: str) -> str:
    """The path in a file: URL."""
    return unquote(urlsplit(url).path)


def _parameters(text: str) -> Mapping[str, Any]:
    """Parameters written as a JSON object, or as "key:value,key:value"."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError("--auth-params begins like JSON, and is not valid JSON.") from None
        return {key: value for key, value in found.items() if isinstance(value, str)}
    pairs = (part.partition(":") for part in text.split(","))
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _first(found: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if found.get(name):
            return str(found[name])
    raise KeyError(names[0])

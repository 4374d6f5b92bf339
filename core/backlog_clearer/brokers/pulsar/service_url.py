"""Service URLs, which may name several hosts: pure parsing.

`urllib.parse.urlsplit` is not used: several hosts of which one is an IPv6 address are an "invalid IPv6
URL" for some of Python's releases (3.11.2 is one).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from backlog_clearer.text import shown_value

_SCHEMES = {"pulsar": 6650, "pulsar+ssl": 6651}  # with the default port
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\]|([^\[\]:@/?#\s]+))(?::(.*))?")
_MAX_PORT = 65535
_FORM = "write it as pulsar://HOST:6650 or pulsar+ssl://HOST:6651"
_ADMIN_SCHEMES = {"http": "80", "https": "443"}  # with the default port
_ADMIN_FORM = "write it as http://HOST:8080 or https://HOST:8443, without a user; none: do without it"


class Address(NamedTuple):
    """Where a broker or a proxy listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """A host as URLs spell it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def addresses(url: str) -> list[Address]:
    """The hosts of a service URL, separated by commas there; raises `ValueError`, without a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(_FORM)
    authority = rest.rstrip("/")
    if "@" in authority:
        raise ValueError("it takes no user or password; use --token or the oauth2 options")
    return [_address(part, scheme) for part in authority.split(",")]


def _address(text: str, scheme: str) -> Address:
    match = _HOST.fullmatch(text)
    if not match:
        raise ValueError(_FORM)
    host, port = match[1] or match[2], match[3] or str(_SCHEMES[scheme])  # "host:" is the default, too
    return Address(host.lower(), _valid_port(host, port), scheme == "pulsar+ssl")


def _valid_port(host: str, port: str) -> int:
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(
            f"the port of {host} is {shown_value(port)}, but must be a number from 1 to {_MAX_PORT}"
        )
    return int(port)


def admin_addresses(url: str) -> tuple[str, ...]:
    """The addresses of an admin URL, separated by commas there; raises `ValueError`, without a password.

    As in Pulsar's clients, only the first one needs its scheme: "http://a:8080,b:8080".
    """
    first, separator, _ = url.partition("://")
    if not separator or first not in _ADMIN_SCHEMES:
        raise ValueError(_ADMIN_FORM)
    parts = (part if "://" in part else f"{first}://{part}" for part in url.split(","))
    return tuple(_admin_address(part.strip()) for part in parts)


def _admin_address(text: str) -> str:
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    match = _HOST.fullmatch(authority)
    if scheme not in _ADMIN_SCHEMES or not match or set("@?#") & set(rest):
        raise ValueError(_ADMIN_FORM)
    _valid_port(match[1] or match[2], match[3] or _ADMIN_SCHEMES[scheme])
    return f"{scheme}://{authority}{slash}{path}".rstrip("/")

"""Addresses as users write them, HOST:PORT: checked before anything is connected. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from backlog_clearer.text import shown_value

_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~-]+)?\]|[^\[\]:/?#\s]+)(?::(.*))?")
_MAX_PORT = 65535
_HERE = re.compile(r"(?:localhost|\[::1\])(?=:|$)")


def checked_address(text: str, *, schemes: Collection[str] = ()) -> str:
    """The address itself, if it is HOST, HOST:PORT or [IPv6]:PORT.

    `schemes` (in lower case) may be written before it, as in SASL_SSL://HOST:PORT. Raises `ValueError` that
    has the reason, and no user or password.
    """
    scheme, separator, rest = text.rpartition("://")
    if "@" in text:
        raise ValueError("write HOST:PORT, without a user or password")
    if ";" in text:
        raise ValueError("separate addresses by commas, not by semicolons")
    if separator and scheme.lower() not in schemes:
        raise ValueError(f"write HOST:PORT, without {scheme}://")
    match = _HOST_PORT.fullmatch(rest)
    if not match:
        raise ValueError(f"{shown_value(text)} is not HOST:PORT")
    port = match[1]
    if port is not None and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(f"the port in {shown_value(text)} must be a number from 1 to {_MAX_PORT}")
    return text


def plain_address(address: str) -> str:
    """HOST or HOST:PORT in small letters, with one name for this machine: to compare two of them."""
    return _HERE.sub("127.0.0.1", address.lower())

"""Where a result is posted: the options for it, checked before anything is connected."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, SecretStr

from backlog_clearer.redaction.redact import remember, remember_hook

_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked_hook(url: str) -> str:
    """The URL itself, if a result can be posted to it; raises `ValueError` that shows nothing of it."""
    remember_hook(url)
    if _BLANK_OR_CONTROL.search(url) or not url.isascii():
        raise ValueError("the URL has a blank, a control character or one that is not ASCII: encode it")
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("write https://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError("a URL has no user or password in it; give them by --notify-authorization")
    if parts.fragment:
        raise ValueError("the part of a URL that begins with # is never sent: leave it out")
    return url


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None: it is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is not a port
    except ValueError:
        return None
    return parts


def _checked_header(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    remember(text, *text.split(" ", 1)[1:])
    if not text or _CONTROL.search(text) or not text.isascii() or text != text.strip():
        raise ValueError("it cannot be sent as a header")
    return value


def is_confidential(url: str) -> bool:
    """Whether what is sent to a URL is encrypted, or stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def place_of(url: str) -> str:
    """The part of a URL that is shown: scheme, host and port. The path may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


HookUrl = Annotated[str, AfterValidator(checked_hook)]
"""A URL that results are posted to; no text that leaves the process has its path."""

HeaderValue = Annotated[SecretStr, AfterValidator(_checked_header)]
"""The value of a header that may be a secret."""

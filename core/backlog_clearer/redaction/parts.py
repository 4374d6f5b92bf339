"""Secrets inside of values that have other parts, too, and credentials that show as such: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from backlog_clearer.redaction.forms import Span, is_distinct

_NAMES = (
    r"(?:password|passwd|passphrase|pwd|secret|token|assertion|(?<![a-z])sig(?:nature)?"
    r"|accesssignature|(?:access|account|api|private)[_-]?key|credentials?)"
)
_NAMED = re.compile(
    rf"(?i){_NAMES}\s*=\s*"
    r"(?!\$\{|\*\*\*|…)(?:\"((?:[^\"\\]|\\.)+)\"|'([^']+)'|([^\s;&,\"'<>]+))"
)
_IN_JSON = re.compile(
    rf"(?i)\"[\w.-]*{_NAMES}\\?\"\s*:\s*\\?\"(?!\$\{{|\*\*\*)((?:[^\"\\]|\\.)+?)\\?\""
)
_LOGIN = re.compile(r"(?<=://)([^\s/@\"']*:(?!\d+(?:/|$))[^\s@\"']*(?:@[^\s/@\"']*)*)@(?=[\w.\[-])")
_TOKEN_LOGIN = re.compile(r"(?<=https://)([^\s/@:\"']+)@(?=\w)|(?<=http://)([^\s/@:\"']+)@(?=\w)")
_HEADER = re.compile(r"\b(?:Basic|Bearer)\s+(?=\S*[0-9=])([A-Za-z0-9+/_=.~-]{8,})")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?")
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_MARKED = (
    (_LOGIN, "://"),
    (_TOKEN_LOGIN, "://"),
    (_HEADER, "Basic"),
    (_HEADER, "Bearer"),
    (_JWT, "eyJ"),
    (_PEM, "-----BEGIN"),
)
_STEMS = ("pass", "pwd", "secret", "token", "assertion", "sig", "key", "credential")
"""What texts have to contain before a slower pattern is tried: a result may have megabytes."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_SECRET_KEY = re.compile(rf"(?i)[\w.-]*{_NAMES}")
_LONG_PIECE = 16  # characters of a part of a URL that may be a token
_SHORTEST_PATH = 8  # shorter ones, as "/hook", are in other texts, too
_PEM_LINE = 16  # characters of a line that is a part of a key

VARIABLE = re.compile(
    r"(?i).*(?:password|passwd|passphrase|secret|token|connection_?string|(?:_|access|account|api)key"
    r"|credentials?|_sas|_storage)"
)
"""Names of environment variables that may hold a secret."""

OTLP_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(?:[A-Z]+_)?HEADERS")
"""Variables with headers for OpenTelemetry's collectors, as in `authorization=Bearer%20…,tenant=shop`."""

OTLP_ENDPOINT = re.compile(r"OTEL_EXPORTER_OTLP_(?:[A-Z]+_)?ENDPOINT")
"""Variables with the address of such a collector."""


def otlp_secrets(headers: str) -> list[str]:
    """The values of such headers, encoded and decoded, and what follows a scheme such as Bearer in them."""
    values = [pair.partition("=")[2].strip() for pair in headers.split(",")]
    decoded = [unquote(value) for value in values]
    logins = [login for value in decoded for login in value.split(" ", 1)[1:]]
    return [value for value in (*values, *decoded, *logins) if value]


def hook_secrets(url: str) -> list[str]:
    """What of a webhook's URL may be secret: path and query, and each long part of them that is not a word."""
    rest = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", url)
    pieces = re.split(r"[/?&=#]", rest)
    found = [piece for piece in pieces if len(piece) >= _LONG_PIECE and is_distinct(piece)]
    paths = {rest, rest.partition("?")[0]}
    return [*found, *(path for path in paths if len(path) >= _SHORTEST_PATH)]


def sounds_secret(name: str) -> bool:
    """Whether a setting of this name may be a password, a key or a token."""
    return _SECRET_KEY.search(name) is not None or "pem" in name or "jaas" in name


def secrets_in(value: str) -> list[str]:
    """The secrets in a value: all of it, or those parts of a URL or a connection string that are secret.

    A URL without credentials has none.
    """
    if "-----BEGIN" in value:
        return [value, *(line for line in value.split() if len(line) >= _PEM_LINE)]
    parts = parts_in(value)
    if value.lstrip().startswith("{"):
        parts += _in_object(value)
    if parts or _URL.fullmatch(value.strip()):
        return parts
    return [value]


def parts_in(value: str) -> list[str]:
    """What `secrets_in` finds in a URL or a connection string; nothing in any other text."""
    return [*_named(value), *_logins(value)]


def _named(value: str) -> Iterator[str]:
    for match in _NAMED.finditer(value):
        found = match[1] or match[2] or match[3]
        yield found
        yield unquote(found)


def _logins(value: str) -> Iterator[str]:
    for pattern in (_LOGIN, _TOKEN_LOGIN):
        for match in pattern.finditer(value):
            login = match[match.lastindex or 1]
            user, colon, password = login.partition(":")
            yield from (password, unquote(password)) if colon else (user, unquote(user))


def _in_object(value: str) -> list[str]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return list(_of_secret_keys(found)) if isinstance(found, Mapping) else []


def _of_secret_keys(value: Mapping[str, Any]) -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, str) and sounds_secret(key):
            yield from secrets_in(item) if "://" not in item else ()


def credentials(text: str) -> Iterator[Span]:
    """Where a text has what looks like a credential: a URL's login, `sig=…`, a token, a private key."""
    lower = text.lower()
    if any(stem in lower for stem in _STEMS):
        patterns = [pattern for pattern, mark in ((_NAMED, "="), (_IN_JSON, '":')) if mark in text]
    else:
        patterns = []
    patterns += [pattern for pattern, mark in _MARKED if mark in text]
    for pattern in patterns:
        for match in pattern.finditer(text):
            yield match.span(match.lastindex or 0)

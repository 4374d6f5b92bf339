"""The secrets that the process has read, and every text without them.

Code that reads a secret calls `remember`; a text that leaves the process goes through `redacted`. Errors of
this project, free texts of results and receipts, log records and the streams of the command line do so by
themselves.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from backlog_clearer.redaction.forms import Forms, Span, forms_of
from backlog_clearer.redaction.parts import (
    OTLP_ENDPOINT,
    OTLP_HEADERS,
    VARIABLE,
    credentials,
    hook_secrets,
    otlp_secrets,
    parts_in,
    secrets_in,
)
from backlog_clearer.text import spelled_out

MASK = "***"
"""What replaces a secret in a text."""

_MOST = 2000  # secrets that are kept; tokens are renewed for as long as a process lives
_ORDINARY = frozenset({"true", "false", "none", "null", "yes", "no", "on", "off"})
_SHORTEST_NUMBER = 4

_lock = threading.Lock()
_known: dict[str, Forms] = {}


def remember(*values: object) -> None:
    """Keep secrets out of every text from now on; None and values without a secret are passed over.

    Of a URL, a connection string and a key in PEM or JSON, the parts that are secret are kept out.
    """
    _keep(part for value in values if value is not None for part in secrets_in(str(value)))


def remember_address(address: str) -> None:
    """The same for a value that is public but for a login in it, as a URL may have."""
    _keep(parts_in(address))


def remember_hook(url: str) -> None:
    """The same for a URL whose path or query may be the secret, as those of webhooks often are."""
    remember_address(url)
    _keep(hook_secrets(url))


def _keep(found: Iterable[str]) -> None:
    with _lock:
        for secret in map(str.strip, found):  # a file may end with a line break
            if secret and not _is_ordinary(secret):
                _known.pop(secret, None)  # the newest are kept
                _known[secret] = forms_of(secret)
        for secret in list(_known)[:-_MOST]:
            del _known[secret]


def remember_login(user: object, secret: object) -> None:
    """The same for a secret that is sent together with a user's name, as HTTP's Basic login does."""
    remember(secret)
    if user is not None and secret is not None:
        remember(f"{user}:{secret}")


def remember_environment(environ: Mapping[str, str]) -> None:
    """The same for variables that libraries take secrets from, by their names."""
    for name, value in environ.items():
        if VARIABLE.fullmatch(name) and not value.startswith(("/", "~", ".")):
            remember(value)
        elif name.lower().endswith("_proxy") or OTLP_ENDPOINT.fullmatch(name):
            remember_address(value)
        elif OTLP_HEADERS.fullmatch(name):
            remember(*otlp_secrets(value))


def forget_secrets() -> None:
    """Forget every secret; for tests, whose secrets are made up."""
    with _lock:
        _known.clear()


def _is_ordinary(secret: str) -> bool:
    return secret.lower() in _ORDINARY or (secret.isdigit() and len(secret) < _SHORTEST_NUMBER)


def redacted(text: str, *, values: bool = True) -> str:
    """A text with `MASK` instead of every secret.

    `values`: also where an ordinary word that is a secret is a value; not wanted for JSON and
    tables, in which names are values.
    """
    with _lock:
        known = tuple(_known.values())
    spans = [span for forms in known for span in forms.spans(text, values=values)]
    spans += credentials(text)
    return _masked(text, spans) if spans else text


def _masked(text: str, spans: Iterable[Span]) -> str:
    parts = []
    done = 0
    for start, end in sorted(spans):
        if start >= done:
            parts += [text[done:start], MASK]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def redact_logs() -> None:
    """Let no log record of this process have a secret, whichever logger and handler it is for."""
    before = logging.getLogRecordFactory()
    if before is not _record:
        global _factory  # noqa: PLW0603 as logging itself, there is one
        _factory = before
        logging.setLogRecordFactory(_record)


_factory: Any = logging.LogRecord


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record: logging.LogRecord = _factory(*args, **kwargs)
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 a library's text does not fit its arguments: logging reports that
        text = f"{record.msg} {record.args}"
        record.msg, record.args = redacted(text), None
    safe = spelled_out(redacted(text))
    if safe != text:
        record.msg, record.args = safe, None
    if record.exc_info and record.exc_info[0] is not None:
        trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        safe = redacted(trace)
        if safe != trace:
            record.exc_info, record.exc_text = None, safe
    return record


def redact_crashes() -> None:
    """Print the traceback of an error that nothing caught without secrets."""
    sys.excepthook = _crashed
    threading.excepthook = lambda args: _crashed(args.exc_type, args.exc_value, args.exc_traceback)


def _crashed(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if sys.stderr is not None and not issubclass(kind, SystemExit):
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))

"""References in option values: `${env:NAME}` and `${file:PATH}`, so that options need not contain secrets."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backlog_clearer.errors import UsageError
from backlog_clearer.text import shown_name, shown_path

MOST_BYTES = 8 * 1024 * 1024
"""More than any configuration, key or token has."""

_VARIABLE = re.compile(r"[A-Z]+|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")  # others may be the secret itself
_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


def is_reference(value: object) -> bool:
    """Whether a value is one reference and nothing else, as in "${env:NAME}"."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def portable(reference: str) -> str:
    """A reference that means the same in any directory."""
    found = _REFERENCE.fullmatch(reference)
    if found is None or found[1] != "file":
        return reference
    return f"${{file:{Path(found[2]).absolute()}}}"


def referred(value: Any) -> list[str]:
    """What every reference in a JSON value names, as in "env:NAME" and "file:PATH"."""
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in referred(item)]
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in referred(item)]
    if not isinstance(value, str):
        return []
    return [f"{kind}:{name}" for kind, name in _REFERENCE.findall(value)]


def bounded_bytes(path: str) -> bytes:
    """The content of a file, or what comes out of a pipe; raises `OSError`, also for more than `MOST_BYTES`."""
    with Path(path).open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES:,} bytes")
    return data


def read_text(path: str, called: str) -> str:
    """The text in a file; raises `UsageError` that begins with the name given as `called`."""
    try:
        return bounded_bytes(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UsageError(f"{called} cannot be read: {reason}.") from None


def resolve_references(
    value: Any, environ: Mapping[str, str] = os.environ, where: str = "an option"
) -> Any:
    """Replace `${env:NAME}` and `${file:PATH}` in every string of a JSON value.

    `where` is the option that the value is of, for errors. Raises `UsageError` naming the variable or file
    that is missing, never its content; a name that may be a secret, as in `${env:PASSWORD-ITSELF}`, is not
    shown.
    """
    if isinstance(value, Mapping):
        return {
            key: resolve_references(item, environ, f"the option {shown_name(str(key))}")
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [resolve_references(item, environ, where) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            if name in environ:
                return environ[name]
            if _VARIABLE.fullmatch(name):
                raise UsageError(
                    f"The environment variable {name}, referred to as {match[0]}, is not set."
                )
            raise UsageError(
                f"The environment variable that {where} refers to is not set. Its name is not shown, since it"
                " may be a secret: write ${env:NAME} with the name of a variable."
            )
        if shown_path(name) == name:
            return read_text(name, f"The file referred to as {match[0]}").strip()
        return read_text(name, f"The file that {where} refers to").strip()

    return _REFERENCE.sub(replace, value)

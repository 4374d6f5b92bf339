"""References in option values: `${env:NAME}` and `${file:PATH}`, so that options need not contain secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backlog_clearer.errors import UsageError

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


def read_text(path: str, called: str) -> str:
    """The text in a file; raises `UsageError` that begins with the name given as `called`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UsageError(f"{called} cannot be read: {reason}.") from None


def resolve_references(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Replace `${env:NAME}` and `${file:PATH}` in every string of a JSON value.

    Raises `UsageError` naming the variable or file that is missing, never its content.
    """
    if isinstance(value, Mapping):
        return {key: resolve_references(item, environ) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve_references(item, environ) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            if name not in environ:
                raise UsageError(
                    f"The environment variable {name}, referred to as {match[0]}, is not set."
                )
            return environ[name]
        return read_text(name, f"The file referred to as {match[0]}").strip()

    return _REFERENCE.sub(replace, value)

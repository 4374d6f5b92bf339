"""Options as receipts hold them: data from a file that others may have written.

Only what this tool itself writes into receipts is taken from them. Nothing is resolved or opened here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import SETTINGS, SystemOptions, flag
from backlog_clearer.options.layers import merged_layers
from backlog_clearer.options.references import is_reference, referred
from backlog_clearer.text import listed

_MARK = "${"


def recorded_options(model: type[SystemOptions], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt's options, each of which this tool could have written.

    Raises `UsageError` that names the first option that it would not have written: an unknown one, a
    secret's value, a reference in another option than a secret, a library's setting that receipts do not
    keep (some of them load and run code).
    """
    secrets, settings = model.secrets(), model.public_settings() | model.secret_settings()
    for name, value in recorded.items():
        if name == SETTINGS and settings:
            _check_settings(model, value)
        elif name not in model.model_fields or (name in model.hidden() and not is_reference(value)):
            raise _refused(f"the option {name!r}")
        elif name in secrets:
            if not is_reference(value):
                raise _refused(f"a value of {flag(name)}, which is a secret")
        elif _MARK in str(value):
            raise _refused(f"a reference in {flag(name)}, which is not a secret")
    return dict(recorded)


def _check_settings(model: type[SystemOptions], settings: Any) -> None:
    if not isinstance(settings, Mapping):
        raise _refused("settings that are not an object")
    for key, value in settings.items():
        if key in model.secret_settings():
            if not is_reference(value):
                raise _refused(f"a value of the setting {key}, which is a secret")
        elif key not in model.public_settings():
            raise _refused(f"the setting {key!r}")
        elif not isinstance(value, (str, int, float)) or _MARK in str(value):
            raise _refused(f"a value of the setting {key} that is not plain text")


def _refused(what: str) -> UsageError:
    return UsageError(
        f"The receipt holds {what}; this tool does not write that into receipts. Nothing was read, sent or"
        " changed: the receipt was edited, or another program wrote it."
    )


def references_of(
    model: type[SystemOptions], recorded: Mapping[str, Any], *layers: Mapping[str, Any]
) -> list[str]:
    """What a receipt's options refer to, as "env:NAME" or "file:PATH", unless later layers replace it.

    Files whose content is sent to a server count as references, too.
    """
    later = merged_layers(model, *layers)
    settings = recorded.get(SETTINGS, {})
    replaced = later.get(SETTINGS, {})
    kept = [value for name, value in recorded.items() if name not in {*later, SETTINGS}]
    kept += [value for key, value in settings.items() if key not in replaced]
    files = [recorded[name] for name in model.sent_files() if name in recorded and name not in later]
    return sorted({*referred(kept), *(f"file:{path}" for path in files)})


def allowed_references(names: Iterable[str]) -> frozenset[str]:
    """What `--allow-reference` names: "env:NAME", "file:PATH", or the same as "${…}".

    Raises `UsageError` for anything else.
    """
    found = set()
    for name in names:
        bare = name[2:-1] if is_reference(name) else name
        if not re.fullmatch(r"(env|file):[^}]+", bare):
            raise UsageError(
                "--allow-reference takes env:NAME or file:PATH, as the receipt has it in ${…}."
            )
        found.add(bare)
    return frozenset(found)


def not_allowed(missing: Iterable[str], address: str) -> UsageError:
    """The error for references of a receipt that the user did not allow."""
    names = list(missing)
    again = " ".join(f"--allow-reference {shlex.quote(name)}" for name in names)
    return UsageError(
        f"The receipt refers to {listed(names, 20)}, whose content would be sent to {address}. If that is"
        f" right, add {again}; otherwise give the option again. Nothing was read, sent or changed."
    )

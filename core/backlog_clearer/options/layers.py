"""Options from layers of values (a configuration file, flags, a request), the last of which wins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import SETTINGS, Options, SystemOptions, build, flag, unknown_option
from backlog_clearer.options.references import read_text, resolve_references
from backlog_clearer.options.run import RunOptions
from backlog_clearer.text import parsed_json, shown_path

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_Options = TypeVar("_Options", bound=Options)


def read_file(path: str) -> dict[str, Any]:
    """The object in a JSON file of options; raises `UsageError`."""
    called = f"--config-json {shown_path(path)}"
    text = read_text(path, called)
    try:
        value = parsed_json(text)
    except ValueError as error:
        raise UsageError(f"{called} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{called} must hold an object of options.")
    return value


def _settings(pairs: object, known: Sequence[str]) -> dict[str, Any]:
    """The settings of a mapping, or of KEY=VALUE texts as -X takes them.

    Raises `UsageError` that shows nothing of a malformed one, unless it begins with one of the `known` keys.
    """
    if isinstance(pairs, Mapping):
        return {_checked_key(key, known): value for key, value in pairs.items()}
    settings: dict[str, Any] = {}
    for pair in pairs if isinstance(pairs, (list, tuple)) else [pairs]:
        key, equals, value = str(pair).partition("=")
        if not equals or not isinstance(pair, str):
            raise _no_setting(str(pair), known)
        settings[_checked_key(key.strip(), known)] = value
    return settings


def _checked_key(key: object, known: Sequence[str]) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise _no_setting(str(key), known)
    return key


def _no_setting(text: str, known: Sequence[str]) -> UsageError:
    begun = max((key for key in known if text.lower().startswith(key)), key=len, default=None)
    which = f"what begins with {begun}" if begun else "one of the given settings (not shown)"
    return UsageError(
        f"-X takes KEY=VALUE, as in -X security.protocol=SSL; {which} does not have this form."
    )


def build_options(
    model: type[SystemOptions],
    *layers: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    exact: Mapping[str, Any] | None = None,
) -> tuple[SystemOptions, RunOptions]:
    """Options of a system and of the run from layers of values, the last of which wins.

    A value of None in a layer means "not given". Keys may be spelled with '-' or '_'; dotted keys
    are the client library's settings. `exact` are values that win, and in which nothing is a reference:
    names that a broker reported. Raises `UsageError` listing every fault at once.
    """
    given = merged_layers(model, *layers)
    resolved = {
        name: resolve_references(value, environ, "-X" if name == SETTINGS else flag(name))
        for name, value in given.items()
    }
    resolved.update(exact or {})
    options, faults = _try(model, resolved)
    run, more = _try(RunOptions, resolved)
    if options is None or run is None:
        raise UsageError("\n".join(faults + more))
    return options.referring(given), run


def merged_layers(model: type[SystemOptions], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping by field name; raises `UsageError` for keys that are not options."""
    known = [*model.model_fields, *RunOptions.model_fields]
    takes_settings = SETTINGS in model.model_fields
    keys = sorted(model.public_settings() | model.secret_settings())
    merged: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    unknown = []
    for layer in layers:
        own: dict[str, Any] = {}
        for key, value in layer.items():
            name = key.replace("-", "_")
            if value is None:
                continue
            if name == SETTINGS and takes_settings:
                own.update(_settings(value, keys))
            elif takes_settings and "." in key:
                own[_checked_key(key, keys)] = value
            elif name in known:
                merged[name] = value
            else:
                unknown.append(unknown_option(key, known))
        settings.update(model.understood(own))
    if unknown:
        raise UsageError("\n".join(dict.fromkeys(unknown)))
    return {**merged, SETTINGS: settings} if settings else merged


def _try(model: type[_Options], merged: Mapping[str, Any]) -> tuple[_Options | None, list[str]]:
    """The model built from its part of the values, or the faults in them."""
    try:
        return build(model, {k: v for k, v in merged.items() if k in model.model_fields}), []
    except UsageError as error:
        return None, [str(error)]

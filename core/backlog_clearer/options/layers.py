"""Options from layers of values (a configuration file, flags, a request), the last of which wins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import SETTINGS, Options, SystemOptions, build, option_suggestion
from backlog_clearer.options.references import resolve_references
from backlog_clearer.options.run import RunOptions

_Options = TypeVar("_Options", bound=Options)


def read_file(path: str) -> dict[str, Any]:
    """The object in a JSON file of options; raises `UsageError`."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config-json {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"--config-json {path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"--config-json {path} must hold an object of options.")
    return value


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    """`-X key=value` pairs as a mapping; the value is not shown where one is malformed."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"-X takes KEY=VALUE, as in -X security.protocol=SSL; got {key!r}.")
        settings[key.strip()] = value
    return settings


def build_options(
    model: type[SystemOptions], *layers: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[SystemOptions, RunOptions]:
    """Options of a system and of the run from layers of values, the last of which wins.

    A value of None in a layer means "not given". Keys may be spelled with '-' or '_'; dotted keys
    are the client library's settings. Raises `UsageError` listing every fault at once.
    """
    given = merged_layers(model, *layers)
    resolved = resolve_references(given, environ)
    options, faults = _try(model, resolved)
    run, more = _try(RunOptions, resolved)
    if options is None or run is None:
        raise UsageError("\n".join(faults + more))
    return options.referring(given), run


def merged_layers(model: type[SystemOptions], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping by field name; raises `UsageError` for keys that are not options."""
    known = [*model.model_fields, *RunOptions.model_fields]
    takes_settings = SETTINGS in model.model_fields
    merged: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    unknown = []
    given = [item for layer in layers for item in layer.items() if item[1] is not None]
    for key, value in given:
        name = key.replace("-", "_")
        if name == SETTINGS and takes_settings:
            settings.update(value if isinstance(value, Mapping) else _settings(value))
        elif takes_settings and "." in key:
            settings[key] = value
        elif name in known:
            merged[name] = value
        else:
            unknown.append(f"unknown option {key!r}.{option_suggestion(name, known)}")
    if unknown:
        raise UsageError("\n".join(dict.fromkeys(unknown)))
    return {**merged, SETTINGS: settings} if settings else merged


def _try(model: type[_Options], merged: Mapping[str, Any]) -> tuple[_Options | None, list[str]]:
    """The model built from its part of the values, or the faults in them."""
    try:
        return build(model, {k: v for k, v in merged.items() if k in model.model_fields}), []
    except UsageError as error:
        return None, [str(error)]

"""Command-line flags made from the options models, so that a flag and a file key are one thing."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from core.errors import UsageError
from core.model import StrEnum
from core.options.base import (
    Options,
    RunOptions,
    SystemOptions,
    build,
    flag,
    resolve_references,
    suggestion,
)

_Options = TypeVar("_Options", bound=Options)

SETTINGS = "settings"
"""The field that takes a client library's own dotted settings, where a system has one."""


def _bare(annotation: Any) -> Any:
    """The type without `None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [part for part in get_args(annotation) if part is not type(None)]
        return kept[0] if len(kept) == 1 else str
    return annotation


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "required"
    if default is PydanticUndefined or default is None or default is False or default in ((), ""):
        return ""
    return f"default {','.join(default) if isinstance(default, tuple) else default}"


def options_of(model: type[BaseModel], *only: str) -> list[click.Option]:
    """One flag for each field (of `only`); all default to None, which means "not given"."""
    made = []
    for name, field in model.model_fields.items():
        if only and name not in only:
            continue
        kind = _bare(field.annotation)
        default = _default(field)
        text = f"{field.description or name}{f' [{default}]' if default else ''}"
        if name == SETTINGS:
            made.append(click.Option(["-X", SETTINGS], multiple=True, metavar="KEY=VALUE", help=text))
        elif kind is bool:
            made.append(
                click.Option([f"{flag(name)}/--no-{flag(name)[2:]}", name], default=None, help=text)
                if field.default is True
                else click.Option([flag(name), name], is_flag=True, default=None, help=text)
            )
        else:
            choices = isinstance(kind, type) and issubclass(kind, StrEnum)
            made.append(
                click.Option(
                    [flag(name), name],
                    type=click.Choice([str(item) for item in kind]) if choices else str,
                    metavar=None if choices else name.split("_")[-1].upper(),
                    help=text,
                )
            )
    return made


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


def assemble(
    model: type[SystemOptions], *layers: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[SystemOptions, RunOptions]:
    """Options of a system and of the run from layers of values, the last of which wins.

    A value of None in a layer means "not given". Keys may be spelled with '-' or '_'; dotted keys
    are the client library's settings. Raises `UsageError` listing every fault at once.
    """
    merged = resolve_references(_merge(model, layers), environ)
    options, faults = _try(model, merged)
    run, more = _try(RunOptions, merged)
    if options is None or run is None:
        raise UsageError("\n".join(faults + more))
    return options, run


def _merge(model: type[SystemOptions], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping by field name; raises `UsageError` for keys that are no option at all."""
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
            unknown.append(f"unknown option {key!r}.{suggestion(name, known)}")
    if unknown:
        raise UsageError("\n".join(dict.fromkeys(unknown)))
    return {**merged, SETTINGS: settings} if settings else merged


def _try(model: type[_Options], merged: Mapping[str, Any]) -> tuple[_Options | None, list[str]]:
    """The model built from its part of the values, or what is wrong with them."""
    try:
        return build(model, {k: v for k, v in merged.items() if k in model.model_fields}), []
    except UsageError as error:
        return None, [str(error)]

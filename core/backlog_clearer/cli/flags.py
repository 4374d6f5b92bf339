"""Command-line flags made from the options models: a flag and a key in a file are the same option."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from backlog_clearer.model import StrEnum
from backlog_clearer.options.base import SETTINGS, flag, suggestion
from backlog_clearer.text import shown_name

_METAVARS = {
    "until": "TIME",
    "older_than": "DURATION",
    "keep_last": "N",
}  # others: the name's last word


def _bare(annotation: Any) -> Any:
    """The type without `None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [part for part in get_args(annotation) if part is not type(None)]
        return kept[0] if len(kept) == 1 else str
    return annotation


def _default(field: FieldInfo) -> str:
    """How the help text ends: "required", "default 4", or "" where an option may be left out."""
    default = field.default
    if field.is_required():
        return "required"
    if default is PydanticUndefined or default is None or default is False or default in ((), ""):
        return ""
    return f"default {','.join(default) if isinstance(default, tuple) else default}"


def options_of(model: type[BaseModel], *only: str) -> list[click.Option]:
    """One flag for each field, or for those in `only`; a flag that is not given is None."""
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
                    metavar=None if choices else _METAVARS.get(name, name.split("_")[-1].upper()),
                    help=text,
                )
            )
    return made


class NearestNames(click.Group):
    """Commands of which an unknown one is answered with the nearest name; click has it only from 8.2 on."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; an unknown one is answered with the nearest name."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        command = self.get_command(ctx, name)  # once: it makes the flags of a system
        if command is None:
            hidden = {item for item, command in self.commands.items() if command.hidden}
            known = [item for item in self.list_commands(ctx) if item not in hidden]
            raise click.UsageError(f"No such command {shown_name(name)}.{suggestion(name, known)}", ctx)
        return name, command, args[1:]

"""How a command talks to its user: the flags for it, what they choose, and the exit codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import click

OUTPUT = click.Option(
    ["--output"],
    type=click.Choice(["text", "json"]),
    default="text",
    help="format of the result on stdout [default text]",
)

CONFIG = click.Option(
    ["--config-json"],
    metavar="FILE",
    type=click.Path(),
    help="JSON file with any of these options; flags override it",
)

ALLOWED = click.Option(
    ["--allow-reference"],
    multiple=True,
    metavar="env:NAME|file:PATH",
    help="a secret that a receipt refers to and that may be sent to the broker it names; may be repeated",
)

LEAST_S, MOST_S = 1, 86_400


def _interval(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A number of seconds between two looks; fails without repeating what was given."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not LEAST_S <= seconds <= MOST_S:
        text = f"{option.opts[0]} is a number of seconds from {LEAST_S} to {MOST_S:,}."
        raise click.UsageError(text, ctx)
    return seconds


WATCH = click.Option(
    ["--watch"],
    callback=_interval,
    metavar="SECONDS",
    help="look again every SECONDS, with rates and an ETA, until Ctrl-C; with JSON, an object a line",
)

FLAGS = (
    click.Option(["--yes", "-y"], is_flag=True, help="do not ask for confirmation"),
    OUTPUT,
    click.Option(
        ["--quiet", "-q"],
        is_flag=True,
        help="write nothing but errors to stderr",
    ),
    click.Option(
        ["--log-level"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="least severe messages on stderr [default warning; with --quiet, error]",
    ),
)


@dataclass(frozen=True, slots=True)
class Talk:
    """What `FLAGS` choose."""

    yes: bool = False
    output: str = "text"
    quiet: bool = False
    log_level: str | None = None

    @property
    def json(self) -> bool:
        """Whether stdout is for programs."""
        return self.output == "json"

    @property
    def least(self) -> str:
        """The least severe messages that are shown."""
        return self.log_level or ("error" if self.quiet else "warning")


def talk_of(values: Mapping[str, Any]) -> tuple[Talk, dict[str, Any]]:
    """Separate how to talk from what to do; a command without some of `FLAGS` gets their defaults."""
    names = {field.name for field in fields(Talk)}
    talk = Talk(**{name: value for name, value in values.items() if name in names})
    return talk, {name: value for name, value in values.items() if name not in names}

"""How a command talks to its user: the flags for it, what they choose, and the exit codes."""

from __future__ import annotations

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

FLAGS = (
    click.Option(["--yes", "-y"], is_flag=True, help="do not ask for confirmation"),
    OUTPUT,
    click.Option(["--quiet", "-q"], is_flag=True, help="show neither the plan nor the progress"),
    click.Option(
        ["--log-level"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="warning",
        help="least severe messages on stderr [default warning]",
    ),
)


@dataclass(frozen=True, slots=True)
class Talk:
    """What `FLAGS` choose."""

    yes: bool = False
    output: str = "text"
    quiet: bool = False
    log_level: str = "warning"

    @property
    def json(self) -> bool:
        """Whether stdout is for programs."""
        return self.output == "json"


def talk_of(values: Mapping[str, Any]) -> tuple[Talk, dict[str, Any]]:
    """Separate how to talk from what to do; a command without some of `FLAGS` gets their defaults."""
    names = {field.name for field in fields(Talk)}
    talk = Talk(**{name: value for name, value in values.items() if name in names})
    return talk, {name: value for name, value in values.items() if name not in names}

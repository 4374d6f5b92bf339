"""A command for each system, and the group of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from backlog_clearer import registry
from backlog_clearer.cli import flags
from backlog_clearer.cli.selecting import system_options
from backlog_clearer.cli.talk import CONFIG, FLAGS, talk_of
from backlog_clearer.errors import UsageError
from backlog_clearer.options.run import RunOptions


class Systems(flags.NearestNames):
    """One command for each system, made only when it is used: `--help` needs no broker library."""

    def __init__(self, make: Callable[[str], click.Command], **settings: Any) -> None:
        super().__init__(**settings)
        self.make = make

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Systems first."""
        return [*registry.names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A system's command, or one of the others."""
        command = super().get_command(ctx, cmd_name)
        if command is not None or cmd_name not in registry.names():
            return command
        try:
            return self.make(cmd_name)
        except UsageError as error:  # a broken package of one system leaves the others usable
            return _broken_command(cmd_name, error)


def _broken_command(name: str, error: UsageError) -> click.Command:
    """A system whose package cannot be used: any call of it fails with the reason."""

    def fail(**_: Any) -> None:
        raise click.UsageError(str(error))

    return click.Command(
        name,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        callback=fail,
        help=str(error),
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


def system_params(name: str) -> list[click.Parameter]:
    """Every flag of clearing a system."""
    return [
        *system_options(name),
        *flags.options_of(RunOptions),
        CONFIG,
        *FLAGS,
    ]


def system_command(name: str) -> click.Command:
    """The command that clears a subscription of a system."""

    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import clear_system

        talk, rest = talk_of(values)
        clear_system(talk, name, rest)

    return click.Command(
        name,
        params=system_params(name),
        callback=callback,
        help=f"Clear {registry.system(name).summary}.",
    )

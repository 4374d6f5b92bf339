"""The command `list SYSTEM`: the subscriptions that have a backlog, largest first."""

from __future__ import annotations

from typing import Any

import click

from backlog_clearer.cli import flags
from backlog_clearer.cli.talk import CONFIG, FLAGS, talk_of
from backlog_clearer.registry import list_options

LIST_HELP = "List the subscriptions of a system that have a backlog, and change nothing."


def list_command(name: str) -> click.Command:
    """The command of one system; raises `UsageError` for one whose subscriptions cannot be listed."""

    def callback(everything: bool, **values: Any) -> None:
        from backlog_clearer.cli.listed_output import show_list

        talk, rest = talk_of(values)
        show_list(talk, name, rest, everything=everything)

    model = list_options(name)
    return click.Command(
        name,
        params=[
            *flags.options_of(model, *getattr(model, "LISTED", ())),
            click.Option(["--all", "everything"], is_flag=True, help="also those without a backlog"),
            CONFIG,
            *FLAGS[1:],
        ],
        callback=callback,
        help=f"List the subscriptions of {name} that have a backlog, the largest first.",
    )

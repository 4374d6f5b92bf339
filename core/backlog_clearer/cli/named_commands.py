"""`run NAME` and `status`: the commands that read the configuration of named backlogs.

`commands` imports this module when one of them is used, because it loads the configuration's models.
"""

from __future__ import annotations

import os
from typing import Any

import click

from backlog_clearer import registry
from backlog_clearer.cli import flags
from backlog_clearer.cli.system_commands import Systems, system_params
from backlog_clearer.cli.talk import FLAGS, WATCH, talk_of
from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import VARIABLE, Request, load_config
from backlog_clearer.options.run import RunOptions

_CHANGING = (
    "workers", "batch_size", "stop_when_empty", "follow", "max_messages", "max_seconds", "max_rate",
    "stall_seconds", "max_retries", "quiet_seconds", "verify_seconds", "force", "new", "dry_run",
    "receipt_dir", "receipt_schemes", "notify", "notify_authorization",
)  # fmt: skip
"""Options of a run that mean nothing where nothing is changed."""


def _means_nothing(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        raise click.UsageError(
            f"{option.opts[0]} has no meaning for status, which changes nothing.", ctx
        )


def _refused_by_status() -> list[click.Option]:
    found = [*flags.options_of(RunOptions, *_CHANGING), click.Option(["--yes", "-y"], is_flag=True)]
    for option in found:
        option.hidden, option.expose_value, option.callback = True, False, _means_nothing
    return found


def _status_params(name: str) -> list[click.Parameter]:
    refused = _refused_by_status()
    known = {option.opts[0] for option in refused}
    return [*(item for item in system_params(name) if item.opts[0] not in known), WATCH, *refused]


def _status_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import show_status

        talk, rest = talk_of(values)
        show_status(talk, name, rest)

    return click.Command(
        name,
        params=_status_params(name),
        callback=callback,
        help=f"Show the backlog of {registry.system(name).summary}.",
    )


_DRY_RUN = flags.options_of(RunOptions, "dry_run")
_SLICE = click.Option(
    ["--slice"], metavar="INDEX/TOTAL", help="only this slice of the backlog, as in 2/8"
)
_TOTAL = click.Option(["--total"], hidden=True)  # of slices, as jobs write it: --slice 2 --total 8


def _named_status_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.named import show_named_status

        show_named_status(*talk_of({"backlog": name, **values}))

    return click.Command(
        name,
        params=[_SLICE, _TOTAL, WATCH, *FLAGS[1:], *_refused_by_status()],
        callback=callback,
        help=f"Show the backlog that the configuration in {VARIABLE} names {name!r}.",
    )


_STATUS_HELP = f"""Show a backlog and change nothing.

COMMAND is a system, or the name of a backlog in the configuration that {VARIABLE} holds or names."""


class StatusGroup(Systems):
    """`status SYSTEM`, and `status NAME` for the backlogs that the configuration names."""

    def __init__(self) -> None:
        super().__init__(_status_command, name="status", help=_STATUS_HELP)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Systems, and the names of the configuration where there is one."""
        return [*super().list_commands(ctx), *self._named(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A system's command, or that of a named backlog."""
        command = super().get_command(ctx, cmd_name)
        if command is not None or cmd_name not in self._named(ctx):
            return command
        return _named_status_command(cmd_name)

    @staticmethod
    def _named(ctx: click.Context) -> list[str]:
        """Names of the configuration; raises `click.UsageError` where it is faulty."""
        if not os.environ.get(VARIABLE):
            return []
        try:
            return sorted(load_config().backlogs)
        except UsageError as error:
            if ctx.resilient_parsing:  # a shell asks what may follow
                return []
            raise click.UsageError(str(error)) from None


def run_command() -> click.Command:
    """The command `run NAME`."""

    def callback(**values: Any) -> None:
        from backlog_clearer.cli.named import clear_named

        clear_named(*talk_of(values))

    request = flags.options_of(Request, "mode", "max_messages", "max_seconds", "max_rate", "run_id")
    return click.Command(
        "run",
        params=[
            click.Argument(["backlog"], metavar="NAME"),
            *request,
            _SLICE,
            _TOTAL,
            *_DRY_RUN,
            *FLAGS,
        ],
        callback=callback,
        help=f"Clear a backlog by its name in the configuration that {VARIABLE} holds or names.",
        short_help="Clear a backlog by its name in the configuration.",
    )

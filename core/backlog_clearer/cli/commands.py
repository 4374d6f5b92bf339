"""The commands and their flags.

Exit 0: cleared (or shown, or restored); 1: not cleared; 2: wrong use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from backlog_clearer import __version__, registry
from backlog_clearer.cli import flags
from backlog_clearer.cli.list_command import LIST_HELP, list_command
from backlog_clearer.cli.program import INSTALLED, program
from backlog_clearer.cli.receipt_commands import receipts_group
from backlog_clearer.cli.restore_command import RestoreCommand
from backlog_clearer.cli.selecting import system_options
from backlog_clearer.cli.streams import guard, unwritten
from backlog_clearer.cli.talk import CONFIG, FLAGS, OUTPUT, WATCH, talk_of
from backlog_clearer.cli.wrong_use import show_failure, show_wrong_use
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE, Request, load_config
from backlog_clearer.options.run import RunOptions
from backlog_clearer.redaction.redact import redact_crashes


class _Systems(flags.NearestNames):
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


def _system_params(name: str) -> list[click.Parameter]:
    """Every flag of clearing a system."""
    return [
        *system_options(name),
        *flags.options_of(RunOptions),
        CONFIG,
        *FLAGS,
    ]


def _system_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import clear_system

        talk, rest = talk_of(values)
        clear_system(talk, name, rest)

    return click.Command(
        name,
        params=_system_params(name),
        callback=callback,
        help=f"Clear {registry.system(name).summary}.",
    )


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
    return [*(item for item in _system_params(name) if item.opts[0] not in known), WATCH, *refused]


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
        from backlog_clearer.cli.actions import show_named_status

        show_named_status(*talk_of({"backlog": name, **values}))

    return click.Command(
        name,
        params=[_SLICE, _TOTAL, WATCH, *FLAGS[1:], *_refused_by_status()],
        callback=callback,
        help=f"Show the backlog that the configuration in {VARIABLE} names {name!r}.",
    )


class _Status(_Systems):
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


_STATUS_HELP = f"""Show a backlog and change nothing.

COMMAND is a system, or the name of a backlog in the configuration that {VARIABLE} holds or names."""


def _run_command() -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import clear_named

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


def _progress_command(name: str, *, hidden: bool = False) -> click.Command:
    def callback(
        run_id: str, receipt_dir: str, receipt_schemes: str, watch: float | None, **values: Any
    ) -> None:
        from backlog_clearer.cli.actions import show_run_status

        talk, _ = talk_of(values)
        show_run_status(talk, run_id, receipt_dir, receipt_schemes, watch)

    directory = click.Option(
        ["--receipt-dir"],
        default=RunOptions().receipt_dir,
        help="directory or URL of the run's receipts [default receipts]",
    )
    schemes = click.Option(
        ["--receipt-schemes"], default="", help="further fsspec URL schemes that --receipt-dir may have"
    )
    return click.Command(
        name,
        params=[click.Argument(["run_id"]), WATCH, directory, schemes, OUTPUT],
        callback=callback,
        help="Show the progress of a run, slice by slice, from what its invocations stored.\n\n"
        "Exit 0 if every slice is cleared, 4 if some are unproven, otherwise 1. With --watch it ends once the"
        " run has ended.",
        short_help="Show the progress of a run of many slices.",
        hidden=hidden,
    )


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(__version__)
        ctx.exit()


class _Program(_Systems):
    """The whole command line: how each failure of it is answered."""

    def main(  # type: ignore[override] # without the parameters that nothing here uses
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line, and exit."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, prog_name, standalone_mode=False, **extra)
        except click.ClickException as error:
            show_wrong_use(error, given)
            sys.exit(error.exit_code)
        except click.Abort:
            show_failure(RefusedError("Interrupted; nothing was changed."), given)
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


cli = _Program(
    _system_command,
    name=INSTALLED,
    help="Clear the backlog of one subscription: fast, provably, undoably.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
cli.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="show the version and exit",
        callback=_print_version,
    )
)
cli.add_command(_Status())
cli.add_command(_Systems(list_command, name="list", help=LIST_HELP))
cli.add_command(_run_command())
cli.add_command(_progress_command("progress"))
cli.add_command(_progress_command("runs", hidden=True))  # the former name, for existing scripts
cli.add_command(RestoreCommand())
cli.add_command(receipts_group())


def main() -> None:
    """Entry point of the installed command."""
    guard()
    redact_crashes()
    try:
        cli(prog_name=program(sys.argv[0]))
    except SystemExit as end:
        lost = unwritten()  # of --help and the like; a session has reported its own
        if not lost:
            raise
        click.echo(f"Error: {lost}", err=True)
        sys.exit(end.code or 1)

"""The commands and their flags.

Exit 0: cleared (or shown, or restored); 1: not cleared; 2: wrong use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click

from backlog_clearer import __version__
from backlog_clearer.cli.list_command import LIST_HELP, list_command
from backlog_clearer.cli.program import INSTALLED, program
from backlog_clearer.cli.receipt_commands import receipts_group
from backlog_clearer.cli.restore_command import RestoreCommand
from backlog_clearer.cli.streams import guard, unwritten
from backlog_clearer.cli.system_commands import Systems, system_command
from backlog_clearer.cli.talk import OUTPUT, WATCH, talk_of
from backlog_clearer.cli.wrong_use import show_failure, show_wrong_use
from backlog_clearer.errors import RefusedError
from backlog_clearer.options.run import RunOptions
from backlog_clearer.redaction.redact import redact_crashes


def _status_group() -> click.Command:
    from backlog_clearer.cli.named_commands import StatusGroup

    return StatusGroup()


def _run_command() -> click.Command:
    from backlog_clearer.cli.named_commands import run_command

    return run_command()


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


class _Program(Systems):
    """The whole command line: how each failure of it is answered."""

    def __init__(self, others: Mapping[str, Callable[[], click.Command]], **settings: Any) -> None:
        """`others`: the commands besides those of systems, each made only when it is used or listed."""
        super().__init__(system_command, **settings)
        self.others = others

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Systems first."""
        for name in self.others:
            self.get_command(ctx, name)
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A system's command, or one of the others."""
        if cmd_name in self.others and cmd_name not in self.commands:
            self.add_command(self.others[cmd_name]())
        return super().get_command(ctx, cmd_name)

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
    {
        "status": _status_group,
        "list": lambda: Systems(list_command, name="list", help=LIST_HELP),
        "run": _run_command,
        "progress": lambda: _progress_command("progress"),
        "runs": lambda: _progress_command("runs", hidden=True),  # the former name, for existing scripts
        "restore": RestoreCommand,
        "receipts": receipts_group,
    },
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

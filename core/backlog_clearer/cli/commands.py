"""The commands and their flags.

Exit 0: cleared (or shown, or restored); 1: not cleared; 2: wrong use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from backlog_clearer import __version__, registry
from backlog_clearer.cli import flags
from backlog_clearer.cli.program import INSTALLED, program
from backlog_clearer.cli.streams import guard, unwritten
from backlog_clearer.cli.talk import FLAGS, OUTPUT, Talk, talk_of
from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import VARIABLE, Request
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import options_model

_CONFIG = click.Option(
    ["--config-json"], metavar="FILE", help="JSON file with any of these options; flags override it"
)
_RESTORE = ("partitions", "force", "dry_run", "receipt_dir", "receipt_schemes", "verify_seconds")
_ALLOW_REFERENCE = click.Option(
    ["--allow-reference"],
    multiple=True,
    metavar="env:NAME|file:PATH",
    help="a secret that the receipt refers to and that may be sent to the broker it names; may be repeated",
)


class _Systems(click.Group):
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
    """Every flag of a system: `status` takes the same ones as clearing."""
    return [
        *flags.options_of(options_model(name)),
        *flags.options_of(RunOptions),
        _CONFIG,
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


def _status_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import show_status

        talk, rest = talk_of(values)
        show_status(talk, name, rest)

    return click.Command(
        name,
        params=_system_params(name),
        callback=callback,
        help=f"Show the backlog of {registry.system(name).summary}.",
    )


def _run_command() -> click.Command:
    def callback(**values: Any) -> None:
        from backlog_clearer.cli.actions import clear_named

        clear_named(*talk_of(values))

    request = [item for item in flags.options_of(Request) if item.name != "backlog"]
    return click.Command(
        "run",
        params=[click.Argument(["backlog"], metavar="NAME"), *request, *FLAGS],
        callback=callback,
        help=f"Clear a backlog by its name in the configuration that {VARIABLE} holds or names.",
        short_help="Clear a backlog by its name in the configuration.",
    )


@click.command(
    "restore",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="Undo a run from its receipt.",
)
@click.argument("receipt", required=False)
@click.option(
    "--run", "run_id", metavar="RUN_ID", help="undo all slices of this run (with --receipt-dir)"
)
@click.pass_context
def restore_command(ctx: click.Context, receipt: str | None, run_id: str | None) -> None:
    """Set every partition back to the position that RECEIPT recorded.

    Connection options are read from the receipt; flags of its system override them. A receipt
    contains no secret: what it refers to is used only if --allow-reference names it, other secrets have to
    be given again.
    """
    from backlog_clearer.cli.actions import find_receipts, undo

    args = list(ctx.args)
    if receipt is not None and receipt.startswith("-"):  # an option's name landed in the argument
        args, receipt = [receipt, *args], None
    if (receipt is None) == (run_id is None):
        raise click.UsageError(
            "Name a receipt file before any option, or a run with --run RUN_ID --receipt-dir DIR."
        )
    # The other arguments are flags of the receipt's system, so it is read first.
    directory = _value_after(args, "--receipt-dir")
    directory = RunOptions().receipt_dir if directory is None else directory
    early = Talk(output=_value_after(args, "--output") or "text")
    schemes = _value_after(args, "--receipt-schemes") or ""
    found = find_receipts(early, receipt, run_id, directory, schemes)

    model = options_model(found[0].system)
    params = [
        *flags.options_of(model),
        *flags.options_of(RunOptions, *_RESTORE),
        _ALLOW_REFERENCE,
        _CONFIG,
        *FLAGS,
    ]
    parser = click.Command("restore", params=list(params))
    with parser.make_context(ctx.command_path, args, parent=ctx.parent) as inner:
        talk, rest = talk_of(inner.params)
    undo(talk, found, rest)


def _value_after(args: list[str], name: str) -> str | None:
    """The value of an option among arguments that are not parsed yet."""
    for index, arg in enumerate(args):
        if arg == name and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


def _progress_command(name: str, *, hidden: bool = False) -> click.Command:
    def callback(run_id: str, receipt_dir: str, receipt_schemes: str, **values: Any) -> None:
        from backlog_clearer.cli.actions import show_run_status

        talk, _ = talk_of(values)
        show_run_status(talk, run_id, receipt_dir, receipt_schemes)

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
        params=[click.Argument(["run_id"]), directory, schemes, OUTPUT],
        callback=callback,
        help="Show the progress of a run, slice by slice, from what its invocations stored.\n\n"
        "Exit 0 if every slice is cleared, otherwise 1.",
        short_help="Show the progress of a run of many slices.",
        hidden=hidden,
    )


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(__version__)
        ctx.exit()


cli = _Systems(
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
cli.add_command(_Systems(_status_command, name="status", help="Show a backlog and change nothing."))
cli.add_command(_run_command())
cli.add_command(_progress_command("progress"))
cli.add_command(_progress_command("runs", hidden=True))  # the former name, for existing scripts
cli.add_command(restore_command)


def main() -> None:
    """Entry point of the installed command."""
    guard()
    try:
        cli(prog_name=program(sys.argv[0]))
    except SystemExit as end:
        lost = unwritten()  # of --help and the like; a session has reported its own
        if not lost:
            raise
        click.echo(f"Error: {lost}", err=True)
        sys.exit(end.code or 1)

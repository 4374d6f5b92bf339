"""The command line: parse, run, print.

Results go to stdout, everything else to stderr. Exit 0: cleared (or shown, or restored);
1: not cleared; 2: wrong use.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console

from backlog_clearer import __version__, registry
from backlog_clearer.cli import display, flags
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, RefusedError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE, Request, load_config
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.model import Mode, Partition, Position
from backlog_clearer.options.base import build
from backlog_clearer.options.layers import build_options, read_file
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import options_model
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.report import RunResult, failure_json
from backlog_clearer.run.restore import restore
from backlog_clearer.run.status import status

EXIT_CLEARED, EXIT_NOT_CLEARED, EXIT_WRONG_USE = 0, 1, 2

_CONFIG = click.Option(
    ["--config-json"], metavar="FILE", help="JSON object with any of these options; flags override it"
)
_TALK = (
    click.Option(["--yes", "-y"], is_flag=True, help="do not ask for confirmation"),
    click.Option(
        ["--output"],
        type=click.Choice(["text", "json"]),
        default="text",
        help="what stdout gets [default text]",
    ),
    click.Option(["--quiet", "-q"], is_flag=True, help="no plan and no progress"),
    click.Option(
        ["--log-level"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="warning",
        help="what stderr gets [default warning]",
    ),
)
_STATUS = ("partitions", "slice")
_RESTORE = ("partitions", "force", "dry_run", "receipt_dir")
_TALK_NAMES = frozenset({"yes", "output", "quiet", "log_level"})


@dataclass(frozen=True, slots=True)
class Talk:
    """How to talk to the user."""

    yes: bool
    output: str
    quiet: bool
    log_level: str

    @property
    def json(self) -> bool:
        """Whether stdout is for machines."""
        return self.output == "json"


class Interrupts:
    """First signal: an orderly stop (or an end at once, while nothing has changed); second: exit."""

    def __init__(self, console: Console) -> None:
        self.halt = Halt()
        self.changing = False
        self.console = console
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.halt.signalled:
            os._exit(EXIT_NOT_CLEARED)
        self.halt.signal()
        if not self.changing:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        self.console.print(
            f"{name}: settling what was read; once more to exit at once.", highlight=False
        )


def _split(values: dict[str, Any]) -> tuple[Talk, dict[str, Any]]:
    """Separate how to talk from what to do."""
    talk = Talk(**{name: values[name] for name in _TALK_NAMES})
    return talk, {name: value for name, value in values.items() if name not in _TALK_NAMES}


def _layers(values: dict[str, Any]) -> list[dict[str, Any]]:
    path = values.pop("config_json", None)
    return [read_file(path), values] if path else [values]


def _asks(talk: Talk, console: Console) -> bool:
    """Whether there is somebody to ask."""
    return not talk.yes and sys.stdin.isatty() and console.is_terminal


def _confirmer(
    talk: Talk, console: Console, interrupts: Interrupts, run: RunOptions, *, ask_always: bool
) -> Callable[[Plan], bool]:
    """A terminal is asked; a script must say --yes where nothing is read before it is gone."""

    def confirm(_: Plan) -> bool:
        if _asks(talk, console):
            if not click.confirm("Go on?", err=True):
                return False
        elif not talk.yes and (run.mode is Mode.SKIP or ask_always):
            raise UsageError("Without a terminal to ask for confirmation, this needs --yes.")
        interrupts.changing = True
        return True

    return confirm


def _conduct(talk: Talk, work: Callable[[Console, Interrupts], RunResult]) -> NoReturn:
    """Run, print, exit: the one place where errors become exit codes."""
    console = Console(stderr=True)
    display.set_up_logging(console, talk.log_level)
    interrupts = Interrupts(console)
    try:
        result = work(console, interrupts)
    except ClearerError as error:
        _fail(talk, console, error)
    except (KeyboardInterrupt, click.Abort):
        _fail(talk, console, RefusedError("Interrupted; nothing was changed."))
    if talk.json:
        click.echo(result.to_json(indent=2))
    else:
        display.show_result(Console(), result)
    sys.stdout.flush()
    sys.exit(EXIT_CLEARED if result.cleared else EXIT_NOT_CLEARED)


def _fail(talk: Talk, console: Console, error: ClearerError) -> NoReturn:
    if talk.json:
        click.echo(failure_json(error))
    console.print(f"Error: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
    sys.exit(EXIT_WRONG_USE if isinstance(error, UsageError) else EXIT_NOT_CLEARED)


def _show(talk: Talk, console: Console) -> Callable[[Plan], None]:
    """The plan is shown before anything changes, on stdout where it is the result."""

    def show(plan: Plan) -> None:
        if (_asks(talk, console) or not talk.quiet) and not (talk.json and plan.dry_run):
            display.show_plan(console if not plan.dry_run else Console(), plan)

    return show


def _clear(talk: Talk, make: Callable[[], Job]) -> NoReturn:
    def work(console: Console, interrupts: Interrupts) -> RunResult:
        job = make()
        with display.progress(console, quiet=talk.quiet) as observe:
            callbacks = Callbacks(
                show=_show(talk, console),
                confirm=_confirmer(talk, console, interrupts, job.run, ask_always=False),
                progress=observe,
            )
            return clear(job, callbacks, interrupts.halt)

    _conduct(talk, work)


def _system_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        talk, rest = _split(values)
        _clear(talk, lambda: Job(name, *build_options(options_model(name), *_layers(rest))))

    model = options_model(name)
    params = [*flags.options_of(model), *flags.options_of(RunOptions), _CONFIG, *_TALK]
    return click.Command(
        name, params=list(params), callback=callback, help=f"Clear {registry.system(name).summary}."
    )


def _status_command(name: str) -> click.Command:
    def callback(**values: Any) -> None:
        talk, rest = _split(values)

        def work(_: Console, __: Interrupts) -> RunResult:
            return status(Job(name, *build_options(options_model(name), *_layers(rest))))

        _conduct(talk, work)

    model = options_model(name)
    params = [*flags.options_of(model), *flags.options_of(RunOptions), _CONFIG, *_TALK]
    return click.Command(
        name,
        params=list(params),
        callback=callback,
        help=f"Show the backlog of {registry.system(name).summary}.",
    )


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


class _Systems(click.Group):
    """One command a system, made only when asked for, so that --help needs no broker library."""

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


def _run_command() -> click.Command:
    """Clear a backlog by its name in the configuration that functions and jobs use."""

    def callback(**values: Any) -> None:
        talk, rest = _split(values)
        given = {name: value for name, value in rest.items() if value is not None}

        def make() -> Job:
            return load_config().job(build(Request, given))

        _clear(talk, make)

    request = [item for item in flags.options_of(Request) if item.name != "backlog"]
    return click.Command(
        "run",
        params=[click.Argument(["backlog"], metavar="NAME"), *request, *_TALK],
        callback=callback,
        short_help=f"Clear a backlog by its name in the file that {VARIABLE} names.",
    )


def _hidden(command: click.Command) -> click.Command:
    """The same command, left out of the list of commands."""
    alias = copy.copy(command)
    alias.hidden = True
    return alias


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(__version__)
        ctx.exit()


cli = _Systems(
    _system_command,
    name="cleaner.py",
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
cli.add_command(_run_command())
cli.add_command(_Systems(_status_command, name="status", help="Show a backlog and change nothing."))


@cli.command(
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
    """Put every partition back to what RECEIPT recorded; takes the system's connection options.

    What the receipt says of the connection is used unless a flag says otherwise; secrets are never
    in a receipt and have to be given again.
    """
    args = list(ctx.args)
    if receipt is not None and receipt.startswith("-"):  # an option's name landed in the argument
        args, receipt = [receipt, *args], None
    if (receipt is None) == (run_id is None):
        raise click.UsageError("Name a receipt file, or a run with --run RUN_ID --receipt-dir DIR.")
    directory = _value_after(args, "--receipt-dir") or RunOptions().receipt_dir
    try:
        found = (
            {receipt: receipts.load(receipt)} if receipt else receipts.load_run(directory, run_id or "")
        )
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    if not found:
        raise click.UsageError(f"There is no receipt of a run {run_id!r} in {directory}.")
    first = next(iter(found.values()))
    model = options_model(first.system)
    params = [*flags.options_of(model), *flags.options_of(RunOptions, *_RESTORE), _CONFIG, *_TALK]
    parser = click.Command("restore", params=list(params))
    with parser.make_context(ctx.command_path, args, parent=ctx.parent) as inner:
        talk, rest = _split(dict(inner.params))
    positions = receipts.original_positions(found.values())

    def work(console: Console, interrupts: Interrupts) -> RunResult:
        options, run = build_options(model, first.options, *_layers(rest))
        job = Job(first.system, options, run)
        callbacks = Callbacks(
            show=_show(talk, console),
            confirm=_confirmer(talk, console, interrupts, run, ask_always=True),
        )
        return restore(job, _chosen(positions, run), first.identity, callbacks)

    _conduct(talk, work)


@click.command("progress", short_help="Show how far a run of many slices is.")
@click.argument("run_id")
@click.option(
    "--receipt-dir", default=RunOptions().receipt_dir, help="directory or URL with its receipts"
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="what stdout gets")
def progress_command(run_id: str, receipt_dir: str, output: str) -> None:
    """Show how far a run is, slice by slice, from what its invocations stored.

    Exit 0 if every slice is cleared, otherwise 1.
    """
    talk = Talk(yes=False, output=output, quiet=True, log_level="warning")
    try:
        found = run_status(receipt_dir, run_id)
    except ClearerError as error:
        _fail(talk, Console(stderr=True), error)
    if talk.json:
        click.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        display.show_run(Console(), found)
    sys.exit(EXIT_CLEARED if found.cleared else EXIT_NOT_CLEARED)


cli.add_command(progress_command)
cli.add_command(_hidden(progress_command), "runs")  # its name before `progress`: scripts may use it


def _value_after(args: list[str], name: str) -> str | None:
    """The value of an option among arguments that are not parsed yet."""
    for index, arg in enumerate(args):
        if arg == name and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


def _chosen(
    positions: dict[Partition, Position | None], run: RunOptions
) -> dict[Partition, Position | None]:
    """The partitions that --partitions names, where it is given."""
    if run.partitions is None:
        return positions
    return {key: value for key, value in positions.items() if key.number in run.partitions}


def main() -> None:
    """Entry point of the installed command."""
    cli(prog_name=None)

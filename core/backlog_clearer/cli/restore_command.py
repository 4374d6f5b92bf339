"""`restore`: its options are those of the system that the receipt is about, before and after the receipt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from backlog_clearer import registry
from backlog_clearer.cli import flags
from backlog_clearer.cli.talk import ALLOWED, CONFIG, FLAGS, talk_of
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import options_model
from backlog_clearer.text import shown_path

if TYPE_CHECKING:
    from backlog_clearer.run.receipt import Receipt

_OPTIONS = ("partitions", "force", "dry_run", "receipt_dir", "receipt_schemes", "verify_seconds")
_HELP = """Set every partition back to the position that RECEIPT recorded.

Connection options are read from the receipt; options of its system override them, and
`restore RECEIPT --help` lists these, too. A receipt contains no secret: what it refers to is used only if
--allow-reference names it, other secrets have to be given again."""
_NEITHER = "Name a receipt, or a run with --run RUN_ID."
_BOTH = "Name a receipt or a run (--run), not both: got the receipt {!r} and the run {!r}."


def _own_params() -> list[click.Parameter]:
    """The parameters that a restore has on every system."""
    return [
        click.Argument(["receipt"], required=False, type=click.Path()),
        click.Option(
            ["--run", "run_id"],
            metavar="RUN_ID",
            help="undo all slices of this run, by their receipts in --receipt-dir",
        ),
        *flags.options_of(RunOptions, *_OPTIONS),
        ALLOWED,
        CONFIG,
        *FLAGS,
    ]


def _any_systems_params(own: Iterable[click.Parameter]) -> list[click.Parameter]:
    """Options of all systems that can be loaded: which of them take a value is known before the receipt is."""
    found = {name: item for item in own for name in item.opts}
    for system in registry.names():
        try:
            options = flags.options_of(options_model(system))
        except UsageError:  # the receipt may be of another system
            continue
        for item in options:
            found.setdefault(item.opts[0], item)
    return list({id(item): item for item in found.values()}.values())


class RestoreCommand(click.Command):
    """Reads the receipt first, and then all arguments again with its system's options."""

    def __init__(self) -> None:
        super().__init__(
            "restore", params=_own_params(), help=_HELP, short_help="Undo a run from its receipt."
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and keep the receipts in the context; raises `click.UsageError`."""
        if ctx.resilient_parsing:  # a shell asks what may follow
            ctx.obj = _completed(args)
        else:
            ctx.obj = self._receipts(ctx, args)
        systems = flags.options_of(options_model(ctx.obj[0].system)) if ctx.obj else []
        self.params = [*_own_params(), *(item for item in systems if not _taken(item))]
        return super().parse_args(ctx, args)

    def _receipts(self, ctx: click.Context, args: list[str]) -> list[Receipt]:
        early = self._early(ctx, args)
        helps = any(arg in self.get_help_option_names(ctx) for arg in args)
        if not helps:
            return _found(ctx, early)
        return _readable(early["receipt"]) if early["receipt"] is not None else []

    def _early(self, ctx: click.Context, args: list[str]) -> dict[str, Any]:
        """The values of the arguments, as far as they are known without the receipt."""
        command = click.Command(
            self.name, params=_any_systems_params(_own_params()), add_help_option=False
        )
        kept = [arg for arg in args if arg not in self.get_help_option_names(ctx)]
        with click.Context(command, parent=ctx.parent, info_name=ctx.info_name) as inner:
            command.parse_args(inner, kept)
            return inner.params

    def invoke(self, ctx: click.Context) -> None:
        """Restore."""
        from backlog_clearer.cli.actions import undo

        talk, rest = talk_of(ctx.params)
        for name in ("receipt", "run_id"):
            rest.pop(name)
        undo(talk, ctx.obj, rest)


def _taken(option: click.Option) -> bool:
    return any(option.opts[0] in item.opts for item in _own_params())


def _found(ctx: click.Context, values: dict[str, Any]) -> list[Receipt]:
    """The receipts that the arguments name; ends the program where there are none."""
    from backlog_clearer.cli.actions import find_receipts

    receipt, run_id = values["receipt"], values["run_id"]
    if receipt is None and run_id is None:
        raise click.UsageError(_NEITHER, ctx)
    if receipt is not None and run_id is not None:
        raise click.UsageError(_BOTH.format(shown_path(receipt), run_id), ctx)
    talk, _ = talk_of(values)
    directory = values["receipt_dir"]
    directory = RunOptions().receipt_dir if directory is None else directory
    return find_receipts(talk, receipt, run_id, directory, values["receipt_schemes"] or "")


def _completed(args: list[str]) -> list[Receipt]:
    """The receipt among the arguments that a shell completes."""
    paths = [arg for arg in args if arg.endswith(".json") and not arg.startswith("-")]
    return _readable(paths[0]) if paths else []


def _readable(path: str) -> list[Receipt]:
    """The receipt whose system's options are shown; empty where it cannot be read."""
    from backlog_clearer.run.receipt import load

    try:
        found = load(path)
        options_model(found.system)
    except ClearerError:
        return []
    return [found]

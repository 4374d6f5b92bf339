"""How a wrong call is answered: in words, with a harmless suggestion, and as JSON where asked for."""

from __future__ import annotations

from collections.abc import Sequence

import click

from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.options.base import option_suggestion


def wants_json(args: Sequence[str]) -> bool:
    """Whether the arguments of a call, which may not be valid, ask for JSON."""
    chosen = "text"
    for index, arg in enumerate(args):
        if arg == "--output" and index + 1 < len(args):
            chosen = args[index + 1]
        elif arg.startswith("--output="):
            chosen = arg.partition("=")[2]
    return chosen == "json"


def worded(error: click.ClickException) -> str:
    """What was wrong with a call, in one or two sentences."""
    if not isinstance(error, click.NoSuchOption):
        return error.format_message()
    options = error.ctx.command.get_params(error.ctx) if error.ctx else ()
    known = [
        name
        for option in options
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    ]
    return f"No such option: {error.option_name}.{option_suggestion(error.option_name, known)}"


def show_wrong_use(error: click.ClickException, args: Sequence[str]) -> None:
    """Print why a call is wrong: on stderr, and as an object on stdout where JSON is asked for."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx is not None:
        click.echo(f"{ctx.get_usage()}\nTry '{ctx.command_path} --help' for help.\n", err=True)
    show_failure(UsageError(worded(error)), args)


def show_failure(error: ClearerError, args: Sequence[str]) -> None:
    """Print why nothing was done: on stderr, and as an object on stdout where JSON is asked for."""
    from backlog_clearer.run.report import failure_json

    if wants_json(args):
        click.echo(failure_json(error))
    click.echo(f"Error: {error}", err=True)

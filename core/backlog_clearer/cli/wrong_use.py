"""How a wrong call is answered: in words, with a harmless suggestion, and as JSON where asked for."""

from __future__ import annotations

from collections.abc import Sequence

import click

from backlog_clearer.early import wants_json
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.options.base import option_suggestion
from backlog_clearer.text import shown_name, shown_path


def worded(error: click.ClickException, args: Sequence[str]) -> str:
    """What was wrong with a call, in one or two sentences, without an argument that may be a secret."""
    if not isinstance(error, click.NoSuchOption):
        return _without_value(error, args) or error.format_message()
    options = error.ctx.command.get_params(error.ctx) if error.ctx else ()
    known = [
        name
        for option in options
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    ]
    name = error.option_name
    shown = name if shown_name(name) == repr(name) else shown_name(name)
    return f"No such option: {shown}.{option_suggestion(name, known)}"


def _without_value(error: click.ClickException, args: Sequence[str]) -> str | None:
    """A text instead of one of click's that repeats an argument; None: it is not such a text."""
    if isinstance(error, click.BadParameter) and error.param is not None:
        kind = error.param.type
        if isinstance(kind, click.Choice):
            return f"{error.param.opts[0]} is one of {', '.join(map(str, kind.choices))}."
    if error.message.startswith("Got unexpected extra argument"):
        extra = error.message.partition("(")[2].rstrip(".)").split()
        plain = all(shown_path(text) == text or shown_name(text) == repr(text) for text in extra)
        which = " ".join(extra) if plain and "-X" not in args else "not shown: it may be a secret"
        return (
            f"There are more arguments than this command takes ({which}); options are written --NAME VALUE,"
            " settings -X KEY=VALUE."
        )
    return None


def show_wrong_use(error: click.ClickException, args: Sequence[str]) -> None:
    """Print why a call is wrong: on stderr, and as an object on stdout where JSON is asked for."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx is not None:
        click.echo(f"{ctx.get_usage()}\nTry '{ctx.command_path} --help' for help.\n", err=True)
    show_failure(UsageError(worded(error, args)), args)


def show_failure(error: ClearerError, args: Sequence[str]) -> None:
    """Print why nothing was done: on stderr, and as an object on stdout where JSON is asked for."""
    from backlog_clearer.run.report import failure_json

    if wants_json(list(args)):
        click.echo(failure_json(error))
    click.echo(f"Error: {error}", err=True)

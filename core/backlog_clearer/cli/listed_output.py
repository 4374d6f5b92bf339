"""What `list SYSTEM` does and shows."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from backlog_clearer.cli.display import console_for, print_line, show_notes
from backlog_clearer.cli.session import session
from backlog_clearer.cli.tables import Column, error_lines, figure, laid_out
from backlog_clearer.cli.talk import Talk
from backlog_clearer.options.layers import build_options, read_file
from backlog_clearer.registry import list_options
from backlog_clearer.run.listing import ListResult, listing
from backlog_clearer.text import age_text, amount, counted, listed


def show_list(talk: Talk, system: str, values: dict[str, Any], *, everything: bool) -> NoReturn:
    """`list SYSTEM`: show the subscriptions that have a backlog."""
    with session(talk) as opened:
        path = values.pop("config_json", None)
        layers = [read_file(path), values] if path else [values]
        options, _ = build_options(list_options(system), *layers)
        found = listing(system, options, everything=everything)
        if talk.json:
            click.echo(found.model_dump_json(by_alias=True, indent=2))
        else:
            _show(found)
        opened.leave()


def _ages(found: ListResult) -> list[Column]:
    """How old the oldest messages are, where that is known of any."""
    rows = found.subscriptions
    if not any(item.oldest for item in rows):
        return []
    cells = [
        age_text(found.at - item.oldest) if item.oldest else "none" if item.backlog == 0 else "unknown"
        for item in rows
    ]
    return [Column("oldest message", cells)]


def _show(found: ListResult) -> None:
    console = console_for()
    print_line(console, found.place, "bold")
    rows = found.subscriptions
    if rows:
        columns = [
            Column("name", [item.name for item in rows], left=True, flexible=True),
            Column("kind", [item.kind or "unknown" for item in rows], left=True),
            Column(
                "topics", [listed(item.topics, 2) or "none" for item in rows], left=True, flexible=True
            ),
            Column("members", [figure(item.members) for item in rows]),
            *_ages(found),
            Column(found.unit, [figure(item.backlog) for item in rows]),
        ]
        for line in laid_out(columns, console.width if console.is_terminal else None):
            print_line(console, line)
    for line in error_lines([(item.name, item.error) for item in rows]):
        print_line(console, f"Error: {line}", "red")
    print_line(console, f"Backlog: {amount(found.backlog, found.unit)}")
    if found.empty:
        print_line(console, f"Without a backlog: {counted(found.empty, 'subscription')}")
    show_notes(console, found.notes)

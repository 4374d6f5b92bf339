"""What the commands about kept receipts do."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, NoReturn

import click
from rich.console import Console

from backlog_clearer.cli import display
from backlog_clearer.cli.actions import check_place
from backlog_clearer.cli.program import invocation_line
from backlog_clearer.cli.session import Session, session
from backlog_clearer.cli.tables import Column, laid_out, receipt_table
from backlog_clearer.cli.talk import Talk
from backlog_clearer.cli.undo import absolute
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.options.times import parse_duration
from backlog_clearer.run.job import now
from backlog_clearer.run.kept import (
    KeptReceipts,
    kept_receipt,
    kept_receipts,
    outcome,
    prune,
    to_prune,
    undo_text,
)
from backlog_clearer.run.receipt import load
from backlog_clearer.run.verdict import EXIT_DONE, EXIT_NOT_DONE, sentence
from backlog_clearer.text import counted


def list_receipts(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`receipts list`."""
    with session(talk) as opened:
        _end(opened, _kept(values, now()))


def prune_receipts(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`receipts prune`."""
    with session(talk) as opened:
        try:
            age = parse_duration(values["older_than"])
        except ValueError as error:
            raise UsageError(f"--older-than: {error}.") from None
        dry_run = values["dry_run"]
        if not (dry_run or talk.yes or opened.asks):
            raise UsageError("Without a terminal to ask for confirmation, this needs --yes.")
        found = to_prune(_kept(values, now()), now() - age)
        if dry_run or not found.receipts:
            _end(opened, found)
        if opened.asks:
            _print(opened.console, found)
            if not click.confirm("Remove them?", err=True):
                raise RefusedError("Not confirmed; nothing was removed.")
        _end(opened, prune(found))


def show_receipt(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`receipts show`."""
    path = values["receipt"]
    with session(talk):
        check_place(path, "The receipt", values["receipt_schemes"])
        found = load(path)
        if talk.json:
            click.echo(found.model_dump_json(by_alias=True, indent=2))
            sys.exit(EXIT_DONE)
        at = now()
        item = kept_receipt(path, found, at)
        console = display.console_for()
        done = f"{found.action}, {found.mode}" if found.mode else str(found.action)
        for text in (
            f"{found.subscription} ({found.system})",
            f"Run: {found.run_id}, {found.created_at:%Y-%m-%dT%H:%M:%SZ}, {done}"
            + (f", slice {found.slice}" if found.slice else ""),
            *receipt_table(found, display.width_of(console)),
            f"Result: {sentence(found.result) if found.result else outcome(found)}",
            f"Can be undone: {undo_text(item, at)}",
        ):
            display.print_line(console, text)
        if item.undoable:
            display.print_line(console, f"Undo: {invocation_line('restore', absolute(path))}")
        sys.exit(EXIT_DONE)


def _kept(values: dict[str, Any], at: datetime) -> KeptReceipts:
    check_place(values["directory"], "The directory", values["receipt_schemes"])
    return kept_receipts(values["directory"], at)


def _end(opened: Session, found: KeptReceipts) -> NoReturn:
    if opened.talk.json:
        click.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        _print(display.console_for(), found)
    for text in found.unreadable:
        display.print_line(opened.console, f"Error: {text}", "red")
    sys.exit(EXIT_NOT_DONE if found.unreadable else EXIT_DONE)


def _print(console: Console, found: KeptReceipts) -> None:
    at = now()
    rows = found.receipts
    columns = [
        Column("time", [f"{item.created_at:%Y-%m-%dT%H:%MZ}" for item in rows], left=True),
        Column("action", [item.mode or item.action for item in rows], left=True),
        Column("outcome", [item.outcome for item in rows], left=True),
        Column("can be undone", [undo_text(item, at) for item in rows], left=True),
        Column("subscription", [item.subscription for item in rows], left=True, flexible=True),
    ]
    if rows:
        header, *lines = laid_out(columns, display.width_of(console))
        display.print_line(console, header, "bold")
        for line, item in zip(lines, rows, strict=True):
            display.print_line(console, f"{line}\n  {item.path}")  # whole, to be copied
    what = "removed" if found.removed else f"in {found.directory}"
    display.print_line(console, f"{counted(len(rows), 'receipt')} {what}")

"""What the commands about kept receipts do."""

from __future__ import annotations

import sys
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, NoReturn

import click
from rich.console import Console

from backlog_clearer.cli import display
from backlog_clearer.cli.actions import check_place, connectable
from backlog_clearer.cli.program import invocation_line
from backlog_clearer.cli.session import Session, session
from backlog_clearer.cli.tables import Column, laid_out, receipt_table, to_the_minute
from backlog_clearer.cli.talk import Talk
from backlog_clearer.cli.undo import absolute
from backlog_clearer.errors import ClearerError, RefusedError, UsageError
from backlog_clearer.options.recorded import allowed_references
from backlog_clearer.options.times import parse_duration
from backlog_clearer.run.discard import discard
from backlog_clearer.run.job import Job, now
from backlog_clearer.run.kept import (
    KeptReceipts,
    expiring,
    kept_receipt,
    kept_receipts,
    outcome,
    prune,
    to_prune,
    undo_text,
    without,
)
from backlog_clearer.run.receipt import Receipt, load
from backlog_clearer.run.verdict import EXIT_DONE, EXIT_NOT_DONE, sentence
from backlog_clearer.text import counted

_OUTCOMES = {"started": "no result"}
"""How outcomes are shown that are not clear by themselves."""


_SNAPSHOTS = (
    "Snapshots by which runs can be undone stay until they expire; --delete-snapshots deletes them."
)


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
            if not values["delete_snapshots"] and any(item.expires_by for item in found.receipts):
                display.show_notes(opened.console, [_SNAPSHOTS])
            if not click.confirm("Remove them?", err=True):
                raise RefusedError("Not confirmed; nothing was removed.")
        opened.removing()
        if values["delete_snapshots"]:
            found = _without_snapshots(
                opened, found, allowed_references(values["allow_reference"] or ())
            )
        _end(opened, prune(found))


def _without_snapshots(opened: Session, found: KeptReceipts, allowed: AbstractSet[str]) -> KeptReceipts:
    """Delete the snapshots of these receipts; leaves out the runs of which one could not be deleted."""
    failed, why = set(), []
    for item in found.receipts:
        receipt = load(item.path)
        recorded = expiring(receipt, now())
        try:
            if not recorded:
                continue
            options, run = connectable(opened, receipt, allowed)
            errors = list(discard(Job(receipt.system, options, run), recorded).values())
        except ClearerError as error:
            errors = [str(error)]
        why += [f"{item.path} is kept: {error}" for error in errors]
        failed |= {item.run_id for _ in errors}
    return without(found, failed, why)


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
            f"Result: {sentence(found.result) if found.result else _no_result(found)}",
            f"Can be undone: {undo_text(item, at)}",
        ):
            display.print_line(console, text)
        if item.undoable:
            display.print_line(console, f"Undo: {invocation_line('restore', absolute(path))}")
        sys.exit(EXIT_DONE)


def _no_result(receipt: Receipt) -> str:
    return (
        f"{outcome(receipt)}, no result since {to_the_minute(receipt.created_at)}. {display.NO_RESULT}"
    )


def _kept(values: dict[str, Any], at: datetime) -> KeptReceipts:
    check_place(values["directory"], "The directory", values["receipt_schemes"])
    return kept_receipts(values["directory"], at)


def _end(opened: Session, found: KeptReceipts) -> NoReturn:
    if opened.talk.json:
        click.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        _print(display.console_for(), found)
    errors = (*found.unreadable, *found.undeleted)
    for text in errors:
        display.print_line(opened.console, f"Error: {text}", "red")
    sys.exit(EXIT_NOT_DONE if errors else EXIT_DONE)


def _print(console: Console, found: KeptReceipts) -> None:
    at = now()
    rows = found.receipts
    columns = [
        Column("time", [to_the_minute(item.created_at) for item in rows], left=True),
        Column("action", [item.mode or item.action for item in rows], left=True),
        Column("outcome", [_OUTCOMES.get(item.outcome, item.outcome) for item in rows], left=True),
        Column("can be undone", [undo_text(item, at) for item in rows], left=True),
        Column("subscription", [item.subscription for item in rows], left=True, flexible=True),
    ]
    if rows:
        header, *lines = laid_out(columns, display.width_of(console))
        display.print_line(console, header, "bold")
        for line, item in zip(lines, rows, strict=True):
            display.print_line(console, f"{line}\n  {item.path}")  # whole, to be copied
    if any(item.outcome == "started" for item in rows):
        display.show_notes(console, [display.NO_RESULT])
    what = "removed" if found.removed else f"in {found.directory}"
    display.print_line(console, f"{counted(len(rows), 'receipt')} {what}")

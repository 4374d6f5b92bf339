"""Shows a run of many slices; only commands about such runs load what it needs."""

from __future__ import annotations

from typing import NoReturn

import click
from rich.console import Console

from backlog_clearer.cli.display import (
    NO_RESULT,
    console_for,
    print_line,
    print_table,
    show_notes,
    style_of,
    width_of,
)
from backlog_clearer.cli.session import Session
from backlog_clearer.cli.slice_tables import slices_table
from backlog_clearer.cli.tables import figure
from backlog_clearer.fanout.run_status import RunStatus, State, run_exit_code
from backlog_clearer.run.report import Verdict
from backlog_clearer.text import amount

_RUNS = {
    Verdict.CLEARED: "Cleared and verified",
    Verdict.UNPROVEN: "Done, but not proven",
    Verdict.NOT_CLEARED: "NOT cleared",
}


def show_run(console: Console, run: RunStatus) -> None:
    """A run of many slices: those not cleared yet, slices by state, and how much is cleared."""
    others = [item for item in run.slices if item.state is not State.CLEARED]
    if others:
        lines = slices_table(others, width_of(console))
        print_table(console, lines, [(item.slice, item.error) for item in others])
    if any(item.since for item in others):
        show_notes(console, [NO_RESULT])
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items() if count)
    print_line(console, f"{_RUNS[run.verdict]}: {counts}", style_of(run.verdict))
    so_far = "unknown"
    if run.gone is not None:
        total = amount(run.total, run.unit) if run.unit else figure(run.total)
        so_far = f"{figure(run.gone)} of {total}"
    print_line(console, f"Cleared so far: {so_far}")


def end_with_run(opened: Session, run: RunStatus) -> NoReturn:
    """Print a run, and exit."""
    if opened.talk.json:
        click.echo(run.model_dump_json(by_alias=True, indent=2))
    else:
        show_run(console_for(), run)
    opened.leave(run_exit_code(run))

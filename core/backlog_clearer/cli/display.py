"""Plans, results and runs as text and tables."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence

from rich.console import Console

from backlog_clearer.cli.tables import (
    VERIFIED,
    by_weight,
    error_lines,
    outcome_table,
    plan_table,
    status_table,
    to_the_second,
)
from backlog_clearer.model import total_known
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.receipt import can_be_restored
from backlog_clearer.run.report import Action, PartitionResult, RunResult, Verdict
from backlog_clearer.run.verdict import sentence
from backlog_clearer.text import age_text, amount, counted, listed, printable

_STYLES = {
    Verdict.CLEARED: "bold green",
    Verdict.RESTORED: "bold green",
    Verdict.UNPROVEN: "bold yellow",
    Verdict.COUNTED: "bold yellow",
}

NO_RESULT = (
    "A run or slice that started and has no result is still running, or was killed: receipts do not show"
    " which."
)
"""What is known of a receipt without a result."""

_SIZES = ("COLUMNS", "LINES")
_SIZE = re.compile("[1-9][0-9]{0,4}")  # rich fails at others


def console_for(*, stderr: bool = False) -> Console:
    """A console that prints texts as they are: "amqp:link:stolen" has no emoji in it."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in _SIZES or _SIZE.fullmatch(value)
    }
    return Console(stderr=stderr, emoji=False, markup=False, highlight=False, _environ=environ)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is: neither wrapped nor read as markup; see `printable`."""
    safe = printable(
        redacted(text, values=False)
    )  # names in it may be ordinary words that are secrets, too
    console.print(safe, style=style, soft_wrap=True, highlight=False, markup=False)


def width_of(console: Console) -> int | None:
    """The characters of a line at a terminal; None elsewhere, where nothing needs to be shortened."""
    return console.width if console.is_terminal else None


def print_table(
    console: Console, lines: Sequence[str], errors: Sequence[tuple[object, str | None]]
) -> None:
    """A table, and the errors of its rows below it."""
    for index, line in enumerate(lines):
        print_line(console, line, "" if index else "bold")
    for line in error_lines(errors):
        print_line(console, f"Error: {line}", "red")


def _errors(rows: Sequence[PartitionResult]) -> list[tuple[object, str | None]]:
    return [(item.id, item.error) for item in by_weight(rows)]


def show_plan(console: Console, plan: Plan) -> None:
    """The plan, partition by partition."""
    verb = {Action.RESTORE: "Restore", Action.STATUS: "Status of"}.get(plan.action, "Clear")
    print_line(console, f"{verb} {plan.subscription}", "bold")
    if plan.rows:
        print_table(console, plan_table(plan, width_of(console)), _errors(plan.rows))
    print_line(
        console, f"Backlog: {amount(total_known(item.backlog for item in plan.rows), plan.unit)}"
    )
    print_line(console, f"Plan: {plan.cost}.")
    show_notes(console, plan.notes)
    if plan.receipt:
        print_line(console, f"Receipt: {plan.receipt}")


def show_notes(console: Console, notes: Sequence[str]) -> None:
    """One line for each note."""
    for note in notes:
        print_line(console, f"Note: {note}", "yellow")


def show_error(console: Console, error: Exception) -> None:
    """Why nothing was done, or why it ended."""
    print_line(console, f"Error: {error}", "red")


def show_result(console: Console, result: RunResult, undo: Sequence[tuple[str, str]] = ()) -> None:
    """The result, by the broker's figures; `undo` are the lines about how to undo it."""
    if result.action is Action.STATUS:
        _show_status(console, result)
    elif result.dry_run:
        print_line(console, "Dry run: nothing was changed.")
    else:
        _show_outcome(console, result, undo)


def _show_status(console: Console, result: RunResult) -> None:
    print_line(console, result.subscription, "bold")
    if result.partitions:
        rows = result.partitions
        print_table(console, status_table(result, width_of(console)), _errors(rows))
    print_line(console, f"Backlog: {amount(result.totals.backlog, result.unit)}")
    if (oldest := result.totals.oldest) is not None:
        age = age_text(result.finished_at - oldest)
        print_line(console, f"Oldest message: {to_the_second(oldest)}, {age} old")
    if result.live:
        print_line(console, f"Attached: {counted(len(result.live), 'consumer')}: {listed(result.live)}")
    show_notes(console, result.notes)


def _show_outcome(console: Console, result: RunResult, undo: Sequence[tuple[str, str]]) -> None:
    totals = result.totals
    troubled = [item for item in result.partitions if item.error or item.verified is not True]
    if troubled:
        print_table(console, outcome_table(troubled, width_of(console)), _errors(troubled))
    left = "Backlog" if result.action is Action.RESTORE else "Remaining"
    lines = {left: amount(totals.remaining, result.unit)}
    if totals.unacknowledged:
        unacknowledged = counted(totals.unacknowledged, "message")
        where = "perhaps" if totals.at_least else "still"
        lines["Read but not acknowledged"] = f"{unacknowledged}, {where} in the backlog"
    if totals.retries:
        lines["Retries"] = str(totals.retries)
    lines["Verified"] = VERIFIED[result.verified]
    if result.error:
        lines["Error"] = result.error
    if result.waited_seconds:
        lines["Waited for proof"] = f"{result.waited_seconds:.0f} s"
    if result.receipt:
        lines["Receipt"] = result.receipt
        if undoable(result):
            lines.update(undo)
    print_line(console, sentence(result), style_of(result.verdict))
    for name, text in lines.items():
        print_line(console, f"{name}: {text}")


def undoable(result: RunResult) -> bool:
    """Whether `restore` has something to bring back."""
    return result.changed and any(can_be_restored(item.before, item.undo) for item in result.partitions)


def style_of(verdict: Verdict | None) -> str:
    """How a verdict is printed."""
    return _STYLES.get(verdict, "bold red") if verdict else "bold"


class _LogLines(logging.Handler):
    """Prints a record as a line of the console: above the progress bar where there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print_line(self.console, self.format(record))


def set_up_logging(console: Console, level: str) -> None:
    """Send this package's log to stderr, above the progress bar where there is one."""
    handler = _LogLines(console)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("backlog_clearer")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

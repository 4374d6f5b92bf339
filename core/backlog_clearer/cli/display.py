"""Plans, results and runs as text and tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from backlog_clearer.fanout.run_status import RunStatus, State
from backlog_clearer.model import Partition
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.receipt import can_be_restored
from backlog_clearer.run.report import Action, PartitionResult, RunResult, Verdict
from backlog_clearer.run.verdict import sentence
from backlog_clearer.text import amount, counted, listed

_ROWS = 40  # partitions shown before a table is cut; JSON always has all

_STYLES = {
    Verdict.CLEARED: "bold green",
    Verdict.RESTORED: "bold green",
    Verdict.UNPROVEN: "bold yellow",
    Verdict.COUNTED: "bold yellow",
}
_RUNS = {
    Verdict.CLEARED: "Cleared and verified",
    Verdict.UNPROVEN: "Done, but not proven",
    Verdict.NOT_CLEARED: "NOT cleared",
}
_VERIFIED = {True: "yes", False: "no", None: "unknown"}


def figure(value: int | None) -> str:
    """A count with thousands separated; "unknown" for None."""
    return "unknown" if value is None else f"{value:,}"


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is: neither wrapped nor read as markup."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def _cell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items() if not key.startswith("_"))
    return str(value)


def _table(rows: Sequence[object], columns: dict[str, list[str]], first: str = "partition") -> Table:
    """A row for each of `rows`, up to `_ROWS` of them; `str` of one is its first cell."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for index, item in enumerate(rows[:_ROWS]):
        table.add_row(str(item), *(cells[index] for cells in columns.values()))
    if len(rows) > _ROWS:
        table.add_row(f"… and {len(rows) - _ROWS} more; --output json has all of them")
    return table


def _ids(rows: Sequence[PartitionResult]) -> list[Partition]:
    return [item.id for item in rows]


def show_plan(console: Console, plan: Plan) -> None:
    """The plan, partition by partition."""
    verb = {Action.RESTORE: "Restore", Action.STATUS: "Status of"}.get(plan.action, "Clear")
    print_line(console, f"{verb} {plan.subscription}", "bold")
    columns = {
        "position": [_cell(item.before) for item in plan.rows],
        "new position": [_cell(item.target) for item in plan.rows],
        f"backlog ({plan.unit})": [figure(item.backlog) for item in plan.rows],
    }
    if any(item.error for item in plan.rows):
        columns["error"] = [item.error or "" for item in plan.rows]
    console.print(_table(_ids(plan.rows), columns), markup=False)
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
    columns = {
        "position": [_cell(item.before) for item in result.partitions],
        "end": [_cell(item.target) for item in result.partitions],
        f"backlog ({result.unit})": [figure(item.backlog) for item in result.partitions],
    }
    if result.totals.errors:
        columns["error"] = [item.error or "" for item in result.partitions]
    console.print(_table(_ids(result.partitions), columns), markup=False)
    print_line(console, f"Backlog: {amount(result.totals.backlog, result.unit)}")
    if result.live:
        print_line(console, f"Attached: {counted(len(result.live), 'consumer')}: {listed(result.live)}")
    show_notes(console, result.notes)


def _show_outcome(console: Console, result: RunResult, undo: Sequence[tuple[str, str]]) -> None:
    totals = result.totals
    troubled = [item for item in result.partitions if item.error or item.verified is not True]
    if troubled:
        columns = {
            "messages": [figure(item.messages) for item in troubled],
            f"remaining ({result.unit})": [figure(item.remaining) for item in troubled],
            "verified": [_VERIFIED[item.verified] for item in troubled],
            "error": [item.error or "" for item in troubled],
        }
        console.print(_table(_ids(troubled), columns), markup=False)
    left = "Backlog" if result.action is Action.RESTORE else "Remaining"
    lines = {left: amount(totals.remaining, result.unit)}
    if totals.unacknowledged:
        unacknowledged = counted(totals.unacknowledged, "message")
        lines["Read but not acknowledged"] = f"{unacknowledged}, still in the backlog"
    if totals.retries:
        lines["Retries"] = str(totals.retries)
    lines["Verified"] = _VERIFIED[result.verified]
    if result.error:
        lines["Error"] = result.error
    if result.waited_seconds:
        lines["Waited for proof"] = f"{result.waited_seconds:.0f} s"
    if result.receipt:
        lines["Receipt"] = result.receipt
        if result.changed and any(
            can_be_restored(item.before, item.undo) for item in result.partitions
        ):
            lines.update(undo)
    print_line(console, sentence(result), _style(result.verdict))
    for name, text in lines.items():
        print_line(console, f"{name}: {text}")


def _style(verdict: Verdict | None) -> str:
    return _STYLES.get(verdict, "bold red") if verdict else "bold"


def show_run(console: Console, run: RunStatus) -> None:
    """A run of many slices: those not cleared yet, slices by state, and how much is cleared."""
    others = [item for item in run.slices if item.state is not State.CLEARED]
    if others:
        columns = {
            "state": [item.state.value for item in others],
            "invocations": [figure(item.invocations) for item in others],
            "error": [item.error or "" for item in others],
        }
        console.print(_table([item.slice for item in others], columns, "slice"), markup=False)
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items() if count)
    print_line(console, f"{_RUNS[run.verdict]}: {counts}", _style(run.verdict))
    so_far = "unknown"
    if run.gone is not None:
        total = amount(run.total, run.unit) if run.unit else figure(run.total)
        so_far = f"{figure(run.gone)} of {total}"
    print_line(console, f"Cleared so far: {so_far}")


def set_up_logging(console: Console, level: str) -> None:
    """Send this package's log to stderr, above the progress bar where there is one."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("backlog_clearer")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

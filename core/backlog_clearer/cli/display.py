"""What people see: plan and result on stdout's terms, progress on stderr's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.fanout.run_status import RunStatus, State
from backlog_clearer.model import Partition, StopReason
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.report import Action, PartitionResult, RunResult

PLAIN_EVERY_S = 5.0  # how often a line is written where stderr is no terminal
_ROWS = 40  # partitions shown before a table is cut; JSON always has all

_REASONS = {
    StopReason.EMPTY: "the target is reached",
    StopReason.QUIET: "nothing arrived for the quiet time, and the broker gives no figures",
    StopReason.LIMIT: "--max-messages is reached",
    StopReason.DEADLINE: "--max-seconds are over",
    StopReason.SIGNAL: "it was interrupted",
    StopReason.STALLED: "backlog remains, but nothing arrived for --stall-seconds",
    StopReason.FAILED: "it failed",
}


def number(value: int | None) -> str:
    """A count with thousands separated; "unknown" for None."""
    return "unknown" if value is None else f"{value:,}"


def _cell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _table(rows: Sequence[object], columns: dict[str, list[str]], first: str = "partition") -> Table:
    """A row for each of `rows`, which `str` names, up to `_ROWS` of them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for index, item in enumerate(rows[:_ROWS]):
        table.add_row(str(item), *(cells[index] for cells in columns.values()))
    if len(rows) > _ROWS:
        table.add_row(f"… and {len(rows) - _ROWS} more (--output json has all)")
    return table


def _ids(rows: Sequence[PartitionResult]) -> list[Partition]:
    return [item.id for item in rows]


def show_plan(console: Console, plan: Plan) -> None:
    """The plan, partition by partition."""
    verb = {Action.RESTORE: "Restore", Action.STATUS: "Status of"}.get(plan.action, "Clear")
    console.print(f"{verb} {plan.subscription}", style="bold", highlight=False, markup=False)
    columns = {
        "position": [_cell(item.before) for item in plan.rows],
        "new position": [_cell(item.target) for item in plan.rows],
        f"backlog ({plan.unit})": [number(item.backlog) for item in plan.rows],
    }
    if any(item.error for item in plan.rows):
        columns["error"] = [item.error or "" for item in plan.rows]
    console.print(_table(_ids(plan.rows), columns), markup=False)
    console.print(f"Plan: {plan.cost}.", highlight=False, markup=False)
    show_notes(console, plan.notes)
    if plan.receipt:
        console.print(f"Receipt: {plan.receipt}", soft_wrap=True, highlight=False, markup=False)


def show_notes(console: Console, notes: Sequence[str]) -> None:
    """What the user must know, a line each."""
    for note in notes:
        console.print(f"Note: {note}", style="yellow", soft_wrap=True, highlight=False, markup=False)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def show_result(console: Console, result: RunResult) -> None:
    """The result, in the words of the broker's figures."""
    if result.action is Action.STATUS:
        _show_status(console, result)
    elif result.dry_run:
        _say(console, "Dry run: nothing was changed.")
    else:
        _show_outcome(console, result)


def _show_status(console: Console, result: RunResult) -> None:
    _say(console, result.subscription, "bold")
    columns = {
        "position": [_cell(item.before) for item in result.partitions],
        "end": [_cell(item.target) for item in result.partitions],
        f"backlog ({result.unit})": [number(item.backlog) for item in result.partitions],
    }
    if result.totals.errors:
        columns["error"] = [item.error or "" for item in result.partitions]
    console.print(_table(_ids(result.partitions), columns), markup=False)
    _say(console, f"Backlog: {number(result.totals.backlog)} {result.unit}")
    show_notes(console, result.notes)


def _show_outcome(console: Console, result: RunResult) -> None:
    totals = result.totals
    troubled = [item for item in result.partitions if item.error or item.verified is not True]
    if troubled:
        columns = {
            "messages": [number(item.messages) for item in troubled],
            f"remaining ({result.unit})": [number(item.remaining) for item in troubled],
            "verified": [_verdict(item.verified) for item in troubled],
            "error": [item.error or "" for item in troubled],
        }
        console.print(_table(_ids(troubled), columns), markup=False)
    left = "Backlog" if result.action is Action.RESTORE else "Remaining"
    lines = {left: f"{number(totals.remaining)} {result.unit}"}
    if totals.unacknowledged:
        lines["Read but not acknowledged"] = f"{totals.unacknowledged:,} messages stay in the backlog"
    if totals.retries:
        lines["Retries"] = str(totals.retries)
    lines["Verified"] = _verdict(result.verified)
    if result.error:
        lines["Error"] = result.error
    if result.receipt:
        lines["Receipt"] = result.receipt
        lines["Undo"] = f"python cleaner.py restore {result.receipt}"
    _say(console, _headline(result), "bold green" if result.cleared else "bold red")
    for name, text in lines.items():
        _say(console, f"{name}: {text}")


def _verdict(verified: bool | None) -> str:
    return {True: "yes, by the broker's own figures", False: "no", None: "unknown"}[verified]


def _headline(result: RunResult) -> str:
    if result.action is Action.RESTORE:
        done = sum(item.error is None for item in result.partitions)
        return f"Restored {done} of {len(result.partitions)} partitions in {result.seconds:.2f} s"
    reason = f" ({_REASONS[result.stop_reason]})" if result.stop_reason else ""
    lead = "Cleared" if result.cleared else "NOT cleared"
    if not result.totals.messages:
        return f"{lead}{reason}: no messages transferred, {result.seconds:.2f} s"
    rate = result.totals.messages_per_second
    return f"{lead}{reason}: {result.totals.messages:,} messages in {result.seconds:.2f} s" + (
        f", {rate:,.0f} messages/s" if rate else ""
    )


def show_run(console: Console, run: RunStatus) -> None:
    """A run of many slices: those not cleared yet, slices by state, and how much is cleared."""
    others = [item for item in run.slices if item.state is not State.CLEARED]
    if others:
        columns = {
            "state": [item.state.value for item in others],
            "invocations": [number(item.invocations) for item in others],
            "error": [item.error or "" for item in others],
        }
        console.print(_table([item.slice for item in others], columns, "slice"), markup=False)
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items() if count)
    lead = "Cleared" if run.cleared else "NOT cleared"
    _say(console, f"{lead}: {counts}", "bold green" if run.cleared else "bold red")
    amount = "unknown"
    if run.gone is not None:
        amount = f"{number(run.gone)} of {number(run.total)} {run.unit or ''}".rstrip()
    _say(console, f"Cleared so far: {amount}")


class Observer(Protocol):
    """What `backlog_clearer.run.clear` calls about ten times a second."""

    def __call__(self, seen: Snapshot, /) -> None:
        """Show this moment."""


@contextmanager
def progress(console: Console, *, quiet: bool) -> Iterator[Observer]:
    """A live bar where stderr is a terminal, otherwise a plain line every few seconds."""
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _bar(console) as observer:
            yield observer
    else:
        yield _PlainLines(console)


@contextmanager
def _bar(console: Console) -> Iterator[Observer]:
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.fields[read]} messages"),
        TextColumn("{task.fields[rate]}/s"),
        TextColumn("{task.fields[left]} left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None, read="0", rate="0", left="…")

    def show(seen: Snapshot) -> None:
        bar.start()  # only now: before, the plan is shown and a question may be asked
        known = seen.backlog is not None and seen.left is not None
        bar.update(
            task,
            total=seen.backlog if known else None,
            completed=max(0, (seen.backlog or 0) - (seen.left or 0)) if known else 0,
            read=number(seen.messages),
            rate=number(_rate(seen)),
            left=number(seen.left),
        )

    try:
        yield show
    finally:
        bar.stop()


class _PlainLines:
    """One line every few seconds, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.next_s = PLAIN_EVERY_S

    def __call__(self, seen: Snapshot, /) -> None:
        """Write a line if it is time."""
        if seen.seconds < self.next_s:
            return
        self.next_s = seen.seconds + PLAIN_EVERY_S
        rate = _rate(seen)
        done = (seen.backlog or 0) - (seen.left or 0)
        eta = "unknown"
        if seen.left is not None and seen.backlog is not None and done > 0:
            eta = f"{seen.left / (done / seen.seconds):,.0f} s"
        self.console.print(
            f"{seen.seconds:.0f} s: {seen.messages:,} messages, {rate:,}/s, {number(seen.left)} left,"
            f" ETA {eta}" + (f", {seen.retries} retries" if seen.retries else ""),
            soft_wrap=True,
            highlight=False,
        )


def _rate(seen: Snapshot) -> int:
    return int(seen.messages / seen.seconds) if seen.seconds > 0 else 0


def set_up_logging(console: Console, level: str) -> None:
    """Send this project's log to stderr, above the progress bar where there is one."""
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

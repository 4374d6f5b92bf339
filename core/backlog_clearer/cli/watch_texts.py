"""Looks at a backlog as text: one line, or the lines of a table; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from backlog_clearer.cli.slice_tables import progress_table
from backlog_clearer.cli.tables import (
    Column,
    by_weight,
    error_lines,
    figure,
    laid_out,
    rate_text,
    status_table,
    to_the_second,
)
from backlog_clearer.errors import ClearerError
from backlog_clearer.fanout.run_status import RunStatus
from backlog_clearer.run.rates import Rates, eta_s
from backlog_clearer.run.watch import Look
from backlog_clearer.text import age_text, amount, counted, duration, listed

Styled: TypeAlias = tuple[str, str]
"""A line, and its style in rich's terms."""


def eta_text(backlog: int | None, change: float | None) -> str:
    """When nothing is left: "ETA 5 min", "ETA unknown", "not shrinking"."""
    seconds = eta_s(backlog, change)
    if seconds is not None:
        return f"ETA {duration(seconds)}"
    return "ETA unknown" if backlog is None or change is None else "not shrinking"


def figures_text(look: Look) -> str:
    """Backlog, rates and ETA in one line."""
    totals, total = look.status.totals, look.total
    return ", ".join(
        (
            f"backlog {amount(totals.backlog, look.status.unit)}",
            f"arriving {rate_text(total.arrival)}",
            f"drained {rate_text(total.drain)}",
            eta_text(totals.backlog, total.change),
        )
    )


def _age(look: Look) -> str:
    oldest = look.status.totals.oldest
    return "" if oldest is None else f"oldest message {age_text(look.at - oldest)} old"


def _errors(look: Look) -> list[str]:
    return error_lines([(row.id, row.error) for row in by_weight(look.status.partitions)])


def look_line(look: Look) -> str:
    """A look as one line, for logs."""
    live = counted(len(look.status.live), "consumer")
    parts = [figures_text(look), _age(look), f"{live} attached" if look.status.live else ""]
    parts += [f"error: {line}" for line in _errors(look)]
    shown = ", ".join(part for part in parts if part)
    return f"{to_the_second(look.at)} {look.status.subscription}: {shown}"


def failure_line(error: object, at: datetime) -> str:
    """A look that failed, as one line."""
    return f"{to_the_second(at)} Error: {error}"


def look_lines(look: Look, width: int | None) -> list[Styled]:
    """A look as the lines of a screen: the sums first, since a low terminal cuts the end off."""
    found = look.status
    figures = figures_text(look)
    lines: list[Styled] = [
        (f"{found.subscription}, {to_the_second(look.at)} (Ctrl-C ends this)", "bold"),
        (figures[:1].upper() + figures[1:], "bold"),
    ]
    if age := _age(look):
        lines.append((age[:1].upper() + age[1:], ""))
    if found.live:
        lines.append((f"{counted(len(found.live), 'consumer')} attached: {listed(found.live)}", ""))
    if found.partitions:
        lines += [(line, "") for line in status_table(found, width, look.rates)]
    lines += [(f"Error: {line}", "red") for line in _errors(look)]
    return [*lines, *((f"Note: {note}", "yellow") for note in found.notes)]


def several_lines(
    found: Mapping[str, Look | ClearerError], at: datetime, width: int | None
) -> list[Styled]:
    """Several subscriptions at one look, as the lines of a screen."""
    seen = {name: look for name, look in found.items() if isinstance(look, Look)}
    totals = [(look.status.totals.backlog, look.total) for look in seen.values()]
    columns = [
        Column("subscription", list(seen), left=True, flexible=True),
        Column("consumers", [figure(len(look.status.live)) for look in seen.values()]),
        Column("backlog", [figure(backlog) for backlog, _ in totals]),
        Column("arriving", [rate_text(total.arrival) for _, total in totals]),
        Column("drained", [rate_text(total.drain) for _, total in totals]),
        Column("ETA", [eta_text(*one).removeprefix("ETA ") for one in _changes(totals)]),
    ]
    lines: list[Styled] = [
        (f"{counted(len(found), 'subscription')}, {to_the_second(at)} (Ctrl-C ends this)", "bold"),
        *((line, "") for line in laid_out(columns, width)),
    ]
    errors = [(name, str(look)) for name, look in found.items() if not isinstance(look, Look)]
    lines += [(f"Error: {line}", "red") for line in error_lines(errors)]
    return lines + [
        (f"Error: {name}: {line}", "red") for name, look in seen.items() for line in _errors(look)
    ]


def _changes(
    totals: Sequence[tuple[int | None, Rates]],
) -> list[tuple[int | None, float | None]]:
    return [(backlog, total.change) for backlog, total in totals]


def run_text(run: RunStatus) -> str:
    """A run's slices by state, what is gone, its rate and ETA, in one line."""
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items() if count)
    unit = run.unit or "messages"
    parts = [f"{run.gone_so_far:,} of {amount(run.expected, unit)} cleared"]
    if not run.ended:
        parts.append(rate_text(run.per_second))
        eta = "unknown" if run.eta_seconds is None else duration(run.eta_seconds)
        parts.append(f"ETA {eta}")
    return f"run {run.run_id}: {counts}; {', '.join(parts)}"


def run_line(run: RunStatus, at: datetime) -> str:
    """A run at one look, as one line."""
    errors = error_lines([(item.slice, item.error) for item in run.slices])
    return "; ".join((f"{to_the_second(at)} {run_text(run)}", *(f"error: {line}" for line in errors)))


def run_lines(run: RunStatus, at: datetime, width: int | None) -> list[Styled]:
    """A run at one look, as the lines of a screen."""
    text = run_text(run)
    lines: list[Styled] = [
        (f"{run.subscription or run.backlog or 'Run'}, {to_the_second(at)} (Ctrl-C ends this)", "bold"),
        (text[:1].upper() + text[1:], "bold"),
    ]
    lines += [(line, "") for line in progress_table(run.slices, run.unit, width)]
    errors = error_lines([(item.slice, item.error) for item in run.slices])
    return [*lines, *((f"Error: {line}", "red") for line in errors)]

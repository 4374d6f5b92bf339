"""Tables of the slices of a run as lines of text, in any width; pure."""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.cli.tables import (
    ROWS,
    Column,
    and_more,
    figure,
    laid_out,
    rate_text,
    to_the_minute,
)
from backlog_clearer.fanout.run_status import SliceStatus, State
from backlog_clearer.text import amount, duration

_LATER = (State.FAILED, State.NOT_CLEARED, State.UNPROVEN, State.DECLINED, State.STARTED, State.WAITING)


def slices_table(slices: Sequence[SliceStatus], width: int | None) -> list[str]:
    """Slices of a run that are not cleared: failed ones first."""
    found = sorted(slices, key=lambda item: _LATER.index(item.state) if item.state in _LATER else 9)
    shown, more = found[:ROWS], len(found) - ROWS
    columns = [
        Column("slice", [*(item.slice for item in shown), *and_more(more, "slice")], left=True),
        Column(
            "state", [*(item.state.value for item in shown), *([""] if more > 0 else [])], left=True
        ),
        Column(
            "invocations",
            [
                *(figure(item.invocations) for item in shown),
                *([figure(sum(item.invocations for item in found[ROWS:]))] if more > 0 else []),
            ],
        ),
    ]
    if any(item.since for item in shown):
        since = [to_the_minute(item.since) if item.since else "" for item in shown]
        columns.append(Column("no result since", [*since, *([""] if more > 0 else [])], left=True))
    return laid_out(columns, width)


def progress_table(slices: Sequence[SliceStatus], unit: str | None, width: int | None) -> list[str]:
    """Slices of a run that is watched, those that need attention first: state, done, rate, ETA."""
    found = sorted(slices, key=lambda item: _LATER.index(item.state) if item.state in _LATER else 9)
    shown, more = found[:ROWS], len(found) - ROWS
    blank = [""] if more > 0 else []

    def done(item: SliceStatus) -> str:
        if item.backlog is None:
            return amount(item.messages, "messages") if item.messages else "unknown"
        return f"{figure(item.gone or 0)} of {amount(item.backlog, unit or 'messages')}"

    def eta(item: SliceStatus) -> str:
        if item.final:
            return "ended"
        return "unknown" if item.eta_seconds is None else duration(item.eta_seconds)

    columns = [
        Column("slice", [*(item.slice for item in shown), *and_more(more, "slice")], left=True),
        Column("state", [*(item.state.value for item in shown), *blank], left=True),
        Column("done", [*map(done, shown), *blank]),
        Column("rate", [*(rate_text(item.per_second) for item in shown), *blank]),
        Column("ETA", [*map(eta, shown), *blank]),
    ]
    return laid_out(columns, width)

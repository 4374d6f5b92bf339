"""Tables of partitions as lines of text, in any width; pure.

A cell is never wrapped: without a terminal a line is as long as it has to be, and on a narrow one long
names and positions are shortened, with "…" for what is left out. JSON always has everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import attrgetter
from types import MappingProxyType

from backlog_clearer.model import Partition, total_known, utc_text
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.rates import Rates, summed
from backlog_clearer.run.receipt import Receipt, can_be_restored
from backlog_clearer.run.report import Action, PartitionResult, RunResult, StoredPosition
from backlog_clearer.text import counted, listed

ROWS = 20
"""Rows of a table; the other partitions are added up in its last line."""

_FRACTION = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z$")
_ERRORS = 10  # different errors below a table
_GAP = 2  # blanks between two columns
_LEAST = 10  # characters that a shortened cell keeps
VERIFIED = {True: "yes", False: "no", None: "unknown"}


def figure(value: int | None) -> str:
    """A count with thousands separated; "unknown" for None."""
    return "unknown" if value is None else f"{value:,}"


def spelled(position: StoredPosition) -> str:
    """A position in its one short form: an offset, LEDGER:ENTRY, a sequence number, a snapshot's last name.

    A time has no fractions of a second.
    Of a position of several parts that is its first number, otherwise its first text. None: nothing is
    stored.
    """
    if position is None:
        return "none"
    if isinstance(position, Mapping):
        parts = [part for key, part in position.items() if part is not None and key[0] != "_"]
        numbers = [part for part in parts if isinstance(part, int)]
        found: int | str = next(iter((*numbers, *parts)), "none")
    else:
        found = position
    return _FRACTION.sub(r"\1Z", str(found).rsplit("/", 1)[-1])


def clipped(text: str, most: int) -> str:
    """A text of at most `most` characters; more of its end is kept, which differs more."""
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of one column, a row each, below its header."""

    header: str
    cells: Sequence[str]
    left: bool = False  # aligned to the left
    flexible: bool = False  # shortened where the table is too wide


def laid_out(columns: Sequence[Column], width: int | None = None) -> list[str]:
    """The lines of a table; `width` in characters, None: any."""
    widths = [max(map(len, (column.header, *column.cells))) for column in columns]
    while width is not None and sum(widths) + _GAP * (len(widths) - 1) > width:
        wide = [
            index
            for index, column in enumerate(columns)
            if column.flexible and widths[index] > max(_LEAST, len(column.header))
        ]
        if not wide:
            break
        widths[max(wide, key=lambda index: widths[index])] -= 1
    rows = zip(*((column.header, *column.cells) for column in columns), strict=True)
    return [
        (" " * _GAP)
        .join(
            clipped(cell, size).ljust(size) if column.left else clipped(cell, size).rjust(size)
            for cell, size, column in zip(row, widths, columns, strict=True)
        )
        .rstrip()
        for row in rows
    ]


def by_weight(rows: Sequence[PartitionResult], *, left: bool = False) -> list[PartitionResult]:
    """The partitions that matter first: the largest backlog (`left`: what is left of it), then errors."""

    def weight(item: PartitionResult) -> tuple[int, int]:
        count = item.remaining if left else item.backlog
        if count:
            return 0, -count
        return (1 if item.error else 2 if count is None else 3), 0

    return sorted(rows, key=weight)


def partitions_table(
    rows: Sequence[PartitionResult], columns: Sequence[Column], width: int | None
) -> list[str]:
    """A line for each of the first `ROWS` partitions; `columns` have a cell more, for all of the others."""
    shown = [*(str(item.id) for item in rows[:ROWS]), *and_more(len(rows) - ROWS, "partition")]
    return laid_out([Column("partition", shown, left=True, flexible=True), *columns], width)


def _positions(header: str, rows: Sequence[PartitionResult], cells: Sequence[str]) -> Column:
    return Column(header, _with_rest(rows, cells, ""), flexible=True)


def _figures(header: str, rows: Sequence[PartitionResult], values: Sequence[int | None]) -> Column:
    rest = figure(total_known(values[ROWS:]))
    return Column(header, _with_rest(rows, [figure(value) for value in values[:ROWS]], rest))


def _with_rest(rows: Sequence[PartitionResult], cells: Sequence[str], rest: str) -> list[str]:
    return [*cells[:ROWS], *([rest] if len(rows) > ROWS else [])]


def _before(item: PartitionResult) -> str:
    known = item.before is not None or (item.error is None and can_be_restored(item.before, item.undo))
    return spelled(item.before) if known else "unknown"


def to_the_second(time: datetime) -> str:
    """A time in UTC, without fractions of a second."""
    return utc_text(time.replace(microsecond=0))


def to_the_minute(time: datetime) -> str:
    """A time in UTC, without seconds: 2026-11-26T03:15Z."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%dT%H:%MZ}"


def _ages(rows: Sequence[PartitionResult]) -> list[Column]:
    """The times of the oldest messages, where any is known."""
    if not any(item.oldest for item in rows):
        return []
    rest = min((item.oldest for item in rows[ROWS:] if item.oldest), default=None)
    cells = [
        to_the_second(item.oldest) if item.oldest else "none" if item.backlog == 0 else "unknown"
        for item in rows
    ]
    return [
        Column("oldest message", _with_rest(rows, cells, to_the_second(rest) if rest else "unknown"))
    ]


def plan_table(plan: Plan, width: int | None) -> list[str]:
    """The partitions of a plan: position, new position, backlog."""
    rows = by_weight(plan.rows)
    at_end = (
        "end" if plan.action is Action.CLEAR else "none"
    )  # None: no target is frozen, or none was stored
    new = [at_end if item.target is None else spelled(item.target) for item in rows]
    columns = [
        _positions("position", rows, [_before(item) for item in rows]),
        _positions(
            "new position",
            rows,
            [
                "unchanged" if item.error or (plan.bounded and item.backlog == 0) else text
                for item, text in zip(rows, new, strict=True)
            ],
        ),
        _figures("backlog", rows, [item.backlog for item in rows]),
        *_ages(rows),
    ]
    return partitions_table(rows, columns, width)


def rate_text(rate: float | None) -> str:
    """A number a second: "1,200/s", "2.5/s"; "unknown" for None."""
    if rate is None:
        return "unknown"
    return f"{rate:,.1f}/s" if 0 < rate < 10 else f"{rate:,.0f}/s"  # noqa: PLR2004 two digits


def _rates(rows: Sequence[PartitionResult], rates: Mapping[Partition, Rates]) -> list[Column]:
    """What arrives and what is drained of each partition."""
    if not rates:
        return []
    shown, rest = [rates[item.id] for item in rows], summed([rates[item.id] for item in rows[ROWS:]])
    return [
        Column(header, _with_rest(rows, [rate_text(of(item)) for item in shown], rate_text(of(rest))))
        for header, of in (("arriving", attrgetter("arrival")), ("drained", attrgetter("drain")))
    ]


def status_table(
    result: RunResult, width: int | None, rates: Mapping[Partition, Rates] = MappingProxyType({})
) -> list[str]:
    """The partitions of a status: position, end, backlog, and rates where there are any."""
    rows = by_weight(result.partitions)
    columns = [
        _positions("position", rows, [_before(item) for item in rows]),
        _positions(
            "end",
            rows,
            ["unknown" if item.target is None else spelled(item.target) for item in rows],
        ),
        _figures("backlog", rows, [item.backlog for item in rows]),
        *_rates(rows, rates),
        *_ages(rows),
    ]
    return partitions_table(rows, columns, width)


def outcome_table(troubled: Sequence[PartitionResult], width: int | None) -> list[str]:
    """Partitions that are not done: what was read, what is left, whether the broker confirms it."""
    rows = by_weight(troubled, left=True)
    columns = [
        _figures("messages", rows, [item.messages for item in rows]),
        _figures("remaining", rows, [item.remaining for item in rows]),
        Column("verified", _with_rest(rows, [VERIFIED[item.verified] for item in rows], "")),
    ]
    return partitions_table(rows, columns, width)


def receipt_table(receipt: Receipt, width: int | None) -> list[str]:
    """The partitions of a receipt: the position before, the target, the backlog before."""
    rows = sorted(receipt.partitions, key=lambda item: -(item.backlog or 0))
    shown, more = rows[:ROWS], len(rows) - ROWS
    blank = [""] if more > 0 else []
    known = [can_be_restored(item.position, item.undo) for item in shown]
    befores = [
        spelled(item.position) if is_known else "unknown"
        for item, is_known in zip(shown, known, strict=True)
    ]
    left = total_known(item.backlog for item in rows[ROWS:])
    columns = [
        Column(
            "partition",
            [*(str(item.id) for item in shown), *and_more(more, "partition")],
            left=True,
            flexible=True,
        ),
        Column("position", [*befores, *blank], flexible=True),
        Column("target", [*(spelled(item.target) for item in shown), *blank], flexible=True),
        Column(
            "backlog",
            [*(figure(item.backlog) for item in shown), *([figure(left)] if more > 0 else [])],
        ),
    ]
    return laid_out(columns, width)


def and_more(count: int, noun: str) -> list[str]:
    """The first cell of the line that adds up the other rows, if there are any."""
    return [f"and {counted(count, f'more {noun}')}"] if count > 0 else []


def error_lines(errors: Sequence[tuple[object, str | None]]) -> list[str]:
    """A line for each different error, with what it is about: "orders[3], orders[4]: not authorised"."""
    about: dict[str, list[object]] = {}
    for name, error in errors:
        if error:
            about.setdefault(error, []).append(name)
    lines = [f"{listed(names)}: {error}" for error, names in list(about.items())[:_ERRORS]]
    if len(about) > _ERRORS:
        lines.append(f"{counted(len(about) - _ERRORS, 'other error')}; --output json has all of them")
    return lines

"""Several subscriptions at once, on the command line: one plan, one question, a line for each result."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NoReturn

import click
from rich.console import Console

from backlog_clearer.cli.display import (
    console_for,
    print_line,
    print_table,
    show_notes,
    style_of,
    undoable,
    width_of,
)
from backlog_clearer.cli.session import Session
from backlog_clearer.cli.tables import VERIFIED, Column, error_lines, figure, laid_out, to_the_second
from backlog_clearer.model import total_known
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.selection import Selected
from backlog_clearer.run.several import (
    PlannedPart,
    SeveralCallbacks,
    SeveralPart,
    SeveralPlan,
    SeveralResult,
    clear_several,
    several_exit_code,
    status_several,
)
from backlog_clearer.run.verdict import sentence
from backlog_clearer.text import amount, counted, listed

_FILES, _FILES_EACH = 512, 64  # Kafka's client has 14 with one broker, and up to 3 more for each other


def clear_all(opened: Session, selected: Selected) -> NoReturn:
    """Clear several subscriptions, and end."""
    noted: set[str] = set()

    def show(plan: SeveralPlan) -> None:
        if opened.shows(plan):
            noted.update(plan.notes, _plan_notes(plan))
            show_several_plan(opened.console_of(plan), plan)

    @contextmanager
    def begin(name: str) -> Iterator[Callbacks]:
        if not opened.talk.quiet:
            print_line(opened.console, f"{name} …")
        with opened.progress(lasting=False) as observe:
            yield opened.callbacks(observe)

    _allow_files(len(selected.members))
    callbacks = SeveralCallbacks(show=show, confirm=opened.confirm, begin=begin)
    with _connecting(opened, selected):
        result = clear_several(selected, callbacks, opened.halt)
    if not opened.talk.json:
        if result.dry_run:
            print_line(console_for(), "Dry run: nothing was changed.")
        else:
            _show_outcomes(opened, selected, result, noted)
    _end(opened, result)


def look_at_all(opened: Session, selected: Selected) -> NoReturn:
    """Show the backlogs of several subscriptions, and end."""
    with _connecting(opened, selected):
        result = status_several(selected)
    if not opened.talk.json:
        _show_several_status(console_for(), result)
    _end(opened, result)


def _allow_files(members: int) -> None:
    """Raise the process's limit of open files where connections of all at once may exceed it."""
    try:
        import resource  # noqa: PLC0415 Windows has neither it nor the limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES + _FILES_EACH * members
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # a system may allow less than it states
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _connecting(opened: Session, selected: Selected) -> AbstractContextManager[None]:
    jobs = [member.job for member in selected.members if member.job is not None]
    return opened.connecting(jobs[0]) if jobs else nullcontext()


def _end(opened: Session, result: SeveralResult) -> NoReturn:
    if opened.talk.json:
        click.echo(result.model_dump_json(by_alias=True, indent=2))
    opened.leave(several_exit_code(result), shows=result.verdict is None)


def show_several_plan(console: Console, plan: SeveralPlan) -> None:
    """A row for each subscription, then errors and notes."""
    found = [part.plan for part in plan.parts if part.plan is not None]
    print_line(console, f"Clear {_called(plan.parts, plan.matching)}", "bold")
    columns = [
        _names(plan.parts),
        Column("partitions", [figure(len(p.plan.rows)) if p.plan else "" for p in plan.parts]),
        Column("backlog", [_backlog(part) for part in plan.parts]),
        Column("plan", [p.plan.cost if p.plan else "refused" for p in plan.parts], left=True),
    ]
    print_table(console, laid_out(columns, width_of(console)), _errors(plan.parts))
    for part in plan.parts:
        rows = part.plan.rows if part.plan else ()
        for line in error_lines([(row.id, row.error) for row in rows]):
            print_line(console, f"Error: {part.name}: {line}", "red")
    if found:
        total = total_known(row.backlog for item in found for row in item.rows)
        print_line(console, f"Backlog: {amount(total, found[0].unit)}")
    show_notes(console, [*plan.notes, *_plan_notes(plan)])
    paths = [item.receipt for item in found if item.receipt]
    if paths:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        print_line(console, f"Receipts: {paths[0]}{more}")


def _plan_notes(plan: SeveralPlan) -> list[str]:
    return _grouped([(part.name, note) for part in plan.parts if part.plan for note in part.plan.notes])


def _result_notes(result: SeveralResult) -> list[str]:
    notes = [(part.name, note) for part in result.parts if part.result for note in part.result.notes]
    return [*result.notes, *_grouped(notes)]


def _called(parts: Sequence[object], matching: str | None) -> str:
    verb = "matches" if len(parts) == 1 else "match"
    which = f" that {verb} {matching!r}" if matching is not None else ""
    return f"{counted(len(parts), 'subscription')}{which}"


def _names(parts: Sequence[PlannedPart] | Sequence[SeveralPart]) -> Column:
    """The names, with topics where these differ."""
    differ = len({part.topics for part in parts}) > 1
    cells = [
        f"{part.name} on {listed(part.topics, 2)}" if differ and part.topics else part.name
        for part in parts
    ]
    return Column("subscription", cells, left=True, flexible=True)


def _errors(parts: Sequence[PlannedPart] | Sequence[SeveralPart]) -> list[tuple[object, str | None]]:
    return [(part.name, part.error) for part in parts]


def _backlog(part: PlannedPart) -> str:
    return figure(total_known(row.backlog for row in part.plan.rows)) if part.plan else ""


def _grouped(notes: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each different note, with the subscriptions it is about."""
    about: dict[str, list[str]] = {}
    for name, note in notes:
        about.setdefault(note, []).append(name)
    return [f"{listed(names)}: {note}" for note, names in about.items()]


def _show_several_status(console: Console, result: SeveralResult) -> None:
    print_line(console, _called(result.parts, result.matching), "bold")
    found = [part.result for part in result.parts]
    columns = [
        _names(result.parts),
        Column("partitions", [figure(item.totals.partitions) if item else "" for item in found]),
        Column("consumers", [figure(len(item.live)) if item else "" for item in found]),
        Column("backlog", [figure(item.totals.backlog) if item else "" for item in found]),
    ]
    oldest = [item.totals.oldest if item else None for item in found]
    if any(oldest):
        cells = [
            to_the_second(time) if time else "none" if item and item.totals.backlog == 0 else "unknown"
            for time, item in zip(oldest, found, strict=True)
        ]
        columns.append(Column("oldest message", cells))
    print_table(console, laid_out(columns, width_of(console)), _errors(result.parts))
    _show_partition_errors(console, result)
    print_line(console, f"Backlog: {amount(result.totals.backlog, result.unit or '')}")
    show_notes(console, _result_notes(result))


def _show_partition_errors(console: Console, result: SeveralResult) -> None:
    for part in result.parts:
        rows = part.result.partitions if part.result else ()
        for line in error_lines([(row.id, row.error) for row in rows]):
            print_line(console, f"Error: {part.name}: {line}", "red")
        if part.result and part.result.error:
            print_line(console, f"Error: {part.name}: {part.result.error}", "red")


def _show_outcomes(
    opened: Session, selected: Selected, result: SeveralResult, noted: Collection[str]
) -> None:
    """A table with a row for each subscription, then each one's verdict and undo."""
    console = console_for()
    found = [part.result for part in result.parts]
    columns = [
        _names(result.parts),
        Column("backlog", [figure(item.totals.backlog) if item else "" for item in found]),
        Column("messages", [figure(item.totals.messages) if item else "" for item in found]),
        Column("remaining", [figure(item.totals.remaining) if item else "" for item in found]),
        Column("verified", [VERIFIED[item.verified] if item else "refused" for item in found]),
    ]
    print_table(console, laid_out(columns, width_of(console)), _errors(result.parts))
    _show_partition_errors(console, result)
    further: dict[str, str] = {}
    for part, member in zip(result.parts, selected.members, strict=True):
        if part.result is None:
            continue
        print_line(console, f"{part.name}: {sentence(part.result)}", style_of(part.result.verdict))
        if undoable(part.result):
            (_, line), *others = opened.undo(part.result, member.job)
            print_line(console, f"Undo: {line}")
            further.update(others)
    for name, text in further.items():
        print_line(console, f"{name}: {text}")
    show_notes(console, [note for note in _result_notes(result) if note not in noted])
    totals = result.totals
    print_line(
        console,
        f"{figure(totals.cleared)} of {counted(totals.subscriptions, 'subscription')} cleared and verified",
        style_of(result.verdict),
    )

"""Runs that clear a part of the backlog: what is older than a time, or all but the last messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from backlog_clearer.errors import UsageError
from backlog_clearer.model import (
    Bound,
    Partition,
    PartitionState,
    Position,
    Survey,
    same_place,
    utc_text,
)
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.retry import repeated
from backlog_clearer.source import Bounded, Source
from backlog_clearer.text import listed


def bound_of(
    run: RunOptions, earlier: Sequence[Receipt], now: datetime
) -> tuple[Bound | None, tuple[str, ...]]:
    """The bound of a run, and notes: it is frozen once, by the first of its `earlier` attempts.

    Raises `UsageError` for a time in the future.
    """
    wanted = run.bound(now)
    if earlier:
        frozen = earlier[0].bound
        again = run.older_than is not None and frozen is not None and frozen.until is not None
        if wanted is None or wanted == frozen or again:
            return frozen, ()
        what = "everything up to the end" if frozen is None else str(frozen)
        note = (
            f"Run {earlier[0].run_id} froze its targets for another bound, {what}; the one given now is"
            " ignored. Use another run id for it."
        )
        return frozen, (note,)
    if wanted is not None and wanted.until is not None and wanted.until > now:
        raise UsageError(
            f"--until {utc_text(wanted.until)} lies in the future (it is {utc_text(now)}): messages that"
            " arrive until then cannot be cleared now. Leave it out to clear everything that is there."
        )
    return wanted, ()


def up_to_bound(
    source: Source,
    survey: Survey,
    states: tuple[PartitionState, ...],
    bound: Bound,
    frozen: Collection[Partition] = (),
) -> tuple[Survey, tuple[PartitionState, ...], frozenset[Partition]]:
    """Survey and states up to the bound, and the partitions that have nothing before it.

    The targets of partitions in `frozen` are known already. Raises `UsageError` where the system has no
    such bound.
    """
    if not isinstance(source, Bounded):
        raise UsageError(
            "This system cannot leave a part of its backlog: --until, --older-than and --keep-last are not"
            " possible here."
        )
    asked = [
        state
        for state in states
        if state.error is None and state.backlog != 0 and state.partition not in frozen
    ]
    cuts = {item.partition: item for item in repeated("targets", lambda: source.cut(asked, bound))}
    faults = {key: item.error for key, item in cuts.items() if item.error is not None}
    moved = {
        state.partition: position
        for state in asked
        if (position := cuts[state.partition].position) is not None
        and state.partition not in faults
        and not same_place(position, state.end)
    }
    states = tuple(
        replace(state, error=faults[state.partition]) if state.partition in faults else state
        for state in states
    )
    notes = [f"Only {bound} are cleared; younger ones stay.", *source.bound_notes(bound)]
    if bound.keep_last is not None:
        notes[0] = f"Of the backlog, {bound} is cleared."
    early = [str(key) for key, item in cuts.items() if item.none_older]
    if early and bound.until is not None:
        notes.append(
            f"{listed(early)}: no message of before {utc_text(bound.until)} is retained any more."
        )
    survey = replace(survey, notes=(*survey.notes, *notes))
    states = tuple(
        replace(state, end=moved[state.partition], backlog=None, backlog_bytes=None)
        if state.partition in moved
        else state
        for state in states
    )
    asked_again = {key: position for key, position in moved.items() if cuts[key].counted}
    again, reached = retargeted(source, states, asked_again)
    return survey, again, reached


def retargeted(
    source: Source, states: tuple[PartitionState, ...], moved: Mapping[Partition, Position]
) -> tuple[tuple[PartitionState, ...], frozenset[Partition]]:
    """States with other targets, and the partitions that have nothing left up to them."""
    if not moved:
        return states, frozenset()
    left = {item.partition: item for item in repeated("figures", lambda: source.remaining(moved))}
    again = tuple(
        replace(
            state,
            end=moved[state.partition],
            backlog=left[state.partition].left,
            backlog_bytes=None,
            error=left[state.partition].error,
        )
        if state.partition in moved
        else state
        for state in states
    )
    return again, frozenset(key for key in moved if left[key].left == 0)

"""Undo: put partitions back to recorded positions, after a receipt for this change too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backlog_clearer.errors import BrokerError, UsageError, recreated
from backlog_clearer.model import Outcome, PartitionState, Position, Recorded, StopReason
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.job import Callbacks, Job, now, opened
from backlog_clearer.run.proof import patience_for
from backlog_clearer.run.receipt import SINCE, can_be_restored, is_another
from backlog_clearer.run.record import Change, Record, complete
from backlog_clearer.run.report import Action, PartitionResult, RunResult, as_json, row
from backlog_clearer.run.retry import CHANGE_ATTEMPTS, repeated
from backlog_clearer.run.stopping import stoppable
from backlog_clearer.run.survey import refuse_live, survey
from backlog_clearer.run.verdict import judge_restore
from backlog_clearer.run.verify import number_of, restored_rows
from backlog_clearer.source import Source
from backlog_clearer.text import amount, counted, listed


def restore(
    job: Job,
    recorded: Sequence[Recorded],
    identity: Mapping[str, str],
    callbacks: Callbacks | None = None,
    *,
    notes: Sequence[str] = (),
) -> RunResult:
    """Put partitions back to recorded positions, after a receipt of the present ones.

    `identity` is the receipt's record of the subscription, `notes` are facts about the receipt. Raises
    `RefusedError` where the broker has another subscription, and like `run.clear.clear`.
    """
    with opened(job) as source:
        return restore_source(source, job, recorded, identity, callbacks or Callbacks(), notes=notes)


def restore_source(
    source: Source,
    job: Job,
    recorded: Sequence[Recorded],
    identity: Mapping[str, str],
    callbacks: Callbacks,
    *,
    notes: Sequence[str] = (),
) -> RunResult:
    """Like `restore`, on a source that is open already."""
    started_at = now()
    if not recorded:
        raise UsageError("There is nothing to restore: the receipt holds no partition.")
    found = survey(source)
    receipts.check_identity(identity, found)
    refuse_live(found, job.run)
    by_partition = {state.partition: state for state in found.partitions}
    present = {item.partition: item for item in recorded if item.partition in by_partition}
    faults = {
        partition: fault
        for partition, item in present.items()
        if (fault := _fault(item, by_partition[partition]))
    }
    states = tuple(
        replace(state, error=faults.get(partition, state.error))
        for partition, state in sorted(by_partition.items())
        if partition in present
    )
    absent = [item for item in recorded if item.partition not in by_partition]
    writes = [item for partition, item in sorted(present.items()) if partition not in faults]
    silent = job.run.dry_run or not writes
    sequence = 0 if silent else receipts.next_sequence(job.run.receipt_dir, job.run_id)
    record = Record(
        job=job,
        action=Action.RESTORE,
        traits=source.traits,
        survey=found,
        states=states,
        targets={partition: item.position for partition, item in present.items()},
        notes=(
            *found.notes,
            *notes,
            *receipts.unidentified(identity, found),
            *_notes(writes, absent),
            *_unchecked(writes, states),
        ),
        started_at=started_at,
        path=None if silent else receipts.new_path(job.run.receipt_dir, job.run_id, None, sequence),
        sequence=sequence,
        absent=tuple(_absent(item) for item in absent),
    )
    plan = record.plan(f"writes the positions of {counted(len(writes), 'partition')}")
    if record.path is None:
        callbacks.show(plan)
        verdict = None if job.run.dry_run else judge_restore(record.rows, complete=not absent)
        return record.result(record.rows, verdict=verdict)
    receipt = record.begin(record.path, plan, callbacks)

    source = stoppable(source, job.place, callbacks.halted)
    begun = time.monotonic()
    outcomes = [Outcome(partition, None, fault) for partition, fault in faults.items()]
    outcomes += _restored(source, writes, callbacks.halted)
    stopped = StopReason.SIGNAL if callbacks.halted() else None
    change = Change(time.monotonic() - begun, stopped)

    patience = patience_for(job, source.traits, callbacks, stopped or StopReason.EMPTY, 0.0)
    rows = restored_rows(source, present, record.rows, outcomes, patience)
    change = replace(change, waited_s=patience.waited_s)
    verdict = judge_restore(rows, complete=not absent)
    result = record.result(
        rows, verdict=verdict, change=change, notes=_losses(rows, source.traits.unit)
    )
    return complete(receipt, result)


def _fault(item: Recorded, state: PartitionState) -> str | None:
    """Why a recorded position must not be written; None: nothing is known against it."""
    if is_another(item.incarnation, state.incarnation):
        return recreated(item.partition, SINCE)
    if not can_be_restored(item.position, item.undo):
        return f"The receipt has no position for it: {item.undo}"
    if item.position is None:
        return None
    kinds = {_kind(found) for found in (state.position, state.start, state.end) if found is not None}
    kind = _kind(item.position)
    if kinds and kind not in kinds and not (kind is Mapping and kinds == {int}):
        return f"The receipt's position {as_json(item.position)!r} is not one of this broker."
    number, end = number_of(item.position), number_of(state.end)
    if number is not None and end is not None and number > end:
        return (
            f"The receipt's position {number} lies beyond the end of the log, {end}: the log was purged or"
            " cut, or the receipt is of another one. Nothing was written."
        )
    return None


def _kind(position: Position) -> type:
    return Mapping if isinstance(position, Mapping) else type(position)


def _absent(item: Recorded) -> PartitionResult:
    state = PartitionState(item.partition, None, None, None, None, error="It does not exist any more.")
    return row(state, target=item.position)


def _notes(writes: Sequence[Recorded], absent: Sequence[Recorded]) -> list[str]:
    """What the user must know of partitions that cannot be brought back, or not with their messages."""
    notes = []
    if absent:
        names = listed([item.partition for item in absent])
        notes.append(
            f"{counted(len(absent), 'partition')} of the receipt cannot be restored: {names}"
            f" {'does' if len(absent) == 1 else 'do'} not exist any more."
        )
    reasons = Counter(item.undo for item in writes if item.undo)
    notes += [f"Undo: {reason} ({counted(count, 'partition')})" for reason, count in reasons.items()]
    return notes


def _losses(rows: Sequence[PartitionResult], unit: str) -> tuple[str, ...]:
    """How much of what the restored positions point to is deleted."""
    lost = [(item.id, item.deleted) for item in rows if item.deleted]
    if not lost:
        return ()
    names = listed([f"{partition} {count:,}" for partition, count in lost])
    total = amount(sum(count for _, count in lost), unit)
    return (
        f"{total} after the restored positions no longer exist and cannot be brought back: {names}.",
    )


def _unchecked(writes: Sequence[Recorded], states: Sequence[PartitionState]) -> tuple[str, ...]:
    """A note where the receipt does not record which log it is about, and the broker reports it."""
    bare = {item.partition for item in writes if item.incarnation is None}
    unknown = [
        state.partition for state in states if state.incarnation is not None and state.partition in bare
    ]
    if not unknown:
        return ()
    note = (
        "The receipt does not record what distinguishes a log from another one of the same name: it cannot be"
        f" checked whether {listed(map(str, unknown))} was created again since."
    )
    return (note,)


def _restored(
    source: Source, writes: Sequence[Recorded], halted: Callable[[], bool]
) -> Sequence[Outcome]:
    """`source.restore`; an error that concerns all partitions becomes that of each."""
    try:
        return repeated(
            "restore", lambda: source.restore(writes), attempts=CHANGE_ATTEMPTS, halted=halted
        )
    except BrokerError as error:
        return [Outcome(item.partition, None, str(error)) for item in writes]

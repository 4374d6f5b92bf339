"""Undo: put partitions back to recorded positions, after a receipt for this change too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from backlog_clearer.errors import BrokerError, UsageError, recreated
from backlog_clearer.model import Outcome, Partition, PartitionState, Recorded
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.job import Callbacks, Job, now, opened
from backlog_clearer.run.receipt import SINCE, is_another
from backlog_clearer.run.record import Change, Record, complete
from backlog_clearer.run.report import Action, RunResult
from backlog_clearer.run.retry import repeated
from backlog_clearer.run.survey import refuse_live, survey
from backlog_clearer.run.verdict import judge_restore
from backlog_clearer.run.verify import restored_rows
from backlog_clearer.source import Source
from backlog_clearer.text import counted, listed


def restore(
    job: Job,
    recorded: Sequence[Recorded],
    identity: Mapping[str, str],
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Put partitions back to recorded positions, after a receipt of the present ones.

    `identity` is the receipt's record of the subscription; raises `RefusedError` where the broker
    has another one, and like `run.clear.clear`.
    """
    with opened(job) as source:
        return restore_source(source, job, recorded, identity, callbacks or Callbacks())


def restore_source(
    source: Source,
    job: Job,
    recorded: Sequence[Recorded],
    identity: Mapping[str, str],
    callbacks: Callbacks,
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
    states = tuple(by_partition[partition] for partition in sorted(present))
    missing = [str(item.partition) for item in recorded if item.partition not in by_partition]
    record = Record(
        job=job,
        action=Action.RESTORE,
        traits=source.traits,
        survey=found,
        states=states,
        targets={partition: item.position for partition, item in present.items()},
        notes=(
            *found.notes,
            *(f"{name} does not exist any more." for name in missing),
            *_unchecked(present, states),
        ),
        started_at=started_at,
        path=None if job.run.dry_run else receipts.new_path(job.run.receipt_dir, job.run_id, None),
    )
    plan = record.plan(f"writes the positions of {counted(len(states), 'partition')}")
    if record.path is None:
        callbacks.show(plan)
        return record.result(record.rows, verdict=None)
    receipt = record.begin(record.path, plan, callbacks)

    begun = time.monotonic()
    outcomes = _restored(source, present, states)
    change = Change(time.monotonic() - begun)

    rows = restored_rows(source, present, record.rows, outcomes)
    verdict = judge_restore(rows, complete=not missing)
    return complete(receipt, record.result(rows, verdict=verdict, change=change))


def _unchecked(
    present: Mapping[Partition, Recorded], states: Sequence[PartitionState]
) -> tuple[str, ...]:
    """A note where the receipt does not record which log it is about, and the broker would tell."""
    unknown = [
        state.partition
        for state in states
        if state.incarnation is not None and present[state.partition].incarnation is None
    ]
    if not unknown:
        return ()
    note = (
        "The receipt does not record what tells a log from another one of the same name: it cannot be"
        f" checked whether {listed(map(str, unknown))} was created again since."
    )
    return (note,)


def _restored(
    source: Source, present: Mapping[Partition, Recorded], states: Sequence[PartitionState]
) -> Sequence[Outcome]:
    """`source.restore` for the logs that are still the same; an error of all becomes that of each."""
    done = [
        Outcome(state.partition, None, recreated(state.partition, SINCE))
        for state in states
        if is_another(present[state.partition].incarnation, state.incarnation)
    ]
    rest = [present[state.partition] for state in states if state.partition not in {d[0] for d in done}]
    if not rest:
        return done
    try:
        return [*done, *repeated("restore", lambda: source.restore(rest))]
    except BrokerError as error:
        return [*done, *(Outcome(item.partition, None, str(error)) for item in rest)]

"""Undo: put partitions back to recorded positions, after a receipt for this change too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Outcome, Partition, Position
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.job import Callbacks, Job, now, opened
from backlog_clearer.run.record import Change, Record, complete, no_errors
from backlog_clearer.run.report import Action, RunResult, all_verified
from backlog_clearer.run.retry import repeated
from backlog_clearer.run.survey import refuse_live, survey
from backlog_clearer.run.verify import restored_rows
from backlog_clearer.source import Source
from backlog_clearer.text import counted


def restore(
    job: Job,
    positions: Mapping[Partition, Position | None],
    identity: Mapping[str, str],
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Put partitions back to recorded positions, after a receipt of the present ones.

    `identity` is the receipt's record of the subscription; raises `RefusedError` where the broker
    has another one, and like `run.clear.clear`.
    """
    with opened(job) as source:
        return restore_source(source, job, positions, identity, callbacks or Callbacks())


def restore_source(
    source: Source,
    job: Job,
    positions: Mapping[Partition, Position | None],
    identity: Mapping[str, str],
    callbacks: Callbacks,
) -> RunResult:
    """Like `restore`, on a source that is open already."""
    started_at = now()
    found = survey(source)
    receipts.check_identity(identity, found)
    refuse_live(found, job.run)
    by_partition = {state.partition: state for state in found.partitions}
    states = tuple(by_partition[p] for p in sorted(positions) if p in by_partition)
    missing = [str(partition) for partition in positions if partition not in by_partition]
    record = Record(
        job=job,
        action=Action.RESTORE,
        traits=source.traits,
        survey=found,
        states=states,
        targets={state.partition: positions[state.partition] for state in states},
        notes=(*found.notes, *(f"{name} does not exist any more." for name in missing)),
        started_at=started_at,
        path=None if job.run.dry_run else receipts.new_path(job.run.receipt_dir, job.run_id, None),
    )
    plan = record.plan(f"writes the positions of {counted(len(states), 'partition')}")
    if record.path is None:
        callbacks.show(plan)
        return record.result(record.rows, cleared=not missing)
    receipt = record.begin(record.path, plan, callbacks)

    begun = time.monotonic()
    outcomes = _restored(source, record.targets)
    change = Change(time.monotonic() - begun)

    rows = restored_rows(source, record.rows, outcomes)
    cleared = no_errors(rows) and not missing and all_verified(rows) is not False
    return complete(receipt, record.result(rows, cleared=cleared, change=change))


def _restored(source: Source, targets: Mapping[Partition, Position | None]) -> Sequence[Outcome]:
    """`source.restore`; an error that concerns all partitions becomes that of each."""
    try:
        return repeated("restore", lambda: source.restore(targets))
    except BrokerError as error:
        return [Outcome(partition, None, str(error)) for partition in targets]

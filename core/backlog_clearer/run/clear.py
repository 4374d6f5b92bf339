"""Clear a backlog: survey, record, plan, change, verify, result.

Nothing is changed before the receipt is stored, and "cleared" is reported only if the broker confirms it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from backlog_clearer.engine.drain import Drain, Drained, Halt, drain
from backlog_clearer.errors import BrokerError, UsageError, recreated
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Recorded,
    StopReason,
    Survey,
)
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.growth import Growth
from backlog_clearer.run.job import Callbacks, Job, now, opened
from backlog_clearer.run.plan import claim, cost, notes_for
from backlog_clearer.run.record import Record, change_of, complete
from backlog_clearer.run.report import Action, RunResult
from backlog_clearer.run.retry import repeated
from backlog_clearer.run.survey import chosen, refuse_doubt, refuse_live
from backlog_clearer.run.verdict import judge_clear
from backlog_clearer.run.verify import cleared_rows, difference
from backlog_clearer.source import Source


def clear(job: Job, callbacks: Callbacks | None = None, halt: Halt | None = None) -> RunResult:
    """Clear a backlog, or only show what would be done (`dry_run`).

    Raises `UsageError`, `RefusedError` or `BrokerError` if nothing was changed; once anything
    may have been changed, every error is in the result.
    """
    with opened(job) as source:
        return clear_source(source, job, callbacks or Callbacks(), halt or Halt())


def clear_source(source: Source, job: Job, callbacks: Callbacks, halt: Halt) -> RunResult:
    """Like `clear`, on a source that is open already."""
    run = job.run
    if run.mode is Mode.SKIP and run.follow:
        raise UsageError("--follow has no meaning with --mode skip: a skip ends at once.")
    started_at = now()
    survey, states = chosen(source, run)
    refuse_live(survey, run)
    refuse_doubt(survey, run)

    frozen = run.mode is Mode.SKIP or (run.stop_when_empty and not run.follow)
    reached: frozenset[Partition] = frozenset()
    if frozen:
        survey, states, reached = _refrozen(source, job, survey, states)
    # After the survey: see `next_sequence`.
    sequence = 0 if run.dry_run else receipts.next_sequence(run.receipt_dir, job.run_id)
    claims = [item for item in claim(states, run.mode, frozen=frozen) if item.partition not in reached]
    record = Record(
        job=job,
        action=Action.CLEAR,
        traits=source.traits,
        survey=survey,
        states=states,
        targets={state.partition: state.end if frozen else None for state in states},
        notes=notes_for(survey, states, run, claims),
        started_at=started_at,
        path=None
        if run.dry_run
        else receipts.new_path(run.receipt_dir, job.run_id, run.slice, sequence),
        sequence=sequence,
    )
    plan = record.plan(cost(claims, run, survey, source.traits.unit))
    if record.path is None:
        callbacks.show(plan)
        return record.result(record.rows, verdict=None)
    receipt = record.begin(record.path, plan, callbacks)

    if claims:
        partitions = [item.partition for item in claims]
        repeated("undo's preparation", lambda: source.prepare_undo(partitions, run.mode))
    growth = Growth(source, record, receipt)
    grow = None if frozen else growth.join
    drained = (
        _skip(source, claims)
        if run.mode is Mode.SKIP
        else drain(source, claims, run, halt=halt, observe=callbacks.progress, grow=grow)
    )

    record = growth.record
    rows = cleared_rows(source, (*claims, *drained.joined), record.states, record.rows, drained)
    added = growth.notes() if frozen and any(item.remaining is not None for item in rows) else ()
    notes = (*drained.notes, *added, *difference(source.traits, run.mode, rows))
    verdict = judge_clear(rows, drained.reason, counts_only=source.traits.counts_only)
    result = record.result(rows, verdict=verdict, change=change_of(drained), notes=notes)
    return complete(growth.receipt, result)


def _refrozen(
    source: Source, job: Job, survey: Survey, states: tuple[PartitionState, ...]
) -> tuple[Survey, tuple[PartitionState, ...], frozenset[Partition]]:
    """Survey and states up to the targets of this run's earlier invocations, and which have reached them.

    The targets of a run's slice are frozen once: another attempt, or its continuation after a
    deadline, continues to the first one's targets and does not clear what arrived since; a note
    reports that. A log that is another one than the first attempt's has an error. Raises
    `RefusedError` where the run id belongs to another subscription.
    """
    try:
        found = receipts.load_run(job.run.receipt_dir, job.run_id, job.run.slice)
    except UsageError as error:
        raise BrokerError(
            f"{error} Nothing was changed; choose another place with --receipt-dir."
        ) from error
    earlier = [item for item in found.values() if item.action is Action.CLEAR]
    for receipt in earlier:
        receipts.check_identity(receipt.identity, survey)
    targets = receipts.original_targets(earlier)
    states = tuple(_same_log(state, targets.get(state.partition), earlier) for state in states)
    moved = {
        state.partition: targets[state.partition].position
        for state in states
        if state.error is None
        and state.partition in targets
        and targets[state.partition].position != state.end
    }
    if not moved:
        return survey, states, frozenset()
    note = (
        f"Run {job.run_id} froze its targets at {earlier[0].created_at:%Y-%m-%dT%H:%MZ} and continues to"
        " them: messages that have arrived since stay in the backlog. Use another run id to clear them too."
    )
    survey = replace(survey, notes=(*survey.notes, note))
    left = {item.partition: item for item in source.remaining(moved)}
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
    return survey, again, frozenset(key for key in moved if left[key].left == 0)


def _same_log(
    state: PartitionState, target: Recorded | None, earlier: Sequence[receipts.Receipt]
) -> PartitionState:
    """A state, with an error where its log is not the one for which this run froze a target."""
    if target is None or not receipts.is_another(target.incarnation, state.incarnation):
        return state
    since = f"since run {earlier[0].run_id} began at {earlier[0].created_at:%Y-%m-%dT%H:%MZ}"
    return replace(state, error=recreated(state.partition, since), passing=False)


def _skip(source: Source, claims: Sequence[Claim]) -> Drain:
    """Skip, reported as a drain that read nothing."""
    begun = time.monotonic()
    error = None
    outcomes: Sequence[Outcome] = ()
    if claims:
        try:
            outcomes = repeated("skip", lambda: source.skip(claims))
        except BrokerError as failure:  # some partitions may have moved: verification shows which
            error = str(failure)
    refused = {item.partition: Drained(0, 0, 0, item.error) for item in outcomes if item.error}
    reason = StopReason.FAILED if refused or error else StopReason.EMPTY
    return Drain(reason, time.monotonic() - begun, 0, 0, refused, error)

"""Clear a backlog: survey, record, plan, change, verify, result.

Nothing is changed before the receipt is stored, and "cleared" is reported only if the broker confirms it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backlog_clearer.engine.drain import Drain, Drained, Halt, drain
from backlog_clearer.errors import BrokerError, ClearerError
from backlog_clearer.model import Claim, Mode, Outcome, Partition, StopReason
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.ages import aged
from backlog_clearer.run.attempts import (
    Aim,
    aimed,
    earlier_attempts,
    moves_target,
    must_not_skip,
    repeated_skip,
)
from backlog_clearer.run.earlier_rate import estimated
from backlog_clearer.run.growth import Growth
from backlog_clearer.run.job import Callbacks, Job, now, opened
from backlog_clearer.run.plan import Plan, claim, cost, notes_for
from backlog_clearer.run.proof import Patience, patience_for
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.record import Change, Record, change_of, complete
from backlog_clearer.run.report import Action, RunResult, Verdict
from backlog_clearer.run.retry import CHANGE_ATTEMPTS, repeated
from backlog_clearer.run.shares import is_share, proves
from backlog_clearer.run.stopping import stoppable
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
    ready = prepare(source, job)
    record = ready.record
    if record.path is None:
        callbacks.show(ready.plan)
        return record.result(record.rows, verdict=None)
    receipt = record.begin(record.path, ready.plan, callbacks)
    return verified(carry_out(ready, receipt, callbacks, halt), callbacks, halt)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A clear up to its plan: nothing is stored yet."""

    source: Source
    record: Record
    plan: Plan
    claims: list[Claim]
    earlier: list[Receipt]  # of this run's earlier attempts
    skipped: bool  # an earlier attempt has skipped, which is not repeated
    frozen: bool  # the run has targets
    share: bool  # of partitions that other slices have, too
    begun: float  # by the monotonic clock


def prepare(source: Source, job: Job) -> Prepared:
    """Survey and plan; changes nothing. Raises like `clear`."""
    run = job.run
    started_at, begun = now(), time.monotonic()
    survey, states = chosen(source, run)
    refuse_live(survey, run)
    refuse_doubt(survey, run)

    frozen = run.mode is Mode.SKIP or (run.stop_when_empty and not run.follow)
    share = is_share(survey, source.traits, run)
    earlier = earlier_attempts(job, survey, share=share) if frozen else []
    skipped = must_not_skip(source, job, earlier)
    again = frozen and (skipped or not moves_target(source, job))
    aim = aimed(source, job, Aim(survey, states), earlier, now=started_at, again=again)
    survey, states = aim.survey, aged(source, run, aim.states)
    # After the survey: see `next_sequence`.
    sequence = 0 if run.dry_run else receipts.next_sequence(run.receipt_dir, job.run_id)
    claims = [
        item for item in claim(states, run.mode, frozen=frozen) if item.partition not in aim.reached
    ]
    eta_s, why = estimated(job, survey, states)
    record = Record(
        job=job,
        action=Action.CLEAR,
        traits=source.traits,
        survey=survey,
        states=states,
        targets={state.partition: state.end if frozen else None for state in states},
        notes=(*notes_for(survey, states, run, claims), *why),
        eta_s=eta_s,
        bound=aim.bound,
        started_at=started_at,
        path=None
        if run.dry_run
        else receipts.new_path(run.receipt_dir, job.run_id, run.slice, sequence),
        sequence=sequence,
    )
    plan = record.plan(cost(claims, run, survey, source.traits.unit))
    return Prepared(source, record, plan, claims, earlier, skipped, frozen, share, begun)


@dataclass(frozen=True, slots=True)
class Carried:
    """A clear after its change, which is not verified yet."""

    ready: Prepared
    drained: Drain
    growth: Growth
    untouched: frozenset[Partition]  # certainly not changed
    undo: tuple[str, ...]  # what is to be known about the undo


def carry_out(ready: Prepared, receipt: Receipt, callbacks: Callbacks, halt: Halt) -> Carried:
    """Carry out a plan whose receipt is stored; raises like `Source.prepare_undo`, with nothing changed."""
    record, claims = ready.record, ready.claims
    job, run = record.job, record.job.run

    def halted() -> bool:
        return halt.signalled or callbacks.halted()

    source = stoppable(ready.source, job.place, halted)
    quiet = ready.skipped or job.only_verify
    undo = () if quiet else _prepared(source, record, receipt, claims, halted)
    growth = Growth(source, record, receipt)
    untouched: frozenset[Partition] = frozenset()
    if job.only_verify:
        drained = Drain(StopReason.EMPTY, 0.0, 0, 0)
    elif ready.skipped:
        drained = repeated_skip(job, ready.earlier)
    elif run.mode is Mode.SKIP:
        drained, untouched = _skip(source, claims, halted)
    else:
        grow = None if ready.frozen else growth.join
        drained = drain(
            source,
            claims,
            run,
            halt=halt,
            observe=callbacks.progress,
            grow=grow,
            figures=not ready.share,
        )
    return Carried(ready, drained, growth, untouched, undo)


def verified(carried: Carried, callbacks: Callbacks, halt: Halt) -> RunResult:
    """Verify a change by the broker's figures, and complete its receipt."""
    ready, drained, growth = carried.ready, carried.drained, carried.growth
    source, record, share = ready.source, growth.record, ready.share
    job, run = record.job, record.job.run
    talk = replace(callbacks, halted=lambda: halt.signalled or callbacks.halted())
    elapsed_s = time.monotonic() - ready.begun
    patience = patience_for(job, source.traits, talk, drained.reason, elapsed_s, share=share)
    if share and not proves(run):
        patience = Patience(0.0, talk)
    rows = cleared_rows(
        source,
        record,
        (*ready.claims, *drained.joined),
        drained=drained,
        patience=patience,
        share=share,
    )
    figures = any(item.remaining is not None for item in rows)
    added = growth.notes() if ready.frozen and figures else ()
    notes = (*carried.undo, *drained.notes, *added, *difference(source.traits, run.mode, rows))
    verdict = judge_clear(rows, drained.reason, counts_only=source.traits.counts_only)
    result = record.result(
        rows,
        verdict=verdict,
        change=change_of(drained, patience.waited_s),
        untouched=carried.untouched,
        notes=notes,
    )
    return complete(growth.receipt, result)


def _prepared(
    source: Source,
    record: Record,
    receipt: Receipt,
    claims: Sequence[Claim],
    halted: Callable[[], bool],
) -> tuple[str, ...]:
    """Prepare the undo, and return what is to be known about it.

    If that fails, the receipt records that nothing was changed. Raises like `Source.prepare_undo`.
    """
    if not claims:
        return ()
    partitions = [item.partition for item in claims]
    mode = record.job.run.mode
    try:
        note = repeated(
            "undo's preparation",
            lambda: source.prepare_undo(partitions, mode),
            attempts=CHANGE_ATTEMPTS,
            halted=halted,
        )
    except ClearerError as error:
        failed = Change(0.0, StopReason.FAILED, error=str(error))
        untouched = frozenset(item.id for item in record.rows)
        complete(
            receipt,
            record.result(record.rows, verdict=Verdict.NOT_CLEARED, change=failed, untouched=untouched),
        )
        raise
    return (note,) if note else ()


def _skip(
    source: Source, claims: Sequence[Claim], halted: Callable[[], bool]
) -> tuple[Drain, frozenset[Partition]]:
    """Skip, reported as a drain that read nothing; and the partitions that are certainly untouched."""
    begun = time.monotonic()
    error = None
    outcomes: Sequence[Outcome] = ()
    if claims:
        try:
            outcomes = repeated(
                "skip", lambda: source.skip(claims), attempts=CHANGE_ATTEMPTS, halted=halted
            )
        except BrokerError as failure:  # some partitions may have moved: verification shows which
            error = str(failure)
    refused = {item.partition: Drained(0, 0, 0, item.error) for item in outcomes if item.error}
    reason = StopReason.FAILED if refused or error else StopReason.EMPTY
    if error and halted():
        reason = StopReason.SIGNAL
    untouched = frozenset(item.partition for item in outcomes if item.error and item.position is None)
    return Drain(reason, time.monotonic() - begun, 0, 0, refused, error), untouched

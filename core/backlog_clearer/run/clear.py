"""One run from survey to verdict: what the command line and every handler call.

survey -> refuse or plan -> receipt -> preview -> change -> verify -> complete the receipt.
Nothing is changed before the receipt is stored, and "cleared" is said only if the broker agrees.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

from backlog_clearer import __version__
from backlog_clearer.engine.drain import Drain, Drained, Halt, Snapshot, drain
from backlog_clearer.errors import BrokerError, ClearerError, RefusedError, UsageError
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    StopReason,
    Survey,
    Traits,
)
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import open_source
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run import survey as asking
from backlog_clearer.run.plan import Plan, choose, claim, cost, live_text, notes_for
from backlog_clearer.run.receipt import Entry, Receipt
from backlog_clearer.run.report import Action, PartitionResult, RunResult, all_verified, row, total
from backlog_clearer.source import Source

_LOG = logging.getLogger("backlog_clearer")

VERIFY_ATTEMPTS = 5
VERIFY_WAIT_S = 0.5  # brokers that confirm nothing need a moment until their figures follow


@dataclass(frozen=True, slots=True)
class Callbacks:
    """How a run talks while it runs; every part may be left out."""

    show: Callable[[Plan], None] = lambda _: None
    confirm: Callable[[Plan], bool] = lambda _: True
    progress: Callable[[Snapshot], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Job:
    """What to do on which subscription."""

    system: str
    options: SystemOptions
    run: RunOptions
    run_id: str = field(default_factory=lambda: receipts.new_run_id(_now()))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def clear(job: Job, callbacks: Callbacks | None = None, halt: Halt | None = None) -> RunResult:
    """Clear a backlog, or only show what would be done (`dry_run`).

    Raises `UsageError`, `RefusedError` or `BrokerError` if nothing was changed; once anything
    may have been, what went wrong is in the result.
    """
    with closing(open_source(job.system, job.options, job.run, job.run_id)) as source:
        return clear_source(source, job, callbacks or Callbacks(), halt or Halt())


class Seen(NamedTuple):
    """A subscription before anything changes."""

    survey: Survey
    states: tuple[PartitionState, ...]  # those that --partitions and --slice leave
    unit: str  # what their backlogs count


def look(job: Job) -> Seen:
    """What the broker says now; changes nothing. Raises like `clear`."""
    with closing(open_source(job.system, job.options, job.run, job.run_id)) as source:
        return Seen(*_chosen(source, job.run), source.traits.unit)


def status(job: Job) -> RunResult:
    """What the backlog is now; changes nothing. Raises like `clear`."""
    with closing(open_source(job.system, job.options, job.run, job.run_id)) as source:
        started = _now()
        survey, states = _chosen(source, job.run)
        rows = tuple(
            row(state, target=_json(state.end)).model_copy(
                update={"after": _json(state.position), "remaining": state.backlog}
            )
            for state in states
        )
        return _result(
            job, source, survey, Action.STATUS, rows, started=started, cleared=_no_errors(rows)
        )


def clear_source(source: Source, job: Job, callbacks: Callbacks, halt: Halt) -> RunResult:
    """Like `clear`, on a source that is open already."""
    run = job.run
    if run.mode is Mode.SKIP and run.follow:
        raise UsageError("--follow has no meaning with --mode skip: skipping ends at once.")
    started = _now()
    survey, states = _chosen(source, run)
    if survey.live and not run.force and not run.dry_run:
        raise RefusedError(live_text(survey) + " Stop them, or say --force.")
    frozen = run.mode is Mode.SKIP or (run.stop_when_empty and not run.follow)
    reached: frozenset[Partition] = frozenset()
    if frozen:
        survey, states, reached = _refrozen(source, job, survey, states)
    claims = [item for item in claim(states, run.mode, frozen=frozen) if item.partition not in reached]
    rows = tuple(row(state, target=_json(state.end) if frozen else None) for state in states)
    notes = notes_for(survey, states, run, claims)
    path = None if run.dry_run else receipts.place(run.receipt_dir, job.run_id, run.slice)
    plan = Plan(
        action=Action.CLEAR,
        mode=run.mode,
        subscription=survey.subscription,
        unit=source.traits.unit,
        rows=rows,
        notes=notes,
        cost=cost(claims, run, survey, source.traits.unit),
        receipt=path,
        dry_run=run.dry_run,
    )
    if path is None:
        callbacks.show(plan)
        return _result(
            job,
            source,
            survey,
            Action.CLEAR,
            rows,
            started=started,
            cleared=_no_errors(rows),
            notes=notes,
        )
    receipt = _receipt(job, source, survey, Action.CLEAR, states, frozen=frozen, now=started)
    receipts.save(receipt, path)
    callbacks.show(plan)
    if not callbacks.confirm(plan):
        raise RefusedError(f"Not confirmed; nothing was changed. The receipt stays at {path}.")
    if claims:
        source.prepare_undo([claim.partition for claim in claims], run.mode)
    if run.mode is Mode.SKIP:
        drained = _skip(source, claims)
    else:
        drained = drain(source, claims, run, halt=halt, observe=callbacks.progress)
    rows = _verified(source, claims, rows, drained)
    verdict = all_verified(rows)
    notes = (*notes, *_difference(source.traits, run.mode, rows))
    settled = drained.reason not in {StopReason.SIGNAL, StopReason.FAILED, StopReason.STALLED}
    result = _result(
        job,
        source,
        survey,
        Action.CLEAR,
        rows,
        started=started,
        cleared=settled and verdict is True and _no_errors(rows),
        notes=notes,
        drained=drained,
        receipt=path,
    )
    return _complete(receipt, path, result)


def restore(
    job: Job,
    positions: Mapping[Partition, Position | None],
    identity: Mapping[str, str],
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Put partitions back to recorded positions, after a receipt of its own, so that it can be undone.

    `identity` is what the receipt says of the subscription; raises `RefusedError` where the broker
    is another one, and like `clear`.
    """
    with closing(open_source(job.system, job.options, job.run, job.run_id)) as source:
        return restore_source(source, job, positions, identity, callbacks or Callbacks())


def restore_source(
    source: Source,
    job: Job,
    positions: Mapping[Partition, Position | None],
    identity: Mapping[str, str],
    callbacks: Callbacks,
) -> RunResult:
    """Like `restore`, on a source that is open already."""
    run, started = job.run, _now()
    survey = asking.survey(source)
    _check_identity(identity, survey)
    if survey.live and not run.force and not run.dry_run:
        raise RefusedError(live_text(survey) + " Stop them, or say --force.")
    by_partition = {state.partition: state for state in survey.partitions}
    missing = [str(partition) for partition in positions if partition not in by_partition]
    states = tuple(by_partition[p] for p in sorted(positions) if p in by_partition)
    rows = tuple(row(state, target=_json(positions[state.partition])) for state in states)
    notes = (*survey.notes, *(f"{name} does not exist any more." for name in missing))
    path = None if run.dry_run else receipts.place(run.receipt_dir, job.run_id, None)
    plan = Plan(
        action=Action.RESTORE,
        mode=None,
        subscription=survey.subscription,
        unit=source.traits.unit,
        rows=rows,
        notes=notes,
        cost=f"writes the positions of {len(states)} partitions",
        receipt=path,
        dry_run=run.dry_run,
    )
    if path is None:
        callbacks.show(plan)
        return _result(
            job, source, survey, Action.RESTORE, rows, started=started, cleared=not missing, notes=notes
        )
    receipt = _receipt(job, source, survey, Action.RESTORE, states, frozen=False, now=started)
    receipts.save(receipt, path)
    callbacks.show(plan)
    if not callbacks.confirm(plan):
        raise RefusedError(f"Not confirmed; nothing was changed. The receipt stays at {path}.")
    begun = time.monotonic()
    outcomes = source.restore({state.partition: positions[state.partition] for state in states})
    seconds = time.monotonic() - begun
    rows = _restored(source, rows, {outcome.partition: outcome for outcome in outcomes})
    result = _result(
        job,
        source,
        survey,
        Action.RESTORE,
        rows,
        started=started,
        cleared=_no_errors(rows) and not missing and all_verified(rows) is not False,
        notes=notes,
        drained=Drain(StopReason.EMPTY, seconds, 0, 0),
        receipt=path,
    )
    return _complete(receipt, path, result.model_copy(update={"stop_reason": None}))


def _chosen(source: Source, run: RunOptions) -> tuple[Survey, tuple[PartitionState, ...]]:
    survey = asking.survey(source)
    return survey, choose(survey, run)


def _refrozen(
    source: Source, job: Job, survey: Survey, states: tuple[PartitionState, ...]
) -> tuple[Survey, tuple[PartitionState, ...], frozenset[Partition]]:
    """Survey and states up to the targets of this run's earlier invocations, and what has reached them.

    A run's slice is frozen once: another attempt, or its continuation after a deadline, goes on to
    where the first was to end, and does not run after what arrived since: a note says so. Raises
    `RefusedError` where the run id is another subscription's.
    """
    try:
        found = receipts.load_run(job.run.receipt_dir, job.run_id, job.run.slice)
    except UsageError as error:
        raise BrokerError(
            f"{error} Nothing was changed; choose another place with --receipt-dir."
        ) from error
    earlier = [item for item in found.values() if item.action is Action.CLEAR]
    for receipt in earlier:
        _check_identity(receipt.identity, survey)
    targets = receipts.original_targets(earlier)
    moved = {
        state.partition: targets[state.partition]
        for state in states
        if state.error is None and targets.get(state.partition, state.end) != state.end
    }
    if not moved:
        return survey, states, frozenset()
    note = (
        f"Run {job.run_id} froze its targets at {earlier[0].created_at:%Y-%m-%dT%H:%MZ} and goes on to"
        " those: what has arrived since stays in the backlog. Another run id clears it, too."
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


def _check_identity(identity: Mapping[str, str], survey: Survey) -> None:
    for key, value in identity.items():
        found = survey.identity.get(key)
        if found is not None and found != value:
            raise RefusedError(
                f"The receipt is of {key} {value!r}, but this is {found!r}; nothing was changed."
            )


def _skip(source: Source, claims: Sequence[Claim]) -> Drain:
    """Skip, as a drain that read nothing."""
    begun = time.monotonic()
    error = None
    outcomes: Sequence[Outcome] = ()
    if claims:
        try:
            outcomes = source.skip(claims)
        except BrokerError as failure:  # some partitions may have moved: verify says which
            error = str(failure)
    refused = {item.partition: Drained(0, 0, 0, item.error) for item in outcomes if item.error}
    reason = StopReason.FAILED if refused or error else StopReason.EMPTY
    return Drain(reason, time.monotonic() - begun, 0, 0, refused, error)


def _verified(
    source: Source, claims: Sequence[Claim], rows: tuple[PartitionResult, ...], drained: Drain
) -> tuple[PartitionResult, ...]:
    """The rows with what was done, and what the broker says of it afterwards."""
    # Also what was not claimed is asked for: "nothing to do" is a claim about the broker too.
    targets = {claim.partition: claim.target for claim in claims}
    targets.update({item.id: item.target for item in rows if item.id not in targets and not item.error})
    found = _ask(source, targets, expect_zero=drained.reason is StopReason.EMPTY)
    verified = []
    for item in rows:
        done = drained.partitions.get(item.id, Drained(0, 0, 0, None))
        left = found.get(item.id)
        verified.append(
            item.model_copy(
                update={
                    "messages": done.messages,
                    "unacknowledged": done.unacknowledged,
                    "after": _json(left.position) if left else None,
                    "remaining": left.left if left else None,
                    "verified": None if left is None or left.left is None else left.left == 0,
                    "error": item.error or done.error or (left.error if left else None),
                }
            )
        )
    return tuple(verified)


def _difference(traits: Traits, mode: Mode, rows: Sequence[PartitionResult]) -> tuple[str, ...]:
    """Why fewer messages were counted than the backlog had units, where that is in their nature."""
    cleared = [item for item in rows if item.verified and item.backlog]
    messages = sum(item.messages for item in cleared)
    backlog = sum(item.backlog or 0 for item in cleared)
    if not traits.empty_units or mode is not Mode.CONSUME or messages >= backlog:
        return ()
    return (f"{backlog:,} {traits.unit} held {messages:,} messages: {traits.empty_units}.",)


def _ask(
    source: Source, targets: Mapping[Partition, Position | None], *, expect_zero: bool
) -> dict[Partition, Remaining]:
    """The broker's figures; asked again where they may lag behind an acknowledgement."""
    found: dict[Partition, Remaining] = {}
    for attempt in range(VERIFY_ATTEMPTS):
        try:
            found = {item.partition: item for item in source.remaining(targets)}
        except ClearerError as error:
            _LOG.warning("Verification failed: %s", error)
            found = {}
        satisfied = found and all(item.left == 0 for item in found.values())
        if satisfied or not expect_zero or attempt + 1 == VERIFY_ATTEMPTS:
            break
        time.sleep(VERIFY_WAIT_S)
    return found


def _restored(
    source: Source, rows: tuple[PartitionResult, ...], outcomes: Mapping[Partition, Outcome]
) -> tuple[PartitionResult, ...]:
    """The rows with what became of the restore, read back from the broker."""
    try:
        now = {state.partition: state for state in asking.survey(source).partitions}
    except ClearerError as error:
        _LOG.warning("Verification failed: %s", error)
        now = {}
    restored = []
    for item in rows:
        outcome, state = outcomes.get(item.id), now.get(item.id)
        unknown = (
            state is None or outcome is None or (outcome.position is None and item.target is not None)
        )
        restored.append(
            item.model_copy(
                update={
                    "after": _json(state.position) if state else None,
                    "remaining": state.backlog if state else None,
                    "verified": None
                    if unknown or state is None
                    else _json(state.position) == item.target,
                    "error": outcome.error if outcome else "the broker did not answer for it",
                }
            )
        )
    return tuple(restored)


def _receipt(
    job: Job,
    source: Source,
    survey: Survey,
    action: Action,
    states: Sequence[PartitionState],
    *,
    frozen: bool,
    now: datetime,
) -> Receipt:
    return Receipt(
        version=__version__,
        run_id=job.run_id,
        system=job.system,
        subscription=survey.subscription,
        identity=dict(survey.identity),
        options=job.options.public(),
        action=action,
        mode=job.run.mode if action is Action.CLEAR else None,
        slice=job.run.slice,
        unit=source.traits.unit,
        created_at=now,
        partitions=tuple(
            Entry(
                topic=state.partition.topic,
                partition=state.partition.number,
                position=_json(state.position),
                backlog=state.backlog,
                target=_json(state.end) if frozen else None,
                undo=state.undo,
            )
            for state in states
        ),
    )


def _complete(receipt: Receipt, path: str, result: RunResult) -> RunResult:
    """Store the result in the receipt; a failure to do so is noted, for the change is made."""
    try:
        receipts.save(receipt.model_copy(update={"result": result}), path)
    except BrokerError as error:
        note = f"The run is complete, but its receipt could not be completed: {error}"
        return result.model_copy(update={"notes": (*result.notes, note)})
    return result


def _result(
    job: Job,
    source: Source,
    survey: Survey,
    action: Action,
    rows: tuple[PartitionResult, ...],
    *,
    started: datetime,
    cleared: bool,
    notes: tuple[str, ...] | None = None,
    drained: Drain | None = None,
    receipt: str | None = None,
) -> RunResult:
    seconds = drained.seconds if drained else 0.0
    return RunResult(
        version=__version__,
        run_id=job.run_id,
        system=job.system,
        subscription=survey.subscription,
        action=action,
        mode=job.run.mode if action is Action.CLEAR else None,
        dry_run=job.run.dry_run,
        slice=str(job.run.slice) if job.run.slice else None,
        unit=source.traits.unit,
        started_at=started,
        finished_at=_now(),
        seconds=round(seconds, 3),
        partitions=rows,
        totals=total(
            rows,
            retries=drained.retries if drained else 0,
            seconds=seconds,
            received=sum(item.bytes for item in drained.partitions.values()) if drained else 0,
        ),
        stop_reason=drained.reason if drained else None,
        verified=all_verified(rows) if drained else None,
        cleared=cleared,
        receipt=receipt,
        notes=survey.notes if notes is None else notes,
        error=drained.error if drained else None,
    )


def _no_errors(rows: Sequence[PartitionResult]) -> bool:
    return all(item.error is None for item in rows)


def _json(position: Position | None) -> Any:
    """A position as JSON has it."""
    return dict(position) if isinstance(position, Mapping) else position

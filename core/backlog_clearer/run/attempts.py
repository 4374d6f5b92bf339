"""Earlier attempts of the same run: the targets that they froze, and a skip that must not be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from backlog_clearer.engine.drain import Drain
from backlog_clearer.errors import BrokerError, TransientError, UsageError, recreated
from backlog_clearer.model import Bound, Mode, Partition, PartitionState, Recorded, StopReason, Survey
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.bounds import bound_of, retargeted, up_to_bound
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.report import Action
from backlog_clearer.run.retry import repeated
from backlog_clearer.source import Replicated, Source

_REPEATED = (
    "An earlier attempt of run {} has skipped already, and a second skip could bring back messages that"
    " were acknowledged since: this attempt only verifies. If messages are left, use another run id."
)
_UNCERTAIN = (
    "whether the skip of an earlier attempt of this run took effect is not known, and it is not repeated:"
    " use another run id"
)


def earlier_attempts(job: Job, survey: Survey, *, share: bool) -> list[Receipt]:
    """Receipts of this run's earlier invocations for the same part, oldest first.

    For a share of a partition, those of all slices: they have one target.
    Raises `RefusedError` where the run id belongs to another subscription, `BrokerError` where they cannot
    be read.
    """
    try:
        found = receipts.load_run(job.run.receipt_dir, job.run_id, "all" if share else job.run.slice)
    except UsageError as error:
        raise BrokerError(
            f"{error} Nothing was changed; choose another place with --receipt-dir."
        ) from error
    earlier = [item for item in found.values() if item.action is Action.CLEAR]
    for receipt in earlier:
        receipts.check_identity(receipt.identity, survey)
    return earlier


def must_not_skip(source: Source, job: Job, earlier: Sequence[Receipt]) -> bool:
    """Whether an earlier attempt has skipped, or may have, where a skip can be done only once a run."""
    if not moves_target(source, job):
        return False
    skips = [item for item in earlier if item.mode is Mode.SKIP]
    return any(item.result is None or item.result.changed for item in skips)


def moves_target(source: Source, job: Job) -> bool:
    """Whether an attempt freezes a separate target: a skip to an older one could bring back messages."""
    return source.traits.skip_once and job.run.mode is Mode.SKIP


def repeated_skip(job: Job, earlier: Sequence[Receipt]) -> Drain:
    """A skip that is not repeated, as a drain that read nothing."""
    results = [item.result for item in earlier if item.result is not None]
    known = any(item.error is None and not item.totals.errors for item in results)
    reason, error = (StopReason.EMPTY, None) if known else (StopReason.FAILED, _UNCERTAIN)
    return Drain(reason, 0.0, 0, 0, {}, error, (_REPEATED.format(job.run_id),))


class Aim(NamedTuple):
    """What one attempt is to reach: first the ends that the broker reported, then up to its targets."""

    survey: Survey  # with notes about the targets
    states: tuple[PartitionState, ...]  # up to their targets
    reached: frozenset[Partition] = frozenset()  # nothing is left up to the targets of these
    bound: Bound | None = None  # what the targets leave; None: nothing


def aimed(
    source: Source,
    job: Job,
    ends: Aim,
    earlier: Sequence[Receipt],
    *,
    now: datetime,
    again: bool,
) -> Aim:
    """The targets of an attempt: those of earlier attempts, otherwise the run's bound, otherwise the `ends`.

    `again`: earlier attempts' targets hold. Raises `UsageError` for a bound that is not possible.
    """
    bound, notes = bound_of(job.run, earlier, now)
    aim = ends
    if bound is not None:
        known = {*receipts.original_targets(earlier), *job.targets} if again else ()
        aim = Aim(*up_to_bound(source, aim.survey, aim.states, bound, known))
    if again:
        aim = refrozen(source, job, aim, earlier)
    survey = replace(aim.survey, notes=(*aim.survey.notes, *notes))
    return aim._replace(survey=survey, bound=bound)


def refrozen(source: Source, job: Job, aim: Aim, earlier: Sequence[Receipt]) -> Aim:
    """An aim up to the targets of this run's earlier invocations.

    The targets of a run's slice are frozen once: another attempt, or its continuation after a
    deadline, continues to the first one's targets and does not clear what arrived since; a note
    reports that. A log that is another one than the first attempt's, or was cut off since, has an error.
    """
    targets = receipts.original_targets(earlier)
    for key, wanted in job.targets.items():
        if key not in targets or targets[key].position != wanted:
            targets[key] = Recorded(key, wanted)
    states = tuple(_same_log(state, targets.get(state.partition), earlier) for state in aim.states)
    states = _still_there(source, states, targets)
    moved = {
        state.partition: position
        for state in states
        if state.error is None
        and state.partition in targets
        and (position := targets[state.partition].position) is not None
        and position != state.end
    }
    if not moved:
        return aim._replace(states=states)
    when = f" at {earlier[0].created_at:%Y-%m-%dT%H:%MZ}" if earlier else ""
    note = (
        f"Run {job.run_id} froze its targets{when} and continues to"
        " them: messages that have arrived since stay in the backlog. Use another run id to clear them too."
    )
    survey = replace(aim.survey, notes=(*aim.survey.notes, note))
    states, passed = retargeted(source, states, moved)
    return aim._replace(survey=survey, states=states, reached=aim.reached | passed)


def _same_log(
    state: PartitionState, target: Recorded | None, earlier: Sequence[Receipt]
) -> PartitionState:
    """A state, with an error where its log is not the one for which this run froze a target."""
    if target is None or not receipts.is_another(target.incarnation, state.incarnation):
        return state
    since = f"since run {earlier[0].run_id} began at {earlier[0].created_at:%Y-%m-%dT%H:%MZ}"
    return replace(state, error=recreated(state.partition, since), passing=False)


def _still_there(
    source: Source,
    states: tuple[PartitionState, ...],
    targets: Mapping[Partition, Recorded],
) -> tuple[PartitionState, ...]:
    """States with the epochs of their targets, and with an error where a log has lost what lay before it."""
    known = {
        state.partition: target
        for state in states
        if state.error is None
        and (target := targets.get(state.partition)) is not None
        and target.epoch is not None
    }
    asked = [known[state.partition] for state in states if _led_anew(state, known)]
    faults: Mapping[Partition, BrokerError] = {}
    if asked and isinstance(source, Replicated):
        faults = repeated("frozen targets", lambda: source.lost(asked), _passing)
    return tuple(
        replace(
            state,
            epoch=known[state.partition].epoch,
            error=str(faults[state.partition]) if state.partition in faults else None,
        )
        if state.partition in known
        else state
        for state in states
    )


def _led_anew(state: PartitionState, known: Mapping[Partition, Recorded]) -> bool:
    return state.partition in known and known[state.partition].epoch != state.epoch


def _passing(faults: Mapping[Partition, BrokerError]) -> list[str]:
    """The failures that may be over in a moment."""
    return [str(fault) for fault in faults.values() if isinstance(fault, TransientError)]

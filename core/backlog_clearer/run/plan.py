"""The plan of a run: pure decisions over a survey, made before anything changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backlog_clearer.model import Claim, Mode, PartitionState, Survey, same_place, total_known
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.report import Action, PartitionResult
from backlog_clearer.text import counted, listed


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that a run is about to make; shown before it makes them."""

    action: Action
    mode: Mode | None
    subscription: str
    unit: str
    rows: tuple[PartitionResult, ...]
    notes: tuple[str, ...]
    cost: str
    receipt: str | None
    dry_run: bool
    bounded: bool = False  # some of the backlog is to stay


def cost(claims: Sequence[Claim], run: RunOptions, survey: Survey, unit: str) -> str:
    """One line: what a run will transfer and change."""
    if not claims:
        return "nothing to do: no backlog"
    places = counted(len(claims), "partition")
    if run.mode is Mode.SKIP:
        requests = survey.skip_requests if survey.skip_requests is not None else len(claims)
        return f"moves the position of {places}, {counted(requests, 'write request')}, transfers no messages"
    known = [claim.state.backlog for claim in claims if claim.state.backlog is not None]
    amount = f"{sum(known):,} {unit}" if len(known) == len(claims) else f"an unknown number of {unit}"
    sizes = [claim.state.backlog_bytes for claim in claims if claim.state.backlog_bytes is not None]
    size = f" ({sum(sizes) / 1e6:,.1f} MB)" if len(sizes) == len(claims) else ""
    return f"transfers {amount}{size} of {places} with {counted(run.workers, 'worker')}"


def choose(survey: Survey, run: RunOptions, *, competing: bool) -> tuple[PartitionState, ...]:
    """The partitions that are to be cleared, sorted; raises like `RunOptions.choose`."""
    by_partition = {state.partition: state for state in survey.partitions}
    return tuple(by_partition[partition] for partition in run.choose(by_partition, competing=competing))


def claim(states: Sequence[PartitionState], mode: Mode, *, frozen: bool) -> list[Claim]:
    """The claims: a partition without backlog has none if its position is at the end, too."""
    return [
        Claim(state, resume=None, target=state.end if frozen else None)
        for state in states
        if state.error is None
        and not (frozen and state.backlog == 0 and _is_there(state))
        and not (mode is Mode.SKIP and state.end is None)
    ]


def _is_there(state: PartitionState) -> bool:
    """Whether nothing is stored, or the position is the end; what is stored with an offset does not count."""
    position = state.position
    if isinstance(position, Mapping) and not isinstance(state.end, Mapping):
        position = position.get("offset")
    return position is None or same_place(position, state.end)


def notes_for(
    survey: Survey, states: Sequence[PartitionState], run: RunOptions, claims: Sequence[Claim]
) -> tuple[str, ...]:
    """Facts that the user must know first."""
    notes = list(survey.notes)
    if survey.doubt is not None and not run.new:
        notes.append(survey.doubt)
    if survey.live:
        notes.append(live_text(survey))
    reasons: dict[str, int] = {}
    for state in states:
        if state.undo:
            reasons[state.undo] = reasons.get(state.undo, 0) + 1
    notes += [f"Undo: {reason} ({counted(count, 'partition')})" for reason, count in reasons.items()]
    if run.mode is Mode.CONSUME and not run.stop_when_empty:
        notes.append("Without --stop-when-empty this continues past the present end until interrupted.")
    if run.rate is not None and run.mode is Mode.CONSUME:
        notes.append(f"--max-rate {run.max_rate}: {_pace(run, states)}")
    if run.slice is not None and not states:
        notes.append(f"Slice {run.slice} holds no partition: there are fewer partitions than slices.")
    if claims and run.mode is Mode.CONSUME and run.workers > len(claims):
        notes.append(
            f"{counted(run.workers, 'worker')} for {counted(len(claims), 'partition')}: each partition is read"
            " by one worker, unless consumers of the subscription may compete."
        )
    return tuple(notes)


def _pace(run: RunOptions, states: Sequence[PartitionState]) -> str:
    rate = run.rate
    assert rate is not None  # noqa: S101 the caller has checked
    whose = "this run" if run.slice is None else f"slice {run.slice}"
    least = least_s(run, states)
    takes = f", so that the backlog takes {least:,.0f} s at least" if least else ""
    return f"{whose} reads at most {rate}{takes}."


def least_s(run: RunOptions, states: Sequence[PartitionState]) -> float | None:
    """How long --max-rate makes a run take at least, in seconds; None: there is no such limit, or unknown."""
    rate = run.rate
    if rate is None:
        return None
    total = total_known(state.backlog_bytes if rate.of_bytes else state.backlog for state in states)
    return None if total is None else total / rate.per_s


def live_text(survey: Survey) -> str:
    """The attached consumers, in one sentence."""
    consumers = counted(len(survey.live), "consumer")
    return f"{survey.subscription} has {consumers} attached: {listed(survey.live)}."

"""What a run is about to do: pure decisions over a survey, made before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backlog_clearer.model import Claim, Mode, PartitionState, Survey
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.report import Action, PartitionResult

_SHOWN = 5  # names of consumers that fit a line


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do; shown before it does it."""

    action: Action
    mode: Mode | None
    subscription: str
    unit: str
    rows: tuple[PartitionResult, ...]
    notes: tuple[str, ...]
    cost: str
    receipt: str | None
    dry_run: bool


def cost(claims: Sequence[Claim], run: RunOptions, survey: Survey, unit: str) -> str:
    """One line that says what a run will transfer and change."""
    if not claims:
        return "nothing to do: no backlog"
    places = f"{len(claims)} partition{'s' if len(claims) != 1 else ''}"
    if run.mode is Mode.SKIP:
        requests = survey.skip_requests if survey.skip_requests is not None else len(claims)
        return f"moves the position of {places}, {requests} write requests, transfers no messages"
    known = [claim.state.backlog for claim in claims if claim.state.backlog is not None]
    amount = f"{sum(known):,} {unit}" if len(known) == len(claims) else f"an unknown number of {unit}"
    sizes = [claim.state.backlog_bytes for claim in claims if claim.state.backlog_bytes is not None]
    size = f" ({sum(sizes) / 1e6:,.1f} MB)" if len(sizes) == len(claims) else ""
    return f"transfers {amount}{size} of {places} with {run.workers} workers"


def choose(survey: Survey, run: RunOptions) -> tuple[PartitionState, ...]:
    """The partitions that are to be cleared, sorted; raises like `RunOptions.choose`."""
    by_partition = {state.partition: state for state in survey.partitions}
    return tuple(by_partition[partition] for partition in run.choose(by_partition))


def claim(states: Sequence[PartitionState], mode: Mode, *, frozen: bool) -> list[Claim]:
    """What is to be cleared: a partition without backlog is left alone if its position says so too."""
    return [
        Claim(state, resume=None, target=state.end if frozen else None)
        for state in states
        if state.error is None
        and not (frozen and state.backlog == 0 and state.position in (None, state.end))
        and not (mode is Mode.SKIP and state.end is None)
    ]


def notes_for(
    survey: Survey, states: Sequence[PartitionState], run: RunOptions, claims: Sequence[Claim]
) -> tuple[str, ...]:
    """What the user must know first."""
    notes = list(survey.notes)
    if survey.live:
        notes.append(live_text(survey))
    reasons: dict[str, int] = {}
    for state in states:
        if state.undo:
            reasons[state.undo] = reasons.get(state.undo, 0) + 1
    notes += [f"Undo: {reason} ({count} partitions)" for reason, count in reasons.items()]
    if run.mode is Mode.CONSUME and not run.stop_when_empty:
        notes.append("Without --stop-when-empty this goes on, past the present end, until interrupted.")
    if run.slice is not None and not states:
        notes.append(f"Slice {run.slice} holds no partition: there are fewer partitions than slices.")
    if claims and run.mode is Mode.CONSUME and run.workers > len(claims):
        notes.append(
            f"{run.workers} workers for {len(claims)} partitions: a partition has one worker at most,"
            " unless the subscription lets consumers compete."
        )
    return tuple(notes)


def live_text(survey: Survey) -> str:
    """Who is attached, in one sentence."""
    names = ", ".join(survey.live[:_SHOWN]) + (", …" if len(survey.live) > _SHOWN else "")
    return f"{survey.subscription} has {len(survey.live)} consumers attached: {names}."

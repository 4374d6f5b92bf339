"""Verification: the broker's figures after the change, row by row."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from backlog_clearer.engine.drain import Drain, Drained
from backlog_clearer.errors import ClearerError, recreated
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Remaining,
    StopReason,
    Traits,
)
from backlog_clearer.run.proof import Patience
from backlog_clearer.run.receipt import SINCE, is_another
from backlog_clearer.run.record import Record
from backlog_clearer.run.report import PartitionResult, as_json
from backlog_clearer.run.stopping import AbandonedError
from backlog_clearer.run.survey import survey
from backlog_clearer.source import Accountable, Revisable, Source
from backlog_clearer.text import amount, counted, listed

_LOG = logging.getLogger("backlog_clearer")

ATTEMPTS = 5
WAIT_S = 0.5  # brokers that confirm nothing need a moment until their figures follow
_STOPPED_S = 1.5  # after which a run that is to stop does not ask again


def cleared_rows(
    source: Source,
    record: Record,
    claims: Sequence[Claim],
    *,
    drained: Drain,
    patience: Patience,
    share: bool = False,
) -> tuple[PartitionResult, ...]:
    """A record's rows after a drain or a skip, with what the broker reports is left up to each target.

    Figures that prove nothing yet are waited for as `patience` allows; so are, for a `share`, messages
    that other slices may have in their hands.
    """
    rows = record.rows
    # Partitions without a claim are asked for too: "nothing to do" is a statement about the broker.
    targets = {claim.partition: claim.target for claim in claims}
    targets.update({item.id: item.target for item in rows if item.id not in targets and not item.error})
    found = _remaining(source, targets, _expected_empty(targets, drained), patience)
    late = source.traits.proof_wait_s > 0

    def proven(answer: Mapping[Partition, Remaining]) -> bool:
        lefts = [item.left for item in answer.values()]
        if len(lefts) < len(targets):
            return False
        if share:  # without figures there is nothing to wait for
            return all(left == 0 for left in lefts) or (None in lefts and not late)
        return None not in lefts

    found = patience.until(proven, found, lambda: _asked(source, targets))
    surveyed = {state.partition: state.incarnation for state in record.states}
    found = {key: _of_log(item, surveyed.get(key)) for key, item in found.items()}
    stored = _stored(found)
    uncounted = _unreported(source, drained, stored)
    back = source.returned(stored) if isinstance(source, Revisable) else {}
    done = tuple(
        _cleared(item, drained, found.get(item.id), uncounted.get(item.id, 0), back.get(item.id, 0))
        for item in rows
    )
    if not share:
        return done
    return tuple(
        item.model_copy(update={"verified": None}) if item.verified is False else item for item in done
    )


def _stored(found: Mapping[Partition, Remaining]) -> Mapping[Partition, Position | None]:
    """The positions that the broker shows, of the partitions for which it answered."""
    return {
        key: item.position
        for key, item in found.items()
        if item.error is None and (item.left is not None or item.position is not None)
    }


def _unreported(
    source: Source, drained: Drain, stored: Mapping[Partition, Position | None]
) -> Mapping[Partition, int | None]:
    """Messages that were acknowledged and not counted, by the broker's positions; None: that is not known."""
    drains = drained.partitions.items()
    if not isinstance(source, Accountable):
        return {key: None for key, item in drains if item.doubted or item.unfinished}
    return {
        **source.unreported(stored),
        **{key: None for key, item in drains if item.unfinished},
    }


def _cleared(
    item: PartitionResult, drained: Drain, left: Remaining | None, late: int | None, back: int | None
) -> PartitionResult:
    """A row after a drain or a skip; `late`: see `_unreported`, `back`: see `Revisable`."""
    done = drained.partitions.get(item.id, Drained(0, 0, 0, None))
    if late is None and back is None:  # neither bound is known but 0
        back = done.messages
    counted_late = (late or 0) - min(back or 0, done.messages)
    return item.model_copy(
        update={
            "messages": done.messages + counted_late,
            "unacknowledged": max(0, done.unacknowledged - counted_late),
            "at_least": late is None,
            "at_most": back is None and done.messages > 0,
            "after": as_json(left.position) if left else None,
            "remaining": left.left if left else None,
            "verified": None if left is None or left.left is None else left.left == 0,
            "gone": left.gone if left else None,
            "error": item.error or done.error or (left.error if left else None),
        }
    )


def _of_log(found: Remaining, surveyed: str | None) -> Remaining:
    """Figures that prove something only about the log that was surveyed."""
    if surveyed is None or found.incarnation == surveyed:
        return found
    if found.incarnation is None:
        return found if found.error else found._replace(left=None)
    return Remaining(found.partition, found.position, None, recreated(found.partition))


def _expected_empty(targets: Iterable[Partition], drained: Drain) -> frozenset[Partition]:
    """Partitions of which nothing can be left, whatever became of the others."""
    if drained.reason is StopReason.EMPTY:
        return frozenset(targets)
    untouched = Drained(0, 0, 0, None, reached=drained.error is None)  # a skip has only those refused
    return frozenset(key for key in targets if drained.partitions.get(key, untouched).reached)


def _remaining(
    source: Source,
    targets: Mapping[Partition, Position | None],
    expected: frozenset[Partition],
    patience: Patience,
) -> dict[Partition, Remaining]:
    """The broker's figures; asked again where those `expected` to be 0 lag behind an acknowledgement."""
    found: dict[Partition, Remaining] = {}
    begun = time.monotonic()
    for attempt in range(ATTEMPTS if targets else 0):
        try:
            found = _answered(source, targets)
        except AbandonedError:
            break
        satisfied = all(key in found and found[key].left == 0 for key in expected)
        late = patience.callbacks.halted() and time.monotonic() - begun >= _STOPPED_S
        if satisfied or late or attempt + 1 == ATTEMPTS:
            break
        time.sleep(WAIT_S)
    return found


def _asked(source: Source, targets: Mapping[Partition, Position | None]) -> dict[Partition, Remaining]:
    """`source.remaining`; nothing is known where it fails."""
    try:
        return _answered(source, targets)
    except AbandonedError:
        return {}


def _answered(
    source: Source, targets: Mapping[Partition, Position | None]
) -> dict[Partition, Remaining]:
    """The same; raises `AbandonedError`, where asking again does not help."""
    try:
        return {item.partition: item for item in source.remaining(targets)}
    except ClearerError as error:
        _LOG.warning("Verification failed: %s", error)
        if isinstance(error, AbandonedError):
            raise
        return {}


def restored_rows(
    source: Source,
    recorded: Mapping[Partition, Recorded],
    rows: tuple[PartitionResult, ...],
    outcomes: Sequence[Outcome],
    patience: Patience,
) -> tuple[PartitionResult, ...]:
    """The rows after a restore, with the positions read back from the broker.

    Where its figures are late they are waited for as `patience` allows, so that the backlog is the new one.
    """
    ends: dict[Partition, Position | None] = {item.id: None for item in rows if item.id in recorded}
    late = {}
    if patience.seconds:
        late = patience.until(
            lambda answer: all(item.left is not None for item in answer.values()) and bool(answer),
            _asked(source, ends),
            lambda: _asked(source, ends),
        )
    try:
        found = survey(source, patience.callbacks.halted)
        now = {state.partition: state for state in found.partitions}
    except ClearerError as error:
        _LOG.warning("Verification failed: %s", error)
        now = {}
    by_partition = {outcome.partition: outcome for outcome in outcomes}
    done = (
        _restored(item, recorded.get(item.id), by_partition.get(item.id), now.get(item.id))
        for item in rows
    )
    return tuple(
        item.model_copy(update={"remaining": late[item.id].left}) if item.id in late else item
        for item in done
    )


def _restored(
    item: PartitionResult,
    recorded: Recorded | None,
    outcome: Outcome | None,
    state: PartitionState | None,
) -> PartitionResult:
    """A row after a restore; a partition of which nothing was asked (`recorded` None) stays as it is."""
    if recorded is None:
        return item
    if state is not None and is_another(recorded.incarnation, state.incarnation):
        outcome = Outcome(item.id, None, recreated(item.id, SINCE))
    error = outcome.error if outcome else "the broker did not answer for it"
    proof = None if outcome is None or error or state is None else _proof(item, outcome, state)
    return item.model_copy(
        update={
            "after": as_json(state.position) if state else None,
            "remaining": state.backlog if state else None,
            "verified": proof,
            "deleted": deleted(state) if state and proof else None,
            "error": error,
        }
    )


def _proof(item: PartitionResult, outcome: Outcome, state: PartitionState) -> bool | None:
    """Whether the position read back is the one that was to be restored; None: that is not known.

    No position proves that none is stored only if the broker answered for this partition.
    """
    if state.error is not None:
        return None
    if item.target is None:
        answered = state.end is not None or state.backlog is not None
        return state.position is None if answered else None
    return None if outcome.position is None else as_json(state.position) == item.target


def number_of(position: Position | None) -> int | None:
    """The number in a position that has one, by which positions of one log compare; None: it has none."""
    if isinstance(position, Mapping):
        numbers = (position.get(key) for key in ("sequence_number", "offset"))
        return next((number for number in numbers if isinstance(number, int)), None)
    return position if isinstance(position, int) else None


def deleted(state: PartitionState) -> int | None:
    """How much after a position no longer exists: what lies up to the end, less what is left of it."""
    first, last = number_of(state.position), number_of(state.end)
    if first is None or last is None or state.backlog is None:
        return None
    return max(0, last - first - state.backlog) or None


def difference(traits: Traits, mode: Mode, rows: Sequence[PartitionResult]) -> tuple[str, ...]:
    """Why fewer messages may have been counted than the backlog had units.

    The figures do not show which of the causes holds, so none is stated as a fact, except for what the broker
    shows to be gone.
    """
    notes = []
    gone = sum(item.gone or 0 for item in rows)
    if gone and mode is Mode.CONSUME:
        notes.append(
            f"Gone from the backlog before they could be read: {amount(gone, traits.unit)}. They expired, were"
            " trimmed, or others acknowledged them."
        )
    if uncounted := [item.id for item in rows if item.at_least]:
        notes.append(
            "Messages are a lower bound, because answers to acknowledgements were lost, and the broker does not"
            f" show what came of them: {listed(uncounted)}."
        )
    if unshown := [item.id for item in rows if item.at_most]:
        notes.append(
            "Messages are an upper bound, because the broker did not show at the end which acknowledgements it"
            f" has, and it may have lost some: {listed(unshown)}."
        )
    verified = [item for item in rows if item.verified and item.backlog and not item.at_least]
    messages = sum(item.messages for item in verified)
    backlog = sum(item.backlog or 0 for item in verified)
    if not traits.empty_units or mode is not Mode.CONSUME or messages + gone >= backlog:
        return tuple(notes)
    notes.append(
        f"{counted(messages, 'message')} read from a backlog of {amount(backlog, traits.unit)}. Possible"
        f" causes: {traits.empty_units}; messages that expired, or that others acknowledged, meanwhile."
    )
    return tuple(notes)

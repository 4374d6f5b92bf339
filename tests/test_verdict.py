"""The verdict of a run, its sentence and its exit code follow from the figures."""

from __future__ import annotations

from typing import Any

import pytest

from backlog_clearer.model import Mode, StopReason, Traits
from backlog_clearer.run.report import PartitionResult, RunResult, Verdict, total
from backlog_clearer.run.verdict import changed, exit_code, judge_clear, judge_restore, sentence
from backlog_clearer.run.verify import difference

REASONS = tuple(StopReason)


def row(**values: Any) -> PartitionResult:
    """A partition whose backlog of 100 was read and acknowledged, unless `values` differ."""
    given = {
        "topic": "t", "partition": 0, "before": 5, "target": 105, "after": 105, "backlog": 100,
        "messages": 100, "remaining": 0, "verified": True, **values,
    }  # fmt: skip
    return PartitionResult.model_validate(given)


PROVEN = row()
LEFT = row(after=65, messages=60, remaining=40, verified=False)
UNKNOWN = row(after=None, remaining=None, verified=None)
FAILED = row(after=None, messages=0, remaining=None, verified=None, error="no leader")
UNTOUCHED = row(before=105, backlog=0, messages=0)


def result(
    verdict: Verdict | None, *rows: PartitionResult, reason: StopReason | None = None, **values: Any
) -> RunResult:
    """A result with these rows."""
    mode = Mode.CONSUME if values.get("action", "clear") == "clear" else None
    given = {
        "version": "1", "run_id": "r", "system": "memory", "subscription": "s", "action": "clear",
        "unit": "messages", "started_at": "2026-11-24T00:00:00Z", "finished_at": "2026-11-24T00:00:00Z",
        "seconds": 2.0, "partitions": rows, "verdict": verdict, "stop_reason": reason,
        "totals": total(rows, seconds=2.0), "changed": any(changed(item, mode) for item in rows),
        "mode": mode, **values,
    }  # fmt: skip
    return RunResult.model_validate(given)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("rows", [(PROVEN,), (PROVEN, UNTOUCHED), ()], ids=["one", "two", "none"])
def test_whatever_ended_the_run_proven_figures_are_cleared(
    rows: tuple[PartitionResult, ...], reason: StopReason
) -> None:
    """A run that a signal, a limit or an error ended is cleared if the broker proves that nothing is left."""
    assert judge_clear(rows, reason) is Verdict.CLEARED
    found = result(Verdict.CLEARED, *rows, reason=reason)
    assert exit_code(found) == 0
    assert "NOT" not in sentence(found)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("bad", [LEFT, FAILED], ids=["left", "failed"])
def test_what_is_left_is_not_cleared(bad: PartitionResult, reason: StopReason) -> None:
    """One partition with messages left, or with an error and no proof: exit 1, however the run ended."""
    assert judge_clear((PROVEN, bad), reason) is Verdict.NOT_CLEARED
    found = result(Verdict.NOT_CLEARED, PROVEN, bad, reason=reason)
    assert exit_code(found) == 1
    assert sentence(found).startswith("NOT cleared (")
    assert "the target is reached" not in sentence(found)


@pytest.mark.parametrize("reason", REASONS)
def test_a_missing_proof_is_unproven_only_where_the_run_saw_its_end(reason: StopReason) -> None:
    """Without figures a run is unproven if nothing was left to read, and not cleared if it was cut off."""
    ended = reason in {StopReason.EMPTY, StopReason.QUIET}
    verdict = Verdict.UNPROVEN if ended else Verdict.NOT_CLEARED
    assert judge_clear((PROVEN, UNKNOWN), reason) is verdict
    assert exit_code(result(verdict, PROVEN, UNKNOWN, reason=reason)) == (4 if ended else 1)


def test_a_run_that_can_only_count_has_its_own_verdict() -> None:
    """Where no position can be stored the run is counted: exit 0 if that was meant, 1 with its reason."""
    assert judge_clear((UNKNOWN,), StopReason.EMPTY, counts_only=True) is Verdict.COUNTED
    assert judge_clear((UNKNOWN,), StopReason.SIGNAL, counts_only=True) is Verdict.NOT_CLEARED
    meant = result(Verdict.COUNTED, UNKNOWN, reason=StopReason.EMPTY)
    assert exit_code(meant) == 0
    assert exit_code(result(Verdict.COUNTED, FAILED, reason=StopReason.EMPTY)) == 1
    assert sentence(meant).startswith("Counted, and nothing acknowledged: 100 messages")


@pytest.mark.parametrize(
    ("rows", "complete", "verdict"),
    [
        ((PROVEN,), True, Verdict.RESTORED),
        ((PROVEN,), False, Verdict.NOT_RESTORED),
        ((PROVEN, LEFT), True, Verdict.NOT_RESTORED),
        ((PROVEN, FAILED), True, Verdict.NOT_RESTORED),
        ((row(error="its snapshot was not deleted"),), True, Verdict.NOT_RESTORED),
        ((PROVEN, UNKNOWN), True, Verdict.UNPROVEN),
    ],
)
def test_restored_needs_every_position_read_back(
    rows: tuple[PartitionResult, ...], verdict: Verdict, *, complete: bool
) -> None:
    """A restore is restored only if every partition was written and read back."""
    assert judge_restore(rows, complete=complete) is verdict


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            result(Verdict.CLEARED, PROVEN, reason=StopReason.EMPTY),
            "Cleared and verified: 100 messages in 2.00 s, 50 messages/s",
        ),
        (
            result(Verdict.CLEARED, row(messages=0), reason=StopReason.EMPTY, mode="skip"),
            "Cleared and verified: no messages transferred, 2.00 s",
        ),
        (
            result(Verdict.CLEARED, UNTOUCHED, reason=StopReason.EMPTY),
            "Nothing to do: no backlog is left up to the target",
        ),
        (
            result(Verdict.CLEARED, reason=StopReason.EMPTY),
            "Nothing to do: no partition belongs to this slice",
        ),
        (
            result(
                Verdict.UNPROVEN, UNKNOWN, reason=StopReason.QUIET, proof="use --verify-seconds 300"
            ),
            (
                "Done, but not proven: 100 messages in 2.00 s, 50 messages/s. The broker gives no proof yet;"
                " use --verify-seconds 300"
            ),
        ),
        (
            result(Verdict.UNPROVEN, UNKNOWN, action="restore"),
            (
                "Done, but not proven: 1 of 1 partition in 2.00 s. The broker gives no proof yet; look at the"
                " backlog with the status command once the broker has new figures"
            ),
        ),
        (
            result(Verdict.NOT_CLEARED, LEFT, reason=StopReason.EMPTY),
            (
                "NOT cleared (the broker reports 40 messages up to the target): 60 messages in 2.00 s, 30"
                " messages/s"
            ),
        ),
        (
            result(Verdict.NOT_CLEARED, PROVEN, FAILED, reason=StopReason.EMPTY),
            "NOT cleared (1 partition failed): 100 messages in 2.00 s, 50 messages/s",
        ),
        (
            result(Verdict.NOT_CLEARED, UNKNOWN, reason=StopReason.SIGNAL),
            "NOT cleared (it was interrupted): 100 messages in 2.00 s, 50 messages/s",
        ),
        (
            result(Verdict.RESTORED, PROVEN, PROVEN, action="restore"),
            "Restored and verified: 2 of 2 partitions in 2.00 s",
        ),
        (
            result(Verdict.NOT_RESTORED, PROVEN, LEFT, action="restore"),
            "NOT restored (the broker reports another position of 1 partition): 1 of 2 partitions in 2.00 s",
        ),
        (
            result(Verdict.NOT_RESTORED, PROVEN, action="restore"),
            "NOT restored (partitions of the receipt do not exist any more): 1 of 1 partition in 2.00 s",
        ),
        (result(None, PROVEN, action="status"), "Nothing was changed"),
    ],
)
def test_each_outcome_has_one_sentence(found: RunResult, text: str) -> None:
    """The sentence is from a fixed set, and its cause is one that was seen."""
    assert sentence(found) == text


@pytest.mark.parametrize(
    ("item", "mode", "expected"),
    [
        (UNTOUCHED, Mode.CONSUME, False),
        (UNTOUCHED, Mode.SKIP, False),
        (PROVEN, Mode.CONSUME, True),
        (row(messages=0, unacknowledged=3, after=5), Mode.CONSUME, True),
        (row(messages=0), Mode.SKIP, True),
        (row(messages=0, before=None, after=None, backlog=0), Mode.CONSUME, False),
        (row(messages=0, after=None, verified=None), Mode.CONSUME, False),
        (row(messages=0, after=None, verified=None), Mode.SKIP, True),
        (row(messages=0, after=None, verified=None, error="the outcome is not known"), Mode.SKIP, True),
        (row(messages=0, after=5, error="not authorised"), Mode.SKIP, False),
        (row(messages=0, after=None), None, True),
        (row(messages=0, after=5, error="not authorised"), None, False),
    ],
)
def test_undo_is_offered_only_after_a_change(
    item: PartitionResult, mode: Mode | None, *, expected: bool
) -> None:
    """A position that may have been written counts as changed; one that is read back unchanged does not."""
    assert changed(item, mode) is expected


def test_a_status_with_an_error_exits_1() -> None:
    """A status has no verdict; it exits 0, and 1 if a partition could not be read."""
    assert exit_code(result(None, LEFT, action="status")) == 0
    assert exit_code(result(None, LEFT, FAILED, action="status")) == 1


def test_a_difference_states_no_cause_as_a_fact() -> None:
    """Fewer messages than units: the note lists what may explain it, expired messages among it."""
    traits = Traits(unit="offsets", empty_units="transaction markers take offsets")
    (note,) = difference(traits, Mode.CONSUME, [row(messages=70)])
    assert note.startswith("70 messages read from a backlog of 100 offsets. Possible causes: ")
    assert "transaction markers" in note
    assert "expired" in note
    assert difference(traits, Mode.CONSUME, [PROVEN]) == ()


def test_a_difference_states_what_the_broker_shows_to_be_gone() -> None:
    """What is known to be gone is a fact with its number; only the rest has possible causes."""
    traits = Traits(unit="entries", empty_units="markers take entries")
    (note,) = difference(traits, Mode.CONSUME, [row(messages=70, gone=30)])
    assert "30 entries" in note
    assert "Possible" not in note
    first, second = difference(traits, Mode.CONSUME, [row(messages=69, gone=30)])
    assert "30 entries" in first
    assert "Possible causes" in second
    assert difference(traits, Mode.SKIP, [row(gone=30)]) == ()


@pytest.mark.parametrize(
    ("action", "cleared", "verdict"),
    [
        ("clear", True, Verdict.CLEARED),
        ("clear", False, Verdict.NOT_CLEARED),
        ("restore", True, Verdict.RESTORED),
        ("restore", False, Verdict.NOT_RESTORED),
    ],
)
def test_results_of_schema_1_are_read(action: str, verdict: Verdict, *, cleared: bool) -> None:
    """A result in a receipt of an earlier version is read, with the verdict that it stands for."""
    old = result(verdict, PROVEN, action=action).model_dump(by_alias=True, mode="json")
    for name in ("verdict", "changed", "proof", "waited_seconds", "live"):
        del old[name]
    old |= {"schema": "backlog-clearer/result/1", "cleared": cleared}
    assert RunResult.model_validate(old).verdict is verdict

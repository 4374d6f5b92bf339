"""A run from survey to result reports only what the broker confirms."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt, Snapshot
from backlog_clearer.errors import BrokerError, RefusedError, TransientError
from backlog_clearer.model import Mode, Partition, Recorded, StopReason, Survey
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions, Slice
from backlog_clearer.run import retry
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.restore import restore_source
from backlog_clearer.run.verdict import exit_code, sentence


def filled() -> tuple[MemoryBroker, MemorySource]:
    """Two partitions of 500 messages."""
    broker = MemoryBroker()
    broker.create("t", 2)
    broker.produce("t", 0, 500)
    broker.produce("t", 1, 500)
    return broker, MemorySource(broker, "t", "g")


def run(source: MemorySource, tmp_path: Path, **changes: Any) -> RunResult:
    """One run with a receipt."""
    values: dict[str, Any] = {"stop_when_empty": True, "receipt_dir": str(tmp_path), "stall_seconds": 1}
    options = RunOptions(**{**values, **changes})
    return clear_source(source, Job("memory", SystemOptions(), options, "r"), Callbacks(), Halt())


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions."""
    return [broker.position("g", Partition("t", number)) for number in range(2)]


def test_verification_asks_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that another process moves back is found, and is not reported as cleared."""
    broker, source = filled()
    ask = source.remaining

    def meddled(targets: Any) -> Any:
        broker.positions["g", Partition("t", 0)] = 123
        return ask(targets)

    monkeypatch.setattr(source, "remaining", meddled)
    result = run(source, tmp_path)
    assert stored(broker) == [123, 500]
    assert (result.verified, result.cleared) == (False, False)
    assert [row.remaining for row in result.partitions] == [377, 0]


def test_verification_that_fails_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the broker does not answer afterwards, the result is unknown, which is not cleared."""
    broker, source = filled()

    def silent(_: Any) -> Any:
        raise BrokerError("gone")

    monkeypatch.setattr(source, "remaining", silent)
    result = run(source, tmp_path)
    assert stored(broker) == [500, 500]
    assert (result.verified, result.cleared, result.totals.remaining) == (None, False, None)


def test_undo_that_cannot_be_prepared_stops_the_run(tmp_path: Path) -> None:
    """If undo cannot be made possible, nothing moves."""
    broker, source = filled()
    broker.members["refuse undo"] = ("yes",)
    with pytest.raises(RefusedError):
        run(source, tmp_path)
    assert stored(broker) == [None, None]


def test_partition_with_an_error_is_left_alone_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that cannot be surveyed keeps its error, and others are cleared: not a success."""
    broker, source = filled()
    survey = source.survey()
    first, second = survey.partitions
    broken: Survey = replace(survey, partitions=(replace(first, error="no leader"), second))
    monkeypatch.setattr(source, "survey", lambda: broken)
    result = run(source, tmp_path)
    assert stored(broker) == [None, 500]
    assert [row.error for row in result.partitions] == ["no leader", None]
    assert (result.cleared, result.totals.errors) == (False, 1)


def failing(source: MemorySource, monkeypatch: pytest.MonkeyPatch, *errors: BrokerError) -> list[int]:
    """Let surveys fail with these errors, then work; the list grows with each survey."""
    ask, left, asked = source.survey, list(errors), [0]

    def survey() -> Survey:
        asked[0] += 1
        if left:
            raise left.pop(0)
        return ask()

    monkeypatch.setattr(source, "survey", survey)
    return asked


def test_a_survey_is_retried_where_its_error_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that moves while the run begins does not end it."""
    broker, source = filled()
    asked = failing(source, monkeypatch, *[TransientError("moving")] * 2)
    assert run(source, tmp_path).cleared
    # Two surveys fail, one succeeds, and one at the end looks for partitions that were added.
    assert (asked, stored(broker)) == ([4], [500, 500])


@pytest.mark.parametrize(
    ("error", "times"), [(TransientError("down"), retry.ATTEMPTS), (BrokerError("no"), 1)]
)
def test_a_survey_that_keeps_failing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BrokerError, times: int
) -> None:
    """A lasting error ends the run with the broker's text, and a permanent one is not retried."""
    broker, source = filled()
    asked = failing(source, monkeypatch, *[error] * 9)
    with pytest.raises(BrokerError, match=str(error)):
        run(source, tmp_path)
    assert (asked, stored(broker), list(tmp_path.iterdir())) == ([times], [None, None], [])


@pytest.mark.parametrize(("times", "cleared"), [(2, True), (9, False)])
def test_a_partition_without_a_leader_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, *, cleared: bool
) -> None:
    """A partition between two leaders is awaited; if it stays so, the others are cleared."""
    broker, source = filled()
    ask, left = source.survey, [times]

    def survey() -> Survey:
        left[0] -= 1
        found = ask()
        if left[0] < 0:
            return found
        first, second = found.partitions
        moving = replace(first, error="no leader", passing=True)
        return replace(found, partitions=(moving, second))

    monkeypatch.setattr(source, "survey", survey)
    result = run(source, tmp_path)
    assert stored(broker) == [500 if cleared else None, 500]
    assert (result.cleared, result.partitions[0].error) == (cleared, None if cleared else "no leader")


def test_partial_skip_is_reported(tmp_path: Path) -> None:
    """A skip that one partition refuses moves the others and reports which one is left."""
    broker, source = filled()
    broker.refused[Partition("t", 1)] = "not authorised"
    result = run(source, tmp_path, mode=Mode.SKIP)
    assert stored(broker) == [500, None]
    assert [row.error for row in result.partitions] == [None, "not authorised"]
    assert (result.stop_reason, result.cleared) == (StopReason.FAILED, False)


def test_declined_plan_changes_nothing(tmp_path: Path) -> None:
    """A plan that is not confirmed leaves positions as they are; its receipt records that it was declined."""
    broker, source = filled()
    options = RunOptions(receipt_dir=str(tmp_path))
    job = Job("memory", SystemOptions(), options, "r")
    with pytest.raises(RefusedError, match="nothing was changed"):
        clear_source(source, job, Callbacks(confirm=lambda _: False), Halt())
    assert stored(broker) == [None, None]
    (written,) = tmp_path.rglob("*.json")
    result = load(str(written)).result
    assert result is not None
    assert (result.stop_reason, result.changed) == (StopReason.DECLINED, False)


def test_a_position_below_log_start_is_cleared_too(tmp_path: Path) -> None:
    """Where retention deleted everything unread, the stored position still moves to the end."""
    broker, source = filled()
    broker.positions["g", Partition("t", 0)] = 10
    broker.trim("t", 0, 500)
    result = run(source, tmp_path, partitions=(0,))
    assert stored(broker)[0] == 500
    assert (result.totals.messages, result.cleared) == (0, True)


def test_a_run_id_of_another_subscription_is_refused(tmp_path: Path) -> None:
    """A run id that has receipts of another subscription is refused, and nothing moves."""
    broker, source = filled()
    run(source, tmp_path, max_messages=10)
    moved = stored(broker)
    other = MemorySource(broker, "t", "h")
    with pytest.raises(RefusedError, match="nothing was changed"):
        run(other, tmp_path)
    assert stored(broker) == moved
    assert broker.position("h", Partition("t", 0)) is None


def test_restore_reports_a_partition_that_is_gone(tmp_path: Path) -> None:
    """A partition of the receipt that no longer exists is reported, and the rest is restored."""
    broker, source = filled()
    run(source, tmp_path)
    job = Job("memory", SystemOptions(), RunOptions(receipt_dir=str(tmp_path)), "r")
    wanted = (Recorded(Partition("t", 0), None), Recorded(Partition("t", 9), 5))
    result = restore_source(source, job, wanted, {}, Callbacks())
    assert stored(broker) == [None, 500]
    assert not result.cleared
    assert any("t[9]" in note for note in result.notes)


def test_a_restore_has_its_own_receipt(tmp_path: Path) -> None:
    """Undo can be undone: the restore's receipt holds the positions that it replaced."""
    broker, source = filled()
    run(source, tmp_path)
    job = Job("memory", SystemOptions(), RunOptions(receipt_dir=str(tmp_path)), "r2")
    result = restore_source(source, job, (Recorded(Partition("t", 0), 100),), {}, Callbacks())
    assert stored(broker) == [100, 500]
    assert result.receipt is not None
    assert [entry.position for entry in load(result.receipt).partitions] == [500]


def test_a_name_in_doubt_is_refused_unless_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the name may be mistyped, nothing is changed; a dry run notes it, --new proceeds."""
    broker, source = filled()
    ask = source.survey
    monkeypatch.setattr(source, "survey", lambda: replace(ask(), doubt="'gg' has a position there."))
    for mode in Mode:
        with pytest.raises(RefusedError, match="'gg' has a position there"):
            run(source, tmp_path, mode=mode)
    assert stored(broker) == [None, None]
    assert not list(tmp_path.rglob("*.json"))
    assert "'gg' has a position there." in run(source, tmp_path, dry_run=True).notes
    result = run(source, tmp_path, new=True)
    assert (result.cleared, stored(broker)) == (True, [500, 500])
    assert "'gg' has a position there." not in result.notes


def test_a_run_that_follows_reads_partitions_that_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that is added meanwhile is in the receipt, is read, and has a row in the result."""
    monkeypatch.setattr("backlog_clearer.engine.drain.GROW_S", 0.1)
    broker, source = filled()
    halt = Halt()

    def progress(seen: Snapshot) -> None:
        if len(broker.logs) == 2 and seen.messages == 1000:
            broker.add_partition("t")
            broker.produce("t", 2, 300)
        if seen.messages == 1300:
            halt.signal()

    options = RunOptions(follow=True, receipt_dir=str(tmp_path), max_seconds=20)
    job = Job("memory", SystemOptions(), options, "r")
    result = clear_source(source, job, Callbacks(progress=progress), halt)
    assert broker.position("g", Partition("t", 2)) == 300
    assert [(row.id.number, row.messages) for row in result.partitions] == [
        (0, 500),
        (1, 500),
        (2, 300),
    ]
    receipt = load(str(result.receipt))
    assert [entry.id for entry in receipt.partitions] == [row.id for row in result.partitions]
    assert receipt.partitions[2].position is None


@pytest.mark.parametrize("mode", Mode)
def test_partitions_that_are_added_to_a_frozen_run_are_noted(mode: Mode, tmp_path: Path) -> None:
    """A run with frozen targets leaves partitions that were added meanwhile, and names them in a note."""
    broker, source = filled()

    def confirm(_: object) -> bool:
        broker.add_partition("t")
        broker.produce("t", 2, 300)
        return True

    options = RunOptions(stop_when_empty=True, receipt_dir=str(tmp_path), mode=mode)
    job = Job("memory", SystemOptions(), options, "r")
    result = clear_source(source, job, Callbacks(confirm=confirm), Halt())
    assert broker.position("g", Partition("t", 2)) is None
    assert stored(broker) == [500, 500]
    notes = [note for note in result.notes if "added since the survey" in note]
    assert notes == [
        "1 partition was added since the survey, and not read: t[2]. Another run clears them."
    ]


def test_a_run_without_new_partitions_notes_none(tmp_path: Path) -> None:
    """Where nothing was added, no note is made of it, with --partitions and slices neither."""
    _, source = filled()
    for changes in ({}, {"partitions": "0"}, {"slice": "1/2"}):
        result = run(source, tmp_path, **changes)
        assert not any("added" in note for note in result.notes)


@pytest.mark.parametrize("mode", Mode)
def test_changes_wait_for_other_slices_that_hold_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """What slices do to each other is retried more often than other failures, with growing waits."""
    monkeypatch.setattr(retry, "_WAIT_S", 0.01)
    broker, source = filled()
    name = "skip" if mode is Mode.SKIP else "prepare_undo"
    change, failures = getattr(source, name), iter(range(retry.CHANGE_ATTEMPTS - 1))
    tried: list[float] = []

    def contended(*args: Any) -> Any:
        tried.append(time.monotonic())
        if next(failures, None) is not None:
            raise TransientError("another slice holds the lock")
        return change(*args)

    monkeypatch.setattr(source, name, contended)
    assert run(source, tmp_path, mode=mode).cleared
    assert stored(broker) == [500, 500]
    waits = [after - before for before, after in pairwise(tried)]
    assert len(waits) == retry.CHANGE_ATTEMPTS - 1
    assert waits[-1] > 0.3  # the first one is below 0.01, but for the machine's other work


def test_a_request_that_takes_long_to_fail_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time spent in requests ends the attempts; time spent waiting between them does not."""
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    tried: list[float] = []

    def slow() -> None:
        tried.append(time.monotonic())
        time.sleep(0.2)
        raise TransientError("no answer")

    with pytest.raises(TransientError):
        retry.repeated("request", slow)
    assert len(tried) == 1


def test_figures_that_lag_are_asked_for_again_beside_a_broken_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken partition does not keep the verification of the others from waiting for the broker."""
    broker, source = filled()
    ask, answers = source.remaining, iter(range(2))

    def lagging(targets: Any) -> Any:
        found = ask(targets)
        if next(answers, None) is not None:
            return [item if item.error else item._replace(left=500) for item in found]
        return found

    def confirm(_: object) -> bool:
        broker.broken[Partition("t", 1)] = "the partition was deleted"
        return True

    monkeypatch.setattr(source, "remaining", lagging)
    options = RunOptions(stop_when_empty=True, receipt_dir=str(tmp_path))
    job = Job("memory", SystemOptions(), options, "r")
    result = clear_source(source, job, Callbacks(confirm=confirm), Halt())
    assert [row.verified for row in result.partitions] == [True, None]
    assert result.partitions[0].error is None
    assert "was deleted" in str(result.partitions[1].error)
    assert result.stop_reason is StopReason.FAILED


def test_slices_share_partitions_that_are_added(tmp_path: Path) -> None:
    """Each partition that is added while slices follow the end joins exactly one of them."""
    broker, source = filled()
    joined: list[Partition] = []
    for part in ("0/3", "1/3", "2/3"):
        options = RunOptions(follow=True, receipt_dir=str(tmp_path), slice=part, max_seconds=0.2)
        grown = len(broker.logs) > 2

        def confirm(_: object, *, grown: bool = grown) -> bool:
            for _number in range(0 if grown else 4):
                broker.add_partition("t")
            return True

        before = source.survey()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("backlog_clearer.engine.drain.GROW_S", 0.0)
            surveys = iter([replace(before, partitions=before.partitions[:2])])
            ask = source.survey
            patched.setattr(source, "survey", lambda: next(surveys, None) or ask())  # noqa: B023 used at once
            job = Job("memory", SystemOptions(), options, "r")
            result = clear_source(source, job, Callbacks(confirm=confirm), Halt())
        joined += [row.id for row in result.partitions if row.id.number >= 2]
    assert sorted(joined) == [Partition("t", number) for number in range(2, 6)]


def test_an_interrupt_with_nothing_left_is_cleared(tmp_path: Path) -> None:
    """A run that is stopped by a signal after its last message is cleared, by the broker's figures."""
    broker, source = filled()
    halt = Halt()

    def stop(seen: Snapshot) -> None:
        if seen.messages == 1000:
            halt.signal()

    options = RunOptions(receipt_dir=str(tmp_path))
    job = Job("memory", SystemOptions(), options, "r")
    result = clear_source(source, job, Callbacks(progress=stop), halt)
    assert stored(broker) == [500, 500]
    assert (result.stop_reason, result.verdict, exit_code(result)) == ("signal", Verdict.CLEARED, 0)


def test_a_limit_that_leaves_nothing_is_cleared(tmp_path: Path) -> None:
    """--max-messages of exactly the backlog: nothing is left, so the run is cleared."""
    broker, source = filled()
    result = run(source, tmp_path, max_messages=1000)
    assert stored(broker) == [500, 500]
    assert (result.verdict, exit_code(result)) == (Verdict.CLEARED, 0)


def test_a_slice_without_partitions_is_cleared(tmp_path: Path) -> None:
    """A container array with more indexes than partitions: the rest has nothing to do, exit 0, no undo."""
    broker, source = filled()
    for mode in (Mode.CONSUME, Mode.SKIP):
        result = run(source, tmp_path, slice=Slice(index=4, total=5), mode=mode)
        assert (result.verdict, exit_code(result), result.changed) == (Verdict.CLEARED, 0, False)
        assert sentence(result) == "Nothing to do: no partition belongs to this slice"
    assert stored(broker) == [None, None]


def test_a_run_with_nothing_to_do_has_nothing_to_undo(tmp_path: Path) -> None:
    """A second run finds nothing, is cleared, and offers no undo; neither does a refused skip."""
    broker, source = filled()
    assert run(source, tmp_path).changed
    again = run(source, tmp_path)
    assert (again.verdict, again.changed) == (Verdict.CLEARED, False)
    assert sentence(again) == "Nothing to do: no backlog is left up to the target"
    broker.produce("t", 0, 10)
    broker.refused[Partition("t", 0)] = "not authorised"
    options = RunOptions(receipt_dir=str(tmp_path), mode=Mode.SKIP)
    refused = clear_source(source, Job("memory", SystemOptions(), options, "r2"), Callbacks(), Halt())
    assert (refused.verdict, refused.changed) == (Verdict.NOT_CLEARED, False)
    assert stored(broker) == [500, 500]


def test_live_consumers_are_in_every_result(tmp_path: Path) -> None:
    """The consumers that were attached are in the result of a forced run and of a dry run."""
    broker, source = filled()
    broker.members["g"] = ("consumer-1 on host-1",)
    assert run(source, tmp_path, dry_run=True).live == ("consumer-1 on host-1",)
    forced = run(source, tmp_path, force=True)
    assert (forced.live, stored(broker)) == (("consumer-1 on host-1",), [500, 500])

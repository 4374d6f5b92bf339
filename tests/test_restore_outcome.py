"""A restore brings back what it can, reports what it cannot, and calls only what was read back restored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.model import Mode, Outcome, Partition, PartitionState, Recorded, Survey
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, load_run, original_positions, unidentified, unsealed
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.restore import restore_source

T0, T1, T2 = (Partition("t", number) for number in range(3))


def filled() -> tuple[MemoryBroker, MemorySource]:
    """Three partitions of 500 messages; positions 100, 200 and none."""
    broker = MemoryBroker()
    broker.create("t", 3)
    for number in range(3):
        broker.produce("t", number, 500)
    broker.positions["g", T0], broker.positions["g", T1] = 100, 200
    return broker, MemorySource(broker, "t", "g")


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions."""
    return [broker.position("g", partition) for partition in (T0, T1, T2)]


def cleared(source: MemorySource, folder: Path, **changes: Any) -> RunResult:
    """A run of id `r`."""
    values: dict[str, Any] = {"stop_when_empty": True, "receipt_dir": str(folder), "stall_seconds": 1}
    job = Job("memory", SystemOptions(), RunOptions(**{**values, **changes}), "r")
    return clear_source(source, job, Callbacks(), Halt())


def back(source: MemorySource, folder: Path, recorded: Sequence[Recorded], **changes: Any) -> RunResult:
    """A restore of these positions."""
    job = Job("memory", SystemOptions(), RunOptions(receipt_dir=str(folder), **changes))
    return restore_source(source, job, recorded, {}, Callbacks())


def errors(result: RunResult) -> dict[int, str | None]:
    """The error of each row."""
    return {row.partition: row.error for row in result.partitions}


def surveyed(
    source: MemorySource,
    patched: pytest.MonkeyPatch,
    change: Callable[[PartitionState], PartitionState],
    *,
    after: int = 1,
) -> None:
    """Let surveys after the first `after` report changed states."""
    ask, asked = source.survey, []

    def survey() -> Survey:
        asked.append(1)
        found = ask()
        if len(asked) <= after:
            return found
        return replace(found, partitions=tuple(change(state) for state in found.partitions))

    patched.setattr(source, "survey", survey)


def test_what_exists_is_restored_and_the_rest_is_listed(tmp_path: Path) -> None:
    """Partitions and topics that are gone have rows with an error; the others are put back."""
    broker, source = filled()
    cleared(source, tmp_path)
    gone = [Recorded(Partition("t", 9), 5), Recorded(Partition("u", 0), None)]
    result = back(source, tmp_path, [Recorded(T0, 100), Recorded(T1, 200), *gone])
    assert stored(broker) == [100, 200, 500]
    assert result.verdict is Verdict.NOT_RESTORED
    assert [str(row.id) for row in result.partitions if row.error] == ["t[9]", "u[0]"]
    assert [row.verified for row in result.partitions] == [True, True, None, None]
    assert any("t[9], u[0] do not exist any more" in note for note in result.notes)
    assert result.receipt is not None
    assert [entry.id for entry in load(result.receipt).partitions] == [T0, T1]


def test_a_position_that_was_not_known_is_not_taken_for_none(tmp_path: Path) -> None:
    """An entry without a position that carries `undo` is not changed and has its reason as the error."""
    broker, source = filled()
    cleared(source, tmp_path)
    unknown = Recorded(T1, None, undo="its checkpoint could not be read")
    result = back(source, tmp_path, [Recorded(T0, 100), unknown])
    assert stored(broker) == [100, 500, 500]
    assert errors(result) == {
        0: None, 1: "The receipt has no position for it: its checkpoint could not be read",
    }  # fmt: skip
    assert result.verdict is Verdict.NOT_RESTORED


def test_a_reservation_about_the_undo_is_shown_before_it(tmp_path: Path) -> None:
    """A recorded position with an `undo` text is restored, and the text is among the notes."""
    broker, source = filled()
    cleared(source, tmp_path)
    result = back(source, tmp_path, [Recorded(T0, 100, undo="messages may be deleted.")])
    assert stored(broker)[0] == 100
    assert "Undo: messages may be deleted. (1 partition)" in result.notes


def test_a_run_records_why_a_position_is_unknown_and_its_undo_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From receipt to undo: the reason that the survey gave is the error of that partition."""
    broker, source = filled()
    with monkeypatch.context() as patched:
        surveyed(
            source, patched, after=0,
            change=lambda s: replace(s, position=None, undo="unreadable") if s.partition == T1 else s,
        )  # fmt: skip
        done = cleared(source, tmp_path)
    recorded = original_positions([load(str(done.receipt))])
    assert (T1, None, "unreadable") in [(item.partition, item.position, item.undo) for item in recorded]
    result = back(source, tmp_path, recorded)
    assert stored(broker) == [100, 500, None]
    assert errors(result)[1] == "The receipt has no position for it: unreadable"


def test_an_undo_leaves_a_partition_alone_that_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No position was known, which is not that none was stored; a later attempt's position is the original."""
    broker, source = filled()
    with monkeypatch.context() as patched:
        hidden = "the topic is hidden"
        surveyed(
            source, patched, after=0,
            change=lambda s: replace(s, position=None, backlog=None, error=hidden)
            if s.partition == T1
            else s,
        )  # fmt: skip
        first = cleared(source, tmp_path, max_seconds=5)
    assert stored(broker) == [500, 200, 500]
    result = back(source, tmp_path / "undo", original_positions([load(str(first.receipt))]))
    assert stored(broker) == [100, 200, None]
    assert errors(result) == {0: None, 1: f"The receipt has no position for it: {hidden}", 2: None}
    assert result.verdict is Verdict.NOT_RESTORED
    cleared(source, tmp_path)
    assert stored(broker) == [500, 500, 500]
    recorded = original_positions(load_run(str(tmp_path), "r").values())
    assert back(source, tmp_path / "undo", recorded).verdict is Verdict.RESTORED
    assert stored(broker) == [100, 200, None]


@pytest.mark.parametrize(
    ("position", "says"),
    [
        ("100", "is not one of this broker"),
        ("7:1", "is not one of this broker"),
        (501, "beyond the end of the log, 500"),
        (2**63 - 2, "beyond the end of the log, 500"),
    ],
)
def test_positions_that_the_log_cannot_have_are_not_written(
    tmp_path: Path, position: Any, says: str
) -> None:
    """A position of another type, or beyond the end, is its partition's error; the others are restored."""
    broker, source = filled()
    cleared(source, tmp_path)
    result = back(source, tmp_path, [Recorded(T0, position), Recorded(T1, 200)])
    assert stored(broker) == [500, 200, 500]
    assert says in str(errors(result)[0])
    assert (result.verdict, result.partitions[0].verified) == (Verdict.NOT_RESTORED, None)


def test_where_nothing_can_be_restored_nothing_is_asked_or_written(tmp_path: Path) -> None:
    """With an error for every partition there is no question, no receipt and no change."""
    broker, source = filled()
    cleared(source, tmp_path)
    job = Job("memory", SystemOptions(), RunOptions(receipt_dir=str(tmp_path)), "r2")
    asked = Callbacks(confirm=lambda _: pytest.fail("asked"))
    result = restore_source(source, job, [Recorded(T0, 501)], {}, asked)
    assert stored(broker) == [500, 500, 500]
    assert (result.verdict, result.receipt) == (Verdict.NOT_RESTORED, None)
    assert not (tmp_path / "r2").exists()


def test_an_unreadable_answer_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that cannot be read back has no position, which does not prove "nothing stored"."""
    _, source = filled()
    cleared(source, tmp_path)

    def unknown(state: PartitionState) -> PartitionState:
        return PartitionState(state.partition, None, None, None, None, error="no leader")

    surveyed(source, monkeypatch, unknown)
    result = back(source, tmp_path, [Recorded(T2, None)])
    assert (result.partitions[0].verified, result.verdict) == (None, Verdict.UNPROVEN)


def test_nothing_stored_is_proven_by_an_answer_with_figures(tmp_path: Path) -> None:
    """A position that is gone again, in a partition whose end the broker reports, is restored."""
    broker, source = filled()
    cleared(source, tmp_path)
    result = back(source, tmp_path, [Recorded(T2, None)])
    assert stored(broker)[2] is None
    assert (result.partitions[0].verified, result.verdict) == (True, Verdict.RESTORED)


def test_a_write_that_was_dropped_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an adapter that writes nothing without an error, nor one whose answer is lost, is believed."""
    _, source = filled()
    cleared(source, tmp_path)
    wanted = [Recorded(T0, 100), Recorded(T1, 200)]
    monkeypatch.setattr(
        source, "restore", lambda given: [Outcome(item.partition, None) for item in given]
    )
    assert back(source, tmp_path, wanted).verdict is Verdict.UNPROVEN
    monkeypatch.setattr(source, "restore", lambda given: [Outcome(item[0], item[1]) for item in given])
    lying = back(source, tmp_path, wanted)
    assert (lying.verdict, lying.partitions[0].verified) == (Verdict.NOT_RESTORED, False)
    monkeypatch.setattr(source, "restore", lambda _: [])
    assert errors(back(source, tmp_path, wanted))[0] == "the broker did not answer for it"


def test_one_error_of_all_is_the_error_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that fails as a whole names its reason in every row."""
    _, source = filled()
    cleared(source, tmp_path)

    def refused(_: object) -> Sequence[Outcome]:
        raise BrokerError("not authorised")

    monkeypatch.setattr(source, "restore", refused)
    assert errors(back(source, tmp_path, [Recorded(T0, 100)])) == {0: "not authorised"}


def test_what_retention_deleted_is_counted(tmp_path: Path) -> None:
    """The old position is restored, and the result has how many of its messages no longer exist."""
    broker, source = filled()
    cleared(source, tmp_path)
    broker.trim("t", 0, 350)
    broker.trim("t", 1, 210)
    result = back(source, tmp_path, [Recorded(T0, 100), Recorded(T1, 200), Recorded(T2, 0)])
    assert stored(broker) == [100, 200, 0]
    assert [row.deleted for row in result.partitions] == [250, 10, None]
    assert result.verdict is Verdict.RESTORED
    (note,) = (note for note in result.notes if "no longer exist" in note)
    assert note.startswith("260 messages")
    assert "t[0] 250, t[1] 10" in note


def test_undo_of_a_run_does_not_depend_on_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second attempt whose clock is 5 s behind, the undo is exact and the status counts right."""
    broker, source = filled()
    clock = [datetime(2026, 11, 26, 4, 0, tzinfo=timezone.utc)]
    for module in ("clear", "record", "restore"):
        monkeypatch.setattr(f"backlog_clearer.run.{module}.now", lambda: clock[0])
    first = cleared(source, tmp_path, max_messages=450, workers=1, batch_size=100)
    moved = stored(broker)
    assert moved != [100, 200, None]
    clock[0] -= timedelta(seconds=5)
    second = cleared(source, tmp_path)
    assert stored(broker) == [500, 500, 500]
    assert load(str(second.receipt)).created_at < load(str(first.receipt)).created_at
    account = run_status(str(tmp_path), "r")
    assert (account.total, account.gone) == (1200, 1200)
    assert [row.before for row in account.partitions] == [100, 200, None]
    recorded = original_positions(load_run(str(tmp_path), "r").values())
    assert {item.partition: item.position for item in recorded} == {T0: 100, T1: 200, T2: None}
    assert back(source, tmp_path, recorded).verdict is Verdict.RESTORED
    assert stored(broker) == [100, 200, None]


def test_an_attempt_that_sees_moved_positions_comes_after_the_one_that_moved_them(
    tmp_path: Path,
) -> None:
    """Two attempts that overlap in any way: the receipt with the originals has the lower number."""
    broker, source = filled()
    other = MemorySource(broker, "t", "g")
    inner: list[RunResult] = []

    def overtaken(_: object) -> bool:
        inner.append(cleared(other, tmp_path, mode=Mode.SKIP))
        return True

    job = Job(
        "memory", SystemOptions(), RunOptions(stop_when_empty=True, receipt_dir=str(tmp_path)), "r"
    )
    clear_source(source, job, Callbacks(confirm=overtaken), Halt())
    third = cleared(source, tmp_path)
    numbers = [load(str(path)).sequence for path in (inner[0].receipt, third.receipt)]
    assert numbers == [2, 3]
    recorded = original_positions(load_run(str(tmp_path), "r").values())
    assert {item.partition: item.position for item in recorded} == {T0: 100, T1: 200, T2: None}


OLD = {
    "schema": "backlog-clearer/receipt/1",
    "version": "0.1.0",
    "run_id": "r",
    "system": "memory",
    "subscription": "group g on topic t",
    "identity": {"topic": "t", "group": "g"},
    "options": {"topic": "t", "group_id": "g"},
    "action": "clear",
    "mode": "consume",
    "slice": None,
    "unit": "messages",
    "created_at": "2026-11-23T21:45:00Z",
    "partitions": [
        {"topic": "t", "partition": 0, "position": 100, "backlog": 400, "target": 500, "undo": None},
        {"topic": "t", "partition": 2, "position": None, "backlog": 500, "target": 500, "undo": None},
    ],
    "result": None,
}
"""A receipt as the first version wrote it."""


def test_receipts_of_earlier_versions_are_restored_and_said_to_be_unchecked(tmp_path: Path) -> None:
    """A receipt without checksum, sequence and incarnations is restored; notes state what it lacks."""
    broker, source = filled()
    cleared(source, tmp_path)
    path = tmp_path / "old" / "whole-0a1b2c3d.json"
    path.parent.mkdir()
    path.write_text(json.dumps(OLD))
    receipt = load(str(path))
    assert (receipt.sequence, receipt.checksum) == (0, None)
    (note,) = unsealed([receipt])
    assert "cannot be detected" in note
    assert unsealed([load(str(cleared(source, tmp_path).receipt))]) == ()
    result = back(source, tmp_path, original_positions([receipt]))
    assert stored(broker) == [100, 500, None]
    assert any("cannot be checked whether t[0], t[2] was created again" in n for n in result.notes)


def test_a_part_of_the_identity_that_a_receipt_lacks_is_named() -> None:
    """A receipt without the cluster's id is not taken for one of this cluster without a word."""
    whole = {"cluster_id": "c1", "topic": "t"}
    here = Survey("group g on topic t", whole, ())
    (note,) = unidentified({"topic": "t"}, here)
    assert "does not record cluster_id" in note
    assert "cluster_id 'c1' cannot be checked" in note
    assert unidentified(whole, here) == ()

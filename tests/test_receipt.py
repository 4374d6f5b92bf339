"""Receipts are durable and distinct, and other files are refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode, Partition, Recorded
from backlog_clearer.options.run import Slice
from backlog_clearer.run.receipt import (
    Receipt,
    RecordedPartition,
    load,
    load_run,
    new_path,
    new_run_id,
    original_positions,
    save,
)
from backlog_clearer.run.report import Action

NOW = datetime(2026, 11, 23, 21, 45, tzinfo=timezone.utc)


def receipt(positions: dict[int, int | None], *, minute: int = 0) -> Receipt:
    """A receipt of one topic."""
    return Receipt(
        version="1",
        run_id="r1",
        system="kafka",
        subscription="group g on topic t",
        identity={"topic": "t"},
        options={},
        action=Action.CLEAR,
        mode=Mode.CONSUME,
        slice=None,
        unit="offsets",
        created_at=NOW.replace(minute=minute),
        partitions=tuple(
            RecordedPartition(topic="t", partition=number, position=position, backlog=None)
            for number, position in positions.items()
        ),
    )


def test_a_stored_receipt_is_loaded_unchanged(tmp_path: Path) -> None:
    """A loaded receipt equals the stored one, and no draft is left beside it."""
    path = new_path(str(tmp_path), "r1", Slice(index=1, total=3))
    save(receipt({0: 5, 1: None}), path)
    found = load(path)
    assert found.checksum is not None
    assert found.model_copy(update={"checksum": None}) == receipt({0: 5, 1: None})
    assert [file.suffix for file in (tmp_path / "r1").iterdir()] == [".json"]


def test_two_invocations_of_a_slice_do_not_share_a_receipt(tmp_path: Path) -> None:
    """Overlapping invocations each keep their own receipt."""
    part = Slice(index=0, total=2)
    assert new_path(str(tmp_path), "r1", part) != new_path(str(tmp_path), "r1", part)


def test_the_oldest_position_wins(tmp_path: Path) -> None:
    """Restoring a run goes back to before its first invocation, whatever later ones saw."""
    save(receipt({0: 900}, minute=9), f"{tmp_path}/r1/whole-b.json")
    save(receipt({0: 5, 1: None}, minute=1), f"{tmp_path}/r1/slice-0-of-2-z.json")
    found = load_run(str(tmp_path), "r1")
    assert sorted(original_positions(found.values())) == [
        Recorded(Partition("t", 0), 5),
        Recorded(Partition("t", 1), None),
    ]


def test_a_slice_finds_its_own_receipts(tmp_path: Path) -> None:
    """Loading one slice leaves out receipts of other slices and other files of the run."""
    for name in ("slice-1-of-3-a", "slice-1-of-30-a", "slice-11-of-3-a", "whole-a"):
        save(receipt({0: 1}), f"{tmp_path}/r1/{name}.json")
    (tmp_path / "r1/dispatch.json").write_text("{}")
    found = load_run(str(tmp_path), "r1", Slice(index=1, total=3))
    assert [Path(path).name for path in found] == ["slice-1-of-3-a.json"]
    assert len(load_run(str(tmp_path), "r1")) == 4
    assert load_run(str(tmp_path), "r2") == {}


def test_run_ids_sort_by_time() -> None:
    """Run ids sort by creation time and cannot collide within a second by chance."""
    assert new_run_id(NOW) < new_run_id(NOW.replace(hour=22))
    assert len({new_run_id(NOW) for _ in range(100)}) == 100


@pytest.mark.parametrize("run_id", ["../x", "", "a/b", ".hidden"])
def test_a_run_id_is_never_a_path(tmp_path: Path, run_id: str) -> None:
    """A run id from outside cannot leave the receipt directory."""
    with pytest.raises(UsageError, match="run id"):
        new_path(str(tmp_path), run_id, None)


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"schema": "something/else"}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    """A file that is not a receipt is refused by its name."""
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a receipt"):
        load(str(path))


def test_missing_receipt_is_named(tmp_path: Path) -> None:
    """The error for a missing receipt names it."""
    with pytest.raises(UsageError, match=r"gone\.json"):
        load(str(tmp_path / "gone.json"))


@pytest.mark.parametrize(
    ("field", "value"), [("position", -1), ("position", -1001), ("target", -1001), ("backlog", -1)]
)
def test_impossible_figures_are_refused(tmp_path: Path, field: str, value: int) -> None:
    """A receipt with a position, target or backlog that no broker can have is not read."""
    path = tmp_path / "receipt.json"
    data = receipt({0: 5}).model_dump(mode="json", by_alias=True)
    data["partitions"][0][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=rf"partitions\.0\.{field}"):
        load(str(path))

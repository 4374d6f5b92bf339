"""Receipts on disks that fail, and damaged receipts: what is refused, and what can still be undone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane
from tests.invoking import call, clear, stored, three_partitions

UNTOUCHED, CLEARED = [None, None, None], [1000, 1000, 1000]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def receipt() -> Path:
    """The only receipt."""
    (found,) = Path("receipts").rglob("*.json")
    return found


def test_a_truncated_receipt_is_refused_wherever_it_ends(broker: MemoryBroker) -> None:
    """Whatever is missing at the end of the file, a restore exits with 2 and changes nothing."""
    assert clear("--stop-when-empty").exit_code == 0
    path = receipt()
    data = path.read_bytes()
    for size in [*range(0, len(data), 211), len(data) - 2, len(data) - 1]:
        path.write_bytes(data[:size])
        done = call("restore", str(path), "--yes")
        assert done.exit_code == 2, size
        assert "is not a receipt of this tool" in done.stderr
        assert stored(broker) == CLEARED
    path.write_bytes(data)
    assert call("restore", str(path), "--yes").exit_code == 0
    assert stored(broker) == UNTOUCHED


def test_an_edited_figure_is_noticed_wherever_it_is(broker: MemoryBroker) -> None:
    """Each value that a restore uses, changed by another hand, makes the receipt be refused."""
    assert clear("--stop-when-empty").exit_code == 0
    path = receipt()
    whole = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [
        {"identity": {**whole["identity"], "group": "shipping"}},
        {"options": {**whole["options"], "topic": "other"}},
        {"partitions": whole["partitions"][:2]},
        {"partitions": [{**entry, "position": 7} for entry in whole["partitions"]]},
        {"partitions": [{**entry, "incarnation": None} for entry in whole["partitions"]]},
        {"sequence": 9},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"run_id": "another"},
    ]
    for change in changes:
        path.write_text(json.dumps({**whole, **change}))
        done = call("restore", str(path), "--yes")
        assert done.exit_code == 2, change
        assert "was edited or damaged" in done.stderr
        assert stored(broker) == CLEARED


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_place_that_cannot_be_written_stops_the_run_with_its_reason(
    broker: MemoryBroker, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only, full, over quota, or broken: the system's reason, exit 1, and nothing is changed."""
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **rest: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".tmp"):
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *args, **rest)

    monkeypatch.setattr(os, "open", refuse)
    done = clear("--stop-when-empty")
    assert done.exit_code == 1
    assert f"{os.strerror(number)}. Nothing was changed; choose another place" in done.stderr
    assert stored(broker) == UNTOUCHED
    assert not list(Path("receipts").rglob("*.json"))


def test_a_folder_that_vanishes_during_a_run_is_made_again(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts that are deleted while a run drains: the completed receipt still undoes it."""
    settle = MemoryLane.settle

    def vanish(lane: MemoryLane) -> Any:
        shutil.rmtree("receipts", ignore_errors=True)
        return settle(lane)

    monkeypatch.setattr(MemoryLane, "settle", vanish)
    assert clear("--stop-when-empty").exit_code == 0
    assert stored(broker) == CLEARED
    assert call("restore", str(receipt()), "--yes").exit_code == 0
    assert stored(broker) == UNTOUCHED


def test_a_disk_that_fills_up_during_a_run_leaves_a_receipt_that_undoes_it(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result cannot be stored: a note reports that, and the receipt from before the change is whole."""
    synced, calls = os.fsync, iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) >= 2:  # the receipt, and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = clear("--stop-when-empty", "--output", "json")
    assert done.exit_code == 0
    assert any("could not be completed" in note for note in json.loads(done.stdout)["notes"])
    assert json.loads(receipt().read_text())["result"] is None
    assert stored(broker) == CLEARED
    assert call("restore", str(receipt()), "--yes").exit_code == 0
    assert stored(broker) == UNTOUCHED

"""The estimate of a dry run, by the receipts of earlier runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.model import Mode, StopReason
from backlog_clearer.run import earlier_rate as module
from backlog_clearer.run import store
from backlog_clearer.run.earlier_rate import EarlierRate, newest_first, rate_shown_by
from backlog_clearer.run.receipt import Receipt, load, save
from tests.invoking import clear, stored, three_partitions

IDENTITY = {"topic": "orders", "group": "billing"}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def cleared(broker: MemoryBroker, *args: str, seconds: float = 60.0) -> Receipt:
    """Clear the backlog, and let the receipt record that it took so long; a new backlog follows."""
    path = json.loads(clear("--stop-when-empty", *args, "--output", "json").stdout)["receipt"]
    receipt = load(path)
    assert receipt.result is not None
    receipt = receipt.model_copy(update={"result": with_values(receipt, seconds=seconds)})
    save(receipt, path)
    folder = Path(path).parent
    folder.rename(folder.parent / f"2099{len(list(folder.parent.iterdir())):04d}T000000Z-00000000")
    for number in range(3):
        broker.produce("orders", number, 1000)
    return receipt


def with_values(receipt: Receipt, **values: Any) -> Any:
    """The result of a receipt with other values."""
    assert receipt.result is not None
    return receipt.result.model_copy(update=values)


def dry_run(*args: str) -> dict[str, Any]:
    """The result of a dry run."""
    done = clear("--dry-run", *args, "--output", "json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_dry_run_takes_as_long_as_the_newest_run_shows(broker: MemoryBroker) -> None:
    """3,000 messages took 60 s: 6,000 take 120 s, with the run that this is taken from, as text and JSON."""
    cleared(broker, seconds=900.0)
    receipt = cleared(broker, seconds=60.0)
    for number in range(3):
        broker.produce("orders", number, 1000)
    found = dry_run()
    sentence = (
        f"Reading 6,000 messages takes about 2 min at the rate of run {receipt.run_id}"
        " (3,000 messages in 60 s)."
    )
    assert (found["eta_seconds"], sentence in found["notes"]) == (120.0, True)
    text = clear("--dry-run").stdout
    assert text.count(sentence) == 1
    assert stored(broker) == [2000, 2000, 2000]


@pytest.mark.parametrize("args", [["--mode", "skip"], ["--partitions", "0", "--group-id", "other"]])
def test_what_reads_nothing_or_is_another_backlog_has_no_estimate(
    broker: MemoryBroker, args: list[str]
) -> None:
    """A skip reads nothing, and another group's rate is not this one's: no estimate, and no note of one."""
    cleared(broker)
    found = dry_run(*args)
    assert found["eta_seconds"] is None
    assert not [note for note in found["notes"] if "at the rate of" in note]


def test_without_receipts_nothing_is_estimated(broker: MemoryBroker) -> None:
    """Where no run was recorded the estimate is null, and the dry run creates no directory."""
    assert dry_run("--receipt-dir", "none")["eta_seconds"] is None
    assert not Path("none").exists()
    assert stored(broker) == [None, None, None]


def test_a_limit_on_the_rate_is_not_outrun(broker: MemoryBroker) -> None:
    """With --max-rate the estimate is at least the time that the limit takes."""
    cleared(broker, seconds=3.0)
    assert dry_run()["eta_seconds"] == 3.0
    assert dry_run("--max-rate", "100/s")["eta_seconds"] == 30.0


def test_a_slice_is_compared_with_the_same_slice(broker: MemoryBroker) -> None:
    """The rate of a whole run is not that of one of its slices."""
    cleared(broker)
    assert dry_run("--slice", "0/3")["eta_seconds"] is None
    cleared(broker, "--slice", "0/3", seconds=5.0)
    assert dry_run("--slice", "0/3")["eta_seconds"] == 5.0


def test_damaged_receipts_and_a_slow_store_leave_the_plan_as_it_is(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt that cannot be read is passed over; a store that does not answer is not waited for."""
    cleared(broker, seconds=30.0)
    damaged = cleared(broker)
    (path,) = max(Path("receipts").iterdir()).iterdir()
    assert load(str(path)) == damaged
    path.write_text("{}", encoding="utf-8")
    assert dry_run()["eta_seconds"] == 30.0
    monkeypatch.setattr(module, "DEADLINE_S", 0.0)
    monkeypatch.setattr(store, "folders", lambda _: threading.Event().wait(60.0))
    assert dry_run()["eta_seconds"] is None


def test_only_the_newest_runs_are_read(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among thousands of runs, one receipt of each of the newest few is read."""
    names = [f"2026{day:04d}T000000Z-00000000" for day in range(3000)]
    read: list[str] = []

    def listed(folder: str, prefix: str) -> list[str]:
        read.append(f"{folder}/{prefix}")
        return []

    monkeypatch.setattr(store, "folders", lambda _: ["a-run", *names])
    monkeypatch.setattr(store, "json_files", listed)
    assert dry_run("--receipt-dir", "kept")["eta_seconds"] is None
    assert [item for item in read if item.startswith("kept/2026")] == [
        f"kept/{name}/whole-" for name in names[: -module.RUNS - 1 : -1]
    ]
    assert stored(broker) == [None, None, None]


def test_runs_are_sorted_by_the_time_in_their_ids() -> None:
    """Ids that a user chose come after those that begin with a time."""
    ids = ["nightly", "20260102T000000Z-0000000a", "20261126T000000Z-0000000b"]
    assert newest_first(ids) == [ids[2], ids[1], ids[0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 3000),
        ({"stop_reason": StopReason.LIMIT}, 3000),
        ({"stop_reason": StopReason.SIGNAL}, None),
        ({"stop_reason": StopReason.STALLED}, None),
        ({"seconds": 0.0}, None),
    ],
)
def test_only_runs_that_read_all_the_time_show_a_rate(
    broker: MemoryBroker, values: dict[str, Any], expected: int | None
) -> None:
    """A run that waited for messages, or failed, does not measure how fast a backlog is read."""
    receipt = cleared(broker)
    changed = receipt.model_copy(update={"result": with_values(receipt, **values)})
    found = rate_shown_by(changed, "memory", IDENTITY)
    assert (None if found is None else found.read) == expected
    assert rate_shown_by(changed, "memory", {**IDENTITY, "group": "other"}) is None
    assert rate_shown_by(changed.model_copy(update={"mode": Mode.SKIP}), "memory", IDENTITY) is None


def test_units_that_are_not_messages_are_counted_by_the_backlog(broker: MemoryBroker) -> None:
    """A run that read 3,000 offsets with fewer messages in them has a rate in offsets."""
    receipt = cleared(broker, seconds=10.0)
    assert receipt.result is not None
    totals = receipt.result.totals.model_copy(update={"messages": 40})
    offsets = receipt.model_copy(
        update={"unit": "offsets", "result": with_values(receipt, totals=totals)}
    )
    found = rate_shown_by(offsets, "memory", IDENTITY)
    assert found == EarlierRate(receipt.run_id, 3000, 10.0, "offsets")
    assert found.seconds_for(600) == 2.0

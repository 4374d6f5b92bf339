"""`receipts` on the command line: what is kept, what can still be undone, and what is removed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli.session import Session
from backlog_clearer.engine.drain import Halt
from backlog_clearer.model import Partition
from backlog_clearer.run import store
from backlog_clearer.run.kept import kept_receipt, undo_text
from backlog_clearer.run.receipt import Receipt, load, save
from tests.invoking import call, clear, stored, three_partitions

NOW = datetime(2026, 11, 26, 3, 15, tzinfo=timezone.utc)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def cleared(*args: str) -> str:
    """Run a clear; the path of its receipt."""
    path: str = json.loads(clear("--stop-when-empty", "--output", "json", *args).stdout)["receipt"]
    return path


def listed(*args: str) -> list[dict[str, Any]]:
    """The receipts that `receipts list` has."""
    found: list[dict[str, Any]] = json.loads(
        call("receipts", "list", *args, "--output", "json").stdout
    )["receipts"]
    return found


def age(path: str, days: float) -> str:
    """Make a receipt as old as this; its path."""
    receipt = load(path)
    older = receipt.model_copy(update={"created_at": receipt.created_at - timedelta(days=days)})
    save(older, path)
    return path


def test_receipts_are_listed_oldest_first_with_what_can_be_undone(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear can be undone, a declined run and one that changed nothing have nothing to undo."""
    first = age(cleared(), 2)
    nothing = age(cleared(), 1)
    with monkeypatch.context() as patched:
        patched.setattr(Session, "asks", True)
        clear("--mode", "skip", input="n\n")
    call("restore", first, "--yes")
    assert stored(broker) == [None, None, None]
    found = listed()
    assert [item["path"] for item in found[:2]] == [first, nothing]
    assert [(item["outcome"], item["undoable"]) for item in found] == [
        ("cleared", 3), ("cleared", 0), ("declined", 0), ("restored", 3)
    ]  # fmt: skip
    text = call("receipts", "list").stdout.splitlines()
    assert "3 of 3 partitions" in text[1]
    assert text[2].strip() == first
    assert "nothing" in text[3]
    assert text[-1] == "4 receipts in receipts"


@pytest.mark.parametrize("place", ["elsewhere", "file"])
def test_another_directory_or_url_is_listed(broker: MemoryBroker, tmp_path: Path, place: str) -> None:
    """The place is an argument: a path or a URL; a place without receipts has none, and is not made."""
    url = f"file://{tmp_path}/kept" if place == "file" else place
    assert listed(url) == []
    assert not (tmp_path / "kept").exists()
    path = cleared("--receipt-dir", url)
    assert [item["path"] for item in listed(url)] == [path]
    assert listed() == []
    assert stored(broker) == [1000, 1000, 1000]


def test_a_damaged_receipt_does_not_hide_the_others(broker: MemoryBroker) -> None:
    """What cannot be read is named, and the exit code is 1; the others are listed."""
    good, bad = cleared(), Path(cleared())
    bad.write_text(bad.read_text().replace('"position": 1000', '"position": 5'))
    done = call("receipts", "list")
    assert done.exit_code == 1
    assert good in done.stdout
    assert str(bad) in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def test_a_receipt_is_shown_with_its_undo(broker: MemoryBroker) -> None:
    """`receipts show` has run, positions and result, and the undo command that it prints works."""
    broker.positions["billing", Partition("orders", 1)] = 400
    path = cleared()
    text = call("receipts", "show", path).stdout
    assert "group billing on topic orders (memory)" in text
    assert [line.split() for line in text.splitlines() if line.startswith("orders[1]")] == [
        ["orders[1]", "400", "1000", "600"]
    ]
    assert "Result: Cleared and verified" in text
    assert "Can be undone: 3 of 3 partitions" in text
    assert f"restore {Path(path).absolute()}" in text
    assert json.loads(call("receipts", "show", path, "--output", "json").stdout) == json.loads(
        Path(path).read_text()
    )
    assert stored(broker) == [1000, 1000, 1000]


def test_a_run_without_a_result_can_be_undone(broker: MemoryBroker) -> None:
    """The receipt of a run that died is "started", and its positions can be put back."""
    path = cleared()
    save(load(path).model_copy(update={"result": None}), path)
    (item,) = listed()
    assert (item["outcome"], item["undoable"]) == ("started", 3)
    assert "Result: started" in call("receipts", "show", path).stdout
    since = f"no result since {item['created_at'][:16]}Z"
    assert since in call("receipts", "show", path).stdout
    for shown in (
        call("receipts", "list"),
        call("receipts", "show", path),
        call("progress", item["run_id"]),
    ):
        assert "is still running, or was killed" in shown.stdout
    progress = call("progress", item["run_id"], "--output", "json").stdout
    assert [each["state"] for each in json.loads(progress)["slices"]] == ["started"]
    assert [each["since"] for each in json.loads(progress)["slices"]] == [item["created_at"]]
    assert call("restore", path, "--yes").exit_code == 0
    assert stored(broker) == [None, None, None]


def test_a_signal_while_receipts_are_removed_waits_for_the_rest(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal does not end a removal in the middle, with the message that nothing was changed."""
    del broker
    paths = [Path(age(cleared(), 100)), Path(age(cleared(), 100))]
    removing = store.remove

    def interrupted(paths: Sequence[str]) -> None:
        removing(paths)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(store, "remove", interrupted)
    monkeypatch.setattr(Halt, "signal", lambda _: None)  # or the second one would end this process
    done = call("receipts", "prune", "--older-than", "90d", "--yes")
    assert (done.exit_code, "2 receipts removed" in done.stdout) == (0, True)
    assert "SIGINT: removing the receipts" in done.stderr
    assert not any(path.exists() for path in paths)


def test_old_runs_are_pruned_and_others_kept(broker: MemoryBroker) -> None:
    """`receipts prune` removes the folders of runs that are older, and nothing else."""
    old, new = Path(age(cleared(), 100)), Path(cleared())
    (old.parent / "dispatch.json").write_text("{}")
    aside = Path("receipts/a-folder-of-mine")
    aside.mkdir()
    assert call("receipts", "prune", "--older-than", "90d", "--dry-run").exit_code == 0
    assert old.exists()
    refused = call("receipts", "prune", "--older-than", "90d")
    assert (refused.exit_code, "needs --yes" in refused.stderr, old.exists()) == (2, True, True)
    done = call("receipts", "prune", "--older-than", "90d", "--yes")
    assert done.exit_code == 0, done.stderr
    assert str(old) in done.stdout
    assert done.stdout.splitlines()[-1] == "1 receipt removed"
    assert not old.parent.exists()
    assert (new.exists(), aside.exists()) == (True, True)
    assert stored(broker) == [1000, 1000, 1000]


def test_a_run_with_a_new_receipt_is_kept_whole(broker: MemoryBroker) -> None:
    """Receipts of one run are removed together, so that its undo is never incomplete."""
    first = Path(age(cleared("--partitions", "0"), 100))
    receipt = load(str(first))
    save(receipt.model_copy(update={"created_at": datetime.now(timezone.utc)}), str(first.parent / "whole-0002-00000000.json"))  # fmt: skip # noqa: E501
    done = call("receipts", "prune", "--older-than", "90d", "--yes", "--output", "json")
    assert json.loads(done.stdout)["receipts"] == []
    assert first.exists()
    assert stored(broker) == [1000, None, None]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_before_receipts_are_removed(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """What would be removed, and what it can undo, is shown with the question."""
    path = age(cleared(), 100)
    monkeypatch.setattr(Session, "asks", True)
    done = call("receipts", "prune", "--older-than", "90d", input=f"{answer}\n")
    assert path in done.stderr
    assert "3 of 3 partitions" in done.stderr
    assert Path(path).exists() is (answer == "n")
    assert done.exit_code == (0 if answer == "y" else 1)
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["prune"], "--older-than"),
        (["prune", "--older-than", "soon", "--yes"], "--older-than: write a number"),
        (["list", "memory://x"], "The directory: "),
        (["show", "no.json"], "no.json cannot be read"),
        (["lsit"], "Did you mean 'list'?"),
    ],
)
def test_a_wrong_call_is_named(broker: MemoryBroker, args: list[str], hint: str) -> None:
    """Wrong use of `receipts` exits 2, also as JSON."""
    done = call("receipts", *args, "--output", "json")
    assert done.exit_code == 2
    assert hint in json.loads(done.stdout)["error"]
    assert not broker.positions


@pytest.mark.parametrize(
    ("days", "text"),
    [(6.5, "1 of 1 partition, for 6 days"), (0.5, "1 of 1 partition, for 12 hours"), (-1, "nothing")],
)
def test_a_snapshot_that_expires_limits_the_undo(days: float, text: str) -> None:
    """A position that expires, as Pub/Sub's snapshots do, can be restored until then."""
    until = (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    receipt = Receipt.model_validate(
        {
            "version": "1",
            "run_id": "r",
            "system": "googlepubsub",
            "subscription": "s",
            "identity": {"subscription": "s"},
            "options": {},
            "action": "clear",
            "mode": "skip",
            "slice": None,
            "unit": "messages",
            "created_at": NOW,
            "partitions": [
                {
                    "topic": "projects/p/subscriptions/s",
                    "partition": 0,
                    "position": {"snapshot": "projects/p/snapshots/x", "expires_by": until},
                    "backlog": None,
                }
            ],
        }
    )
    assert undo_text(kept_receipt("r.json", receipt, NOW), NOW) == text

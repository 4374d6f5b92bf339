"""Consent: what is asked for before anything happens, and what a run that got none leaves behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli.session import Session
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.receipt import Receipt
from tests.invoking import call, clear, stored, three_partitions


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def the_receipt() -> tuple[Path, Receipt]:
    """The only receipt that is stored."""
    (path,) = Path("receipts").rglob("*.json")
    return path, Receipt.model_validate_json(path.read_text())


def _decline(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Make the next run end at its question: by an answer, by Ctrl-C, or by the end of the input."""
    monkeypatch.setattr(Session, "asks", True)
    if how == "interrupt":

        def interrupted(_: Session, plan: Plan) -> bool:
            signal.raise_signal(signal.SIGINT)
            return bool(plan)

        monkeypatch.setattr(Session, "confirm", interrupted)


@pytest.mark.parametrize("how", ["answer", "end of input", "interrupt"])
@pytest.mark.parametrize("mode", ["skip", "consume"])
def test_the_receipt_of_a_declined_run_says_so(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, how: str, mode: str
) -> None:
    """However a run ends at its question, its receipt is complete, and its status is "declined"."""
    with monkeypatch.context() as patched:
        _decline(patched, how)
        done = clear("--mode", mode, "--stop-when-empty", input="n\n" if how == "answer" else "")
    assert done.exit_code == 1
    assert "nothing was changed" in done.stderr
    assert stored(broker) == [None, None, None]
    path, receipt = the_receipt()
    assert receipt.result is not None
    assert (receipt.result.stop_reason, receipt.result.changed) == ("declined", False)
    shown = call("progress", receipt.run_id)
    assert "declined" in shown.stdout
    assert "started" not in shown.stdout
    undo = call("restore", str(path), "--yes")
    assert undo.exit_code == 2
    assert "nothing to undo" in undo.stderr
    assert stored(broker) == [None, None, None]


def test_the_receipt_of_a_declined_restore_says_so(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that is not confirmed leaves a declined receipt, and the positions as they were."""
    first = json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"]
    monkeypatch.setattr(Session, "asks", True)
    assert call("restore", first, input="n\n").exit_code == 1
    assert stored(broker) == [1000, 1000, 1000]
    found = [json.loads(path.read_text()) for path in Path("receipts").rglob("*.json")]
    results = {item["action"]: item["result"] for item in found}
    assert results["restore"]["stop_reason"] == "declined"
    assert results["restore"]["verdict"] == "not_restored"
    assert results["clear"]["verdict"] == "cleared"


def test_yes_is_asked_for_before_anything_is_connected_or_stored(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes, a skip and a restore survey nothing and write no receipt."""
    receipt = json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"]
    before = sorted(Path("receipts").rglob("*"))
    surveys: list[MemorySource] = []
    monkeypatch.setattr(MemorySource, "survey", surveys.append)
    for done in (clear("--mode", "skip"), call("restore", receipt)):
        assert done.exit_code == 2
        assert "this needs --yes" in done.stderr
    assert not surveys
    assert sorted(Path("receipts").rglob("*")) == before
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize("mode", ["skip", "consume"])
def test_a_dry_run_needs_no_consent(broker: MemoryBroker, mode: str) -> None:
    """A dry run changes nothing, so that it needs neither a terminal nor --yes."""
    assert clear("--mode", mode, "--dry-run").exit_code == 0
    assert stored(broker) == [None, None, None]

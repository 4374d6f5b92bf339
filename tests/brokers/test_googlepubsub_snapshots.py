"""Snapshots that runs leave on Pub/Sub: listed by `status`, and deleted with their receipts if asked to."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.run.clear import clear
from backlog_clearer.run.receipt import load, save
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.pubsub import PROJECT, PubSubServer
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job
from tests.invoking import call

__all__ = ["server"]


@pytest.fixture
def bench(server: PubSubServer) -> PubSubBench:
    """A subscription with 30 messages, whose figures Monitoring has."""
    made = PubSubBench(server, figures=True)
    server.publish(made.sub, 30)
    return made


def skipped(bench: PubSubBench, tmp_path: Path, **options: Any) -> RunResult:
    """A skip, which leaves a snapshot and a receipt from two days ago."""
    bench.server.publish(bench.sub, 1)
    done = clear(job(bench, tmp_path, {"mode": "skip"}, **options))
    path = str(done.receipt)
    receipt = load(path)
    save(receipt.model_copy(update={"created_at": receipt.created_at - timedelta(days=2)}), path)
    return done


def pruned(tmp_path: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Prune receipts of more than a day; the exit code and the printed object."""
    command = ("receipts", "prune", str(tmp_path), "--older-than", "1d", "--yes", "--output", "json")
    done = call(*command, *args)
    found: dict[str, Any] = json.loads(done.stdout)
    return done.exit_code, found


def test_snapshots_of_runs_are_listed_by_status(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """A status names this subscription's snapshots with their expiry, and those of no other one."""
    assert not any("snapshots of runs" in note for note in status(job(bench, tmp_path)).notes)
    runs = [skipped(bench, tmp_path).run_id for _ in range(2)]
    server.publish(server.create("shipping"), 1)
    other = clear(job(bench, tmp_path, {"mode": "skip"}, subscription_id="shipping")).run_id
    asked = server.count("ListSnapshots")
    (note,) = (text for text in status(job(bench, tmp_path)).notes if "snapshots of runs" in text)
    assert note.startswith("2 snapshots of runs on this subscription: ")
    for run_id in runs:
        expires = server.snapshots[f"{PROJECT}/snapshots/backlog-clearer-{run_id}"][0].expire_time
        assert f"backlog-clearer-{run_id} (until {expires:%Y-%m-%dT%H:%MZ})" in note
    assert other not in note
    assert server.count("ListSnapshots") == asked + 1
    assert len(server.snapshots) == 3


def test_a_status_names_no_snapshot_that_does_not_exist(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """A status and a dry run take no snapshot: they state that a run takes one, and for how long."""
    looked = status(job(bench, tmp_path))
    tried = clear(job(bench, tmp_path, {"dry_run": True}))
    for shown in (looked, tried):
        assert not any("backlog-clearer-2" in note for note in shown.notes)
        assert any("A run takes a snapshot before" in note for note in shown.notes)
    assert not server.snapshots


def test_a_status_without_the_right_to_list_snapshots_states_it(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """The backlog is shown, and a note names the missing permission: not that there are no snapshots."""
    server.denied.add("pubsub.snapshots.list")
    shown = status(job(bench, tmp_path))
    assert shown.totals.backlog == 30
    (note,) = (text for text in shown.notes if "left snapshots" in text)
    assert "is unknown" in note
    assert "pubsub.snapshots.list" in note


def test_snapshots_are_deleted_with_their_receipts_only_if_asked_to(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """`receipts prune` leaves a snapshot, and with --delete-snapshots deletes those of its receipts."""
    skipped(bench, tmp_path)
    code, found = pruned(tmp_path)
    assert (code, len(found["receipts"]), len(server.snapshots)) == (0, 1, 1)
    assert not list(tmp_path.rglob("*.json"))
    (left,) = server.snapshots
    skipped(bench, tmp_path)
    assert len(server.snapshots) == 2
    code, found = pruned(tmp_path, "--delete-snapshots")
    assert (code, len(found["receipts"]), found["undeleted"]) == (0, 1, [])
    assert list(server.snapshots) == [left]
    assert not list(tmp_path.rglob("*.json"))


def test_a_snapshot_that_is_gone_does_not_hold_its_receipt(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """Where a snapshot was deleted meanwhile, its receipt is removed without an error."""
    skipped(bench, tmp_path)
    server.snapshots.clear()
    code, found = pruned(tmp_path, "--delete-snapshots")
    assert (code, len(found["receipts"]), found["undeleted"]) == (0, 1, [])


@pytest.mark.parametrize("why", ["no permission", "another subscription's"])
def test_a_receipt_is_kept_where_its_snapshot_is_not_deleted(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path, why: str
) -> None:
    """The reason is named, the exit code is 1, the snapshot stays, and other receipts are removed."""
    path = str(skipped(bench, tmp_path).receipt)
    if why == "no permission":
        server.denied.add("pubsub.snapshots.delete")
        reason = "pubsub.snapshots.delete"
    else:
        next(iter(server.snapshots.values()))[0].labels["backlog-clearer-subscription"] = "other"
        reason = "was not taken for"
    plain = skipped(bench, tmp_path, no_snapshot=True)
    code, found = pruned(tmp_path, "--delete-snapshots")
    assert code == 1
    assert [item["path"] for item in found["receipts"]] == [plain.receipt]
    (text,) = found["undeleted"]
    assert text.startswith(f"{path} is kept: ")
    assert reason in text
    assert (Path(path).exists(), len(server.snapshots)) == (True, 1)


def test_a_credentials_file_of_a_receipt_is_used_only_if_it_is_allowed(
    server: PubSubServer, bench: PubSubBench, tmp_path: Path
) -> None:
    """A receipt that names a file whose content would be sent is kept, and what to add is named."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    path = str(skipped(bench, tmp_path / "kept").receipt)
    receipt = load(path)
    options = {**receipt.options, "credentials_file": str(key)}
    save(receipt.model_copy(update={"options": options}), path)
    code, found = pruned(tmp_path / "kept", "--delete-snapshots")
    assert code == 1
    assert f"--allow-reference file:{key}" in found["undeleted"][0]
    assert len(server.snapshots) == 1
    code, found = pruned(tmp_path / "kept", "--delete-snapshots", "--allow-reference", f"file:{key}")
    assert (code, found["undeleted"], server.snapshots) == (0, [], {})

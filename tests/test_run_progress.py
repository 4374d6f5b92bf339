"""The pace of a run of many slices, and `progress --watch` over its store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli.slice_tables import progress_table
from backlog_clearer.cli.watch_texts import run_text
from backlog_clearer.errors import RefusedError
from backlog_clearer.fanout.configuration import Config, Request, parse
from backlog_clearer.fanout.dispatch import Dispatch, dispatch
from backlog_clearer.fanout.run_status import RunStatus, combined, note_failure, run_status
from backlog_clearer.fanout.slices import drain_slice
from backlog_clearer.model import Partition, StopReason
from backlog_clearer.run import store
from backlog_clearer.run.receipt import Receipt, load_run
from backlog_clearer.run.report import Verdict
from tests import memory_system
from tests.command import CLEANER
from tests.invoking import on_memory
from tests.paths import MODULE_PATH

EACH = 500


class Run:
    """A dispatched run of four slices of `EACH` messages."""

    def __init__(self, broker: MemoryBroker, folder: Path) -> None:
        self.broker, self.folder = broker, str(folder)
        self.requests: list[Request] = []
        self.found: Config = parse(
            {
                "receipts": self.folder,
                "backlogs": {
                    "orders": {
                        "system": "memory",
                        "options": {"topic": "t", "group_id": "g"},
                        "messages_per_slice": EACH,
                    }
                },
            },
            {},
        )
        self.made: Dispatch = dispatch(
            self.found, Request.model_validate({"backlog": "orders"}), self.requests.extend, {}
        )

    def drain(self, *slices: int) -> None:
        """Run these slices."""
        for index in slices:
            drain_slice(self.found, self.requests[index], deadline_s=None, environ={})

    def status(self, receipts: Sequence[Receipt], seconds: float) -> RunStatus:
        """The status from these receipts, so many seconds after the dispatch."""
        at = self.made.created_at + timedelta(seconds=seconds)
        return combined(self.made.run_id, self.made, receipts, [], at)

    def receipts(self, seconds: float) -> list[Receipt]:
        """Those that are stored, as if each invocation had begun with the dispatch and drained so long."""
        found = load_run(self.folder, self.made.run_id).values()
        return [with_time(item, self.made.created_at, seconds) for item in found]

    def left(self) -> int:
        """What the broker has left for the group."""
        return sum(
            EACH - (self.broker.position("g", Partition("t", number)) or 0) for number in range(4)
        )


def with_time(receipt: Receipt, began: datetime, seconds: float) -> Receipt:
    """A receipt whose invocation drained so long."""
    result = receipt.result
    if result is not None:
        result = result.model_copy(update={"seconds": seconds})
    return receipt.model_copy(update={"created_at": began, "result": result})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """A dispatched run, none of whose slices has begun."""
    with on_memory(monkeypatch, tmp_path) as broker:
        broker.create("t", 4)
        for number in range(4):
            broker.produce("t", number, EACH)
        yield Run(broker, tmp_path / "kept")
        memory_system.reset()


def test_slices_that_ended_give_rate_and_eta_of_those_at_work(run: Run) -> None:
    """Two slices took 10 s each; the third is 4 s at work, so that it takes 6 s more, and the run 20 s."""
    run.drain(0, 1, 2)
    done = run.receipts(10.0)
    at_work = done[2].model_copy(
        update={"created_at": run.made.created_at + timedelta(seconds=16), "result": None}
    )
    found = run.status([*done[:2], at_work], 20.0)
    assert [item.per_second for item in found.slices] == [50.0, 50.0, None, None]
    assert [item.eta_seconds for item in found.slices] == [None, None, 6.0, None]
    assert [(item.gone, item.backlog) for item in found.slices] == [
        (EACH, EACH), (EACH, EACH), (None, EACH), (None, None),
    ]  # fmt: skip
    assert (found.gone_so_far, found.expected, found.per_second) == (1000, 2000, 50.0)
    assert (found.eta_seconds, found.ended) == (20.0, False)
    assert run_text(found) == (
        f"run {run.made.run_id}: 1 waiting, 1 started, 2 cleared;"
        " 1,000 of 2,000 messages cleared, 50/s, ETA 20 s"
    )
    rows = [line.split() for line in progress_table(found.slices, found.unit, None)]
    assert rows[1:3] == [
        ["slice-2-of-4", "started", "0", "of", "500", "messages", "unknown", "6", "s"],
        ["slice-3-of-4", "waiting", "unknown", "unknown", "unknown"],
    ]
    assert rows[3][-4:] == ["500", "messages", "50/s", "ended"]


def test_before_any_slice_ended_nothing_is_estimated(run: Run) -> None:
    """Slices at work have stored no figures: rate and ETA are unknown, not 0."""
    run.drain(0)
    begun = [item.model_copy(update={"result": None}) for item in run.receipts(1.0)]
    found = run.status(begun, 60.0)
    assert (found.slices[0].eta_seconds, found.per_second, found.eta_seconds) == (None, None, None)
    assert run_text(found).endswith("0 of 2,000 messages cleared, unknown, ETA unknown")


def test_a_slice_that_takes_longer_than_the_others_has_no_eta(run: Run) -> None:
    """A slice that should have ended at the others' rate is not reported as done in 0 s: it may have died."""
    run.drain(0, 1)
    done, other = run.receipts(10.0)
    found = run.status([done, other.model_copy(update={"result": None})], 60.0)
    assert found.slices[1].eta_seconds is None


@pytest.mark.parametrize(
    ("change", "age_s", "ended"),
    [
        ({"stop_reason": StopReason.DEADLINE}, 5.0, False),
        ({"stop_reason": StopReason.FAILED}, 5.0, False),
        ({"stop_reason": StopReason.FAILED}, 3600.0, True),
        ({"stop_reason": StopReason.LIMIT}, 5.0, True),
        ({"verdict": Verdict.UNPROVEN, "provable": True}, 5.0, False),
        ({"verdict": Verdict.UNPROVEN, "provable": False}, 5.0, True),
    ],
)
def test_a_run_has_ended_once_no_invocation_is_expected(
    run: Run, change: dict[str, Any], age_s: float, ended: bool
) -> None:
    """Platforms continue at a deadline and after failures, for a while; not after a requested limit."""
    run.drain(0, 1, 2, 3)
    receipts = run.receipts(10.0)
    result = receipts[0].result
    assert result is not None
    rows = tuple(row.model_copy(update={"verified": None, "remaining": 5}) for row in result.partitions)
    values = {"verdict": Verdict.NOT_CLEARED, "partitions": rows, **change}
    values["finished_at"] = run.made.created_at
    changed = receipts[0].model_copy(update={"result": result.model_copy(update=values)})
    found = run.status([changed, *receipts[1:]], age_s)
    assert [item.final for item in found.slices] == [ended, True, True, True]
    assert found.ended is ended


def test_receipts_with_a_result_are_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watched run of many slices costs one listing and the new receipts at each look."""
    read: list[str] = []
    read_all = store.read_all

    def noted(paths: Sequence[str]) -> dict[str, bytes]:
        read.extend(path.rsplit("/", 1)[-1][:5] for path in paths)
        return read_all(paths)

    run.drain(0, 1)
    monkeypatch.setattr(store, "read_all", noted)
    known: dict[str, Receipt] = {}
    first = run_status(run.folder, run.made.run_id, known)
    again = run_status(run.folder, run.made.run_id, known)
    assert read == ["slice", "slice"]
    run.drain(2, 3)
    assert run_status(run.folder, run.made.run_id, known).cleared
    assert (first.gone_so_far, again.gone_so_far) == (1000, 1000)


@contextmanager
def watching(run: Run, *args: str) -> Iterator[subprocess.Popen[str]]:
    """`progress RUN_ID --watch 1`, running; killed if it outlives the block."""
    command = ("progress", run.made.run_id, "--receipt-dir", run.folder, "--watch", "1")
    process = subprocess.Popen(
        [sys.executable, str(CLEANER), *command, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": MODULE_PATH},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line of a process, waited for."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_watching_ends_with_the_run(run: Run) -> None:
    """Lines follow the slices until all are cleared; then it ends by itself with exit 0."""
    run.drain(0)
    with watching(run) as process:
        first = next_line(process)
        run.drain(1, 2, 3)
        stdout, _ = process.communicate(timeout=300)
    assert "3 waiting, 1 cleared; 500 of 2,000 messages cleared, " in first
    assert stdout.splitlines()[-1].endswith("4 cleared; 2,000 of 2,000 messages cleared")
    assert process.returncode == 0
    assert run.left() == 0


def test_a_run_with_a_failed_slice_ends_with_1(run: Run) -> None:
    """A slice that was given up ends it with the exit code of `progress`; JSON has an object a line."""
    run.drain(0, 1, 2)
    with watching(run, "--output", "json") as process:
        first = json.loads(next_line(process))
        note_failure(run.folder, run.requests[3], RefusedError("refused"), run.made.created_at)
        stdout, _ = process.communicate(timeout=300)
    last = RunStatus.model_validate_json(stdout.splitlines()[-1])
    assert (first["ended"], last.ended, last.slices[3].error) == (False, True, "refused")
    assert process.returncode == 1
    assert run.left() == EACH


def test_ctrl_c_ends_with_the_code_of_the_last_look(run: Run) -> None:
    """A run that is not cleared yet is exit 1 for a script that stops to watch, without an error."""
    with watching(run) as process:
        assert "4 waiting; 0 of 2,000 messages cleared, unknown, ETA unknown" in next_line(process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert run.left() == 4 * EACH


def test_a_run_that_does_not_exist_is_not_waited_for(run: Run) -> None:
    """A mistyped run id ends at the first look, with exit 2."""
    run.made = run.made.model_copy(update={"run_id": "r-9"})
    with watching(run) as process:
        _, stderr = process.communicate(timeout=300)
    assert (process.returncode, "There is no run 'r-9'" in stderr) == (2, True)

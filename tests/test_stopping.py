"""A stop ends calls of a source, posts and metrics that have no answer; the result has what is not known."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backlog_clearer.engine.drain import Halt
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.metering import clear_metered
from backlog_clearer.run.metrics_file import MetricsFile
from backlog_clearer.run.notify import announced
from backlog_clearer.run.receipt import load
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.stopping import AbandonedError, Stopping
from backlog_clearer.testing.support import Stopwatch, crowd, wait_until
from tests import memory_system
from tests.invoking import clear, three_partitions
from tests.test_early import STUCK, environment

STOP_S = 5.0


@pytest.mark.skipif(sys.platform != "linux", reason="another kind of mutex")
@pytest.mark.parametrize("method", ["restore", "prepare_undo"])
def test_a_signal_ends_a_change_whose_library_does_not_return(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    """It exits with 1, and JSON and receipt state that it is not known what was written."""
    args = ["memory", "--topic", "orders", "--group-id", "billing", "--mode", "skip"]
    if method == "restore":
        with three_partitions(monkeypatch, tmp_path):
            args = [
                "restore",
                json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"],
            ]
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, method, *args, "--yes", "--output", "json"],
        cwd=tmp_path,
        env=environment(Path(__file__).parents[1]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "stuck\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        with Stopwatch() as watch:
            stdout, stderr = process.communicate(timeout=300)
    answer = json.loads(stdout)
    assert "is not known" in stdout
    assert "Traceback" not in stderr
    assert process.returncode == 1
    assert watch.seconds < STOP_S * crowd()
    if method == "prepare_undo":
        assert answer["kind"] == "AbandonedError"
        return
    wanted = "not_restored" if method == "restore" else "not_cleared"
    assert (answer["verdict"], answer["stop_reason"]) == (wanted, "signal")
    stored = load(str(tmp_path / answer["receipt"])).result
    assert stored is not None
    assert stored.to_json() == RunResult.model_validate(answer).to_json()


def test_a_call_that_comes_back_late_closes_its_source() -> None:
    """What was left behind is not used meanwhile, and closed by the thread that had it."""
    halt, back, closed = Halt(), threading.Event(), threading.Event()
    stopping = Stopping("b:1", lambda: halt.signalled)
    halt.signal()
    with pytest.raises(AbandonedError, match="b:1 did not answer the skip in time"):
        stopping.call("the skip", back.wait, limit_s=0.1)
    with pytest.raises(AbandonedError, match="b:1 did not answer the skip"):
        stopping.call("the verification", lambda: pytest.fail("asked"))
    stopping.close(closed.set)
    assert not closed.is_set()
    back.set()
    wait_until(closed.is_set, "the close")


def test_without_a_stop_calls_have_all_of_their_time() -> None:
    """What a call returns or raises is passed on, however long it takes."""
    stopping = Stopping("b:1", lambda: False)
    assert stopping.call("the skip", lambda: threading.Event().wait(0.3), limit_s=0.1) is False
    with pytest.raises(ZeroDivisionError):
        stopping.call("the skip", lambda: 1 // 0)


def test_a_stop_waits_only_briefly_for_metrics_and_for_a_post(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files and webhooks that do not answer become notes, and the result is there in time."""
    halt, never = Halt(), threading.Event()
    monkeypatch.setattr(MetricsFile, "finish", lambda *_: never.wait(60))
    with three_partitions(monkeypatch, tmp_path), socket.create_server(("127.0.0.1", 0)) as silent:
        options = memory_system.MemoryOptions(topic="orders", group_id="billing")
        hook = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        run = RunOptions(
            stop_when_empty=True,
            receipt_dir=str(tmp_path),
            metrics_file=str(tmp_path / "x.prom"),
            notify=hook,
        )
        job = Job("memory", options, run)
        with Stopwatch() as watch:
            talk = Callbacks(progress=lambda _: halt.signal())
            result = announced(job, clear_metered(job, talk, halt), lambda: halt.signalled)
    assert watch.seconds < STOP_S
    assert [note for note in result.notes if "last metrics may be missing" in note]
    assert [note for note in result.notes if "could not be posted" in note and "to stop" in note]
    stored = load(str(result.receipt)).result
    assert stored is not None
    assert stored.notes == result.notes
    never.set()

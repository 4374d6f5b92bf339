"""The command line where stdout or stderr is closed, full, or a pipe that nothing reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backlog_clearer.testing.support import wait_until
from tests.paths import MODULE_PATH, ROOT

PROGRAM = """
import sys, time
from backlog_clearer import registry
from backlog_clearer.brokers.memory.source import MemoryLane
from backlog_clearer.cli.commands import main
from tests import memory_system

registry.SYSTEMS["memory"] = memory_system.SYSTEM
broker = memory_system.reset()
broker.create("orders", 1)
broker.produce("orders", 0, {count})
read = MemoryLane.read
def slow(lane, *args):
    open("reading", "w").close()
    time.sleep({seconds})
    return read(lane, *args)
MemoryLane.read = slow
sys.argv = ["backlog-clearer", *sys.argv[1:]]
main()
"""
# The tests themselves may run under nohup, and a shell cannot stop ignoring what it was started to ignore.
RESET = (
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    " os.execvp(sys.argv[1], sys.argv[1:])"
)
CLEAR = ("memory", "--topic", "orders", "--group-id", "billing", "--new", "--stop-when-empty", "--yes")
STATUS = ("status", *CLEAR[:5])


@contextmanager
def started(
    folder: Path, shell: str, *args: str, count: int = 1000, seconds: float = 0.0, before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """The command line on a filled topic, with redirections as a shell makes them."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(count=count, seconds=seconds))
    script = f'{before} exec "$0" "$@" {shell}'
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", RESET, "bash", "-c", script, sys.executable, str(program), *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{MODULE_PATH}{os.pathsep}{ROOT}"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result(folder: Path) -> dict[str, object]:
    """The result in the receipt."""
    (receipt,) = (folder / "receipts").rglob("*.json")
    found: dict[str, object] = json.loads(receipt.read_text())["result"]
    return found


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        (">&-", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
        ("2>&-", None),
        ("2>/dev/full", None),
        (">&- 2>&-", None),
        ("<&- >&- 2>&-", None),
    ],
)
def test_a_run_without_its_streams_keeps_its_exit_code(
    tmp_path: Path, shell: str, reason: str | None, output: str
) -> None:
    """A run that clears everything exits with 0 without a traceback, and reports a lost result on stderr."""
    with started(tmp_path, shell, *CLEAR, "--output", output) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0
    assert result(tmp_path)["verdict"] == "cleared"
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    lost = [line for line in stderr.splitlines() if "could not be written to stdout" in line]
    if reason:
        assert not stdout
        assert len(lost) == 1
        assert reason in lost[0]
    else:
        assert not lost


@pytest.mark.parametrize("args", [STATUS, (*STATUS, "--output", "json"), ("--help",), ("--version",)])
@pytest.mark.parametrize("shell", [">&-", ">/dev/full"])
def test_output_that_is_the_purpose_and_is_lost_is_a_failure(
    tmp_path: Path, shell: str, args: tuple[str, ...]
) -> None:
    """A status, a help text and a version that cannot be written exit with 1 and the reason."""
    with started(tmp_path, shell, *args) as process:
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "could not be written to stdout" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("args", [CLEAR, STATUS, (*STATUS, "--output", "json"), ("--help",)])
def test_a_reader_that_wants_no_more_is_no_error(tmp_path: Path, args: tuple[str, ...]) -> None:
    """Where the reader of stdout has ended, the command ends as it would otherwise, without a word of it."""
    with started(tmp_path, "", *args) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    assert "Broken pipe" not in stderr


def test_a_drain_continues_where_nothing_reads_stderr(tmp_path: Path) -> None:
    """A pipe on stderr that is closed in the middle of a drain does not end it."""
    args = (*CLEAR, "--log-level", "debug", "--batch-size", "100", "--output", "json")
    with started(tmp_path, "", *args, count=10_000, seconds=0.07) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        process.stderr = None
        stdout, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    found = json.loads(stdout)
    assert found["seconds"] > 5, "no progress was written while the pipe was closed"
    assert found["totals"]["messages"] == 10_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_ends_a_run_like_a_termination(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM and SIGHUP acknowledge what was read and report it; a second SIGHUP does not end that."""
    args = (*CLEAR, "--batch-size", "100", "--output", "json")
    with started(tmp_path, "", *args, count=100_000, seconds=0.05) as process:
        wait_until((tmp_path / "reading").exists, "the first read")
        process.send_signal(number)
        if number is signal.SIGHUP:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=300)
    found = json.loads(stdout)
    assert (process.returncode, found["stop_reason"]) == (1, "signal")
    assert found["totals"]["unacknowledged"] == 0
    assert f"{number.name}: acknowledging what was read; send SIGTERM" in stderr


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """Under nohup, which ignores SIGHUP, a run continues when its terminal closes."""
    args = (*CLEAR, "--batch-size", "100", "--output", "json")
    with started(tmp_path, "", *args, count=2000, seconds=0.05, before="trap '' HUP;") as process:
        wait_until((tmp_path / "reading").exists, "the first read")
        process.send_signal(signal.SIGHUP)
        stdout, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads(stdout)["verdict"] == "cleared"

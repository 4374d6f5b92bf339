"""A process ends once its result is printed, whatever a library has left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import CLEANER
from tests.paths import MODULE_PATH, ROOT

# A thread that is never joined by anything but the interpreter's own end, which then waits forever
STUCK = "import threading\nthreading.Thread(target=threading.Event().wait, name='stuck').start()\n"


def ran(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a thread in it that does not end; `TimeoutExpired` if the process stays."""
    (folder / "sitecustomize.py").write_text(STUCK, encoding="utf-8")
    path = f"{folder}{os.pathsep}{MODULE_PATH}"
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT, env={**os.environ, **env, "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("args", [(str(CLEANER),), ("-m", "backlog_clearer")])
def test_a_command_ends_with_its_code_and_its_output(tmp_path: Path, args: tuple[str, ...]) -> None:
    """The command line ends although a thread is stuck, and all of its output arrives."""
    shown = ran(tmp_path, *args, "kafka", "--help")
    assert (shown.returncode, "--bootstrap-servers" in shown.stdout) == (0, True)
    assert shown.stdout.rstrip().endswith("Show this message and exit.")
    wrong = ran(tmp_path, *args, "kafka", "--output", "json")
    assert (wrong.returncode, json.loads(wrong.stdout)["kind"]) == (2, "UsageError")


def test_a_job_ends_with_its_code_and_its_answer(tmp_path: Path) -> None:
    """The container job ends although a thread is stuck: a platform would wait for its timeout."""
    done = ran(tmp_path, "-m", "functions.job.main", "--backlog", "orders", BACKLOG_CLEARER_CONFIG="{}")
    assert done.returncode == 2
    assert json.loads(done.stdout)["verdict"] == "not_cleared"

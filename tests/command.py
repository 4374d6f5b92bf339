"""Runs the command line and the job as separate processes, as users and platforms do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.paths import MODULE_PATH, ROOT

CLEANER = ROOT / "cleaner.py"


@dataclass(frozen=True)
class Ran:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON result on stdout."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def started(
    *args: str, env: Mapping[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    """`python cleaner.py ARGS --output json`, running; killed if it still runs at the end of the block."""
    return _running(str(CLEANER), *args, "--output", "json", env=env or {})


def job_started(
    config: str, *args: str, env: Mapping[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    """The container job with this configuration, running; killed if it outlives the block."""
    env = {"BACKLOG_CLEARER_CONFIG": config, **(env or {})}
    return _running("-m", "functions.job.main", *args, env=env)


@contextmanager
def _running(*args: str, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *args],
        cwd=CLEANER.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": MODULE_PATH, **env},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen[str], timeout_s: float = 120.0) -> Ran:
    """Wait for the end of a process."""
    stdout, stderr = process.communicate(timeout=timeout_s)
    return Ran(process.returncode, stdout, stderr)


def shown(*args: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run the command line to its end, with output for people."""
    with _running(str(CLEANER), *args, env=env or {}) as process:
        return ended(process)


def undone(ran: Ran, folder: Path, env: Mapping[str, str] | None = None) -> Ran:
    """Run the undo line of a run's output by a shell, as it is printed, in another directory."""
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("Undo: "))
    command = line.removeprefix("Undo: ")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env={**kept, **(env or {})}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def cleaner(*args: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run the command line to its end."""
    with started(*args, env=env) as process:
        return ended(process)

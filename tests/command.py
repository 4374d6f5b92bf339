"""Runs the command line as a user does, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLEANER = Path(__file__).resolve().parents[1] / "cleaner.py"


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


@contextmanager
def started(*args: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`python cleaner.py ARGS --output json`, running; killed at the end of the block if need be."""
    process = subprocess.Popen(
        [sys.executable, str(CLEANER), *args, "--output", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
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


def cleaner(*args: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run the command line to its end."""
    with started(*args, env=env) as process:
        return ended(process)

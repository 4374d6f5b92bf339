"""The bench of faults in its short form finds nothing wrong in the tool, and finds what is in a lying one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import apache_iggy  # noqa: F401 the bench runs on it: skips where it is missing, as on Python 3.14

from tests.paths import MODULE_PATH, ROOT

_LIAR = """#!{python}
import json, os, sys
print(json.dumps({{"verdict": "cleared", "totals": {{"messages": 5, "remaining": 0}}}}))
if "--mode" not in sys.argv:
    print("Traceback (most recent call last):", os.environ["FAULTS_SECRET"], file=sys.stderr)
"""


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "bench.faults", "--quick", "--seed", "7", "--stop-seconds", "30",
         *args],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": MODULE_PATH}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def table(done: subprocess.CompletedProcess[str]) -> dict[str, list[int]]:
    """The figures of the table, by fault."""
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| iggy")]
    return {row[1]: [int(text.strip(" |")) for text in row[2:]] for row in rows}


def test_kills_signals_and_broken_frames_leave_nothing_wrong() -> None:
    """Killed, signalled and behind broken connections the tool is never wrong, by the broker's state."""
    done = bench()
    found = table(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"kill -9", "SIGTERM"} < set(found)
    assert sum(figures[0] for figures in found.values()) == 5
    assert not any(any(figures[1:]) for figures in found.values())


def test_a_tool_that_lies_is_found(tmp_path: Path) -> None:
    """A false verdict, a wrong count, a traceback and a secret are each found, and the exit code is 1."""
    liar = tmp_path / "liar"
    liar.write_text(_LIAR.format(python=sys.executable))
    liar.chmod(0o755)
    done = bench("--tool", str(liar), "--only", "iggy/kill")
    assert done.returncode == 1, done.stdout + done.stderr
    tries, false, lost, counts, _, traces, secrets = table(done)["kill -9"]
    assert (tries, false, lost, counts, traces, secrets) == (1, 1, 1, 1, 1, 1)

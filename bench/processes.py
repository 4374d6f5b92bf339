"""Programs run to their end, with their time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_LOOK_S = 0.01  # between two looks at a process


class Ended(NamedTuple):
    """A program that has ended."""

    output: str  # its standard output
    wall: float  # seconds
    cpu: float  # seconds
    peak: float  # MB resident at most


def ended(*command: str, env: Mapping[str, str] | None = None, code: int = 0) -> Ended:
    """Run a program in the project's folder; ends the benchmark if it does not exit with `code`."""
    # As at a user: Python keeps what it compiled, whatever this shell has set
    env = {**(os.environ if env is None else env)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT, env=env)
        peak, done = 0.0, 0
        while not done:
            time.sleep(_LOOK_S)
            peak = max(peak, _peak(process.pid))
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != code:
            text = (output.read() + errors.read()).decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(command)[:200]} exited with {process.returncode}:\n{text}")
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(output.read().decode(), wall, cpu, peak or usage.ru_maxrss / 1024)


def _peak(pid: int) -> float:
    """Peak memory of a process in MB; the figure of `wait4` includes the parent's at the start."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def served(module: str, *args: object) -> Iterator[str]:
    """A server as a separate process, until its standard input ends; yields the line it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None  # noqa: S101 narrows the types
    assert process.stdout is not None  # noqa: S101
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


class Ran(NamedTuple):
    """One run of one reader."""

    rate: float  # messages a second
    cpu: float  # seconds of the process
    peak: float  # MB
    broker: float | None = None  # seconds of the broker's CPU meanwhile
    wall: float | None = None  # seconds
    cpu_gb: float | None = None  # seconds of CPU for each GB, without those of a run that reads nothing


def best(run: Callable[[], Ran]) -> Ran:
    """The better of two runs, so that the machine's other work does not decide."""
    return best_of_rounds({"": run}, 2)[""]


def best_of_rounds(runs: Mapping[str, Callable[[], Ran]], rounds: int) -> dict[str, Ran]:
    """The best run of each program; they take turns, so that a slow minute slows all of them."""
    found: dict[str, list[Ran]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return {
        name: max(rans, key=lambda ran: ran.rate)._replace(cpu_gb=least(ran.cpu_gb for ran in rans))
        for name, rans in found.items()
    }


def least(figures: Iterable[float | None]) -> float | None:
    """The least figure that there is; None: there is none."""
    return min((figure for figure in figures if figure is not None), default=None)


def show(name: str, ran: Ran | None, ours: Ran) -> None:
    """One line of a table; `ratio` is of ours to this one."""
    if ran is None:
        print(f"  {name:24} not installed")
        return
    broker = "" if ran.broker is None else f"  broker {ran.broker:4.1f} s"
    wall = "" if ran.wall is None else f"  wall {ran.wall:5.1f} s"
    busy = "" if ran.cpu_gb is None else f"  {ran.cpu_gb:5.2f} s/GB"
    print(
        f"  {name:24} {ran.rate:12,.0f}/s  ratio {ours.rate / ran.rate:5.1f}"
        f"  cpu {ran.cpu:5.1f} s{busy}{broker}{wall}  peak {ran.peak:4.0f} MB",
        flush=True,
    )

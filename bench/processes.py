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
from statistics import median
from typing import NamedTuple

import psutil

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


class Served(NamedTuple):
    """A server that runs as a separate process."""

    line: str  # what it printed when it was ready: where it listens
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far."""
        return sum(self.process.cpu_times()[:2])


@contextmanager
def served(module: str, *args: object) -> Iterator[Served]:
    """A server as a separate process, until its standard input ends."""
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
        yield Served(process.stdout.readline().strip(), psutil.Process(process.pid))
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
    million: float | None = None  # seconds of CPU for a million messages, without those of the start


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


def compare(runs: Mapping[str, Callable[[], Ran]], rounds: int) -> dict[str, list[Ran]]:
    """Run programs in turns, and print a line for each.

    A ratio is of the first program's rate to this one's, round by round: the median, and from which to which.
    Seconds of CPU are for a million messages, the median.
    """
    found: dict[str, list[Ran]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    ours = next(iter(found.values()))
    for name, rans in found.items():
        rates = [ran.rate for ran in rans]
        ratios = [first.rate / ran.rate for first, ran in zip(ours, rans, strict=True)]
        cpu = median(ran.million or 0.0 for ran in rans)
        server = median(ran.broker or 0.0 for ran in rans)
        print(
            f"  {name:32} {min(rates):10,.0f} to {max(rates):10,.0f}/s  ratio {median(ratios):5.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})  cpu {cpu:6.2f} s/M  server {server:5.2f} s/M"
            f"  peak {max(ran.peak for ran in rans):4.0f} MB",
            flush=True,
        )
    return found

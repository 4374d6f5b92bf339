"""The tool as a process, disturbed in some way, and what a try shows to have gone wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from bench.faults_relay import FaultRelay, Injection
from bench.faults_systems import VARIABLE, Address, Backlog, System
from bench.processes import ROOT

HANG_S = 90.0
"""How long a run may take as a whole."""

_SETTLED_S = 5.0  # a broker's figures may be as late as this
_TRACE = re.compile(
    r"Traceback \(most recent call last\)|\bfailed: (?!Transient|Broker)[A-Z]\w*(?:Error|Exception): "
)
_RUN = (
    "--stop-when-empty", "--workers", "2", "--max-seconds", "45", "--stall-seconds", "10",
    "--quiet-seconds", "4", "--max-retries", "6", "--force", "--yes", "--output", "json",
)  # fmt: skip


TOOL = [sys.executable, str(ROOT / "cleaner.py")]
"""The program that is tried."""


class Found(NamedTuple):
    """One thing that went wrong."""

    column: str
    text: str


COLUMNS = ("false verdicts", "lost positions", "counts off", "hangs", "tracebacks", "secrets")


@dataclass
class Ended:
    """How the tool ended; no code: it had to be killed because it did not end."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    stopped_s: float | None = None  # from the signal to the end
    peak_mb: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


def run_tool(
    args: Sequence[str],
    environment: Mapping[str, str],
    disturb: Callable[[subprocess.Popen[bytes]], float | None] | None = None,
) -> Ended:
    """Run the command line; `disturb` may signal the process, and returns when it did."""
    names = {"PYTHONPATH": os.pathsep.join((str(ROOT / "core"), str(ROOT)))}
    begun = time.monotonic()
    process = subprocess.Popen(
        [*TOOL, *args],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **names, **environment},
    )
    signalled = disturb(process) if disturb else None
    code: int | None
    try:
        out, err = process.communicate(timeout=max(1.0, HANG_S - (time.monotonic() - begun)))
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it prints where its threads are
        out, err = process.communicate()
        code = None
    now = time.monotonic()
    done = Ended(
        code,
        out.decode(errors="replace"),
        err.decode(errors="replace"),
        now - begun,
        None if signalled is None else now - signalled,
    )
    with suppress(ValueError):
        loaded = json.loads(done.stdout)
        done.result = loaded if isinstance(loaded, dict) else {}
    return done


def signalled(number: signal.Signals, after_s: float) -> Callable[[Any], float | None]:
    """Send a signal some time after the start; None: the process had ended."""

    def disturb(process: subprocess.Popen[bytes]) -> float | None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
            return None
        process.send_signal(number)
        return time.monotonic()

    return disturb


class Try:
    """One backlog, cleared in spite of a fault, then cleared to its end, then restored."""

    stop_s: ClassVar[float] = 5.0
    """How long a run may take from a signal to its end."""

    def __init__(self, system: System, variant: str, size: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.system = system
        self.folder = folder
        self.backlog: Backlog = system.backlog(variant, size)
        self.before = self.backlog.left()
        self.found: list[Found] = []
        self.texts: list[str] = []

    def wrong(self, column: str, text: str) -> None:
        """Note what went wrong."""
        self.found.append(Found(column, text))

    def tool(
        self,
        routes: Mapping[str, Address],
        *args: str,
        restore: str | None = None,
        disturb: Callable[[Any], float | None] | None = None,
    ) -> Ended:
        """Run the tool on the backlog, or restore a receipt."""
        flags = self.backlog.flags(routes)
        environment = {VARIABLE: self.system.secret, **self.backlog.environment(routes)}
        command = [*flags, *_RUN, "--receipt-dir", str(self.folder / "receipts"), *args]
        if restore is not None:
            allowed = [
                part
                for name in (VARIABLE, "FAULTS_STORE")
                for part in ("--allow-reference", f"env:{name}")
            ]
            keep = [flag for flag in _given(flags[1:]) if flag[0] not in _NOT_FOR_RESTORE]
            given = [part for flag in keep for part in flag]
            command = ["restore", restore, *given, *allowed, "--force", "--yes", "--output", "json"]
        done = run_tool(command, environment, disturb)
        self.texts += [done.stdout, done.stderr]
        if done.code is None:
            self.wrong("hangs", f"no end within {HANG_S:.0f} s: {done.stderr[-3000:]}")
        if done.stopped_s is not None and done.stopped_s > self.stop_s and done.code is not None:
            self.wrong("hangs", f"stopped {done.stopped_s:.1f} s after the signal")
        match = _TRACE.search(done.stdout + done.stderr)
        if match:
            whole = done.stdout + done.stderr
            self.wrong("tracebacks", whole[max(0, match.start() - 100) : match.end() + 600])
        return done

    def check(self, done: Ended) -> dict[int, int]:
        """Judge a run by the broker's state; returns what is left."""
        result = done.result
        totals = result.get("totals") or {}
        counted = totals.get("messages")
        whole = sum(self.before.values())

        beyond = whole if totals.get("at_least") else 0  # what may be moved and not counted
        short = whole if totals.get("at_most") else 0  # what may be counted and not moved

        def agrees(left: Mapping[int, int]) -> bool:
            moved = whole - sum(left.values())
            return counted is None or counted - short <= moved <= counted + beyond

        left = self.backlog.left()
        until = time.monotonic() + _SETTLED_S
        while not agrees(left) and time.monotonic() < until:
            time.sleep(0.2)
            left = self.backlog.left()
        rest = sum(left.values())
        if result.get("verdict") == "cleared" and rest:
            self.wrong("false verdicts", f"cleared, but {rest} are left")
        if (result.get("verdict") == "cleared") != (done.code == 0) and done.code is not None:
            self.wrong("false verdicts", f"exit {done.code} with {result.get('verdict')}")
        if totals.get("remaining") == 0 and rest and result.get("verdict"):
            self.wrong("false verdicts", f"0 remaining, but {rest} are left")
        if any(left[number] > held for number, held in self.before.items()):
            self.wrong("lost positions", f"moved back: {self.before} to {left}")
        if any(held < 0 for held in left.values()):
            self.wrong("lost positions", f"beyond the end: {left}")
        if rest < whole and not self.receipts():
            self.wrong("lost positions", "something was moved, and there is no receipt")
        if not agrees(left):
            self.wrong("counts off", f"{counted} counted, {whole - rest} moved")
        return left

    def receipts(self) -> list[Path]:
        """The receipts, in the order in which they were written."""
        found = (self.folder / "receipts").glob("*/*.json")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def finish(self, left: Mapping[int, int]) -> None:
        """Clear the rest without a fault: its count is exactly what was left."""
        rest = sum(left.values())
        done = self.tool({})
        after = sum(self.backlog.left().values())
        if done.code != 0 or after:
            self.wrong(
                "lost positions",
                f"the next run: exit {done.code}, {after} left: {done.stdout[-700:]} {done.stderr[-700:]}",
            )
        counted = (done.result.get("totals") or {}).get("messages")
        if done.code == 0 and counted != rest:
            self.wrong("counts off", f"the next run counted {counted}, {rest} were left")

    def undo(self, receipts: Sequence[Path], relay: FaultRelay | None) -> None:
        """Restore the first receipt: every position is what it was.

        Through the address of the relay that is gone, which may be a part of the subscription's identity.
        """
        if not receipts:
            return
        with ExitStack() as stack:
            routes: dict[str, Address] = {}
            if relay is not None:
                route = next(key for key, (at, _) in self.system.routes.items() if at == relay.broker)
                relayed(stack, self.system, route, listen=relay.port)
                routes = {route: ("127.0.0.1", relay.port)}
            done = self.tool(routes, restore=str(receipts[0]))
        until = time.monotonic() + _SETTLED_S
        while (left := self.backlog.left()) != self.before and time.monotonic() < until:
            time.sleep(0.2)
        if left != self.before:
            self.wrong(
                "lost positions",
                f"restored {left}, not {self.before}: {done.stdout[-700:]} {done.stderr[-700:]}",
            )

    def conclude(self, done: Ended, relay: FaultRelay | None, what: str) -> None:
        """Judge a run, finish it, undo it, and name the fault, `what`, in everything that was found."""
        left = self.check(done)
        first = self.receipts()[:1]
        self.finish(left)
        self.undo(first, relay)
        self.search_secrets()
        self.found = [
            item._replace(text=f"{what}, exit {done.code}: {item.text}") for item in self.found
        ]

    def search_secrets(self) -> None:
        """Look for the planted secret in everything that left the process."""
        texts = [*self.texts, *(path.read_text(errors="replace") for path in self.receipts())]
        for form in self.system.planted:
            for text in texts:
                at = text.find(form)
                if at >= 0:
                    self.wrong("secrets", text[max(0, at - 200) : at].strip()[-200:] + "SECRET")


_NOT_FOR_RESTORE = {
    *("--topic", "--subscription", "--subscription-type", "--group-id", "--reader", "--stream-id"),
    *("--topic-id", "--eventhub-name", "--checkpoint-container", "--subscription-id"),
}


def _given(flags: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(flags[::2], flags[1::2], strict=True))


def relayed(
    stack: ExitStack,
    system: System,
    route: str,
    injected: Injection | None = None,
    rate: float | None = None,
    *,
    listen: int = 0,
) -> FaultRelay:
    """A relay before one of a system's routes, until the stack ends."""
    (host, port), framing = system.routes[route]
    relay = stack.enter_context(FaultRelay(host, port, framing, injected, rate, listen=listen))
    relay.replace += system.replaced(route, relay.port)
    return relay

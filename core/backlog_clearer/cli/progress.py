"""How far a drain is, on stderr: a live bar at a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from backlog_clearer.cli.display import print_line
from backlog_clearer.cli.tables import figure
from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.text import counted

LINE_EVERY_S = 5.0
"""Seconds between two lines where stderr is not a terminal."""

COUNT_EVERY_S = 15.0
"""Seconds between two lines of a countdown."""

Observe: TypeAlias = Callable[[Snapshot], None]
"""Called about ten times a second while a drain runs."""


@contextmanager
def show_progress(console: Console) -> Iterator[Observe]:
    """Show what the yielded function is called with, until the end of the block."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.fields[read]}"),
        TextColumn("{task.fields[rate]}/s"),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.fields[slowed]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None, read="0 messages", rate="0", left="…", slowed="")

    def show(seen: Snapshot) -> None:
        bar.start()  # only now: before, the plan is shown and a question may be asked
        known = seen.backlog is not None and seen.left is not None
        bar.update(
            task,
            total=seen.backlog if known else None,
            completed=max(0, (seen.backlog or 0) - (seen.left or 0)) if known else 0,
            read=counted(seen.messages, "message"),
            rate=figure(_rate(seen)),
            slowed=f"throttled for {seen.throttled_s:,.0f} s" if seen.throttled_s >= 1 else "",
            left=figure(seen.left),
        )

    try:
        yield show
    finally:
        bar.stop()


class Countdown:
    """How long a run still waits for the broker's proof: a line every `COUNT_EVERY_S`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.next_s = math.inf

    def __call__(self, seconds: float) -> None:
        """Print `seconds`, if it is time to."""
        if seconds <= self.next_s:
            self.next_s = seconds - COUNT_EVERY_S
            print_line(
                self.console,
                f"Waiting for the broker's proof, at most {seconds:.0f} s (Ctrl-C ends it)",
            )


class _Lines:
    """One line every `LINE_EVERY_S`, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.next_s = LINE_EVERY_S

    def __call__(self, seen: Snapshot) -> None:
        if seen.seconds >= self.next_s:
            self.next_s = seen.seconds + LINE_EVERY_S
            print_line(self.console, progress_line(seen))


def progress_line(seen: Snapshot) -> str:
    """One moment of a drain: "5 s: 1,200 messages, 240/s, 300 left, ETA 1 s"."""
    done = (seen.backlog or 0) - (seen.left or 0)
    eta = "unknown"
    if seen.left is not None and seen.backlog is not None and done > 0:
        eta = f"{seen.left / (done / seen.seconds):,.0f} s"
    parts = [
        counted(seen.messages, "message"),
        f"{_rate(seen):,}/s",
        f"{figure(seen.left)} left",
        f"ETA {eta}",
    ]
    if seen.retries:
        parts.append(counted(seen.retries, "retry", "retries"))
    if seen.throttled_s >= 1:
        parts.append(f"throttled for {seen.throttled_s:,.0f} s")
    return f"{seen.seconds:.0f} s: {', '.join(parts)}"


def _rate(seen: Snapshot) -> int:
    return int(seen.messages / seen.seconds) if seen.seconds > 0 else 0

"""How far a drain is, on stderr: a live bar at a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console

from backlog_clearer.cli.display import print_line
from backlog_clearer.cli.tables import figure
from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.text import counted, duration

LINE_EVERY_S = 5.0
"""Seconds between two lines where stderr is not a terminal."""

COUNT_EVERY_S = 15.0
"""Seconds between two lines of a countdown."""

Observe: TypeAlias = Callable[[Snapshot], None]
"""Called about ten times a second while a drain runs."""


RECENT_S = 10.0
"""Rate and ETA are those of about this many seconds."""

_QUIET_S = 3.0  # silence that is worth a word

START = Snapshot(0.0, 0, 0, None, None, 0)
"""Before a drain."""


@contextmanager
def show_progress(console: Console, *, lasting: bool = False) -> Iterator[Observe]:
    """Show what the yielded function is called with, until the end of the block.

    `lasting`: the drain does not end where nothing is left.
    """
    if not console.is_terminal:
        yield _PlainLines(console, lasting=lasting)
        return
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True))
    bar = Progress(BarColumn(bar_width=12), text, console=console, transient=True, expand=True)
    task = bar.add_task("", total=None, line="")
    recent = _Recent()

    def show(seen: Snapshot) -> None:
        bar.start()  # only now: before, the plan is shown and a question may be asked
        known = seen.backlog is not None and seen.left is not None
        bar.update(
            task,
            total=seen.backlog if known else None,
            completed=max(0, (seen.backlog or 0) - (seen.left or 0)) if known else 0,
            line=progress_line(seen, recent.before(seen), lasting=lasting),
        )

    try:
        yield show
    finally:
        bar.stop()


class _Recent:
    """What a drain was like about `RECENT_S` ago."""

    def __init__(self) -> None:
        self.seen: deque[Snapshot] = deque([START])

    def before(self, seen: Snapshot) -> Snapshot:
        """The moment that the rates of `seen` are counted from; called with ever later moments."""
        while len(self.seen) > 1 and self.seen[1].seconds <= seen.seconds - RECENT_S:
            self.seen.popleft()
        if seen.seconds >= self.seen[-1].seconds + 1.0:
            self.seen.append(seen)
        return self.seen[0]


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


class _PlainLines:
    """One line every `LINE_EVERY_S`, for logs."""

    def __init__(self, console: Console, *, lasting: bool) -> None:
        self.console = console
        self.lasting = lasting
        self.next_s = LINE_EVERY_S
        self.recent = _Recent()

    def __call__(self, seen: Snapshot) -> None:
        earlier = self.recent.before(seen)
        if seen.seconds >= self.next_s:
            self.next_s = seen.seconds + LINE_EVERY_S
            print_line(self.console, progress_line(seen, earlier, lasting=self.lasting))


def progress_line(seen: Snapshot, earlier: Snapshot = START, *, lasting: bool = False) -> str:
    """One moment of a drain: "5 s: 1,200 messages, 240/s, 300 left, ETA 1 s".

    Rate and ETA are those since `earlier`. `lasting`: the drain does not end where nothing is left.
    """
    elapsed_s = seen.seconds - earlier.seconds
    rate = int((seen.messages - earlier.messages) / elapsed_s) if elapsed_s > 0 else 0
    parts = [counted(seen.messages, "message"), f"{rate:,}/s", f"{figure(seen.left)} left"]
    if not lasting:
        parts.append(f"ETA {_eta(seen, earlier)}")
    if seen.retries:
        parts.append(counted(seen.retries, "retry", "retries"))
    if seen.throttled_s >= 1:
        parts.append(f"throttled for {seen.throttled_s:,.0f} s")
    waiting = _waiting(seen, lasting=lasting)
    if waiting:
        parts.append(waiting)
    return f"{duration(seen.seconds)}: {', '.join(parts)}"


def _eta(seen: Snapshot, earlier: Snapshot) -> str:
    before = earlier.left if earlier.left is not None else seen.backlog
    if seen.left is None or before is None or before <= seen.left:
        return "0 s" if seen.left == 0 else "unknown"
    return duration(seen.left * (seen.seconds - earlier.seconds) / (before - seen.left))


def _waiting(seen: Snapshot, *, lasting: bool) -> str:
    """What a drain waits for; '' where messages come."""
    if seen.troubled:
        return "waiting for partitions with errors, which are tried again"
    if seen.left == 0:
        return "waiting for new messages" if lasting else "waiting for the broker to confirm the end"
    return f"no message for {duration(seen.quiet_s)}" if seen.quiet_s >= _QUIET_S else ""

"""`--watch`: one look after the other, at a terminal in a table that is updated, elsewhere as lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from types import TracebackType
from typing import NoReturn

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text
from typing_extensions import Self

from backlog_clearer.cli import display
from backlog_clearer.cli.session import Session
from backlog_clearer.cli.streams import is_lost
from backlog_clearer.cli.watch_texts import (
    Styled,
    failure_line,
    look_line,
    look_lines,
    run_line,
    run_lines,
    several_lines,
)
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.run_status import RunStatus, run_exit_code, run_status
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.run.job import Job, now
from backlog_clearer.run.metering import LooksMeter
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.report import failure_json
from backlog_clearer.run.selection import Member, Selected
from backlog_clearer.run.several import with_files
from backlog_clearer.run.verdict import EXIT_NOT_DONE
from backlog_clearer.run.watch import Look, Watched, failed_look, watched_backlog
from backlog_clearer.text import listed

_PAUSE_S = 1.0  # between two looks that take longer than their interval


class Screen:
    """Where looks are shown: JSON or plain lines on stdout, or a table at a terminal that is updated."""

    def __init__(self, opened: Session) -> None:
        self._json = opened.talk.json
        self._console = display.console_for()
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin; nothing is shown yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Leave the last table on the terminal."""
        self._stack.close()

    @property
    def width(self) -> int | None:
        """The characters of a line; None: any number."""
        return display.width_of(self._console)

    @property
    def is_live(self) -> bool:
        """Whether a table is updated."""
        return not self._json and self._console.is_terminal and not self._console.is_dumb_terminal

    def show(self, value: str, line: str, lines: Sequence[Styled]) -> None:
        """Show one look: as JSON in one line, as text in one line, or as the lines of a table."""
        if self._json:
            click.echo(value)
        elif self.is_live:
            if self._live is None:
                begun = Live(
                    console=self._console,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=sys.stderr.isatty(),
                )
                self._live = self._stack.enter_context(begun)
            texts = (Text(redacted(text, values=False), style, no_wrap=True) for text, style in lines)
            self._live.update(Group(*texts), refresh=True)
        else:
            display.print_line(self._console, line)


def ticks(opened: Session, every_s: float) -> Iterator[int]:
    """Numbers from 0, one every `every_s` seconds, until a signal, or until nothing reads stdout any more."""
    number = 0
    while True:
        begun = time.monotonic()
        yield number
        number += 1
        if is_lost() or opened.halt.event.wait(max(_PAUSE_S, begun + every_s - time.monotonic())):
            return


def watch_status(opened: Session, job: Job, every_s: float) -> NoReturn:
    """`status --watch`: a look every `every_s` seconds until a signal; exit 0.

    Raises `UsageError` where the first look finds that something does not exist. Other errors, and those of
    later looks, are shown.
    """
    last: Look | None = None
    with (
        closing(LooksMeter(job)) as meter,
        suppress(KeyboardInterrupt),
        closing(Watched(job)) as watched,
        Screen(opened) as screen,
    ):
        for number in ticks(opened, every_s):
            try:
                with nullcontext() if number else opened.connecting(job):
                    last = watched.look()
            except ClearerError as error:
                if isinstance(error, UsageError) and last is None:
                    raise
                failed = failed_look(job.system, error, now())
                line = failure_line(error, failed.at)
                lines = [(line, "red"), *([] if last is None else look_lines(last, screen.width))]
                screen.show(failed.model_dump_json(by_alias=True), line, lines)
            else:
                meter.show(last.status)
                value = watched_backlog(last).model_dump_json(by_alias=True)
                screen.show(value, look_line(last), look_lines(last, screen.width))
    opened.leave()


def watch_several(opened: Session, selected: Selected, every_s: float) -> NoReturn:
    """`status --watch` of several subscriptions: a look at each of them in each interval; exit 0.

    Raises `UsageError` where the first looks find that none of them exists.
    """
    found: dict[str, Look | ClearerError] = {}
    names, selected = _names(selected.members), with_files(selected)
    with (
        ExitStack() as ending,
        suppress(KeyboardInterrupt),
        ExitStack() as stack,
        Screen(opened) as screen,
    ):
        meters = {
            name: ending.enter_context(closing(LooksMeter(member.job)))
            for name, member in zip(names, selected.members, strict=True)
            if member.job is not None
        }
        watched = [
            None if member.job is None else stack.enter_context(closing(Watched(member.job)))
            for member in selected.members
        ]
        for number in ticks(opened, every_s):
            for name, member, source in zip(names, selected.members, watched, strict=True):
                seen = found[name] = _tried(source, member.error)
                if isinstance(seen, Look):
                    meters[name].show(seen.status)
            wrong = [item for item in found.values() if isinstance(item, UsageError)]
            if number == 0 and len(wrong) == len(found):
                raise wrong[0]
            at, system = now(), selected.system
            objects = [
                watched_backlog(seen, name)
                if isinstance(seen, Look)
                else failed_look(system, seen, at, name)
                for name, seen in found.items()
            ]
            lines = [
                look_line(seen) if isinstance(seen, Look) else failure_line(f"{name}: {seen}", at)
                for name, seen in found.items()
            ]
            value = "\n".join(item.model_dump_json(by_alias=True) for item in objects)
            screen.show(value, "\n".join(lines), several_lines(found, at, screen.width))
    opened.leave()


def _names(members: Sequence[Member]) -> list[str]:
    """What each is called; with its topics where names are not enough, as with all topics of one name."""
    names = [member.name for member in members]
    if len(set(names)) == len(names):
        return names
    return [f"{member.name} on {listed(member.topics, 20)}" for member in members]


def _tried(watched: Watched | None, known: ClearerError | None) -> Look | ClearerError:
    """One look, or why there is none."""
    if watched is None:
        return known or ClearerError("It cannot be reached.")
    try:
        return watched.look()
    except ClearerError as error:
        return error


def watch_run(opened: Session, receipts: str, run_id: str, every_s: float) -> NoReturn:
    """`progress --watch`: a look every `every_s` seconds until the run has ended, or a signal.

    The exit code is that of the last look. Raises `UsageError` where there is no such run.
    """
    last: RunStatus | None = None
    known: dict[str, Receipt] = {}
    with suppress(KeyboardInterrupt), Screen(opened) as screen:
        for _ in ticks(opened, every_s):
            try:
                last = run_status(receipts, run_id, known)
            except ClearerError as error:
                if isinstance(error, UsageError) and last is None:
                    raise
                line = failure_line(error, now())
                lines = [] if last is None else run_lines(last, now(), screen.width)
                screen.show(failure_json(error), line, [(line, "red"), *lines])
            else:
                value = last.model_dump_json(by_alias=True)
                screen.show(value, run_line(last, now()), run_lines(last, now(), screen.width))
                if last.ended:
                    break
    opened.leave(EXIT_NOT_DONE if last is None else run_exit_code(last))

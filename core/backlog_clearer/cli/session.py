"""One command's exchange with its user: plan, question, progress, signals, result, exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console

from backlog_clearer.cli import display
from backlog_clearer.cli.progress import Countdown, Observe, show_progress
from backlog_clearer.cli.streams import unwritten
from backlog_clearer.cli.talk import Talk
from backlog_clearer.cli.undo import undo_line, undo_variables
from backlog_clearer.cli.wakeup import watching_signals
from backlog_clearer.early import INTERRUPTED, end_interrupted
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, RefusedError, UsageError
from backlog_clearer.model import Mode
from backlog_clearer.redaction.redact import redact_logs, remember_environment
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.report import RunResult, failure_json
from backlog_clearer.run.verdict import EXIT_NOT_DONE, EXIT_WRONG_USE, exit_code
from backlog_clearer.text import listed

if TYPE_CHECKING:
    from backlog_clearer.run.several import SeveralPlan

CONNECTING_S = 1.0
"""After this time a user is shown what is connected to."""
INTERRUPT_S = 3.0
"""How long an interrupt waits for a library that does not return, where nothing has been changed."""


class Session:
    """Results go to stdout, everything else to stderr."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.console = display.console_for(stderr=True)
        self.halt = Halt()
        self._noted: tuple[str, ...] = ()  # notes that the user has seen
        self._countdown = Countdown(self.console)
        self._shown = False  # whether the plan was made
        self._changing: str | None = None  # what an interrupt waits for; None: nothing has changed yet

    @property
    def asks(self) -> bool:
        """Whether a user at a terminal is asked for confirmation."""
        return not self.talk.yes and sys.stdin.isatty() and self.console.is_terminal

    def callbacks(self, observe: Observe = lambda _: None) -> Callbacks:
        """What a run calls: `show` with its plan, `confirm`, and `observe` while it drains."""
        return Callbacks(
            show=self.show,
            confirm=self.confirm,
            progress=observe,
            waiting=self.wait,
            halted=self.halted,
        )

    def halted(self) -> bool:
        """Whether a signal has asked for a stop."""
        return self.halt.signalled

    @contextmanager
    def connecting(self, job: Job) -> Iterator[None]:
        """Show what is connected to, if nothing else was shown of the block after `CONNECTING_S`."""

        def show() -> None:
            if not self._shown:
                display.print_line(self.console, f"Connecting to {job.options.place or job.system} …")

        timer = threading.Timer(CONNECTING_S, show)
        timer.daemon = True
        if not self.talk.quiet:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def wait(self, seconds: float) -> None:
        """Show how long a run still waits for proof; an interrupt ends only the wait."""
        self._changing = "ending the wait for proof"
        if not self.talk.quiet:
            self._countdown(seconds)

    def show(self, plan: Plan) -> None:
        """Show a plan; on stdout where it is the result."""
        if self.shows(plan):
            self._noted = plan.notes
            display.show_plan(self.console_of(plan), plan)

    def shows(self, plan: Plan | SeveralPlan) -> bool:
        """Whether a plan is to be shown, now that it is there."""
        self._shown = True
        return (self.asks or not self.talk.quiet) and not (self.talk.json and plan.dry_run)

    def console_of(self, plan: Plan | SeveralPlan) -> Console:
        """Where a plan is shown: on stdout where it is the result."""
        return display.console_for() if plan.dry_run else self.console

    def check_consent(self, job: Job, *, consumes: bool) -> None:
        """Before anything is connected: a script needs --yes to change positions without reading messages."""
        if not (consumes or job.run.dry_run or self.talk.yes or self.asks):
            raise UsageError("Without a terminal to ask for confirmation, this needs --yes.")

    def confirm(self, plan: Plan | SeveralPlan) -> bool:
        """Ask at a terminal."""
        consumes = plan.mode is Mode.CONSUME  # None: a restore
        if self.asks and not click.confirm("Continue?", err=True):
            return False
        self._changing = "acknowledging what was read" if consumes else "writing the positions"
        return True

    def posting(self) -> None:
        """Beginning now, an interrupt waits only for the post of the result."""
        self._changing = "posting the result"

    def removing(self) -> None:
        """Beginning now, an interrupt waits until receipts are removed: part of them may be already."""
        self._changing = "removing the receipts"

    def listen(self) -> None:
        """Handle SIGINT, SIGTERM and SIGHUP: the first ends the run in order, the second one at once.

        A terminal that closes may send SIGHUP twice, so that this one never ends a run at once. Under
        nohup it stays ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def end_stuck(self) -> None:
        """End the process after an interrupt that Python could not act on, if nothing has been changed."""
        if self._changing is None:
            end_interrupted(json=self.talk.json)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.halt.signalled:
            if number == signal.SIGHUP:
                return
            os._exit(EXIT_NOT_DONE)
        self.halt.signal()
        if self._changing is None:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        again = {signal.SIGINT: "press Ctrl-C again", signal.SIGHUP: "send SIGTERM"}.get(
            signal.Signals(number), f"send {name} again"
        )
        self.console.print(f"{name}: {self._changing}; {again} to exit now.", highlight=False)

    def confirm_sending(self, references: Sequence[str], to: str) -> bool:
        """Ask at a terminal whether what a receipt refers to may be sent; without one: no."""
        if not self.asks:
            return False
        question = f"The receipt refers to {listed(references, 20)}. Send the content to {to}?"
        return click.confirm(question, err=True)

    def end(self, result: RunResult, job: Job | None = None) -> NoReturn:
        """Print the result, and how to undo what the job did, and exit."""
        if self.talk.json:
            click.echo(result.model_dump_json(by_alias=True, indent=2))
        else:
            display.show_result(display.console_for(), result, self.undo(result, job))
            if result.verdict is not None:  # a status has shown its notes, and so has a dry run
                new = [note for note in result.notes if note not in self._noted]
                display.show_notes(display.console_for(), new)
        self.leave(exit_code(result), shows=result.verdict is None)

    def leave(self, code: int = 0, *, shows: bool = True) -> NoReturn:
        """Exit; `shows`: the output is all that the command was for, so that losing it is a failure."""
        lost = unwritten()
        if lost:
            display.print_line(self.console, f"Error: {lost}", "red")
        sys.exit(EXIT_NOT_DONE if lost and shows and not code else code)

    def undo(self, result: RunResult, job: Job | None) -> list[tuple[str, str]]:
        """The lines about the undo."""
        if job is None or result.receipt is None:
            return []
        lines = [("Undo", undo_line(job, result.receipt, yes=self.talk.yes))]
        variables = undo_variables(job)
        if variables:
            text = f"{listed(variables, 20)}; receipts hold no secrets"
            lines.append(("Set these environment variables before the undo", text))
        return lines

    def fail(self, error: ClearerError) -> NoReturn:
        """Print an error and exit."""
        if self.talk.json:
            click.echo(failure_json(error))
        display.show_error(self.console, error)
        sys.exit(EXIT_WRONG_USE if isinstance(error, UsageError) else EXIT_NOT_DONE)

    @contextmanager
    def progress(self, *, lasting: bool) -> Iterator[Observe]:
        """Show progress while the block runs, unless --quiet is given; `lasting`: see `show_progress`."""
        if self.talk.quiet:
            yield lambda _: None
        else:
            with show_progress(self.console, lasting=lasting) as observe:
                yield observe


@contextmanager
def session(talk: Talk) -> Iterator[Session]:
    """The block does the work and calls `end`; an error in it becomes a message and an exit code."""
    redact_logs()
    remember_environment(os.environ)
    opened = Session(talk)
    display.set_up_logging(opened.console, talk.least)
    opened.listen()
    try:
        with watching_signals(INTERRUPT_S, opened.end_stuck):
            yield opened
    except ClearerError as error:
        opened.fail(error)
    except (KeyboardInterrupt, click.Abort):
        opened.fail(RefusedError(INTERRUPTED))
    except Exception as error:  # a fault of this program: its traceback follows on stderr
        if talk.json:
            text = f"{type(error).__name__}, which was not expected; stderr has its traceback"
            click.echo(failure_json(ClearerError(text)))
        raise

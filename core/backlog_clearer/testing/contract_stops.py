"""The contract suite: a run that is to stop while its broker is silent, or answers byte by byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.engine.drain import Halt, Snapshot
from backlog_clearer.guard import guarded_source
from backlog_clearer.model import Mode, StopReason
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.restore import restore_source
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.source import Source
from backlog_clearer.testing.bench import Bench, Faults
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.suite import Suite
from backlog_clearer.testing.support import Stopwatch

STOP_S = 5.0
AFTER_S = 0.3  # from the fault to the stop
EACH = 40  # messages of each partition
FAULTS = ("stall", "drip")


class Stopped:
    """A run that is to stop a moment after its broker ceased to answer."""

    def __init__(self, faults: Faults, fault: str, stack: ExitStack) -> None:
        self._faults, self._fault, self._stack = faults, fault, stack
        self.halt = Halt()
        self.watch: Stopwatch | None = None
        self._begun = threading.Event()

    def begin(self) -> None:
        """Disturb the broker, once, and stop the run a moment later."""
        if not self._begun.is_set():
            self._begun.set()
            getattr(self._faults, self._fault)()
            threading.Timer(AFTER_S, self._stop).start()

    def _stop(self) -> None:
        self.watch = self._stack.enter_context(Stopwatch())
        self.halt.signal()

    def halted(self) -> bool:
        """Whether the run is to stop."""
        return self.halt.signalled

    def during(self, source: Source, method: str) -> Source:
        """The source, which is disturbed when this method is called."""
        call: Callable[..., Any] = getattr(source, method)

        def disturbed(*args: Any) -> Any:
            self.begin()
            return call(*args)

        setattr(source, method, disturbed)
        return source

    @property
    def seconds(self) -> float:
        """From the stop to now."""
        return self.watch.seconds if self.watch else 0.0


class StopContract(Suite):
    """Runs that are to stop."""

    @contextmanager
    def stopping(
        self, bench: Bench, way: str, fault: str
    ) -> Iterator[tuple[Stopped, Callable[[RunOptions], Source]]]:
        """A run to stop, and sources that reach the broker by one of `Bench.approaches`."""
        with ExitStack() as stack:
            if way in bench.approaches():
                found = bench.approaches()[way]
                relay = stack.enter_context(Relay(found.host, found.port))
                relay.replace += found.readdressed(relay.port)

                def opening(run: RunOptions) -> Source:
                    return found.source_via(run, "127.0.0.1", relay.port)

                yield Stopped(relay, fault, stack), opening
                relay.heal()
            else:
                faults, other = stack.enter_context(bench.faults())
                yield Stopped(faults, fault, stack), other
                faults.heal()

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_stop_ends_a_restore_whose_broker_does_not_answer(
        self, bench: Bench, tmp_path: Path, fault: str
    ) -> None:
        """It ends in time, restored only if that was read back, with a result, and it can be repeated."""
        self.fill(bench, EACH)
        run = bench.options(tmp_path)
        before = bench.left()
        receipt = load(str(self.run(bench, run).receipt))
        recorded = original_positions([receipt])
        for way in bench.approaches() or [""]:
            with self.stopping(bench, way, fault) as (stopped, opening):
                with closing(guarded_source(opening(run), "broker")) as source:
                    stopped.during(source, "restore")
                    talk = Callbacks(halted=stopped.halted)
                    job = self.job(bench, run)
                    result = restore_source(source, job, recorded, {}, talk)
                self.check(stopped, result, Verdict.NOT_RESTORED, Verdict.RESTORED, Verdict.UNPROVEN)
        if bench.exact_restore and not bench.lease_s:
            with closing(bench.source(run)) as source:
                restore_source(source, self.job(bench, run), recorded, receipt.identity, Callbacks())
            assert bench.left() == before

    @pytest.mark.parametrize(("mode", "fault"), [(Mode.SKIP, "stall"), (Mode.CONSUME, "drip")])
    def test_a_stop_ends_a_clear_whose_broker_does_not_answer(
        self, bench: Bench, tmp_path: Path, mode: Mode, fault: str
    ) -> None:
        """It ends in time, claims nothing that the broker does not show, and its receipt has the result."""
        counted = 0
        for number, way in enumerate(bench.approaches() or [""]):
            self.fill(bench, EACH)
            run = bench.options(tmp_path / str(number), mode=mode)
            with self.stopping(bench, way, fault) as (stopped, opening):

                def seen(_: Snapshot, stopped: Stopped = stopped) -> None:
                    if mode is Mode.CONSUME:
                        stopped.begin()

                with closing(guarded_source(opening(run), "broker")) as source:
                    if mode is Mode.SKIP:
                        stopped.during(source, "skip")
                    talk = Callbacks(progress=seen)
                    result = clear_source(source, self.job(bench, run), talk, stopped.halt)
                self.check(stopped, result, Verdict.NOT_CLEARED, Verdict.CLEARED, Verdict.UNPROVEN)
            counted += result.totals.messages
            moved = EACH * bench.partitions * (number + 1) - sum(bench.left().values())
            assert counted <= moved + bench.confirmed_late() or bench.lease_s

    def check(self, stopped: Stopped, result: RunResult, *verdicts: Verdict) -> None:
        """In time, with one of these verdicts, and with all of it in the receipt."""
        assert stopped.seconds < STOP_S, f"{stopped.seconds:.1f} s: {result}"
        assert result.verdict in verdicts
        if result.receipt is None:  # a system without positions has nothing to write back
            assert not stopped.watch
            return
        stored = load(str(result.receipt)).result
        assert stored is not None
        assert (stored.verdict, stored.stop_reason) == (result.verdict, result.stop_reason)
        if result.verdict is verdicts[0]:
            assert (exit_code(result), result.stop_reason) == (1, StopReason.SIGNAL)

"""What `Source` and `Lane` promise where single answers of the broker are lost, late, or garbled.

One answer at a time is damaged, of every request that a call makes. What is reported then is the truth, an
error, or "unknown"; it is never made of an answer that could not be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.errors import BrokerError
from backlog_clearer.guard import guarded_source
from backlog_clearer.model import Mode, Partition, Position, Remaining, Survey
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.status import as_status, surveyed
from backlog_clearer.run.survey import survey
from backlog_clearer.source import Source
from backlog_clearer.testing.bench import Approach, Bench
from backlog_clearer.testing.contract_faults import Called, assert_no_secret, called, hide
from backlog_clearer.testing.damage import AnswerFault, DamagingRelay
from backlog_clearer.testing.suite import Suite, opened

EACH = 40  # messages of each partition
AT_A_TIME = 8
FAST: dict[str, Any] = {"stall_seconds": 8, "quiet_seconds": 1.5}

Asking = Callable[[Source], Any]


@dataclass(frozen=True)
class Damaged:
    """One damaged answer, and what came of the call that asked for it."""

    way: str
    number: int
    fault: AnswerFault
    happened: bool
    done: Called

    def __str__(self) -> str:
        """For a failed assertion."""
        return f"{self.way}: {self.done.name}, answer {self.number}: {self.fault}: {self.done}"


class DamageContract(Suite):
    """Damaged answers, one at a time."""

    @pytest.fixture
    def answers(self, request: pytest.FixtureRequest, bench: Bench) -> int:
        """How many answers of each kind of call are damaged."""
        found: int = request.config.getoption("--answers", default=0)
        if not found and not bench.damaged_answers:
            pytest.skip("another bench of this system does this; with --answers N, this one does, too")
        if not bench.approaches():
            pytest.skip(f"{type(bench).__name__} does not offer `endpoint`")
        return found or bench.damaged_answers

    def test_a_damaged_answer_never_becomes_a_figure(
        self, bench: Bench, tmp_path: Path, answers: int
    ) -> None:
        """Survey and verification report the truth or an error, whichever of their answers is damaged."""
        self.fill(bench, EACH)
        run = bench.options(tmp_path)
        with opened(bench, run) as source:
            clean = source.survey()
        targets = {state.partition: state.end for state in clean.partitions}
        calls: dict[str, tuple[Asking, Asking]] = {
            "survey": (lambda _: None, lambda source: source.survey()),
            "verification": (survey, lambda source: source.remaining(targets)),
        }
        for each in self.damaged(bench, run, calls, answers):
            check_error(bench, str(each), each.done)
            if each.done.name == "survey" and each.done.error is None:
                check_survey(bench, clean, each)
            elif each.done.error is None:
                check_left(clean, targets, each)

    def damaged(
        self, bench: Bench, run: RunOptions, calls: Mapping[str, tuple[Asking, Asking]], answers: int
    ) -> list[Damaged]:
        """Calls that change nothing, with each of their answers damaged, many at the same time."""
        cases: list[tuple[str, str, int, AnswerFault]] = []
        for name, call in calls.items():
            for key, way in bench.approaches().items():
                with relayed(way) as relay:
                    total = self.once(partial(guarded, bench, run, way), relay, name, call)[1]
                chosen = spread_out(total, answers)
                cases += [(name, key, number, fault) for fault in faults(bench) for number in chosen]

        def one(case: tuple[str, str, int, AnswerFault]) -> Damaged:
            name, key, number, fault = case
            way = bench.approaches()[key]
            with relayed(way, "/".join(map(str, case))) as relay:
                opening = partial(guarded, bench, run, way)
                done, _ = self.once(opening, relay, name, calls[name], (number, fault))
                return Damaged(key, number, fault, relay.damaged, done)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            found = list(pool.map(one, cases))
        assert sum(each.happened for each in found) * 2 > len(found), "most answers were not damaged"
        return found

    def test_a_run_with_a_damaged_answer_reports_the_truth(
        self, bench: Bench, tmp_path: Path, answers: int
    ) -> None:
        """Verdict, rows and counts of a run, and its status, are what the broker shows, at whichever answer."""
        some = itertools.cycle(faults(bench))
        for key, way in bench.approaches().items():
            for mode in Mode:
                # Each run has its own receipts, and so its own targets.
                runs = (
                    bench.options_after(
                        tmp_path / f"{key}-{mode}-{index}",
                        mode=mode,
                        max_retries=3,
                        max_seconds=20,
                        **FAST,
                    )
                    for index in itertools.count()
                )
                self.refill(bench)
                with relayed(way) as relay:
                    relay.arm()
                    self.through(bench, way, relay, next(runs))
                    total = relay.answers
                for number in spread_out(total, answers + 2)[1:-1]:
                    self.refill(bench)
                    fault = next(some)
                    with relayed(way, f"{mode}/{key}/{number}") as relay:
                        relay.arm(number, fault)
                        what = f"{key}, {mode}, answer {number} of {total}: {fault}"
                        self.check_run(bench, way, relay, next(runs), what)

    def refill(self, bench: Bench) -> None:
        """`EACH` messages are left in every partition."""
        for partition, left in bench.left().items():
            bench.produce(partition, max(0, EACH - left))

    def check_run(
        self, bench: Bench, way: Approach, relay: DamagingRelay, run: RunOptions, what: str
    ) -> None:
        """A run's result, and the status after it with the same damage, against the broker's state."""
        before = bench.left()
        done = called("run", lambda: self.through(bench, way, relay, run))
        left = bench.left()
        happened = relay.damaged
        check_error(bench, what, done)
        if done.error is None:
            check_result(bench, done.value, before, left, f"{what}: {done}")
        assert happened or done.error is None, what
        relay.arm(1, AnswerFault.CUT)
        with closing(guarded(bench, run, way, relay)) as source:
            shown = called("status", lambda: as_status(surveyed(source, self.job(bench, run))))
        check_error(bench, what, shown)
        if shown.error is None and bench.unit_is_messages:
            for row in shown.value.partitions:
                number = row.partition if bench.partitions > 1 else 0
                assert row.error or row.remaining in {None, left[number]}, f"{what}: {shown}"

    def through(self, bench: Bench, way: Approach, relay: DamagingRelay, run: RunOptions) -> RunResult:
        """A whole run by way of a relay."""
        with closing(guarded(bench, run, way, relay)) as source:
            return self.cleared(bench, source, run)

    @staticmethod
    def once(
        opening: Callable[[DamagingRelay], Source],
        relay: DamagingRelay,
        name: str,
        call: tuple[Asking, Asking],
        damage: tuple[int, AnswerFault] | None = None,
    ) -> tuple[Called, int]:
        """One call on a new source, and how many answers it got; `call`: what precedes it, and itself."""
        with closing(opening(relay)) as source:
            call[0](source)
            relay.arm(*damage or ())
            return called(name, lambda: call[1](source)), relay.answers


def guarded(bench: Bench, run: RunOptions, way: Approach, relay: DamagingRelay) -> Source:
    """A new source by way of a relay, as the tool opens it."""
    source = way.source_via(run, "127.0.0.1", relay.port)
    return guarded_source(source, f"{bench.system} at {relay.address}")


@contextmanager
def relayed(way: Approach, seed: str = "") -> Iterator[DamagingRelay]:
    """A relay before one address, for a `with` block."""
    with DamagingRelay(way.host, way.port, seed=seed) as relay:
        relay.replace += way.readdressed(relay.port)
        yield relay


def faults(bench: Bench) -> list[AnswerFault]:
    """What may become of an answer."""
    return [fault for fault in AnswerFault if bench.takes_garbled or not fault.garbles]


def spread_out(total: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to `total`, the first and the last among them."""
    if total <= most:
        return list(range(total))
    return sorted({round(index * (total - 1) / max(1, most - 1)) for index in range(most)})


def check_error(bench: Bench, what: str, done: Called) -> None:
    """An error is this project's, is not wrong use, and has no secret in it."""
    if done.error is None:
        return
    shown = hide(bench, f"{what}: {done}")
    assert isinstance(done.error, BrokerError), shown
    assert_no_secret(bench, str(done.error))


def check_survey(bench: Bench, clean: Survey, each: Damaged) -> None:
    """Every figure without an error is the one of a survey that was not disturbed."""
    found: Survey = each.done.value
    true = {state.partition: state for state in clean.partitions}
    assert found.identity.keys() == clean.identity.keys(), each  # values may name the relay's port
    assert {state.partition for state in found.partitions} == true.keys(), each
    for state in found.partitions:
        if state.error is not None:
            continue
        was = true[state.partition]
        assert state.position == was.position or not bench.shows_position, each
        assert state.backlog in {None, was.backlog}, each
        for name in ("incarnation", *(("start", "end") if bench.shows_position else ())):
            value = getattr(state, name)
            assert value is None or value == getattr(was, name), each


def check_left(clean: Survey, targets: Mapping[Partition, Position | None], each: Damaged) -> None:
    """Every partition is there, with what is left, or without a figure."""
    true = {state.partition: state for state in clean.partitions}
    found: Sequence[Remaining] = each.done.value
    assert {item.partition for item in found} == targets.keys(), each
    for item in found:
        if item.error is None and item.left is not None:
            assert item.left == true[item.partition].backlog, each


def check_result(
    bench: Bench, result: RunResult, before: Mapping[int, int], left: Mapping[int, int], what: str
) -> None:
    """Nothing is reported as cleared that is not, and no message as acknowledged that is left."""
    if result.verdict is Verdict.CLEARED or result.verified:
        assert set(left.values()) == {0}, what
    for row in result.partitions:
        if row.verified or row.remaining == 0:
            assert left[row.partition if bench.partitions > 1 else 0] == 0, what
    if bench.confirms and not result.totals.at_least:
        moved = sum(before.values()) - sum(left.values())
        assert result.mode is Mode.SKIP or result.totals.messages == moved, what

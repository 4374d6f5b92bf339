"""One of three real brokers is killed while runs are at every step: no verdict is false.

Each run waits at its step, so that one kill meets all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backlog_clearer.brokers.kafka.client_lane import ClientLane
from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.source import KafkaSource, open_source
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import (
    Advance,
    Claim,
    Mode,
    Outcome,
    Partition,
    Position,
    Remaining,
    Settled,
    Survey,
)
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run import job as job_module
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from backlog_clearer.source import Lane
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge, shorten_time_outs, unique
from backlog_clearer.testing.support import wait_until
from tests.real.conftest import Three

PARTITIONS, EACH, BEFORE = 6, 200, 10

STEPS = {
    Mode.CONSUME: (
        "before the survey", "during the survey", "after the receipt", "before a lane opens",
        "in the middle of the drain", "before a settle", "before a commit", "before the verification",
        "during the verification",
    ),
    Mode.SKIP: (
        "before the survey", "during the survey", "after the receipt", "before the skip", "before a write",
        "before the verification", "during the verification",
    ),
    None: ("before the survey", "during the survey"),  # status
}  # fmt: skip


OF_A_LANE = STEPS[Mode.CONSUME][3:7]  # where the readers differ


class Gate:
    """Holds a run at one step, once, until all runs are let on."""

    def __init__(self, step: str, let: threading.Event) -> None:
        self.step = step
        self.reached = False
        self._let = let

    def at(self, step: str) -> None:
        """A run comes to a step."""
        if step == self.step and not self.reached:
            self.reached = True
            assert self._let.wait(300)


class HeldSource(KafkaSource):
    """The adapter's source, with a gate before each of its steps."""

    gate: Gate
    _surveyed = False

    def hold(self, gate: Gate) -> HeldSource:
        """Take a gate; the requests for the ends of the logs pass it, too."""
        self.gate = gate
        ask_end, commit = self._admin.log_end, self._commits.write

        def log_end(partitions: Any) -> Any:
            gate.at("during the verification" if self._surveyed else "during the survey")
            return ask_end(partitions)

        def write(*args: Any) -> Any:
            gate.at("before a write")
            return commit(*args)

        self._admin.log_end = log_end  # type: ignore[method-assign]
        self._commits.write = write  # type: ignore[assignment, method-assign]
        return self

    def survey(self) -> Survey:
        """As the adapter does."""
        self.gate.at("before the survey")
        found = super().survey()
        self._surveyed = True
        return found

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """As the adapter does; the receipt is stored."""
        self.gate.at("after the receipt")
        super().prepare_undo(partitions, mode)

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """As the adapter does."""
        self.gate.at("before a lane opens")
        return HeldLane(super().open_lane(claims), self.gate)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """As the adapter does."""
        self.gate.at("before the skip")
        self._surveyed = False  # its question for the ends is not the verification's
        outcomes = super().skip(claims)
        self._surveyed = True
        return outcomes

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """As the adapter does."""
        self.gate.at("before the verification")
        return super().remaining(targets)


class HeldLane:
    """A lane that reads a few messages at a time, with a gate before each of its steps."""

    def __init__(self, lane: Lane, gate: Gate) -> None:
        assert isinstance(lane, (HeaderLane, ClientLane))
        self._lane = lane
        self._gate = gate
        self._messages = 0
        self.throttled_s = 0.0
        commit = lane._stored.commit

        def held(offsets: Any) -> Any:
            gate.at("before a commit")
            return commit(offsets)

        lane._stored.commit = held  # type: ignore[method-assign]

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """At most 100 messages, where the adapter would read more."""
        if self._messages:
            self._gate.at("in the middle of the drain")
        few = 100 if max_messages is None else min(100, max_messages)
        found = self._lane.read(max_wait_s, few)
        self._messages += sum(advance.messages for advance in found)
        return found

    def settle(self) -> Sequence[Settled]:
        """As the lane does."""
        self._gate.at("before a settle")
        return self._lane.settle()

    def close(self) -> None:
        """As the lane does."""
        self._lane.close()


class Run(NamedTuple):
    """A run, the step at which the broker is killed, and its group."""

    mode: Mode | None  # None: status
    reader: Reader
    gate: Gate
    group: str
    name: str


class Attempts:
    """Makes the runs' attempts, the first of each with its gate."""

    def __init__(self, judge: Judge, topics: str, folder: Path, runs: Sequence[Run]) -> None:
        self.judge = judge
        self.topics = topics
        self.folder = folder
        self.gates = {run.name: run.gate for run in runs}

    def open(self, _system: str, options: KafkaOptions, run: RunOptions, run_id: str) -> KafkaSource:
        """As `registry.open_source`."""
        gate = self.gates.pop(run_id, None)
        return (
            open_source(options, run, run_id) if gate is None else HeldSource(options, run).hold(gate)
        )

    def make(self, run: Run) -> RunResult | None:
        """One attempt; None: it was refused."""
        options = KafkaOptions(
            bootstrap_servers=self.judge.bootstrap_servers,
            topic=self.topics,
            group_id=run.group,
            reader=run.reader,
        )
        given = RunOptions(
            mode=run.mode or Mode.CONSUME, stop_when_empty=True, receipt_dir=str(self.folder),
            max_retries=4, stall_seconds=90, batch_size=100,
        )  # fmt: skip
        job = Job("kafka", options, given, run.name)
        try:
            return status(job) if run.mode is None else clear(job)
        except BrokerError:
            return None


def planned(let: threading.Event, groups: list[str]) -> list[Run]:
    """Every kind of run at every one of its steps."""
    return [
        Run(mode, reader, Gate(step, let), groups.pop(), unique("run"))
        for mode, steps in STEPS.items()
        for reader in READERS
        for step in steps
        if reader is Reader.HEADERS or step in OF_A_LANE
    ]


@pytest.mark.timeout(900)
def test_a_broker_killed_at_any_step_makes_no_false_verdict(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a run reports after the kill is true, what live brokers lead is cleared, and later all is."""
    three.relay.heal()
    cluster, judge = three.cluster, Judge(three.cluster.bootstrap())
    topics = (
        judge.create(unique("lone"), PARTITIONS),
        judge.create(unique("held"), PARTITIONS, copies=3),
    )
    victim, groups = a_coordinator(judge)
    let = threading.Event()
    runs = planned(let, groups)
    for topic in topics:
        for number in range(PARTITIONS):
            judge.produce(topic, number, EACH)
        for run in runs:
            judge.commit(topic, run.group, dict.fromkeys(range(PARTITIONS), BEFORE))
    attempts = Attempts(judge, ",".join(topics), tmp_path, runs)
    monkeypatch.setattr(job_module, "open_source", attempts.open)
    dead = {
        Partition(topic, number)
        for topic in topics
        for number, leader in judge.leaders(topic).items()
        if leader == victim
    }
    with ThreadPoolExecutor(len(runs)) as pool:
        results = [pool.submit(attempts.make, run) for run in runs]
        try:
            wait_until(lambda: all(run.gate.reached for run in runs), "every run at its step", 240)
            shorten_time_outs(monkeypatch, 3.0)
            cluster.kill(victim)
            let.set()
            for run, result in zip(runs, [result.result(240) for result in results], strict=True):
                check(judge, run, result, dead)
        finally:
            let.set()
            cluster.restart(victim)
        wait_until(lambda: -1 not in judge.leaders(topics[0]).values(), "leaders for all")
        shorten_time_outs(monkeypatch, 10.0)
        for run, result in zip(runs, pool.map(attempts.make, runs), strict=True):
            assert run.mode is None or (result is not None and result.cleared), (run, result)
            offsets = {
                offset for topic in topics for offset in judge.committed(topic, run.group).values()
            }
            assert offsets == {EACH if run.mode else BEFORE}, run


def a_coordinator(judge: Judge) -> tuple[int, list[str]]:
    """A node that coordinates groups, where 1 or 3 does, and names of which every other one is its own."""
    by_node = judge.groups_by_coordinator(200)
    victim = max((3, 1), key=lambda node: len(by_node.get(node, ())))
    theirs = by_node.pop(victim, [])
    others = [name for names in by_node.values() for name in names]
    pairs = zip(theirs or others, others or theirs, strict=False)
    return victim, [name for pair in pairs for name in pair]


def check(judge: Judge, run: Run, result: RunResult | None, dead: set[Partition]) -> None:
    """What a run reported is what the broker shows."""
    what = f"{run.mode or 'status'}, {run.reader}, killed {run.gate.step}: {result}"
    if result is None:  # refused at the survey, where nothing was changed
        assert "survey" in run.gate.step, what
        return
    topics = sorted({row.topic for row in result.partitions})
    committed = {
        Partition(topic, number): offset
        for topic in topics
        for number, offset in judge.committed(topic, run.group).items()
    }
    for row in result.partitions:
        if row.verified or (run.mode is not None and row.remaining == 0):
            assert committed[row.id] == EACH, (row, what)
        if run.mode is None and row.error is None:
            assert row.remaining == EACH - BEFORE, (row, what)
        if run.mode is not None and row.id not in dead and row.error is None and not result.error:
            assert committed[row.id] == EACH, (row, what)
    if result.cleared or result.verified:
        assert set(committed.values()) == {EACH}, what
        assert len(committed) == 2 * PARTITIONS, what
    for row in result.partitions if run.mode is Mode.CONSUME else ():
        moved = (committed[row.id] or 0) - BEFORE
        # A run that ends with an error may not have been able to ask whether its last commit was written.
        exact = row.error is None and not result.error
        assert row.messages == moved if exact else row.messages <= moved, (moved, row, what)
    if run.mode is not None and "survey" not in run.gate.step and not result.error:
        behind = {key for key, offset in committed.items() if offset != EACH}
        assert behind <= dead, what

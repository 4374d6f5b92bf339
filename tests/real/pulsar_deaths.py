"""Runs on two Pulsar brokers of which one is killed while each run waits at another of its steps.

All runs of one `deaths` wait at the same time, so that one kill serves them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.facts import PartitionFacts
from backlog_clearer.brokers.pulsar.source import PulsarSource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError
from backlog_clearer.model import (
    Advance,
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Remaining,
    Settled,
)
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.survey import survey
from backlog_clearer.source import Lane
from backlog_clearer.testing.servers.pulsar import token
from backlog_clearer.testing.servers.pulsar_judge import Case, unique
from backlog_clearer.testing.support import wait_until
from tests.real.pulsar_cluster import TwoBrokers, wait_for_all

NAMESPACE = "public/deaths"
BUNDLES = 8
EACH = 300  # messages of each partition
A_READ = 50  # messages at most
READING = (
    "survey",
    "surveyed one",
    "receipt",
    "open",
    "drain",
    "settle",
    "settled",
    "verify",
    "verified one",
)
SKIPPING = ("survey", "surveyed one", "receipt", "skip", "moved one", "verify", "verified one")
BLIND = ("open", "drain", "settle", "settled", "verify")
_PATIENCE_S = 180.0


@dataclass
class Step:
    """Where one run waits for the kill."""

    name: str
    reached: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)

    def at(self, name: str) -> None:
        """Wait here for the kill, if this is the step, and it is reached for the first time."""
        if name == self.name and not self.reached.is_set():
            self.reached.set()
            if not self.killed.wait(_PATIENCE_S):
                raise TimeoutError("no broker was killed")


class StepLane:
    """A lane that reads a little at a time, and waits at its steps."""

    def __init__(self, lane: Lane, step: Step) -> None:
        self._lane, self._step = lane, step
        self._has_read = False
        self.throttled_s = 0.0

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `Lane`."""
        if self._has_read:
            self._step.at("drain")
        found = self._lane.read(max_wait_s, min(A_READ, max_messages or A_READ))
        self._has_read |= any(advance.messages for advance in found)
        return found

    def settle(self) -> Sequence[Settled]:
        """See `Lane`."""
        self._step.at("settle")
        found = self._lane.settle()
        self._step.at("settled")
        return found

    def close(self) -> None:
        """See `Lane`."""
        self._lane.close()


class StepSource(PulsarSource):
    """A source that waits at its steps."""

    step: Step

    def survey(self) -> Any:
        """See `Source`."""
        self.step.at("survey")
        return super().survey()

    def _look(self, admin: Admin, partition: Partition, *, transactions: bool = True) -> PartitionFacts:
        found = super()._look(admin, partition, transactions=transactions)
        self.step.at("surveyed one")
        return found

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """See `Source`."""
        self.step.at("receipt")
        super().prepare_undo(partitions, mode)

    def open_lane(self, claims: Sequence[Claim]) -> Any:
        """See `Source`."""
        self.step.at("open")
        return StepLane(super().open_lane(claims), self.step)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `Source`."""
        self.step.at("verify")
        return super().remaining(targets)

    def _left(self, admin: Admin, partition: Partition) -> Any:
        found = super()._left(admin, partition)
        self.step.at("verified one")
        return found

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `Source`; the first claim is moved before the others."""
        self.step.at("skip")
        first = super().skip(claims[:1])
        self.step.at("moved one")
        return [*first, *super().skip(claims[1:])]


@dataclass
class Death:
    """One run, the step where the broker is killed, and what came of it."""

    case: Case
    mode: Mode | None  # None: status
    step: Step
    result: RunResult | None = None
    states: Sequence[PartitionState] = ()
    error: ClearerError | None = None

    def __str__(self) -> str:
        kind = self.case.changes["subscription_type"]
        admin = "" if self.case.changes["admin_url"] != "none" else ", no admin API"
        return f"{self.mode or 'status'} ({kind}{admin}) at {self.step.name!r}"

    def go(self) -> None:
        """Run it to its end."""
        run = self.case.run(
            mode=self.mode or Mode.CONSUME,
            workers=2,
            max_retries=40,
            stall_seconds=90,
            quiet_seconds=20,
        )
        job = Job("pulsar", self.case.options(), run)
        source = StepSource(self.case.options(), run, job.run_id)
        source.step = self.step
        with closing(source):
            try:
                if self.mode is None:
                    self.states = survey(source).partitions
                else:
                    self.result = clear_source(source, job, Callbacks(), Halt())
            except ClearerError as error:
                self.error = error

    def falsehood(self, left: Sequence[int]) -> str | None:
        """What the run reported that is not true; None: nothing. `left`: entries, by partition."""
        for state in self.states:
            if state.backlog not in {None, EACH}:
                return f"{state.partition} has a backlog of {state.backlog}"
        if self.result is None:
            return None
        for row in self.result.partitions:
            if (row.verified or row.remaining == 0) and left[row.partition]:
                return f"{row.id} is verified, and {left[row.partition]} entries are left"
        if self.result.cleared and any(left):
            return f"cleared, and {left} entries are left"
        read = self.mode is Mode.CONSUME and self.result.cleared
        if read and self.result.totals.messages != EACH * len(left):
            return f"cleared, and {self.result.totals.messages} messages were counted"
        return None


def _owned(brokers: TwoBrokers) -> Callable[[], str]:
    """Have both brokers own half of a namespace; returns a source of topics, each with a partition at each."""
    brokers.admin("PUT", f"namespaces/{NAMESPACE}", {"bundles": {"numBundles": BUNDLES}})
    brokers.keep(NAMESPACE)
    owners: dict[str, Any] = {}

    def bundle(topic: str) -> str:
        found = brokers.bundle(topic)
        if found not in owners:
            owners[found] = (brokers.first, brokers.second)[len(owners) % 2]
            brokers.give(topic, owners[found])
        return found

    def topic() -> str:
        while True:
            name = f"persistent://{NAMESPACE}/{unique('death')}"
            at = [owners[bundle(f"{name}-partition-{number}")] for number in range(2)]
            if at == [brokers.first, brokers.second]:
                return name

    return topic


def deaths(
    brokers: TwoBrokers, folder: Path, plan: Sequence[tuple[Mode | None, str, bool, str]]
) -> Sequence[Death]:
    """Run each (mode, type, with the admin API, step), kill the second broker once all wait, and restart it.

    Returns the runs with their results; raises `AssertionError` for one that reports what is not true.
    """
    new_topic, first, second = _owned(brokers), brokers.first, brokers.second
    found = []
    for mode, kind, admin, step in plan:
        case = Case(brokers, folder)
        case.topic = new_topic()
        case.create(2)
        case.changes = {
            "token": token(),
            "subscription_type": kind,
            "service_url": f"{second.service_url},127.0.0.1:{first.port}",
            "admin_url": f"{second.admin_url},{first.admin_url}" if admin else "none",
        }
        for number in range(2):
            brokers.produce(f"{case.topic}-partition-{number}", EACH)
        found.append(Death(case, mode, Step(step)))
    with ThreadPoolExecutor(len(found)) as pool:
        ends = [pool.submit(death.go) for death in found]

        def waiting() -> bool:
            return all(
                death.step.reached.is_set() or end.done()
                for death, end in zip(found, ends, strict=True)
            )

        try:
            wait_until(waiting, "all runs at their steps", _PATIENCE_S)
            second.stop()
        finally:
            for death in found:
                death.step.killed.set()
        for death, end in zip(found, ends, strict=True):
            end.result(_PATIENCE_S)
            assert death.step.reached.is_set(), f"{death} did not get there"
    second.start()
    wait_for_all([first, second])
    for death in found:
        parts = [f"{death.case.topic}-partition-{number}" for number in range(2)]
        falsehood = death.falsehood([brokers.backlog(part) for part in parts])
        assert falsehood is None, f"{death}: {falsehood}"
    return found


EVERY_STEP: Sequence[tuple[Mode | None, str, bool, str]] = (
    *((Mode.CONSUME, kind, True, step) for step in READING for kind in ("failover", "shared")),
    *((Mode.SKIP, "failover", True, step) for step in SKIPPING),
    *((Mode.CONSUME, "failover", False, step) for step in BLIND),
    *((None, "failover", True, step) for step in ("survey", "surveyed one")),
)
"""What a run may be doing when a broker dies."""

"""A real Pulsar that is killed at the end of runs: what is verified stays, what comes back is not counted.

It is also the other cluster where a receipt restores nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pulsar
import pytest
import requests

from backlog_clearer.brokers.pulsar.source import PulsarSource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.model import Mode, Partition, Position, Remaining
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.testing.servers.pulsar import PulsarServer
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge
from backlog_clearer.testing.support import wait_until

KINDS = ("exclusive", "failover", "shared", "key_shared")
MESSAGES, SOME = 5000, 3000
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Plain clients of a broker that may be killed, and that stores a cursor on its own only once."""
    more = {
        "managedLedgerDefaultMarkDeleteRateLimit": "0.001",
        "managedLedgerCursorPositionFlushSeconds": "3600",
    }
    server = PulsarServer(tmp_path_factory.mktemp("mortal"), more=more)
    try:
        server.start()
        judge = Judge(server)
        yield judge
        judge.close()
    finally:
        server.stop()


class Dying(PulsarSource):
    """A source whose broker is killed, and started again, after its lanes have ended, before it is asked."""

    death: threading.Barrier
    dead = False

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `Source`; all runs wait here for the same kill."""
        if not self._acknowledgements.lanes and not self.dead:
            self.dead = True
            self.death.wait(PATIENCE_S)
        return super().remaining(targets)


class Killed(NamedTuple):
    """Runs before a kill of the broker, which it met after they were verified, or before that."""

    verified: Sequence[Case]
    met: Mapping[tuple[str, bool], tuple[Case, RunResult]]  # by type, and whether with the admin API


@pytest.fixture(scope="module")
def killed(mortal: Judge, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Complete runs of each type, and incomplete ones that are verified after the broker was killed."""
    folder = tmp_path_factory.mktemp("killed")

    def case(kind: str, **changes: str) -> Case:
        made = Case(mortal, folder)
        made.changes |= {"subscription_type": kind, **changes}
        mortal.produce(made.create(), MESSAGES)
        return made

    def answers(topic: str) -> bool:
        with suppress(requests.RequestException):
            return mortal.backlog(topic) >= 0
        return False

    def restart() -> None:
        mortal.server.stop()
        mortal.server.start()
        # A broker that starts does not serve all topics at once.
        for each in (*verified, *kinds.values()):
            wait_until(partial(answers, each.topic), "figures of each topic")

    verified = [case(kind) for kind in KINDS]
    for each in verified:
        each.cleared(MESSAGES, workers=2)
    kinds = {
        (kind, admin): case(kind, **({} if admin else {"admin_url": "none"}))
        for kind in ("failover", "shared")
        for admin in (True, False)
    }
    death = threading.Barrier(len(kinds), action=restart)

    def met(each: Case) -> RunResult:
        run = each.run(workers=2, max_messages=SOME)
        job = Job("pulsar", each.options(), run)
        source = Dying(each.options(), run, job.run_id)
        source.death = death
        with closing(source):
            return clear_source(source, job, Callbacks(), Halt())

    with ThreadPoolExecutor(len(kinds)) as pool:
        results = list(pool.map(met, kinds.values()))
    return Killed(verified, dict(zip(kinds, zip(kinds.values(), results, strict=True), strict=True)))


def test_what_was_verified_survives_a_killed_broker(mortal: Judge, killed: Killed) -> None:
    """Of every type, nothing comes back when the broker is killed right after a verified result."""
    assert [mortal.backlog(case.topic) for case in killed.verified] == [0] * len(KINDS)


@pytest.mark.parametrize("kind", ["failover", "shared"])
@pytest.mark.parametrize("admin", [True, False])
def test_messages_that_a_killed_broker_gives_back_are_not_counted(
    mortal: Judge, killed: Killed, kind: str, *, admin: bool
) -> None:
    """What was acknowledged, and comes back, is read but not acknowledged; the count is what is gone."""
    case, result = killed.met[kind, admin]
    gone, totals = MESSAGES - mortal.backlog(case.topic), result.totals
    # The position alone does not show what is acknowledged ahead of it.
    exact = admin or kind == "failover"
    assert totals.messages == gone if exact else totals.messages <= gone
    assert totals.messages + totals.unacknowledged >= SOME
    assert totals.at_least is (totals.unacknowledged > 0)
    assert not result.cleared
    assert kind == "failover" or totals.unacknowledged, "the broker gave nothing back"


def test_acknowledgements_ahead_of_the_position_are_kept(pulsar_case: Case) -> None:
    """Where another consumer acknowledged later messages, the position is not written over them."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, 100)
    pulsar_case.changes["subscription_type"] = "shared"

    def ahead(_: object) -> bool:
        """Ten messages after the target, of which a plain consumer acknowledges the last."""
        producer = judge.client.create_producer(topic)
        sent = [producer.send(b"late") for _ in range(10)]
        producer.close()
        consumer = judge.client.subscribe(topic, SUBSCRIPTION, pulsar.ConsumerType.Shared)
        consumer.acknowledge(sent[-1])
        wait_until(lambda: judge.backlog(topic) == 109, "an acknowledgement")
        consumer.close()
        return True

    result = pulsar_case.clear(Callbacks(confirm=ahead), workers=1)
    assert judge.backlog(topic) == 9
    assert judge.cursor(topic)["individuallyDeletedMessages"] != "[]"
    assert result.totals.messages == 100
    assert result.verified is not False


def test_a_receipt_of_another_cluster_is_refused(
    pulsar_case: Case, mortal: Judge, tmp_path: Path
) -> None:
    """A receipt restores nothing on a cluster that has a topic and a subscription of the same names."""
    other = Case(mortal, tmp_path)
    other.topic = pulsar_case.topic
    for case in (pulsar_case, other):
        case.judge.produce(case.create(), 100)
    done = pulsar_case.clear(mode=Mode.SKIP)
    assert other.clear(mode=Mode.SKIP).cleared
    result = other.restore(done)
    assert not result.cleared
    assert "created again" in str(result.partitions[0].error)
    assert mortal.backlog(other.topic) == 0

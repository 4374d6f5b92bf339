"""A real Pulsar that is killed right after a run: what the run verified stays acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pulsar
import pytest

from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.pulsar import running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge
from backlog_clearer.testing.support import wait_until

KINDS = ("exclusive", "failover", "shared", "key_shared")
MESSAGES = 5000


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Plain clients of a broker that may be killed."""
    with running_pulsar(tmp_path_factory.mktemp("mortal")) as server:
        judge = Judge(server)
        yield judge
        judge.close()


def test_what_was_verified_survives_a_killed_broker(mortal: Judge, tmp_path: Path) -> None:
    """Of every type, nothing comes back when the broker is killed right after a verified result."""
    cases = []
    for kind in KINDS:
        case = Case(mortal, tmp_path)
        case.changes["subscription_type"] = kind
        mortal.produce(case.create(), MESSAGES)
        cases.append(case)
    for case in cases:
        case.cleared(MESSAGES, workers=2)
    mortal.server.stop()
    mortal.server.start()
    assert [mortal.backlog(case.topic) for case in cases] == [0] * len(cases)


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

"""Real Pulsar where one partition, or one consumer, is refused: all others are cleared."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlog_clearer.model import Mode
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge, unique
from tests.real.test_pulsar_identity import A_SECOND, MESSAGES, SLOW, once, path

PARTITIONS = 4


def parts(case: Case) -> list[str]:
    """The topics of a case's partitions."""
    return [f"{case.topic}-partition-{number}" for number in range(PARTITIONS)]


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_a_partition_deleted_during_a_drain_ends_alone(
    pulsar_judge: Judge, tmp_path: Path, kind: str
) -> None:
    """One partition's topic is deleted meanwhile: it has an error, and the other three are cleared."""
    pulsar_judge.keep(SLOW)
    pulsar_judge.slow_down(SLOW, A_SECOND)
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{SLOW}/{unique('parts')}"
    case.create(PARTITIONS)
    for part in parts(case):
        pulsar_judge.produce(part, MESSAGES)
    case.changes["subscription_type"] = kind
    gone = parts(case)[1]
    delete = once(lambda: pulsar_judge.admin("DELETE", path(gone), force="true"), PARTITIONS * MESSAGES)
    result = case.clear(delete, workers=2, max_retries=3)
    assert [pulsar_judge.backlog(part) for part in parts(case) if part != gone] == [0] * 3
    assert [row.partition for row in result.partitions if row.error] == [1]
    assert [row.verified for row in result.partitions if not row.error] == [True] * 3
    assert not result.cleared


@pytest.mark.parametrize("mode", Mode)
def test_a_partition_without_the_subscription_has_an_error(pulsar_case: Case, mode: Mode) -> None:
    """One of four partitions lacks the subscription: status shows the others, and they are cleared."""
    pulsar_case.create(PARTITIONS)
    for part in parts(pulsar_case):
        pulsar_case.judge.produce(part, 30)
    at = path(parts(pulsar_case)[2])
    pulsar_case.judge.admin("DELETE", f"{at}/subscription/{SUBSCRIPTION}")
    shown = pulsar_case.status()
    assert [row.backlog for row in shown.partitions] == [30, 30, None, 30]
    result = pulsar_case.clear(mode=mode)
    assert [row.partition for row in result.partitions if row.error] == [2]
    assert "no subscription 'billing'" in str(result.partitions[2].error)
    assert [row.verified for row in result.partitions] == [True, True, None, True]
    assert pulsar_case.judge.admin("GET", f"{at}/subscriptions") == []
    assert not result.cleared


def test_one_consumer_that_is_allowed_clears_everything(pulsar_case: Case) -> None:
    """With maxConsumersPerSubscription 1, four workers clear a shared topic."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, 3000)
    pulsar_case.judge.limit_consumers(topic, 1)
    pulsar_case.changes["subscription_type"] = "shared"
    result = pulsar_case.clear(workers=4, max_retries=3)
    assert pulsar_case.judge.backlog(topic) == 0
    assert result.totals.messages == 3000
    assert result.cleared
    assert not any(row.error for row in result.partitions)

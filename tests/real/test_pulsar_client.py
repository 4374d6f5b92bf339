"""Real Pulsar read with its client library: the same claims as for our own reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlog_clearer.brokers.pulsar.client import ClientFeed
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.real.test_pulsar import (
    test_a_chunked_message_is_one_message,
    test_a_limit_within_a_batch_acknowledges_whole_entries,
    test_competing_lanes_count_each_message_once,
    test_every_type_counts_messages_not_entries,
    test_holes_are_not_counted,
)
from tests.real.test_pulsar_entries import (
    test_batches_acknowledged_in_part_are_counted_right,
    test_follow_clears_what_arrives,
)
from tests.real.test_pulsar_identity import A_SECOND, MESSAGES, once, path

__all__ = [
    "test_a_chunked_message_is_one_message",
    "test_a_limit_within_a_batch_acknowledges_whole_entries",
    "test_batches_acknowledged_in_part_are_counted_right",
    "test_competing_lanes_count_each_message_once",
    "test_every_type_counts_messages_not_entries",
    "test_follow_clears_what_arrives",
    "test_holes_are_not_counted",
]


@pytest.fixture
def pulsar_case(pulsar_judge: Judge, tmp_path: Path) -> Case:
    """A topic and a subscription, not created yet, to be read with the library."""
    case = Case(pulsar_judge, tmp_path)
    case.changes["reader"] = "client"
    return case


def test_without_the_admin_api_the_runs_own_acknowledgements_are_the_proof(pulsar_case: Case) -> None:
    """Without the admin API, what the run acknowledged in order proves the end; a second run proves nothing."""
    topic = pulsar_case.create(2)
    for number in range(2):
        pulsar_case.judge.produce(f"{topic}-partition-{number}", 500, batch=50)
    pulsar_case.changes |= {"admin_url": None, "assume_exists": True, "subscription_type": "failover"}
    result = pulsar_case.clear(quiet_seconds=2)
    assert [pulsar_case.judge.backlog(f"{topic}-partition-{n}") for n in range(2)] == [0, 0]
    assert (result.totals.backlog, result.totals.messages, result.verified) == (None, 1000, True)
    assert any("does not report the position" in note for note in result.notes)
    again = pulsar_case.clear(quiet_seconds=2)
    assert (again.totals.messages, again.verified) == (0, None)


def test_a_namespace_that_creates_no_subscriptions_keeps_a_deleted_one_deleted(
    pulsar_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, the library cannot create a subscription again, however late its lost consumer is noticed."""
    judge, namespace = pulsar_case.judge, f"public/{unique('fixed')}"
    judge.keep(namespace)
    judge.slow_down(namespace, A_SECOND)
    at, policy = f"namespaces/{namespace}/autoSubscriptionCreation", "allowAutoSubscriptionCreation"
    judge.admin("POST", at, {policy: False})
    wait_until(lambda: (judge.admin("GET", at) or {}).get(policy) is False, "the policy")
    pulsar_case.topic = topic = f"persistent://{namespace}/{unique('log')}"
    judge.produce(pulsar_case.create(), MESSAGES)
    monkeypatch.setattr(ClientFeed, "look", lambda _: None)
    mine = f"{path(topic)}/subscription/{SUBSCRIPTION}"
    gone = once(lambda: judge.admin("DELETE", mine, force="true"))
    result = pulsar_case.clear(gone, workers=1, max_retries=1, stall_seconds=5)
    assert judge.admin("GET", f"{path(topic)}/subscriptions") == []
    assert not result.cleared
    assert "was deleted since the survey" in str(result.partitions[0].error)

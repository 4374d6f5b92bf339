"""Several subscriptions at once on real Apache Pulsar, judged by its own statistics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backlog_clearer.testing.servers.pulsar_judge import KEPT, SUBSCRIPTION, Case, unique
from tests.invoking import call

EACH = 30


def subscribe(case: Case, topic: str, *names: str) -> None:
    """Create further subscriptions at the start of a topic."""
    for name in names:
        path = f"{topic.replace('://', '/')}/subscription/{name}"
        case.judge.admin("PUT", path, {"ledgerId": -1, "entryId": -1})


def cleared(case: Case, *args: str) -> tuple[int, dict[str, Any]]:
    """Clear; the exit code and the JSON object."""
    server = case.judge.server
    done = call(
        "pulsar", "--service-url", server.service_url, "--admin-url", server.admin_url, *args,
        "--stop-when-empty", "--output", "json", "--yes", "--receipt-dir", str(case.folder),
    )  # fmt: skip
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_of_several_subscriptions_a_live_one_is_refused_and_the_others_are_cleared(
    pulsar_case: Case, mode: str
) -> None:
    """Exit 1: the live one and one that does not exist keep or get nothing, the others are at the end."""
    topic, judge = pulsar_case.create(), pulsar_case.judge
    subscribe(pulsar_case, topic, "shipping", "audit-1")
    judge.produce(topic, EACH)
    before = judge.backlog(topic, "shipping")
    assert before > 0
    names = f"{SUBSCRIPTION},shipping,no-such,audit-1"
    with judge.attached(topic):
        code, value = cleared(pulsar_case, "--topic", topic, "--subscription", names, "--mode", mode)
    live, shipping, missing, audit = value["parts"]
    assert (code, live["kind"], missing["kind"]) == (1, "RefusedError", "UsageError")
    assert shipping["result"]["verdict"] == audit["result"]["verdict"] == "cleared"
    assert judge.backlog(topic, SUBSCRIPTION) == before
    assert judge.backlog(topic, "shipping") == judge.backlog(topic, "audit-1") == 0
    assert call("restore", shipping["result"]["receipt"], "--yes").exit_code == 0
    assert (judge.backlog(topic, "shipping"), judge.backlog(topic, "audit-1")) == (before, 0)


def test_all_subscriptions_of_a_topic_that_match_are_cleared(pulsar_case: Case) -> None:
    """A partitioned topic counts as one, and a subscription with another name stays."""
    topic, judge = pulsar_case.create(2), pulsar_case.judge
    subscribe(pulsar_case, topic, "audit-1", "audit-2")
    for number in range(2):
        judge.produce(f"{topic}-partition-{number}", EACH)
    code, value = cleared(
        pulsar_case, "--topic", topic, "--all-subscriptions", "--matching", "audit-*"
    )  # fmt: skip
    assert (code, [part["name"] for part in value["parts"]]) == (0, ["audit-1", "audit-2"])
    for number in range(2):
        part = f"{topic}-partition-{number}"
        assert judge.backlog(part, "audit-1") == judge.backlog(part, "audit-2") == 0
        assert judge.backlog(part) > 0


def test_all_topics_of_a_namespace_that_have_the_subscription_are_cleared(pulsar_case: Case) -> None:
    """Two of three topics have it: each is one part with a receipt; the third has no new subscription."""
    judge, name = pulsar_case.judge, unique("sub")
    topics = sorted(f"persistent://{KEPT}/{unique('topic')}" for _ in range(3))
    for topic in topics:
        judge.create(topic)
        judge.produce(topic, EACH)
    subscribe(pulsar_case, topics[0], name)
    subscribe(pulsar_case, topics[2], name)
    code, value = cleared(
        pulsar_case, "--namespace", KEPT, "--all-topics", "--subscription", name, "--mode", "skip"
    )  # fmt: skip
    assert (code, value["complete"]) == (0, True)
    assert [part["topics"] for part in value["parts"]] == [[topics[0]], [topics[2]]]
    assert judge.backlog(topics[0], name) == judge.backlog(topics[2], name) == 0
    path = f"{topics[1].replace('://', '/')}/subscriptions"
    assert judge.admin("GET", path) == [SUBSCRIPTION]

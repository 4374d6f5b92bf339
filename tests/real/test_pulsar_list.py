"""`list pulsar` on real Apache Pulsar, judged by its own statistics."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, unique
from tests.command import cleaner


def test_subscriptions_of_a_topic_are_listed(pulsar_case: Case) -> None:
    """A partitioned topic's subscription is one line with the backlog of all partitions."""
    topic = pulsar_case.create(3)
    judge = pulsar_case.judge
    before = datetime.now(timezone.utc) - timedelta(
        milliseconds=1
    )  # the broker's times are milliseconds
    for number in range(3):
        judge.produce(f"{topic}-partition-{number}", 10 + number)
    where = ("--service-url", judge.server.service_url, "--admin-url", judge.server.admin_url)
    ran = cleaner("list", "pulsar", *where, "--topic", topic)
    assert ran.code == 0, ran.stderr
    assert ran.result["unit"] == "entries"
    rows = [
        (item["name"], item["topics"], item["backlog"], item["members"])
        for item in ran.result["subscriptions"]
    ]
    assert rows == [(SUBSCRIPTION, [topic], 33, 0)]
    assert judge.backlog(f"{topic}-partition-2") == 12
    (item,) = ran.result["subscriptions"]
    oldest = datetime.fromisoformat(item["oldest"].replace("Z", "+00:00"))
    assert before <= oldest <= datetime.now(timezone.utc)
    without = cleaner("list", "pulsar", *where, "--topic", topic, "--no-ages")
    assert without.result["subscriptions"] == [{**item, "oldest": None}]
    namespace = topic.removeprefix("persistent://").rpartition("/")[0]
    every = cleaner("list", "pulsar", *where, "--namespace", namespace, "--matching", "bill*", "--all")
    assert every.code == 0, every.stderr
    assert {topic} in [set(item["topics"]) for item in every.result["subscriptions"]]
    missing = cleaner("list", "pulsar", *where, "--topic", topic + unique("x"))
    assert (missing.code, "There is no" in missing.result["error"]) == (2, True)


def test_a_topic_or_a_namespace_is_needed() -> None:
    """Neither, both, and no admin API are wrong use."""
    from backlog_clearer.brokers.pulsar.list_options import PulsarListOptions  # noqa: PLC0415

    for values in ({}, {"topic": "t", "namespace": "a/b"}):
        with pytest.raises(UsageError, match="--topic or --namespace"):
            build(PulsarListOptions, {"service_url": "pulsar://h:6650", **values})
    with pytest.raises(UsageError, match="--admin-url"):
        build(PulsarListOptions, {"service_url": "pulsar://h:6650", "topic": "t", "admin_url": "none"})

"""Watching a subscription on real Pulsar that is acknowledged out of order, over a change of ledgers."""

from __future__ import annotations

from contextlib import closing

import pulsar

from backlog_clearer.run.job import Job
from backlog_clearer.run.rates import Rates
from backlog_clearer.run.watch import Watched
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case
from backlog_clearer.testing.support import wait_until

SENT, ACKNOWLEDGED = 100, 30


def acknowledge_late_ones(case: Case) -> None:
    """Acknowledge the last `ACKNOWLEDGED` messages one by one, so that the position stays."""
    consumer = case.judge.client.subscribe(case.topic, SUBSCRIPTION, pulsar.ConsumerType.Shared)
    try:
        messages = [consumer.receive(10_000) for _ in range(SENT)]
        for message in messages[-ACKNOWLEDGED:]:
            consumer.acknowledge(message)
        left = SENT - ACKNOWLEDGED
        wait_until(lambda: case.judge.backlog(case.topic) == left, "the acknowledgements")
    finally:
        consumer.close()


def test_out_of_order_acknowledgements_and_new_ledgers_are_counted(pulsar_case: Case) -> None:
    """The drain of a shared subscription is that of its backlog, and the end is counted over ledgers."""
    pulsar_case.create()
    judge, topic = pulsar_case.judge, pulsar_case.topic
    judge.produce(topic, SENT)
    job = Job("pulsar", pulsar_case.options(subscription_type="shared"), pulsar_case.run())
    times = iter((0.0, 10.0, 20.0))
    with closing(Watched(job, lambda: next(times))) as watched:
        first = watched.look()
        acknowledge_late_ones(pulsar_case)
        judge.produce(topic, 20)
        second = watched.look()
        judge.reload(topic)
        judge.produce(topic, 10)
        third = watched.look()
    assert [look.status.totals.backlog for look in (first, second, third)] == [100, 90, 100]
    assert second.total == Rates(10.0, 2.0, 3.0, -1.0)
    assert third.total == Rates(20.0, 1.5, 1.5, 0.0)
    assert judge.backlog(topic) == 100

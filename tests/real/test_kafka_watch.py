"""Watching a group on real Apache Kafka, while messages arrive and a consumer commits."""

from __future__ import annotations

import signal
from contextlib import closing

from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.model import Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Job
from backlog_clearer.run.rates import Rates
from backlog_clearer.run.watch import Watched, WatchedBacklog
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from tests.command import started


def watched(judge: Judge, topic: str, group: str) -> Watched:
    """A group, looked at every 10 s by its clock."""
    values = {"bootstrap_servers": judge.bootstrap_servers, "topic": topic, "group_id": group}
    times = iter(range(0, 1000, 10))
    return Watched(Job("kafka", KafkaOptions.model_validate(values), RunOptions()), lambda: next(times))


def test_rates_are_what_was_produced_and_committed(judge: Judge) -> None:
    """With 70 messages more and 350 offsets committed in 10 s, each partition has exactly its rates."""
    topic, group = judge.create(unique("watched"), 2), unique("watched")
    for number in range(2):
        judge.produce(topic, number, 500)
    judge.commit(topic, group, {0: 0, 1: 0})
    with closing(watched(judge, topic, group)) as looks:
        first = looks.look()
        judge.produce(topic, 0, 70)
        judge.commit(topic, group, {0: 250, 1: 100})
        second = looks.look()
    assert (first.status.totals.backlog, second.status.totals.backlog) == (1000, 720)
    assert second.rates == {
        Partition(topic, 0): Rates(10.0, 7.0, 25.0, -18.0),
        Partition(topic, 1): Rates(10.0, 0.0, 10.0, -10.0),
    }
    assert judge.committed(topic, group) == {0: 250, 1: 100}


def test_what_was_set_back_or_recreated_has_no_rate(judge: Judge) -> None:
    """A lowered offset, and another log of the same name, are unknown at that look and counted anew then."""
    topic, group = judge.create(unique("reset"), 1), unique("reset")
    judge.produce(topic, 0, 100)
    judge.commit(topic, group, {0: 90})
    with closing(watched(judge, topic, group)) as looks:
        looks.look()
        judge.commit(topic, group, {0: 20})
        assert looks.look().total == Rates()
        judge.commit(topic, group, {0: 50})
        assert looks.look().total == Rates(10.0, 0.0, 3.0, -3.0)
        judge.recreate(topic)
        judge.produce(topic, 0, 300)
        judge.commit(topic, group, {0: 200})
        assert looks.look().total == Rates()
        judge.produce(topic, 0, 50)
        assert looks.look().total == Rates(10.0, 5.0, 0.0, 5.0)


def test_the_command_line_watches_until_ctrl_c(judge: Judge, kafka: KafkaCluster) -> None:
    """Lines show that messages arrive and offsets are committed; Ctrl-C ends it with 0, changing nothing."""
    topic, group = judge.create(unique("watched"), 1), unique("watched")
    judge.produce(topic, 0, 500)
    judge.commit(topic, group, {0: 0})
    where = ("--bootstrap-servers", kafka.bootstrap(), "--topic", topic, "--group-id", group)
    with started("status", "kafka", *where, "--watch", "1") as process:
        assert process.stdout is not None
        found = [WatchedBacklog.model_validate_json(process.stdout.readline())]
        judge.produce(topic, 0, 70)
        judge.commit(topic, group, {0: 250})
        while not (any(item.arrival_per_second for item in found) and found[-1].backlog == 320):
            found.append(WatchedBacklog.model_validate_json(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=300)[1]
    assert found[0].backlog == 500
    assert any(item.drain_per_second for item in found)
    assert found[-1].oldest is not None
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert judge.committed(topic, group) == {0: 250}

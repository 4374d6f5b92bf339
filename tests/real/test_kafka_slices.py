"""Processes that share a backlog, and a skip that is undone, judged by Kafka's own tool."""

from __future__ import annotations

from pathlib import Path

from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from tests.command import cleaner, ended, started

PARTITIONS, EACH = 5, 2000


def test_two_slices_in_two_processes(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """Two slices at the same time clear each partition once, and their receipts restore both."""
    topic, group = judge.create(unique("slices"), PARTITIONS), unique("group")
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH)
        judge.commit(topic, group, {number: 100 + number})
    connection = ("--bootstrap-servers", kafka.bootstrap(), "--topic", topic, "--group-id", group)
    where = ("--receipt-dir", str(tmp_path))
    args = ("kafka", *connection, "--stop-when-empty", *where)
    with started(*args, "--slice", "0/2") as first, started(*args, "--slice", "1/2") as second:
        ran = [ended(first), ended(second)]
    assert [each.code for each in ran] == [0, 0], ran
    numbers = [{item["partition"] for item in each.result["partitions"]} for each in ran]
    assert numbers == [{0, 2, 4}, {1, 3}]
    total = sum(each.result["totals"]["messages"] for each in ran)
    assert total == sum(EACH - 100 - number for number in range(PARTITIONS))
    lags = kafka.group_offsets(group)
    assert {key[1]: item.lag for key, item in lags.items()} == dict.fromkeys(range(PARTITIONS), 0)
    for each in ran:
        assert cleaner("restore", each.result["receipt"], "--yes").code == 0
    before = {number: 100 + number for number in range(PARTITIONS)}
    assert {key[1]: item.current for key, item in kafka.group_offsets(group).items()} == before


def test_skip_then_restore_is_exact(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """Skip leaves no lag, restore brings back each offset to the digit, by Kafka's own tool."""
    topic, group = judge.create(unique("skip"), 3), unique("group")
    before = {0: 0, 1: 77, 2: 500}
    for number in before:
        judge.produce(topic, number, 500)
    judge.commit(topic, group, before)
    connection = ("--bootstrap-servers", kafka.bootstrap(), "--topic", topic, "--group-id", group)
    where = ("--receipt-dir", str(tmp_path))
    refused = cleaner("kafka", *connection, "--mode", "skip", *where)
    assert (refused.code, judge.committed(topic, group)) == (2, before)
    skipped = cleaner("kafka", *connection, "--mode", "skip", "--yes", *where)
    assert (skipped.code, skipped.result["verified"]) == (0, True)
    assert {item.lag for item in kafka.group_offsets(group).values()} == {0}
    undone = cleaner("restore", skipped.result["receipt"], "--yes")
    assert undone.code == 0, undone.stderr
    assert {key[1]: item.current for key, item in kafka.group_offsets(group).items()} == before

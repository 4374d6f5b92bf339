"""Restores where something of what the receipt holds is gone, on real Kafka."""

from __future__ import annotations

from pathlib import Path

from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from tests.command import cleaner


def test_the_topics_that_exist_are_restored(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """One of two topics was deleted: the other one is put back, the deleted one is listed, exit 1."""
    kept, gone, group = (
        judge.create(unique("kept"), 2),
        judge.create(unique("gone"), 1),
        unique("group"),
    )
    for topic, numbers in ((kept, (0, 1)), (gone, (0,))):
        for number in numbers:
            judge.produce(topic, number, 50)
        judge.commit(topic, group, dict.fromkeys(numbers, 7))
    ran = cleaner(
        "kafka", "--bootstrap-servers", kafka.bootstrap(), "--topic", f"{kept},{gone}", "--group-id", group,
        "--stop-when-empty", "--receipt-dir", str(tmp_path),
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    judge.delete(gone)
    back = cleaner("restore", ran.result["receipt"], "--yes", "--receipt-dir", str(tmp_path))
    assert judge.committed(kept, group) == {0: 7, 1: 7}, back.stdout + back.stderr
    assert (back.code, back.result["verdict"]) == (1, "not_restored")
    assert {row["topic"]: bool(row["error"]) for row in back.result["partitions"]} == {
        kept: False, gone: True,
    }  # fmt: skip


def test_what_retention_deleted_is_counted(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """The old offset is restored to the digit, and the result has how many of its records are gone."""
    topic, group = judge.create(unique("trimmed"), 1), unique("group")
    judge.produce(topic, 0, 100)
    judge.commit(topic, group, {0: 10})
    ran = cleaner(
        "kafka", "--bootstrap-servers", kafka.bootstrap(), "--topic", topic, "--group-id", group,
        "--mode", "skip", "--yes", "--receipt-dir", str(tmp_path),
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    judge.delete_before(topic, 0, 60)
    back = cleaner("restore", ran.result["receipt"], "--yes", "--receipt-dir", str(tmp_path))
    assert judge.committed(topic, group) == {0: 10}, back.stderr
    assert (back.code, [row["deleted"] for row in back.result["partitions"]]) == (0, [50])
    assert any("50 offsets" in note and "no longer exist" in note for note in back.result["notes"])

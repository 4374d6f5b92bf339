"""Every kind of Kafka log is counted, committed and verified exactly, on real Apache Kafka."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import Producer

from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import unique
from backlog_clearer.testing.support import wait_until
from tests.real.kafka_case import Case


def test_every_codec_is_counted(case: Case, kafka: KafkaCluster) -> None:
    """Eight partitions that mix all codecs: each message counted once, no lag by Kafka's own tool."""
    topic = case.create(8)
    codecs = ("none", "gzip", "snappy", "lz4", "zstd")
    for number in range(8):
        for turn in range(3):
            codec = codecs[(number + turn) % len(codecs)]
            case.judge.produce(topic, number, 500, compression=codec)
    result = case.clear()
    assert {item.partition: item.messages for item in result.partitions} == dict.fromkeys(
        range(8), 1500
    )
    assert result.verified is True
    lags = kafka.group_offsets(case.group)
    assert {key: offset.lag for key, offset in lags.items()} == {(topic, n): 0 for n in range(8)}


def test_transactions_leave_no_lag(case: Case, kafka: KafkaCluster) -> None:
    """Committed and aborted records are counted, markers are not, and Kafka's tool sees no lag."""
    topic = case.create(2)
    case.judge.produce(topic, 0, 50)
    case.judge.produce_transaction(topic, 0, 30, commit=True)
    case.judge.produce_transaction(topic, 0, 20, commit=False)
    case.judge.produce_transaction(topic, 1, 7, commit=False)
    assert case.ends() == {0: 102, 1: 8}  # with the three markers
    result = case.clear()
    assert {item.partition: item.messages for item in result.partitions} == {0: 100, 1: 7}
    assert case.committed() == {0: 102, 1: 8}
    assert {offset.lag for offset in kafka.group_offsets(case.group).values()} == {0}


def test_target_at_a_marker_is_exact(case: Case) -> None:
    """A target right behind a transaction marker is committed exactly, later records stay."""
    topic = case.create()
    case.judge.produce_transaction(topic, 0, 30, commit=True)

    def publish_late(_: object) -> bool:
        case.judge.produce_transaction(topic, 0, 5, commit=False)
        case.judge.produce(topic, 0, 9)
        return True

    result = case.clear(Callbacks(confirm=publish_late))
    assert case.committed() == {0: 31}
    assert (result.totals.messages, result.verified) == (30, True)


def test_open_transaction_hides_no_backlog(case: Case) -> None:
    """Records of a transaction that is still open are backlog, and are cleared with the rest."""
    topic = case.create()
    producer = Producer({**case.judge.settings, "transactional.id": unique("open")})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(10):
        producer.produce(topic, b"undecided", partition=0)
    producer.flush(30)
    case.judge.produce(topic, 0, 10)
    try:
        result = case.clear()
        assert (result.totals.backlog, result.totals.messages) == (20, 20)
        assert case.committed() == {0: 20}
    finally:
        producer.abort_transaction(30)


def test_compacted_log_is_counted_by_what_is_left(case: Case) -> None:
    """Gaps that compaction left are not counted as messages, and leave no lag behind."""
    topic = case.create(
        cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms="100",
        max_compaction_lag_ms="200", min_compaction_lag_ms="0", delete_retention_ms="100",
    )  # fmt: skip
    producer = Producer(case.judge.settings)

    def retained() -> int:
        return sum(1 for _ in case.judge.records(topic))

    def compacted() -> bool:
        for index in range(60):
            producer.produce(topic, b"x" * 50, key=str(index % 5).encode(), partition=0)
        producer.flush(30)
        time.sleep(0.3)  # a segment closes only when something arrives after segment.ms
        return retained() < case.ends()[0]

    wait_until(compacted, "a compaction")
    producer.produce(topic, b"last", key=b"a separate key", partition=0)
    producer.flush(30)
    result = case.clear()
    counted, end = result.totals.messages, case.ends()[0]
    assert case.committed() == {0: end}
    assert result.verified is True
    assert retained() <= counted < end  # the cleaner may have continued after the drain


def test_deleted_records_are_no_backlog(case: Case) -> None:
    """Where the log starts behind the committed offset, only what is retained counts."""
    topic = case.create(3)
    for number in range(3):
        case.judge.produce(topic, number, 100)
    case.judge.commit(topic, case.group, {0: 10, 1: 90})
    case.judge.delete_before(topic, 0, 40)
    case.judge.delete_before(topic, 1, 100)
    case.judge.delete_before(topic, 2, 70)
    result = case.clear()
    assert {item.partition: (item.backlog, item.messages) for item in result.partitions} == {
        0: (60, 60),
        1: (0, 0),
        2: (30, 30),
    }
    assert case.committed() == {0: 100, 1: 100, 2: 100}
    assert result.verified is True


def test_empty_topic_is_left_alone(case: Case) -> None:
    """An empty topic is cleared without any change: not even a group is created."""
    case.create(2)
    result = case.clear()
    assert result.cleared
    assert case.committed() == {0: None, 1: None}


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_offset_beyond_the_end_is_an_error_and_is_left_alone(case: Case, mode: str) -> None:
    """An offset beyond the end is reported as an error, never as cleared, and is never moved back."""
    topic = case.create(2)
    case.judge.produce(topic, 0, 5)
    case.judge.produce(topic, 1, 5)
    case.judge.commit(topic, case.group, {0: 50})
    result = case.clear(mode=mode)
    assert case.committed() == {0: 50, 1: 5}
    beyond, sound = result.partitions
    assert "beyond the end" in (beyond.error or "")
    assert (result.cleared, beyond.verified, sound.verified) == (False, None, True)
    assert exit_code(case.status()) == 1


def test_several_topics_of_a_group(case: Case) -> None:
    """Two topics are cleared in one run, and a third of the same group is not touched."""
    names = [case.create(2) for _ in range(3)]
    for name in names:
        case.judge.produce(name, 0, 100)
        case.judge.produce(name, 1, 100)
        case.judge.commit(name, case.group, {0: 20, 1: 30})
    case.topic = f"{names[1]},{names[0]}"
    result = case.clear(workers=3)
    assert result.totals.messages == 300
    found = [case.judge.committed(name, case.group) for name in names]
    assert found == [{0: 100, 1: 100}, {0: 100, 1: 100}, {0: 20, 1: 30}]


def test_many_workers_on_few_partitions(case: Case) -> None:
    """Twenty workers on three partitions clear all of it, each message once."""
    topic = case.create(3)
    for number in range(3):
        case.judge.produce(topic, number, 5000)
    result = case.clear(workers=20)
    assert result.totals.messages == 15000
    assert case.committed() == {0: 5000, 1: 5000, 2: 5000}
    assert any("20 workers for 3 partitions" in note for note in result.notes)


def test_only_chosen_partitions_are_changed(case: Case) -> None:
    """--partitions leaves the others as they are, in both modes."""
    topic = case.create(4)
    for number in range(4):
        case.judge.produce(topic, number, 100)
    case.clear(partitions="1")
    case.clear(partitions="3", mode="skip")
    assert case.committed() == {0: None, 1: 100, 2: None, 3: 100}


def test_follow_goes_on_past_the_end(case: Case) -> None:
    """--follow clears messages that arrive during the run as well, until it is stopped."""
    topic = case.create()
    case.judge.produce(topic, 0, 100)
    late: list[int] = []

    def observe(seen: Any) -> None:
        if seen.messages >= 100 and not late:
            late.append(1)
            case.judge.produce(topic, 0, 60)

    result = case.clear(Callbacks(progress=observe), follow=True, max_messages=160)
    assert result.totals.messages == 160
    assert case.committed() == {0: 160}

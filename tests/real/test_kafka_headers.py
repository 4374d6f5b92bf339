"""Cases that concern only the header reader, on real Apache Kafka."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from backlog_clearer.brokers.kafka import header_lane, positions, shared_offsets
from backlog_clearer.brokers.kafka.batch_wire import BatchWalk, OldFormatError
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.leaders import Leaders, find_leaders, open_connection
from backlog_clearer.brokers.kafka.librdkafka import open_consumer
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.shared_offsets import CONNECTIONS, SharedOffsets
from backlog_clearer.brokers.shared.sockets import wait
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Advance, Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.real.kafka_case import Case


@pytest.fixture
def headers(judge: Judge, tmp_path: Path) -> Case:
    """A topic and a group, read by headers."""
    return Case(judge, tmp_path, Reader.HEADERS)


def rows(result: RunResult) -> dict[tuple[str, int], Any]:
    """The figures of each partition in a result."""
    return {
        (item.topic, item.partition): (item.before, item.target, item.after, item.messages)
        for item in result.partitions
    }


def mixed_topic(judge: Judge) -> str:
    """Codecs, transactions, deleted records and an empty partition in one topic."""
    topic = judge.create(unique("mixed"), 5)
    for number, codec in enumerate(("gzip", "snappy", "lz4", "zstd")):
        for part in range(3):
            judge.produce(topic, number, 700 + part, compression=codec if part else "none")
    judge.produce_transaction(topic, 1, 40, commit=True)
    judge.produce_transaction(topic, 1, 30, commit=False)
    judge.produce_transaction(topic, 2, 9, commit=False)
    judge.delete_before(topic, 3, 777)
    return topic


def test_both_readers_agree(judge: Judge, tmp_path: Path) -> None:
    """Client and headers end with the same offsets and counts, and Kafka has both groups there."""
    topic = mixed_topic(judge)
    results, committed = [], []
    for reader in (Reader.CLIENT, Reader.HEADERS):
        case = Case(judge, tmp_path, reader)
        case.topic = topic
        results.append(case.clear())
        committed.append(case.committed())
    assert rows(results[0]) == rows(results[1])
    assert committed[0] == committed[1] == {n: high or None for n, high in case.ends().items()}
    assert [result.verified for result in results] == [True, True]


def test_result_states_why_offsets_are_not_messages(headers: Case) -> None:
    """Where transaction markers take offsets, the result states how many messages there were."""
    topic = headers.create()
    headers.judge.produce_transaction(topic, 0, 30, commit=True)
    result = headers.clear()
    assert headers.committed() == {0: 31}
    assert any("30 messages read from a backlog of 31 offsets" in note for note in result.notes)


def test_messages_deleted_after_the_survey_are_not_waited_for(headers: Case) -> None:
    """Records deleted between survey and read are neither waited for nor counted."""
    topic = headers.create(2)
    for number in (0, 1):
        for _ in range(5):
            headers.judge.produce(topic, number, 200)

    def delete(_: object) -> bool:
        headers.judge.delete_before(topic, 0, 600)
        headers.judge.delete_before(topic, 1, 1000)
        return True

    result = headers.clear(Callbacks(confirm=delete))
    assert (result.cleared, result.totals.messages) == (True, 400)
    assert headers.committed() == {0: 1000, 1: 1000}


def test_a_batch_larger_than_the_fetch_is_read(headers: Case) -> None:
    """A record batch above the fetch size, behind smaller ones in other partitions, is read."""
    topic = headers.create(3, max_message_bytes="30000000")
    producer = Producer(
        {"bootstrap.servers": headers.judge.bootstrap_servers, "message.max.bytes": 30_000_000}
    )
    for number in range(3):
        for size in (100, 12_000_000, 100):
            producer.produce(topic, b"x" * size, partition=number)
            producer.flush(30)
    result = headers.clear()
    assert (result.cleared, result.totals.messages) == (True, 9)
    assert headers.committed() == {0: 3, 1: 3, 2: 3}


def test_limit_cuts_inside_a_batch(headers: Case) -> None:
    """--max-messages is exact although a batch holds more, and the next run continues there."""
    topic = headers.create(2)
    for number in (0, 1):
        headers.judge.produce(topic, number, 1000, compression="lz4")
    first = headers.clear(max_messages=1300, workers=1)
    assert first.totals.messages == 1300
    assert sum(offset or 0 for offset in headers.committed().values()) == 1300
    second = headers.clear()
    assert (second.totals.messages, headers.committed()) == (700, {0: 1000, 1: 1000})


def test_unknown_setting_falls_back_with_its_reason(
    headers: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting that only librdkafka supports is used by reading with librdkafka, with a warning."""
    topic = headers.create()
    headers.judge.produce(topic, 0, 50)
    options = {**headers.options().model_dump(), "settings": {"socket.keepalive.enable": "true"}}
    run = RunOptions(stop_when_empty=True, receipt_dir=str(headers.folder))
    refused = clear(Job("kafka", KafkaOptions(**options), run))
    assert not refused.cleared
    assert "socket.keepalive.enable" in (refused.error or "") + str(refused.partitions)
    assert headers.committed() == {0: None}
    with caplog.at_level(logging.WARNING, "backlog_clearer"):
        result = clear(Job("kafka", KafkaOptions(**{**options, "reader": "auto"}), run))
    assert (result.cleared, headers.committed()) == (True, {0: 50})
    assert "socket.keepalive.enable" in caplog.text


def test_old_message_format_falls_back(
    headers: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a log turns out to be of the old format (a stand-in raises it), librdkafka clears it."""

    def old(*_: object, **__: object) -> None:
        raise OldFormatError("message format 1 at byte 0")

    topic = headers.create()
    headers.judge.produce(topic, 0, 50)
    monkeypatch.setattr(BatchWalk, "feed", old)
    headers.reader = Reader.AUTO
    result = headers.clear()
    assert (result.cleared, result.totals.messages, headers.committed()) == (True, 50, {0: 50})
    assert "message format 1" in caplog.text


def test_auto_reads_headers(headers: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice, headers are read."""
    opened: list[object] = []
    init = HeaderLane.__init__

    def spy(self: HeaderLane, *args: Any, **kwargs: Any) -> None:
        opened.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(HeaderLane, "__init__", spy)
    topic = headers.create()
    headers.judge.produce(topic, 0, 50)
    headers.reader = Reader.AUTO
    assert headers.clear().cleared
    assert headers.committed() == {0: 50}
    assert opened


def test_lanes_share_the_answer_about_leaders_until_one_fails(
    headers: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane is opened by the leaders in the answer that checked its logs; one opened again asks for them."""
    asked: list[object] = []
    failed: list[HeaderLane] = []
    read = HeaderLane.read

    def spy(*args: Any) -> Leaders:
        asked.append(args)
        return find_leaders(*args)

    def fails_once(self: HeaderLane, *args: Any) -> Sequence[Advance]:
        if not failed:
            failed.append(self)
            raise TransientError("The connection was lost.")
        return read(self, *args)

    monkeypatch.setattr(header_lane, "find_leaders", spy)
    topic = headers.create(3)
    for end in (40, 80):
        for number in range(3):
            headers.judge.produce(topic, number, 40)
        assert headers.clear(workers=3).cleared
        assert headers.committed() == dict.fromkeys(range(3), end)
        assert bool(asked) == bool(failed) == (end == 80)
        monkeypatch.setattr(HeaderLane, "read", fails_once)


def test_many_lanes_commit_over_a_few_connections(
    headers: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 24 lanes, at most eight connections write all offsets and are closed; there is no consumer."""
    made: list[Connection] = []
    consumers: list[Consumer] = []

    def opened(*args: Any) -> Connection:
        made.append(open_connection(*args))
        return made[-1]

    def consumer(*args: Any) -> Consumer:
        consumers.append(open_consumer(*args))
        return consumers[-1]

    monkeypatch.setattr(shared_offsets, "open_connection", opened)
    monkeypatch.setattr(positions, "open_consumer", consumer)
    topic = headers.create(24)
    for number in range(24):
        headers.judge.produce(topic, number, 5)
    assert headers.clear(workers=24).cleared
    assert headers.committed() == dict.fromkeys(range(24), 5)
    assert 1 <= len(made) <= CONNECTIONS
    assert {each.fileno() for each in made} == {-1}
    assert not consumers


def test_a_connection_that_the_coordinator_closed_is_replaced(
    headers: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections, which brokers end, are not asked again: no lane fails for it."""
    made: list[Connection] = []

    def opened(*args: Any) -> Connection:
        made.append(open_connection(*args))
        return made[-1]

    monkeypatch.setattr(shared_offsets, "open_connection", opened)
    topic = headers.create(2)
    for number in range(2):
        headers.judge.produce(topic, number, 5)
    with closing(SharedOffsets(headers.options())) as stored:
        assert stored.committed([Partition(topic, 0)]) == ({}, {})
        made[0]._socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: bool(wait(made, 0)), "the end of the connection")
        both = {Partition(topic, number): number + 3 for number in range(2)}
        assert stored.commit(both) == dict.fromkeys(both)
        monkeypatch.setattr(shared_offsets, "IDLE_S", 0.0)
        assert stored.committed(both) == (both, {})
    assert len(made) == 3
    assert headers.committed() == {0: 3, 1: 4}


def test_overlapping_runs_never_lower_an_offset(headers: Case, kafka: KafkaCluster) -> None:
    """A run that another has overtaken neither puts the group back nor counts what the other cleared."""
    topic = headers.create(2)
    for number in (0, 1):
        headers.judge.produce(topic, number, 300)

    def other_run(_: object) -> bool:
        headers.judge.commit(topic, headers.group, {0: 300, 1: 100})
        return True

    result = headers.clear(Callbacks(confirm=other_run), max_messages=None)
    counted = {item.partition: item.messages for item in result.partitions}
    assert counted == {0: 0, 1: 200}
    assert {key: item.lag for key, item in kafka.group_offsets(headers.group).items()} == {
        (topic, 0): 0,
        (topic, 1): 0,
    }

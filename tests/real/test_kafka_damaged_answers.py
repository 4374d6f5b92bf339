"""Each request of survey, drain and verification, with each kind of damage to its answer, on a real Kafka.

Every run has a separate relay, so that many can be made at the same time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.source import KafkaSource
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition, Position, Remaining
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.source import Lane
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge, shorten_time_outs, unique
from tests.real.kafka_case import Case
from tests.real.kafka_relay import (
    API_VERSIONS,
    DESCRIBE_GROUPS,
    FETCH,
    FIND_COORDINATOR,
    LIST_OFFSETS,
    METADATA,
    OFFSET_COMMIT,
    OFFSET_FETCH,
    Damage,
    KafkaRelay,
)

PARTITIONS, EACH, BEFORE = 2, 100, 10
REQUESTS = {
    "survey": (
        API_VERSIONS, METADATA, FIND_COORDINATOR, DESCRIBE_GROUPS, LIST_OFFSETS, OFFSET_FETCH,
    ),
    # the coordinator is looked for by the client reader, whose index is odd
    "drain": (API_VERSIONS, FIND_COORDINATOR, METADATA, FETCH, OFFSET_FETCH, OFFSET_COMMIT),
    "verification": (METADATA, LIST_OFFSETS, OFFSET_FETCH),
}  # fmt: skip
# librdkafka ends the process on fields that cannot be: those are damaged on other connections only.
FIELDS = (Damage.ZEROS, Damage.ONES)
OWN = {("drain", API_VERSIONS), ("drain", METADATA), ("drain", FETCH), ("verification", METADATA)}
AT_A_TIME = 16


class Try(NamedTuple):
    """A run, and the answer that is damaged."""

    phase: str
    key: int
    damage: Damage
    reader: Reader
    relay: KafkaRelay
    group: str


class Phases:
    """Which part of its run each try is in, by the address of its relay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: dict[str, str] = {}
        open_lane, remaining = KafkaSource.open_lane, KafkaSource.remaining

        def opened(source: KafkaSource, claims: Any) -> Lane:
            self.at[source._options.bootstrap_servers[0]] = "drain"
            return open_lane(source, claims)

        def left(
            source: KafkaSource, targets: Mapping[Partition, Position | None]
        ) -> Sequence[Remaining]:
            self.at[source._options.bootstrap_servers[0]] = "verification"
            return remaining(source, targets)

        monkeypatch.setattr(KafkaSource, "open_lane", opened)
        monkeypatch.setattr(KafkaSource, "remaining", left)

    def once(self, phase: str, key: int, damage: Damage, relay: KafkaRelay) -> None:
        """Damage the first answer to a kind of request in a phase."""
        address = f"127.0.0.1:{relay.port}"

        def damages(asked: int, own: bool) -> Damage | None:
            at = self.at.get(address, "survey")
            if asked == FETCH and at == "verification":
                at = "drain"  # a drain may ask what remains before its first fetch is answered
            hit = asked == key and not relay.damaged and at == phase
            return damage if hit and (own or damage not in FIELDS) else None

        relay.damages = damages


def relayed(kafka: KafkaCluster, relay: KafkaRelay) -> KafkaRelay:
    """The relay, before the only broker."""
    relay.broker = kafka.nodes[0].ports["PLAINTEXT"]
    host = b"127.0.0.1"
    relay.replace = [
        (host + struct.pack(">i", relay.broker), host + struct.pack(">i", relay.port)),
    ]
    return relay


def attempt(folder: Path, topic: str, each: Try, **run: Any) -> RunResult | None:
    """One attempt through the relay; None: it was refused."""
    options = KafkaOptions(
        bootstrap_servers=f"127.0.0.1:{each.relay.port}",
        topic=topic,
        group_id=each.group,
        reader=each.reader,
    )
    values = {"stop_when_empty": True, "receipt_dir": str(folder), "workers": 2, "max_retries": 4}
    try:
        return clear(Job("kafka", options, RunOptions(**{**values, **run})))
    except BrokerError:
        return None


def test_a_damaged_answer_never_makes_a_false_verdict(
    kafka: KafkaCluster,
    judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever a run reports is true, no library's error comes through, and the next run clears the rest."""
    shorten_time_outs(monkeypatch)
    phases = Phases(monkeypatch)
    topic = judge.create(unique("damaged"), PARTITIONS)
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH)
    with ExitStack() as stack:
        tries = [
            Try(phase, key, damage, reader_for(damage, index), relay, unique("group"))
            for phase, keys in REQUESTS.items()
            for index, key in enumerate(keys)
            for damage in Damage
            if damage not in FIELDS or (phase, key) in OWN
            if (relay := stack.enter_context(relayed(kafka, KafkaRelay())))
        ]
        for each in tries:
            judge.commit(topic, each.group, dict.fromkeys(range(PARTITIONS), BEFORE))
            phases.once(each.phase, each.key, each.damage, each.relay)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            found = list(pool.map(lambda each: attempt(tmp_path, topic, each), tries))
            for each, result in zip(tries, found, strict=True):
                check(judge, topic, each, result)
                each.relay.heal()
            again = pool.map(lambda each: attempt(tmp_path, topic, each, max_retries=10), tries)
            for each, result in zip(tries, again, strict=True):
                assert result is not None, each
                assert result.cleared, (each, result)
    tracebacks = [record.getMessage() for record in caplog.records if record.exc_info]
    assert not tracebacks
    missed = [each for each in tries if not each.relay.damaged]
    assert not missed


def reader_for(damage: Damage, index: int) -> Reader:
    """Both readers in turn; only one has connections without librdkafka."""
    return Reader.HEADERS if damage in FIELDS else READERS[index % 2]


def check(judge: Judge, topic: str, each: Try, result: RunResult | None) -> None:
    """What a run reported is what the broker shows."""
    what = f"{each.phase}, request {each.key}, {each.reader}: {each.damage.value}: {result}"
    committed = judge.committed(topic, each.group)
    if result is None:
        assert each.phase == "survey", what
        assert set(committed.values()) == {BEFORE}, what
        return
    if result.cleared or result.verified:
        assert set(committed.values()) == {EACH}, what
    for row in result.partitions:
        if row.verified or row.remaining == 0:
            assert committed[row.partition] == EACH, (row, what)
    if each.key != OFFSET_FETCH:  # an answer without fields reads as: nothing is stored
        moved = sum((offset or 0) - BEFORE for offset in committed.values())
        assert result.totals.messages == moved, what
    texts = [result.error or "", *(row.error or "" for row in result.partitions)]
    assert not any("Error:" in text and "could not be read" not in text for text in texts), what


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_messages_are_counted_where_no_commit_is_answered(
    kafka: KafkaCluster, judge: Judge, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers to commits are lost, though all are written: each message moved is counted, once."""
    shorten_time_outs(monkeypatch)
    topic = judge.create(unique("unanswered"), PARTITIONS)
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH)
    with relayed(kafka, KafkaRelay()) as relay:
        relay.damages = lambda key, _own: Damage.CUT if key == OFFSET_COMMIT else None
        each = Try("drain", OFFSET_COMMIT, Damage.CUT, reader, relay, unique("group"))
        result = attempt(tmp_path, topic, each)
    assert relay.damaged
    assert result is not None
    assert judge.committed(topic, each.group) == dict.fromkeys(range(PARTITIONS), EACH)
    assert (result.cleared, result.totals.messages) == (True, PARTITIONS * EACH)


def test_damage_within_a_batch_is_noticed_by_the_client_reader(kafka: KafkaCluster, case: Case) -> None:
    """A changed byte in a message is an error with the client reader; header batches are not checked for it."""
    topic = case.create()
    producer = Producer({**case.judge.settings, "compression.type": "none"})
    for _ in range(EACH):
        producer.produce(topic, b"a message that is whole", partition=0)
    producer.flush(30)
    port = kafka.nodes[0].ports["PLAINTEXT"]
    with Relay("127.0.0.1", port) as relay:
        host = b"127.0.0.1"
        relay.replace += [
            (host + struct.pack(">i", port), host + struct.pack(">i", relay.port)),
            (b"that is whole", b"that is wrong"),
        ]
        case.more = {"bootstrap_servers": (relay.address,)}
        result = case.clear(max_retries=1)
    if case.reader is Reader.CLIENT:
        assert case.committed() == {0: None}
        assert "BAD_MSG" in (result.partitions[0].error or "")
    else:
        assert (result.cleared, case.committed()) == (True, {0: EACH})

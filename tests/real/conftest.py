"""Real brokers that tests of this folder share; they end when a worker continues with another folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing.servers.kafka import KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge
from tests.real.kafka_case import Case
from tests.real.kafka_relay import KafkaRelay

if TYPE_CHECKING:
    from backlog_clearer.testing.servers.pulsar_judge import Case as PulsarCase
    from backlog_clearer.testing.servers.pulsar_judge import Judge as PulsarJudge


@pytest.fixture(scope="package")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One node of real Apache Kafka; each test creates its topics and groups, and none stops it."""
    settings = {"log.cleaner.backoff.ms": "200", "log.retention.check.interval.ms": "1000"}
    with running_kafka(tmp_path_factory.mktemp("kafka"), settings=settings) as cluster:
        Judge(cluster.bootstrap()).wait_for_coordinators()
        yield cluster


class Three(NamedTuple):
    """Three nodes of real Kafka, and the relay through which clients reach node 2."""

    cluster: KafkaCluster
    relay: KafkaRelay


@pytest.fixture(scope="package")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Three nodes that deliver 1 MB/s each to a client; tests may kill them, and start them again."""
    settings = {
        "quota.window.num": "2",
        "min.insync.replicas": "1",
        "broker.session.timeout.ms": "4000",  # instead of 9 s: how long a dead broker keeps its leaders
        "broker.heartbeat.interval.ms": "1000",
    }
    folder = tmp_path_factory.mktemp("three")
    with (
        KafkaRelay() as relay,
        running_kafka(folder, nodes=3, settings=settings, relays={2: relay.port}) as cluster,
    ):
        relay.broker = cluster.nodes[1].ports["PLAINTEXT"]
        Judge(cluster.bootstrap()).wait_for_coordinators()
        cluster.limit_reads(1_000_000)
        yield Three(cluster, relay)


@pytest.fixture(scope="package")
def judge(kafka: KafkaCluster) -> Judge:
    """Plain clients of the real Kafka."""
    return Judge(kafka.bootstrap())


@pytest.fixture(params=READERS, ids=str)
def reader(request: pytest.FixtureRequest) -> Reader:
    """Each way to read."""
    chosen: Reader = request.param
    return chosen


@pytest.fixture
def case(judge: Judge, tmp_path: Path, reader: Reader) -> Case:
    """A topic and a group, not created yet."""
    return Case(judge, tmp_path, reader)


@pytest.fixture(scope="package")
def pulsar_judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulsarJudge]:
    """Plain clients of one real Pulsar; each test creates its topics, and none stops it."""
    # Kafka's tests run where Pulsar's client is not installed
    from backlog_clearer.testing.servers import pulsar, pulsar_judge  # noqa: PLC0415

    with pulsar.running_pulsar(tmp_path_factory.mktemp("pulsar"), transactions=True) as server:
        judge = pulsar_judge.Judge(server)
        yield judge
        judge.close()


@pytest.fixture
def pulsar_case(pulsar_judge: PulsarJudge, tmp_path: Path) -> PulsarCase:
    """A topic and a subscription, not created yet."""
    from backlog_clearer.testing.servers.pulsar_judge import Case  # noqa: PLC0415

    return Case(pulsar_judge, tmp_path)

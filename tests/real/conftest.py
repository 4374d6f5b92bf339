"""Real brokers that a whole test session shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing.servers.kafka import KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge
from tests.real.kafka_case import Case

if TYPE_CHECKING:
    from backlog_clearer.testing.servers.pulsar_judge import Case as PulsarCase
    from backlog_clearer.testing.servers.pulsar_judge import Judge as PulsarJudge


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One node of real Apache Kafka; each test creates its topics and groups, and none stops it."""
    with running_kafka(tmp_path_factory.mktemp("kafka")) as cluster:
        Judge(cluster.bootstrap()).wait_for_coordinators()
        yield cluster


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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

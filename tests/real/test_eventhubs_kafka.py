"""Event Hubs through its Kafka endpoint: real Kafka with SASL_SSL and `$ConnectionString`.

The events are in Kafka; the AMQP server reports the same numbers of events, and serves single ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.source import EventHubsSource, open_source
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import EventHubsServer
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge
from tests.brokers.test_eventhubs import EventHubsBench


@pytest.fixture(scope="module")
def namespace() -> Iterator[EventHubsServer]:
    """The AMQP side of the namespace."""
    server = EventHubsServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def endpoint(
    namespace: EventHubsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaCluster]:
    """The Kafka side: one user, `$ConnectionString`, whose password is the connection string."""
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' user_$ConnectionString="{namespace.connection_string()}";'
    )
    cluster = KafkaCluster(
        tmp_path_factory.mktemp("endpoint"),
        settings={"listener.name.sasl_ssl.plain.sasl.jaas.config": login},
    )
    cluster.start()
    Judge(cluster.bootstrap()).wait_for_coordinators()
    yield cluster
    cluster.stop()


class KafkaReaderBench(EventHubsBench):
    """One Event Hub whose events are read through the Kafka endpoint."""

    def __init__(self, server: EventHubsServer, storage: Azurite, endpoint: KafkaCluster) -> None:
        super().__init__(server, storage)
        self.damaged_answers = 0
        self.endpoint = None  # a relay in front of AMQP would not disturb reads
        self.kafka = endpoint
        self.judge = Judge(endpoint.bootstrap())
        self.judge.create(self.hub, self.partitions)
        self.producer = Producer({"bootstrap.servers": endpoint.bootstrap()})

    def breaking(self, number: int) -> Any:
        self._not_offered("breaking")  # only the AMQP side can disable one

    def add_partition(self) -> int:
        self._not_offered("add_partition")

    def recreate(self) -> None:
        super().recreate()
        self.judge.recreate(self.hub, self.partitions)
        self.producer = Producer({"bootstrap.servers": self.kafka.bootstrap()})

    def options_of(self, **changes: Any) -> EventHubsOptions:
        kafka = {
            "reader": "kafka",
            "kafka_bootstrap_servers": self.kafka.bootstrap("SASL_SSL"),
            "connection_verify": str(self.kafka.ca),
        }
        return super().options_of(**{**kafka, **changes})

    def source(self, run: RunOptions, run_id: str = "contract") -> EventHubsSource:
        return open_source(self.options_of(), run, run_id)

    def produce(self, number: int, count: int) -> None:
        for _ in range(count):
            self.producer.produce(self.hub, b"x" * 100, partition=number)
        self.producer.flush(30)
        super().produce(number, count)


@pytest.fixture
def bench(
    namespace: EventHubsServer,
    storage: Azurite,
    endpoint: KafkaCluster,
) -> KafkaReaderBench:
    """One Event Hub with both sides."""
    return KafkaReaderBench(namespace, storage, endpoint)


class TestKafkaReader(Contract):
    """The contract of every adapter, read through the Kafka endpoint."""

    @pytest.fixture
    def bench(
        self,
        namespace: EventHubsServer,
        storage: Azurite,
        endpoint: KafkaCluster,
    ) -> Iterator[Bench]:
        """One Event Hub with both sides."""
        yield KafkaReaderBench(namespace, storage, endpoint)


def clear(bench: KafkaReaderBench, tmp_path: Path, **changes: Any) -> Any:
    """One whole run."""
    run = RunOptions(stop_when_empty=True, receipt_dir=str(tmp_path), max_seconds=60)
    options = bench.options_of(**changes)
    with closing(open_source(options, run, "run")) as source:
        return clear_source(source, Job("eventhubs", options, run, "run"), Callbacks(), Halt())


def test_nothing_is_committed_to_kafka(bench: KafkaReaderBench, tmp_path: Path) -> None:
    """The drain creates no group on the Kafka side."""
    bench.produce(0, 500)
    before = bench.judge.groups()
    assert clear(bench, tmp_path).cleared
    assert bench.judge.groups() == before


def test_an_endpoint_with_other_offsets_is_refused(bench: KafkaReaderBench, tmp_path: Path) -> None:
    """Where Kafka's offsets are not the sequence numbers, nothing is read and nothing is written."""
    bench.produce(0, 50)
    bench.log.partitions[0].end += 1  # an event that Kafka does not have
    with pytest.raises(BrokerError, match="are not its sequence numbers"):
        clear(bench, tmp_path)
    assert bench.checkpoints() == {}


def test_auto_reads_over_amqp_where_there_is_no_kafka_endpoint(
    bench: KafkaReaderBench, tmp_path: Path
) -> None:
    """With --reader auto and an endpoint that does not answer, AMQP clears, and a note gives the reason."""
    for log in bench.log.partitions:
        log.end = 400_000
    result = clear(bench, tmp_path, reader="auto", kafka_bootstrap_servers="127.0.0.1:1")
    assert result.cleared
    assert any("over AMQP, because the Kafka endpoint" in note for note in result.notes)
    assert result.totals.messages == 1_200_000


def test_the_choice_of_reader_is_a_note(bench: KafkaReaderBench, tmp_path: Path) -> None:
    """A note names the reader that is used, and the reason."""
    bench.produce(0, 10)
    assert any(
        "Kafka endpoint" in note and "--reader kafka asks for" in note
        for note in clear(bench, tmp_path).notes
    )
    bench.produce(0, 10)
    notes = clear(bench, tmp_path, reader="auto").notes
    assert any("over AMQP" in note and "too few" in note for note in notes)

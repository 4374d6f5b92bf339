"""The Kafka-compatible broker that pip installs, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backlog_clearer.testing.servers.embedded_kafka import EmbeddedKafka
from backlog_clearer.testing.servers.kafka_judge import Judge


@pytest.fixture(scope="module")
def embedded() -> Iterator[Judge]:
    """One embedded broker for a module's tests; each makes separate topics and groups."""
    with EmbeddedKafka() as kafka:
        yield Judge(kafka.bootstrap_servers)

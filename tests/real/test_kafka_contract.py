"""Kafka's adapter passes the contract on real Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.kafka_judge import Judge, KafkaBench, shorten_time_outs


@pytest.fixture(autouse=True)
def short_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are not answered time out in 6 s instead of 10."""
    shorten_time_outs(monkeypatch, 6.0)


class TestClient(Contract):
    """Reading with librdkafka."""

    @pytest.fixture
    def bench(self, judge: Judge) -> Iterator[Bench]:
        """A separate topic and group."""
        yield KafkaBench(judge, Reader.CLIENT)


class TestHeaders(Contract):
    """Reading only the headers of record batches."""

    @pytest.fixture
    def bench(self, judge: Judge) -> Iterator[Bench]:
        """A separate topic and group."""
        yield KafkaBench(judge, Reader.HEADERS)

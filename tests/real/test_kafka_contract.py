"""Kafka's adapter passes the contract on real Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.options.kafka import Reader
from tests.brokers.kafka_judge import Judge, KafkaBench
from tests.contract import Bench, Contract


class TestClient(Contract):
    """Reading with librdkafka."""

    @pytest.fixture
    def bench(self, judge: Judge) -> Iterator[Bench]:
        """A topic and a group of their own."""
        yield KafkaBench(judge, Reader.CLIENT)


class TestHeaders(Contract):
    """Reading only the headers of record batches."""

    @pytest.fixture
    def bench(self, judge: Judge) -> Iterator[Bench]:
        """A topic and a group of their own."""
        yield KafkaBench(judge, Reader.HEADERS)

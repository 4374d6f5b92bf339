"""Kafka's adapter passes the contract on the broker that pip installs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge, KafkaBench, shorten_time_outs
from tests.brokers.kafka_embedded import embedded
from tests.real.kafka_case import Case

__all__ = ["embedded"]


@pytest.fixture(autouse=True)
def short_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are not answered time out in 3 s instead of 10."""
    shorten_time_outs(monkeypatch, 3.0)


class TestClient(Contract):
    """Reading with librdkafka."""

    @pytest.fixture
    def bench(self, embedded: Judge) -> Iterator[Bench]:
        """A separate topic and group."""
        yield KafkaBench(embedded, Reader.CLIENT)


class TestHeaders(Contract):
    """Reading only the headers of record batches."""

    @pytest.fixture
    def bench(self, embedded: Judge) -> Iterator[Bench]:
        """A separate topic and group."""
        bench = KafkaBench(embedded, Reader.HEADERS)
        bench.damaged_answers = 1
        yield bench


def clients() -> int:
    """How many clients of librdkafka this process has; each has one thread of this name."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return sum(name == "rdk:main\n" for name in names)


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_run_leaves_no_client(embedded: Judge, tmp_path: Path, reader: Reader) -> None:
    """Clients end with their run, and not when Python looks for circles: their threads use the processor."""
    case = Case(embedded, tmp_path, reader)
    embedded.produce(case.create(), 0, 50)
    gc.collect()
    before = clients()
    gc.disable()
    try:
        assert case.clear().cleared
        assert (case.committed(), clients()) == ({0: 50}, before)
    finally:
        gc.enable()

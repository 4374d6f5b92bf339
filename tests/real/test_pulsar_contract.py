"""Pulsar's adapter passes the contract on real Apache Pulsar, in order and competing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import Bench, Contract
from tests.real.pulsar_judge import Judge, PulsarBench


class TestFailover(Contract):
    """Acknowledging cumulatively, a lane a partition."""

    @pytest.fixture
    def bench(self, pulsar_judge: Judge) -> Iterator[Bench]:
        """A topic of three partitions."""
        yield PulsarBench(pulsar_judge, "failover")


class TestShared(Contract):
    """Acknowledging entry by entry, lanes competing."""

    @pytest.fixture
    def bench(self, pulsar_judge: Judge) -> Iterator[Bench]:
        """A topic of three partitions."""
        yield PulsarBench(pulsar_judge, "shared")

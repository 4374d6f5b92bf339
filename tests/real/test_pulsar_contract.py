"""Pulsar's adapter passes the contract on real Apache Pulsar, in order and competing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from backlog_clearer.run import retry
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.pulsar_judge import Judge, PulsarBench


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey that got no answer within 10 s is made again: a busy machine's broker may pause that long."""
    monkeypatch.setattr(retry, "PATIENCE_S", 15.0)


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


class ClientBench(PulsarBench):
    """The same with Pulsar's client library, which gives an error's name without the broker's sentence."""

    changes: ClassVar[dict[str, Any]] = {"reader": "client"}
    attempts = 20  # the library tries again within the time that it is given for an answer

    @contextmanager
    def limited_consumers(self) -> Iterator[str]:
        with super().limited_consumers():
            yield "ConsumerBusy"


class TestClientCompeting(Contract):
    """Pulsar's client library, acknowledging entry by entry; in order: tests/brokers/test_pulsar_lite.py."""

    @pytest.fixture
    def bench(self, pulsar_judge: Judge) -> Iterator[Bench]:
        """A topic of three partitions."""
        yield ClientBench(pulsar_judge, "shared")


class BlindBench(PulsarBench):
    """The same without the admin API, as far as that allows."""

    cuts_by_time = cuts_by_count = shows_age = False
    detects_live = False
    changes: ClassVar[dict[str, Any]] = {"admin_url": "none"}

    def recreate(self) -> None:
        """The binary protocol has nothing that distinguishes a topic from another one of its name."""
        Bench.recreate(self)


class TestWithoutAdmin(Contract):
    """Only the mark-delete position proves the end and restores messages."""

    @pytest.fixture
    def bench(self, pulsar_judge: Judge) -> Iterator[Bench]:
        """A topic of three partitions."""
        yield BlindBench(pulsar_judge, "failover")

"""The reference broker passes the contract, as a log and as a queue with competing lanes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from backlog_clearer.brokers.memory import MemoryBroker, MemorySource
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench, Contract


class MemoryBench(Bench):
    """A topic of three partitions in memory."""

    system = "memory"
    missing_name = "no-such-topic"

    def __init__(self, *, competing: bool = False, figures: bool = True) -> None:
        self.broker = MemoryBroker()
        self.broker.create("orders", self.partitions)
        self.broker.figures = figures
        self.competing = competing
        self.has_figures = figures

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return MemorySource(
            self.broker, "orders", "billing", competing=self.competing, batch_size=run.batch_size
        )

    def missing_source(self, run: RunOptions) -> Source:
        return MemorySource(self.broker, self.missing_name, "billing")

    def produce(self, number: int, count: int) -> None:
        self.broker.produce("orders", number, count)

    def left(self) -> dict[int, int]:
        figures, self.broker.figures = self.broker.figures, True
        found = self.source(RunOptions()).survey().partitions
        self.broker.figures = figures
        return {state.partition.number: state.backlog or 0 for state in found}

    def exists(self, name: str) -> bool:
        return any(partition.topic == name for partition in self.broker.logs)

    def attach(self) -> AbstractContextManager[None]:
        @contextmanager
        def attached() -> Iterator[None]:
            self.broker.members["billing"] = ("consumer-1",)
            yield
            del self.broker.members["billing"]

        return attached()


class TestLog(Contract):
    """Positions are offsets."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A log with figures."""
        yield MemoryBench()


class TestQueue(Contract):
    """Lanes compete, acknowledgements are per message."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A queue with figures."""
        yield MemoryBench(competing=True)

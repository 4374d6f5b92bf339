"""What the parts of the contract suite share: a backlog, a source, a whole run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from backlog_clearer.engine.drain import Halt
from backlog_clearer.model import Claim
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.source import Source
from backlog_clearer.testing.bench import MESSAGES, Bench


def claims(source: Source, *, frozen: bool = True) -> list[Claim]:
    """Claims on every partition, up to its end as it is now, or following the end."""
    return [Claim(state, None, state.end if frozen else None) for state in source.survey().partitions]


@contextmanager
def opened(bench: Bench, run: RunOptions) -> Iterator[Source]:
    """The adapter under test, for a `with` block."""
    with closing(bench.source(run)) as source:
        yield source


class Suite:
    """Base of the suite's parts; a subclass provides the fixture `bench`."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """Overridden by each broker."""
        raise NotImplementedError

    def fill(self, bench: Bench, count: int = MESSAGES) -> None:
        """Put a backlog into every partition."""
        for number in range(bench.partitions):
            bench.produce(number, count)

    def run(self, bench: Bench, run: RunOptions, callbacks: Callbacks | None = None) -> RunResult:
        """One whole run, receipt and verification included."""
        with opened(bench, run) as source:
            return self.cleared(bench, source, run, callbacks)

    def cleared(
        self, bench: Bench, source: Source, run: RunOptions, callbacks: Callbacks | None = None
    ) -> RunResult:
        """One whole run on a source that is open."""
        return clear_source(source, self.job(bench, run), callbacks or Callbacks(), Halt())

    def job(self, bench: Bench, run: RunOptions) -> Job:
        """The job that receipts are written for."""
        return Job(bench.system, SystemOptions(), run, "contract")

"""Watching a subscription: one source, looks that fail, and what each look found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli.watch_texts import several_lines
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Job, now
from backlog_clearer.run.rates import Rates
from backlog_clearer.run.watch import Watched, failed_look, watched_backlog
from tests.invoking import stored, three_partitions
from tests.memory_system import MemoryOptions

JOB = Job("memory", MemoryOptions(topic="orders", group_id="billing"), RunOptions())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, of which 100 are acknowledged."""
    with three_partitions(monkeypatch, tmp_path) as made:
        move(made, 100)
        yield made


def move(broker: MemoryBroker, to: int) -> None:
    """Set the group's positions, as a consumer does."""
    for number in range(3):
        broker.positions["billing", Partition("orders", number)] = to


def test_looks_show_what_arrived_and_what_was_drained(broker: MemoryBroker) -> None:
    """10 s later with 50 messages more and 300 acknowledged, rates and ETA are exactly those."""
    times = iter((0.0, 10.0))
    with closing(Watched(JOB, lambda: next(times))) as watched:
        first = watched.look()
        broker.produce("orders", 0, 50)
        move(broker, 200)
        second = watched.look()
    assert first.total == Rates()
    assert second.rates[Partition("orders", 0)] == Rates(10.0, 5.0, 10.0, -5.0)
    found = watched_backlog(second)
    assert (found.backlog, found.arrival_per_second, found.drain_per_second) == (2450, 5.0, 30.0)
    assert (found.change_per_second, found.eta_seconds, found.seconds) == (-25.0, 98.0, 10.0)
    assert [(row.position, row.end) for row in found.partitions] == [
        (200, 1050),
        (200, 1000),
        (200, 1000),
    ]
    assert stored(broker) == [200, 200, 200]


def test_one_source_serves_all_looks_until_one_fails(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that fails closes the source, the next one opens another, and rates span the failure."""
    made: list[MemorySource] = []
    survey = MemorySource.survey
    fail: list[Exception] = []

    def noted(source: MemorySource) -> object:
        if source not in made:
            made.append(source)
        if fail:
            raise fail.pop()
        return survey(source)

    monkeypatch.setattr(MemorySource, "survey", noted)
    times = iter((0.0, 5.0, 20.0))
    with closing(Watched(JOB, lambda: next(times))) as watched:
        watched.look()
        watched.look()
        assert [source.closed for source in made] == [False]
        fail.append(BrokerError("refused"))
        with pytest.raises(BrokerError, match="refused"):
            watched.look()
        assert [source.closed for source in made] == [True]
        move(broker, 120)
        last = watched.look()
    assert [source.closed for source in made] == [True, True]
    assert last.total == Rates(20.0, 0.0, 3.0, -3.0)


def test_a_look_that_failed_has_no_figures() -> None:
    """Its object has the error, and null for every figure."""
    found = failed_look("memory", BrokerError("refused"), now())
    assert (found.error, found.backlog, found.eta_seconds, found.partitions) == (
        "refused",
        None,
        None,
        (),
    )


def test_a_partition_with_an_error_leaves_the_sums_unknown(broker: MemoryBroker) -> None:
    """The others keep their figures and rates."""
    times = iter((0.0, 10.0))
    with closing(Watched(JOB, lambda: next(times))) as watched:
        watched.look()
        broker.broken[Partition("orders", 1)] = "no leader"
        move(broker, 200)
        found = watched_backlog(watched.look())
    assert (found.backlog, found.drain_per_second, found.eta_seconds) == (None, None, None)
    rows = {row.partition: (row.backlog, row.drain_per_second, row.error) for row in found.partitions}
    assert rows == {0: (800, 10.0, None), 1: (None, None, "no leader"), 2: (800, 10.0, None)}


def test_several_at_a_terminal_are_one_table(broker: MemoryBroker) -> None:
    """A row for each has consumers, backlog, rates and ETA; one that failed is below the table."""
    times = iter((0.0, 10.0))
    broker.members["billing"] = ("worker-1",)
    with closing(Watched(JOB, lambda: next(times))) as watched:
        watched.look()
        move(broker, 200)
        look = watched.look()
    at = datetime(2026, 11, 26, tzinfo=timezone.utc)
    text = [line for line, _ in several_lines({"billing": look, "b": BrokerError("refused")}, at, 80)]
    assert text == [
        "2 subscriptions, 2026-11-26T00:00:00Z (Ctrl-C ends this)",
        "subscription  consumers  backlog  arriving  drained   ETA",
        "billing               1    2,400       0/s     30/s  80 s",
        "Error: b: refused",
    ]

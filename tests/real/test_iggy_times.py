"""Bounds, ages, lists and rates on a real Iggy server, on messages with known times: IGGY_SERVER=PATH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from apache_iggy import Consumer, PollingStrategy

from backlog_clearer.brokers.iggy.list_options import IggyListOptions
from backlog_clearer.brokers.iggy.listing import list_iggy
from backlog_clearer.model import Mode
from backlog_clearer.options.base import build
from backlog_clearer.run.clear import clear
from backlog_clearer.run.rates import Rates
from backlog_clearer.run.status import status
from backlog_clearer.run.watch import Watched
from backlog_clearer.testing.servers.iggy_process import PROGRAM, ROOT, ROOT_SECRET, IggyProcess
from tests.brokers.iggy_bench import GROUP, IggyBench, job

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="IGGY_SERVER names no program to start")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IggyProcess]:
    """One server for all of these tests."""
    with IggyProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def bench(server: IggyProcess) -> Iterator[IggyBench]:
    """A topic with a group."""
    with closing(IggyBench(server.address, password=ROOT_SECRET)) as found:
        yield found


def times(bench: IggyBench, number: int) -> list[datetime]:
    """When the server stored each message of a partition, by its own client."""
    found = bench.plain.run(
        "poll_messages",
        bench.stream,
        bench.topic,
        consumer=Consumer.Single(9),
        polling_strategy=PollingStrategy.First(),
        count=10_000,
        auto_commit=False,
        partition_id=bench.numbers[number],
    )
    return [
        datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=item.timestamp())
        for item in found
    ]


@pytest.mark.parametrize("mode", list(Mode))
def test_the_boundary_is_the_batch_of_its_time(bench: IggyBench, tmp_path: Path, mode: Mode) -> None:
    """Batches before the time are acknowledged, the one stored at that time and later ones stay."""
    for count in (30, 20, 10):
        bench.produce(0, count)
    bench.produce(1, 5)
    stored = times(bench, 0)
    assert stored[29] < stored[30] < stored[50]
    result = clear(job(bench, tmp_path, mode=mode, until=stored[30], partitions=(bench.numbers[0],)))
    assert (result.cleared, result.totals.backlog) == (True, 30)
    assert result.totals.oldest == stored[0]
    assert bench.stored() == {0: 29, 1: None, 2: None}
    later = clear(job(bench, tmp_path, mode=mode, until=stored[30] + timedelta(microseconds=1)))
    assert later.cleared
    assert bench.stored() == {0: 49, 1: None, 2: None}


def test_status_shows_the_age_of_the_first_open_message(bench: IggyBench, tmp_path: Path) -> None:
    """The age is that of the first message behind the stored offset, not of the log's first one."""
    bench.produce(0, 10)
    bench.produce(0, 10)
    bench.advance(0, 12)
    found = status(job(bench, tmp_path))
    assert found.totals.oldest == times(bench, 0)[12]


def test_a_list_has_the_age_of_each_group(server: IggyProcess, bench: IggyBench) -> None:
    """A group that is behind has its backlog and the age of its first open message, one at the end none."""
    bench.produce(0, 10)
    bench.produce(0, 10)
    bench.advance(0, 12)
    bench.plain.run("create_consumer_group", bench.stream, bench.topic, "shipping")
    options = build(
        IggyListOptions,
        {"port": server.port, "stream_id": bench.stream, "username": ROOT, "password": ROOT_SECRET},
    )
    stored = times(bench, 0)
    found = {item.name: (item.backlog, item.members, item.oldest) for item in list_iggy(options).found}
    assert found == {GROUP: (8, 0, stored[12]), "shipping": (20, 0, stored[0])}
    bench.advance(0, 20)
    after = {item.name: (item.backlog, item.oldest) for item in list_iggy(options).found}
    assert after == {GROUP: (0, None), "shipping": (20, stored[0])}


def test_watching_shows_arrival_and_drain(bench: IggyBench, tmp_path: Path) -> None:
    """Between two looks the end and the stored offset move, and the rates are those of both."""
    bench.produce(0, 100)
    bench.advance(0, 10)
    clock = iter((0.0, 10.0))
    with closing(Watched(job(bench, tmp_path), lambda: next(clock))) as watched:
        first = watched.look()
        bench.produce(0, 20)
        bench.advance(0, 60)
        second = watched.look()
    assert [look.status.totals.backlog for look in (first, second)] == [90, 60]
    assert second.total == Rates(10.0, 2.0, 5.0, -3.0)
    assert bench.left()[0] == 60


def test_large_partitions_have_a_boundary_on_disk(bench: IggyBench, tmp_path: Path) -> None:
    """In a partition that the server has on disk, the boundary is that of its time, too."""
    bench.produce(2, 20_000)
    until = bench.between()
    bench.produce(2, 20_000)
    assert clear(job(bench, tmp_path, until=until)).cleared
    assert bench.stored()[2] == 19_999
    assert clear(job(bench, tmp_path, keep_last=7)).cleared
    assert bench.left()[2] == 7

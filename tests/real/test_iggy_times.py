"""Bounds and ages on a real Iggy server, on messages with known times: IGGY_SERVER=PATH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from apache_iggy import Consumer, PollingStrategy

from backlog_clearer.model import Mode
from backlog_clearer.run.clear import clear
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.iggy_process import PROGRAM, ROOT_SECRET, IggyProcess
from tests.brokers.iggy_bench import IggyBench, job

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


def test_large_partitions_have_a_boundary_on_disk(bench: IggyBench, tmp_path: Path) -> None:
    """In a partition that the server has on disk, the boundary is that of its time, too."""
    bench.produce(2, 20_000)
    until = bench.between()
    bench.produce(2, 20_000)
    assert clear(job(bench, tmp_path, until=until)).cleared
    assert bench.stored()[2] == 19_999
    assert clear(job(bench, tmp_path, keep_last=7)).cleared
    assert bench.left()[2] == 7

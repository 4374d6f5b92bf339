"""The worked example of docs/adapters.md passes the contract on a real Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="needs the Python package redis")

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import GROUP as ENTRY_POINTS
from backlog_clearer.registry import system
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.restore import restore
from backlog_clearer.testing import Bench, Contract
from tests.adapters.redis_bench import GROUP, IDLE_S, PASSWORD, STREAM, USER, RedisBench, redis_server
from tests.adapters.redis_streams import SYSTEM
from tests.adapters.redis_streams.options import RedisOptions
from tests.adapters.redis_streams.positions import START, Id, Place, parse_id, place_of


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One server for the module."""
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
def bench(port: int) -> Iterator[RedisBench]:
    """An empty stream with a group."""
    with closing(RedisBench(port)) as found:
        yield found


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's entry point, as pip writes it."""
    info = tmp_path / "site" / "backlog_clearer_redis-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: backlog-clearer-redis\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nredis = tests.adapters.redis_streams:SYSTEM\n"
    )
    monkeypatch.syspath_prepend(str(info.parent))


class TestContract(Contract):
    """Everything that every adapter owes the engine."""

    @pytest.fixture
    def bench(self, port: int) -> Iterator[Bench]:
        """An empty stream with a group."""
        with closing(RedisBench(port)) as found:
            yield found


def job(port: int, tmp_path: Path, mode: Mode) -> Job:
    """A run by the system's name."""
    options = RedisOptions(
        port=port,
        username=USER,
        password=PASSWORD,
        stream=STREAM,
        group=GROUP,
        live_idle_seconds=IDLE_S,
    )
    run = RunOptions(mode=mode, stop_when_empty=True, receipt_dir=str(tmp_path / "receipts"))
    return Job("redis", options, run)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("mode", list(Mode))
def test_an_installed_example_clears_and_restores(
    bench: RedisBench, port: int, tmp_path: Path, mode: Mode
) -> None:
    """By its entry point the example clears both kinds of backlog, and an undo brings at least it back."""
    assert system("redis") is SYSTEM
    bench.produce(0, 300)
    bench.abandon(40)
    result = clear(job(port, tmp_path, mode))
    assert (result.verified, bench.left()) == (True, {0: 0})
    assert result.totals.messages == (300 if mode is Mode.CONSUME else 0)
    receipt = load(str(result.receipt))
    back = restore(job(port, tmp_path, mode), original_positions([receipt]), receipt.identity)
    assert not [row.error for row in back.partitions if row.error]
    assert bench.left() == {0: 300}


def test_ids_are_ordered_as_the_server_orders_them() -> None:
    """Ids compare by time and then by sequence, both as numbers."""
    assert parse_id("9-10") > parse_id("9-9") > parse_id("8-99")
    assert parse_id("5") == Id(5, 0)
    assert Id(5, 0).before() == Id(4, 2**64 - 1)
    assert START.before() == START


def test_a_place_survives_a_receipt() -> None:
    """A place is read from its position as it was; another system's position is refused."""
    place = Place(Id(7, 1), 12, Id(6, 0))
    assert place_of(place.position()) == place
    for other in (5, "7-1", {"offset": 3}):
        with pytest.raises(UsageError, match="not a position in a Redis stream"):
            place_of(other)

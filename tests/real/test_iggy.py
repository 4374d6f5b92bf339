"""Iggy's adapter on a real server that these tests start, kill and start again: IGGY_SERVER=PATH.

No package registry has the program `iggy-server`. They passed on one built from the sources of
0.9.0-edge.5.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apache_iggy import SendMessage

from backlog_clearer.brokers.iggy.lane import IggyLane
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Advance, Mode
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.iggy_process import PROGRAM, ROOT, ROOT_SECRET, IggyProcess
from backlog_clearer.testing.support import make_certificates
from tests.brokers.iggy_bench import GROUP, IggyBench, Plain, job

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="IGGY_SERVER names no program to start")
SLICES = 16


@pytest.fixture
def server(tmp_path: Path) -> Iterator[IggyProcess]:
    """A server for each test: some kill it."""
    folder = tmp_path / "server"
    folder.mkdir()
    with IggyProcess(folder) as running:
        yield running


@pytest.fixture
def bench(server: IggyProcess) -> Iterator[IggyBench]:
    """A topic with a group."""
    with closing(IggyBench(server.address, password=ROOT_SECRET)) as found:
        yield found


def restarted(server: IggyProcess, bench: IggyBench) -> None:
    """Kill the server, start it again, and connect the bench to it."""
    server.kill()
    server.start()
    bench.plain.close()
    deadline = time.monotonic() + 60
    while True:  # the server accepts connections a moment before it admits clients
        try:
            bench.plain = Plain(bench.address, bench.password)
            bench.details()
        except RuntimeError:
            assert time.monotonic() < deadline, "the server does not admit clients"
            time.sleep(0.2)
        else:
            return


@pytest.mark.parametrize("mode", [Mode.CONSUME, Mode.SKIP])
def test_what_a_crashed_server_still_has_is_cleared(
    server: IggyProcess,
    bench: IggyBench,
    tmp_path: Path,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server killed while the question is open loses its last messages: reported, and the rest is cleared."""
    bench.produce(0, 2000)
    clear(job(bench, tmp_path))
    for number in range(2):
        bench.produce(number, 20_100)  # the last 100 are not on disk yet
    ended = [part.current_offset for part in bench.details().partitions]

    def crash(_: object) -> bool:
        restarted(server, bench)
        return True

    result = clear(job(bench, tmp_path, mode=mode), Callbacks(confirm=crash))
    ends = [part.current_offset for part in bench.details().partitions]
    assert ends[0] < ended[0]
    assert ends[1] < ended[1]
    assert result.verified
    assert not any(bench.left().values())
    assert [bench.stored()[number] for number in range(2)] == ends[:2]
    assert f"ends at offset {ends[0]} now, and ended at {ended[0]}" in caplog.text


def test_a_server_killed_while_it_is_drained_costs_retries_only(
    server: IggyProcess, bench: IggyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the restart all that is left is read, and nothing is counted twice."""
    for number in range(3):
        bench.produce(number, 20_000)
    read, reads = IggyLane.read, 0

    def killing(lane: IggyLane, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        nonlocal reads
        reads += 1
        if reads == 50:
            restarted(server, bench)
        return read(lane, max_wait_s, max_messages)

    monkeypatch.setattr(IggyLane, "read", killing)
    result = clear(job(bench, tmp_path, batch_size=200, workers=1, max_retries=20))
    assert result.totals.retries
    assert result.verified
    assert 0 < result.totals.messages <= 60_000
    assert not any(bench.left().values())


def test_a_reply_may_be_larger_than_the_sdk_accepts(bench: IggyBench, tmp_path: Path) -> None:
    """Large messages after many small ones make a reply of 90 MB, of which only headers are kept."""
    bench.produce(0, 2000)
    for _ in range(90):
        batch = [SendMessage(b"x" * 1_000_000)]
        bench.plain.run("send_messages", bench.stream, bench.topic, bench.numbers[0], batch)
    result = clear(job(bench, tmp_path, batch_size=3000))
    assert (result.verified, result.totals.messages, result.totals.retries) == (True, 2090, 0)
    assert bench.stored()[0] == 2089


def test_16_slices_of_one_group_at_once_all_succeed(
    server: IggyProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slice is a process; all exit with 0, and together they acknowledge every message once."""
    monkeypatch.setattr(IggyBench, "partitions", SLICES)
    with closing(IggyBench(server.address, password=ROOT_SECRET)) as bench:
        for number in range(SLICES):
            bench.produce(number, 3000)
        command = [
            sys.executable, "cleaner.py", "iggy", "--port", str(server.port), "--stream-id", bench.stream,
            "--topic-id", bench.topic, "--group-id", GROUP, "--username", ROOT, "--password",
            "${env:SECRET}", "--stop-when-empty", "--output", "json", "--receipt-dir", str(tmp_path),
        ]  # fmt: skip

        def slice_of(index: int) -> dict[str, Any]:
            ran = subprocess.run(
                [*command, "--slice", f"{index}/{SLICES}"],
                env={**os.environ, "SECRET": ROOT_SECRET},
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stdout
            found: dict[str, Any] = json.loads(ran.stdout)
            return found

        with ThreadPoolExecutor(SLICES) as pool:
            results = list(pool.map(slice_of, range(SLICES)))
        assert sum(result["totals"]["messages"] for result in results) == 3000 * SLICES
        assert bench.left() == dict.fromkeys(range(SLICES), 0)


def test_tls_failures_are_named_by_their_cause(tmp_path: Path) -> None:
    """An unknown authority, a wrong name, a plain port and a missing --tls are each named."""
    make_certificates(tmp_path)
    folder = tmp_path / "server"
    folder.mkdir()
    settings = {
        "IGGY_TCP_TLS_ENABLED": "true",
        "IGGY_TCP_TLS_SELF_SIGNED": "false",
        "IGGY_TCP_TLS_CERT_FILE": str(tmp_path / "server.crt"),
        "IGGY_TCP_TLS_KEY_FILE": str(tmp_path / "server.key"),
    }
    ca = str(tmp_path / "ca.pem")
    fits: dict[str, Any] = {"tls": True, "tls_ca_file": ca, "tls_domain": "localhost"}
    with (
        IggyProcess(folder, **settings) as server,
        closing(IggyBench(server.address, password=ROOT_SECRET, ca=ca)) as bench,
    ):
        bench.produce(0, 3000)
        for wrong, cause in (
            ({"tls_ca_file": None}, "authority is not known.*--tls-ca-file"),
            ({"tls_domain": "elsewhere"}, "another name.*--tls-domain"),
            ({"tls": False, "tls_ca_file": None, "tls_domain": None}, "--tls"),
        ):
            with pytest.raises(BrokerError, match=cause):
                status(job(bench, tmp_path, {**fits, **wrong}))
        assert clear(job(bench, tmp_path, fits)).verified
        assert bench.stored()[0] == 2999


def test_tls_to_a_plain_port_is_named(bench: IggyBench, tmp_path: Path) -> None:
    """A port that does not speak TLS is named as that."""
    with pytest.raises(BrokerError, match=r"not answer over TLS.*leave out --tls"):
        status(job(bench, tmp_path, {"tls": True}))

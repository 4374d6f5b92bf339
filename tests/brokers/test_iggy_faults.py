"""Iggy's adapter on the in-repo wire server, with faults and settings that a real one lacks on demand."""

from __future__ import annotations

import ssl
import struct
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.connection import IggyConnection, ServerAddress
from backlog_clearer.brokers.iggy.poll_wire import PollWalk
from backlog_clearer.engine import worker as engine_worker
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Claim, Mode
from backlog_clearer.options.references import resolve_references
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.iggy import PASSWORD, TOKEN, IggyServer
from backlog_clearer.testing.servers.iggy_cluster import running_cluster
from backlog_clearer.testing.servers.iggy_frames import ClientSession
from backlog_clearer.testing.servers.iggy_model import RequestReader
from backlog_clearer.testing.support import Stopwatch, make_certificates, wait_until
from tests.brokers.iggy_bench import GROUP, IggyBench, job, undo

UNSEEN = 1  # requests for an offset that are not answered either: a lane looks again before it ends
SENT = 5  # times that a join is sent to a busy server, and a leave


@pytest.fixture
def server() -> Iterator[IggyServer]:
    """A wire server for each test: faults must not leak."""
    with IggyServer() as running:
        yield running


@pytest.fixture
def bench(server: IggyServer) -> Iterator[IggyBench]:
    """A topic with a group."""
    with closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD)) as found:
        yield found


def test_a_token_logs_in(server: IggyServer, bench: IggyBench, tmp_path: Path) -> None:
    """A personal access token logs in, also from a file."""
    bench.produce(0, 10)
    (tmp_path / "token").write_text(TOKEN + "\n")
    token = resolve_references(f"${{file:{tmp_path / 'token'}}}")
    login = {"username": None, "password": None, "token": token}
    assert clear(job(bench, tmp_path / "receipts", login)).verified
    assert server.stored == [(0, 9)]


def test_servers_of_other_versions_are_reported_quickly(tmp_path: Path) -> None:
    """A server of another protocol is distinguished from a dead one, in seconds and with the versions."""
    cases: dict[str, dict[str, Any]] = {
        "from before 0.9": {"old": True},
        "0.12.0": {"version": (0, 12, 0)},
        "does not answer": {"silent": True},
    }

    def error_of(faults: dict[str, Any]) -> str:
        with (
            IggyServer() as server,
            closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD)) as bench,
        ):
            for name, value in faults.items():
                setattr(server, name, value)
            with pytest.raises(BrokerError) as raised:
                status(job(bench, tmp_path))
            return str(raised.value)

    with Stopwatch() as watch, ThreadPoolExecutor(len(cases)) as pool:
        # Each waits for a server that does not answer.
        errors = dict(zip(cases, pool.map(error_of, cases.values()), strict=True))
    assert watch.seconds < 15
    for text, error in errors.items():
        assert text in error
        assert "0.9" in error or "0.11" in error


def test_connections_that_break_are_opened_again(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """Connections cut in the middle cost retries, but no message and no double count."""
    for number in range(3):
        bench.produce(number, 3000)
    server.cuts = {3, 9, 20, 37}
    result = clear(job(bench, tmp_path, batch_size=200, workers=2))
    assert (result.verified, result.totals.messages) == (True, 9000)
    assert result.totals.retries > 0
    assert bench.stored() == dict.fromkeys(range(3), 2999)


def test_the_shared_connection_is_opened_again(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A connection cut while a group is joined, or its offset stored, costs only retries."""
    bench.produce(0, 100)
    server.hang_ups = deque([161, 148, 161])  # store, join, store
    result = clear(job(bench, tmp_path, workers=1))
    assert (result.verified, result.totals.messages, list(server.hang_ups)) == (True, 100, [])
    assert result.totals.retries > 0
    assert bench.stored()[0] == 99


def test_a_member_that_could_not_leave_does_not_hold_up_other_slices(
    server: IggyServer, bench: IggyBench
) -> None:
    """Where the server does not carry it out, the member is told to leave again, and only then closed."""
    bench.produce(0, 100)
    group = bench.stream, bench.topic, GROUP
    with closing(bench.source(RunOptions())) as source:
        (claim,) = (
            Claim(state, None, state.end) for state in source.survey().partitions if state.backlog
        )
        server.keeps_members = True
        server.faults[149] = deque([57] * SENT)  # leave: TransientNotCommitted
        (moved,) = source.skip([claim])
        assert (moved.error, list(server.faults[149])) == (None, [])
        wait_until(lambda: not bench.plain.run("get_consumer_group", *group).members, "it left")
    assert bench.stored()[0] == 99


@pytest.mark.parametrize(("busy", "retries"), [(3 * SENT, 0), (4 * SENT, 1)])
def test_a_server_that_is_busy_costs_no_second_read_of_messages(  # noqa: PLR0917
    server: IggyServer,
    bench: IggyBench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    busy: int,
    retries: int,
) -> None:
    """Up to three acknowledgements in a row wait for the next one; after that a new lane reads again."""
    monkeypatch.setattr("backlog_clearer.brokers.iggy.source._GROUP_SETTLE_S", 0.0)
    monkeypatch.setattr("backlog_clearer.brokers.iggy.source._TURN_S", 0.0)
    bench.produce(0, 2000)
    server.faults[148] = deque([57] * busy)  # join: TransientNotCommitted
    result = clear(job(bench, tmp_path, batch_size=100, workers=1, ages=False))
    assert (result.verified, result.totals.messages, result.totals.retries) == (True, 2000, retries)
    assert not server.faults[148]
    assert bench.stored()[0] == 1999


def test_an_offset_that_is_not_kept_is_not_counted(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """Messages whose offset cannot be read back are not counted."""
    bench.produce(0, 100)
    server.forget_store = True
    result = clear(job(bench, tmp_path, max_retries=1))
    assert (result.verified, result.cleared, result.totals.messages) == (False, False, 0)
    assert bench.stored()[0] is None


def test_a_failed_store_after_another_partition_counts_nothing_twice(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A store that fails once, after one that worked, changes no count."""
    for number in range(3):
        bench.produce(number, 100)
    server.faults[161] = deque([0x7FFF])  # the first store; those that follow work
    result = clear(job(bench, tmp_path, workers=1))
    assert (result.verified, result.totals.messages) == (True, 300)


def test_a_run_that_ends_with_a_lost_answer_counts_what_is_stored(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """The answer to the only store is lost, and nothing is tried again: the stored offset decides."""
    bench.produce(0, 100)
    server.lost_answers = deque([161])
    result = clear(job(bench, tmp_path, workers=1, max_retries=0))
    assert bench.stored()[0] == 99
    assert (result.totals.messages, result.totals.at_least) == (100, False)


class Losing(IggyServer):
    """Carries out the first store of a partition, and cuts its connection and some that look for it then."""

    unseen = 0

    def _store(self, client: ClientSession, fields: RequestReader) -> bytes:
        answer = super()._store(client, fields)
        if [number for number, _ in self.stored].count(0) == 1 and self.stored[-1][0] == 0:
            self.unseen = UNSEEN
            raise ConnectionError
        return answer

    def _get_offset(self, client: ClientSession, fields: RequestReader) -> bytes:
        answer = super()._get_offset(client, fields)
        if self.unseen and answer and struct.unpack_from("<I", answer)[0] == 0:
            self.unseen -= 1
            raise ConnectionError
        return answer


def test_a_lost_answer_does_not_raise_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store without an answer acknowledged is not read by other workers instead: 500 stay 500."""
    monkeypatch.setattr(engine_worker, "BACKOFF_FIRST_S", 3.0)  # the others reach the limit meanwhile
    with (
        Losing() as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", group=False, password=PASSWORD)) as bench,
    ):
        for number in range(bench.partitions):
            bench.produce(number, 400)
        result = clear(job(bench, tmp_path, workers=3, max_messages=500, max_rate="250/s"))
        assert result.totals.retries > 0
        assert result.totals.messages == 500
        assert sum(bench.left().values()) == 400 * bench.partitions - 500


@pytest.mark.parametrize("fault", ["unrouted", "unread"])
def test_a_failed_poll_is_not_the_end(
    server: IggyServer, bench: IggyBench, tmp_path: Path, fault: str
) -> None:
    """Empty answers for no partition, or for one that was not read, are retried: not an end, not a purge."""
    bench.produce(0, 100)
    setattr(server, fault, 2)
    result = clear(job(bench, tmp_path, workers=1))
    assert (result.verified, result.totals.messages) == (True, 100)
    assert result.totals.retries > 0


@pytest.mark.parametrize("deleted", [400, 1000])
def test_messages_that_retention_deleted_are_not_counted(
    server: IggyServer, bench: IggyBench, tmp_path: Path, deleted: int
) -> None:
    """Messages deleted before they were read, some or all, are neither counted nor waited for."""
    bench.produce(0, 1000)

    def retention(_: object) -> bool:
        server.delete_up_to(bench.stream, bench.topic, 0, deleted)
        return True

    result = clear(job(bench, tmp_path, stall_seconds=3), Callbacks(confirm=retention))
    assert (result.verified, result.totals.messages) == (True, 1000 - deleted)
    assert bench.left()[0] == 0


def test_a_purge_during_the_drain_ends_the_run(bench: IggyBench, tmp_path: Path) -> None:
    """A topic purged while it is drained ends the run, and new messages in it are not acknowledged."""
    bench.produce(0, 5000)

    def purge(_: object) -> bool:
        bench.plain.run("purge_topic", bench.stream, bench.topic)
        bench.produce(0, 3)
        return True

    result = clear(job(bench, tmp_path), Callbacks(confirm=purge))
    assert result.cleared is False
    assert any("purged" in (row.error or "") for row in result.partitions) or "purged" in str(
        result.error
    )
    assert bench.stored()[0] is None


def test_a_refused_poll_names_the_missing_right(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A poll that the server does not permit is sent once, names the right, and acknowledges nothing."""
    bench.produce(0, 100)
    server.faults[100] = deque([41] * 50)
    result = clear(job(bench, tmp_path, ages=False))  # an age is asked for by a poll, too
    assert result.cleared is False
    assert "poll messages" in str(result.partitions[0].error or result.error)
    assert len(server.faults[100]) == 49
    assert bench.stored()[0] is None


def test_a_reply_may_come_in_pieces(server: IggyServer, bench: IggyBench) -> None:
    """A reply that pauses in its middle is neither an answer nor an error, and complete once it continues."""
    bench.produce(0, 100)
    server.halt = threading.Event()
    connection = IggyConnection(bench.options_of(), ServerAddress("127.0.0.1", server.port))
    place = wire.identifier(bench.stream) + wire.identifier(bench.topic)
    who = wire.subject(wire.CONSUMER, wire.identifier(0), place)
    connection.ask(wire.READ, wire.POLL, wire.poll(who, bench.numbers[0], 7, 50), PollWalk(50))
    assert connection.answer(0.2) is None
    assert connection.answer(0) is None
    server.halt.set()
    reply = connection.answer(10)
    assert reply is not None
    assert reply.polled is not None
    assert reply.polled[:5] == (bench.numbers[0], 99, 50, 7, 56)
    assert reply.size == 16 + 256 + 50 * (48 + 100)
    connection.ask(wire.READ, wire.POLL, wire.poll(who, bench.numbers[0], 99, 50), PollWalk(50))
    last = connection.answer(10)
    assert last is not None
    assert last.polled is not None
    assert last.polled[:5] == (bench.numbers[0], 99, 1, 99, 99)
    connection.close()


def test_polls_go_to_the_leader(server: IggyServer, bench: IggyBench, tmp_path: Path) -> None:
    """In a cluster the polls go to the node that leads, as the SDK's requests do."""
    bench.produce(0, 100)
    with IggyServer() as follower:
        server.nodes = follower.nodes = [(follower.port, 1), (server.port, 0)]
        result = clear(job(bench, tmp_path, {"port": follower.port}))
        assert (result.verified, follower.polls) == (True, 0)
    assert bench.stored()[0] == 99


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("group", [True, False], ids=["group", "consumer"])
def test_offsets_go_to_the_node_that_leads_the_partition(
    tmp_path: Path, mode: Mode, group: bool
) -> None:
    """In a cluster another node than the leader of the metadata takes the offsets, and an undo works by any."""
    with running_cluster() as (leader, primary):
        address = f"127.0.0.1:{primary.port}"
        with closing(IggyBench(address, password=PASSWORD, group=group)) as bench:
            for number in range(3):
                bench.produce(number, 100)
            done = clear(job(bench, tmp_path, {"port": leader.port}, mode=mode))
            assert (done.verified, done.totals.retries) == (True, 0)
            assert bench.stored() == dict.fromkeys(range(3), 99)
            assert (len(primary.stored), leader.stored) == (3, [])
            assert undo(bench, tmp_path, done, {"port": primary.port}).verified
            assert bench.stored() == dict.fromkeys(range(3))


def test_tls_clears_only_where_the_certificate_verifies(tmp_path: Path) -> None:
    """With TLS a backlog is cleared where the certificate verifies, and nothing is polled where it does not."""
    make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    ca = str(tmp_path / "ca.pem")
    fits = {"tls": True, "tls_ca_file": ca, "tls_domain": "localhost"}
    with (
        IggyServer(tls=context) as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD, ca=ca)) as bench,
    ):
        bench.produce(0, 3000)
        address = ServerAddress("127.0.0.1", server.port)
        for wrong in ({"tls_domain": "elsewhere"}, {"tls_ca_file": None}):
            with pytest.raises(BrokerError, match="--tls"):
                clear(job(bench, tmp_path, fits | wrong))
            with pytest.raises(BrokerError, match="certificate that does not verify") as raised:
                IggyConnection(bench.options_of(**fits | wrong), address)
            assert not isinstance(raised.value, TransientError)
        assert (server.polls, bench.stored()[0]) == (0, None)
        assert clear(job(bench, tmp_path, fits)).verified
        assert bench.stored()[0] == 2999

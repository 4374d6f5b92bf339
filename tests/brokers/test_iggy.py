"""Iggy's adapter through the contract suite and the faults of the protocol, with Iggy's own client.

On the in-repo wire server, or on a real one: IGGY_ADDRESS=HOST:PORT (user iggy, its password in
IGGY_PASSWORD). Tests that need a fault, or retention at once, run on the in-repo server alone.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apache_iggy import AutoLogin, IggyClient, SendMessage, TcpConfig, TcpReconnectionConfig

from core.brokers.iggy import IggySource, Log, open_source
from core.errors import BrokerError, RefusedError, UsageError
from core.model import Mode
from core.options.base import RunOptions, build, resolve_references
from core.options.iggy import IggyOptions
from core.receipt import load, original_positions
from core.report import RunResult
from core.run import Callbacks, Job, clear, restore, status
from tests.brokers.iggy_server import PASSWORD, TOKEN, USER, IggyServer
from tests.command import cleaner
from tests.contract import Bench, Contract
from tests.support import free_port

ADDRESS = os.environ.get("IGGY_ADDRESS")
GROUP = "billing"
in_repo_only = pytest.mark.skipif(ADDRESS is not None, reason="a real server shows no fault on demand")


class Plain:
    """Iggy's own client, driven from a test's thread."""

    def __init__(self, address: str) -> None:
        self.loop = asyncio.new_event_loop()
        password = os.environ.get("IGGY_PASSWORD", "iggy") if ADDRESS else PASSWORD
        self.password = password
        self.client = IggyClient(
            TcpConfig(
                server_address=address,
                auto_login=AutoLogin.username_password(USER, password),
                reconnection=TcpReconnectionConfig(enabled=False, max_retries=0),
            )
        )
        self.run("connect")

    def run(self, method: str, *args: Any, **settings: Any) -> Any:
        """One call to its end."""

        async def call() -> Any:
            return await asyncio.wait_for(getattr(self.client, method)(*args, **settings), 20)

        return self.loop.run_until_complete(call())

    def close(self) -> None:
        """Drop the connection."""
        del self.client
        self.loop.close()


class IggyBench(Bench):
    """A topic of its own, filled and judged by Iggy's own client."""

    system = "iggy"
    missing_name = "no-such-group"

    def __init__(self, address: str, *, group: bool = True) -> None:
        self.address = address
        self.detects_live = group
        self.plain = Plain(address)
        self.stream = f"shop-{uuid.uuid4().hex[:8]}"
        self.topic = "orders"
        self.plain.run("create_stream", self.stream)
        self.plain.run("create_topic", self.stream, self.topic, self.partitions)
        self.numbers = sorted(part.id for part in self.details().partitions)
        if group:
            self.plain.run("create_consumer_group", self.stream, self.topic, GROUP)
        self.whose = {"group_id": GROUP} if group else {"consumer_id": "7"}

    def details(self) -> Any:
        """The topic as the server describes it."""
        return self.plain.run("get_topic", self.stream, self.topic)

    def options_of(self, **changes: Any) -> IggyOptions:
        """How to reach the offsets."""
        host, _, port = self.address.partition(":")
        values = {
            "host": host, "port": int(port), "stream_id": self.stream, "topic_id": self.topic,
            "username": USER, "password": self.plain.password, **self.whose, **changes,
        }  # fmt: skip
        return build(IggyOptions, {key: value for key, value in values.items() if value is not None})

    def source(self, run: RunOptions, run_id: str = "contract") -> IggySource:
        return open_source(self.options_of(), run, run_id)

    def missing_source(self, run: RunOptions) -> IggySource:
        changes = {"group_id": self.missing_name, "consumer_id": None}
        return open_source(self.options_of(**changes), run, "contract")

    def produce(self, number: int, count: int) -> None:
        for first in range(0, count, 1000):
            batch = [SendMessage(b"x" * 100) for _ in range(min(1000, count - first))]
            self.plain.run("send_messages", self.stream, self.topic, self.numbers[number], batch)

    def stored(self) -> dict[int, int | None]:
        """The stored offsets, asked for in the client's own bytes."""
        kind, who = (2, GROUP) if self.detects_live else (1, 7)
        prefix = bytes([kind]) + b"".join(_ident(item) for item in (who, self.stream, self.topic))
        found = {}
        for index, number in enumerate(self.numbers):
            payload = prefix + b"\x01" + number.to_bytes(4, "little")
            reply = self.plain.run("send_binary_request", 120, payload)
            found[index] = int.from_bytes(reply[12:20], "little") if reply else None
        return found

    def left(self) -> dict[int, int]:
        logs = {part.id: part for part in self.details().partitions}
        found = {}
        for index, stored in self.stored().items():
            log = logs[self.numbers[index]]
            behind = log.messages_count if stored is None else log.current_offset - stored
            found[index] = min(log.messages_count, behind)
        return found

    def exists(self, name: str) -> bool:
        groups = self.plain.run("get_consumer_groups", self.stream, self.topic)
        return name in [group.name for group in groups]

    @contextmanager
    def attach(self) -> Iterator[None]:
        member = Plain(self.address)
        member.run("join_consumer_group", self.stream, self.topic, GROUP)
        try:
            yield
        finally:
            member.run("leave_consumer_group", self.stream, self.topic, GROUP)
            member.close()

    def close(self) -> None:
        """Drop the connection."""
        self.plain.close()


def _ident(value: int | str) -> bytes:
    raw = value.to_bytes(4, "little") if isinstance(value, int) else value.encode()
    return bytes([1 if isinstance(value, int) else 2, len(raw)]) + raw


@pytest.fixture
def server() -> Iterator[IggyServer]:
    """A wire server of its own for each test: faults must not leak."""
    running = IggyServer()
    yield running
    running.stop()


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """The real server's address, or the in-repo one's."""
    if ADDRESS:
        return ADDRESS
    server: IggyServer = request.getfixturevalue("server")
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def bench(address: str) -> Iterator[IggyBench]:
    """A topic with a group."""
    found = IggyBench(address)
    yield found
    found.close()


class TestGroup(Contract):
    """A consumer group's offsets."""

    @pytest.fixture
    def bench(self, address: str) -> Iterator[Bench]:
        """A topic with a group."""
        found = IggyBench(address)
        yield found
        found.close()


class TestConsumer(Contract):
    """A single consumer's offsets."""

    @pytest.fixture
    def bench(self, address: str) -> Iterator[Bench]:
        """A topic, and a consumer that has stored nothing."""
        found = IggyBench(address, group=False)
        found.missing_name = "no-such-group"
        yield found
        found.close()


def job(bench: IggyBench, tmp_path: Path, options: dict[str, Any] | None = None, **run: Any) -> Job:
    """A run that clears what is there."""
    values = {"stop_when_empty": True, "receipt_dir": str(tmp_path), **run}
    return Job("iggy", bench.options_of(**(options or {})), RunOptions(**values))


def undo(bench: IggyBench, tmp_path: Path, done: RunResult, **run: Any) -> RunResult:
    """Restore a run by its receipt."""
    receipt = load(str(done.receipt))
    return restore(job(bench, tmp_path, **run), original_positions([receipt]), receipt.identity)


@pytest.mark.parametrize("mode", [Mode.CONSUME, Mode.SKIP])
def test_offsets_end_at_the_last_message(bench: IggyBench, tmp_path: Path, mode: Mode) -> None:
    """Both modes store the offset of the last message, and nothing in an empty partition."""
    bench.produce(0, 1500)
    bench.produce(2, 1)
    result = clear(job(bench, tmp_path, mode=mode))
    assert (result.verified, result.totals.backlog) == (True, 1501)
    assert bench.stored() == {0: 1499, 1: None, 2: 0}


def test_undo_stores_or_deletes(bench: IggyBench, tmp_path: Path) -> None:
    """A restore puts back an old offset, and deletes one that had not existed."""
    bench.produce(0, 10)
    bench.produce(1, 10)
    clear(job(bench, tmp_path, partitions=(bench.numbers[0],)))
    bench.produce(0, 5)
    done = clear(job(bench, tmp_path, mode=Mode.SKIP))
    assert bench.stored() == {0: 14, 1: 9, 2: None}
    assert undo(bench, tmp_path, done).verified
    assert bench.stored() == {0: 9, 1: None, 2: None}


def test_partition_ids_are_the_servers(bench: IggyBench, tmp_path: Path) -> None:
    """Ids that the topic does not have are refused with those it has, before anything changes."""
    bench.produce(0, 10)
    wrong = bench.numbers[-1] + 1
    known = ", ".join(map(str, bench.numbers))
    with pytest.raises(UsageError, match=f"no partition {wrong}; .* are {known}"):
        clear(job(bench, tmp_path, {"partition_ids": f"{bench.numbers[0]},{wrong}"}))
    assert bench.stored() == dict.fromkeys(range(3))
    result = clear(job(bench, tmp_path, {"partition_ids": str(bench.numbers[0])}))
    assert [row.partition for row in result.partitions] == [bench.numbers[0]]


def test_live_group_is_refused_unless_forced(bench: IggyBench, tmp_path: Path) -> None:
    """A group with members is left alone, unless forced."""
    bench.produce(0, 10)
    with bench.attach():
        with pytest.raises(RefusedError, match="member"):
            clear(job(bench, tmp_path))
        assert bench.stored()[0] is None
        assert clear(job(bench, tmp_path, force=True)).verified
    assert bench.stored()[0] == 9


@pytest.mark.parametrize("field", ["stream_id", "topic_id", "group_id"])
def test_names_that_do_not_exist(bench: IggyBench, tmp_path: Path, field: str) -> None:
    """A mistyped stream, topic or group is refused by its name, with what looks like it."""
    name = {"stream_id": bench.stream, "topic_id": bench.topic, "group_id": GROUP}[field]
    with pytest.raises(UsageError, match=f"{name}x.*Did you mean '{name}'"):
        status(job(bench, tmp_path, {field: f"{name}x"}))


def test_numbers_instead_of_names(bench: IggyBench, tmp_path: Path) -> None:
    """Streams, topics and groups may be named by their numbers."""
    bench.produce(1, 20)
    ids = {
        "stream_id": str(bench.plain.run("get_stream", bench.stream).id),
        "topic_id": str(bench.details().id),
        "group_id": str(bench.plain.run("get_consumer_group", bench.stream, bench.topic, GROUP).id),
    }
    assert clear(job(bench, tmp_path, ids)).verified
    assert bench.stored()[1] == 19


def test_purged_topic_cannot_be_undone(bench: IggyBench, tmp_path: Path) -> None:
    """After a purge the old offset lies beyond the end: the restore says so, and stores nothing."""
    bench.produce(0, 50)
    clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.produce(0, 50)
    done = clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.plain.run("purge_topic", bench.stream, bench.topic)
    back = undo(bench, tmp_path, done)
    assert back.verified is not True
    assert any("purged" in (row.error or "") for row in back.partitions)
    assert bench.left()[0] == 0


def test_command_line(bench: IggyBench, tmp_path: Path) -> None:
    """The command as a user types it clears a consumer's backlog, and shows no password."""
    bench.produce(0, 3000)
    host, _, port = bench.address.partition(":")
    ids = ",".join(map(str, bench.numbers))
    ran = cleaner(
        "iggy", "--host", host, "--port", port, "--stream-id", bench.stream, "--topic-id", bench.topic,
        "--group-id", GROUP, "--partition-ids", ids, "--workers", "8", "--batch-size", "500",
        "--username", USER, "--password", "${env:SECRET}", "--stop-when-empty",
        "--receipt-dir", str(tmp_path), env={"SECRET": bench.plain.password},
    )  # fmt: skip
    assert (ran.code, ran.result["totals"]["messages"]) == (0, 3000), ran.stderr
    assert bench.stored()[0] == 2999
    shown = ran.stdout + ran.stderr + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert ADDRESS or PASSWORD not in shown


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ({"password": "wrong"}, "--password"),
        ({"username": None, "password": None}, "--username"),
        ({"username": None, "password": None, "token": "iggypat-wrong"}, "--token"),
    ],
)
def test_wrong_login_is_told_quickly(
    bench: IggyBench, tmp_path: Path, login: dict[str, Any], hint: str
) -> None:
    """A wrong password, none, or a wrong token: what to check, in seconds, and no secret."""
    begun = time.monotonic()
    with pytest.raises(BrokerError, match=hint) as raised:
        status(job(bench, tmp_path, login))
    assert time.monotonic() - begun < 15
    assert "wrong" not in str(raised.value)


def test_nobody_listens(bench: IggyBench, tmp_path: Path) -> None:
    """An address where nothing listens is told within seconds."""
    port = free_port()
    begun = time.monotonic()
    with pytest.raises(BrokerError, match=f"{port}.*--port"):
        status(job(bench, tmp_path, {"host": "127.0.0.1", "port": port}))
    assert time.monotonic() - begun < 15


@in_repo_only
def test_token(server: IggyServer, bench: IggyBench, tmp_path: Path) -> None:
    """A personal access token logs in, also from a file."""
    bench.produce(0, 10)
    (tmp_path / "token").write_text(TOKEN + "\n")
    token = resolve_references(f"${{file:{tmp_path / 'token'}}}")
    login = {"username": None, "password": None, "token": token}
    assert clear(job(bench, tmp_path / "receipts", login)).verified
    assert server.stored == [(0, 9)]


@in_repo_only
@pytest.mark.parametrize("case", ["old", "other", "silent"])
def test_other_versions_are_told_quickly(
    server: IggyServer, bench: IggyBench, tmp_path: Path, case: str
) -> None:
    """A server of another protocol is told from a dead one, in seconds and with the versions known."""
    if case == "old":
        server.old = True
    elif case == "other":
        server.version = (0, 12, 0)
    else:
        server.silent = True
    begun = time.monotonic()
    with pytest.raises(BrokerError) as raised:
        status(job(bench, tmp_path))
    assert time.monotonic() - begun < 15
    said = {"old": "from before 0.9", "other": "0.12.0", "silent": "does not answer"}[case]
    assert said in str(raised.value)
    assert "0.9" in str(raised.value) or "0.11" in str(raised.value)


@in_repo_only
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


@in_repo_only
def test_store_that_is_not_kept_is_noticed(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """An offset that cannot be read back is not counted as stored."""
    bench.produce(0, 100)
    server.forget_store = True
    result = clear(job(bench, tmp_path, max_retries=1))
    assert (result.verified, result.cleared, result.totals.messages) == (False, False, 0)
    assert bench.stored()[0] is None


@in_repo_only
def test_store_fails_after_another_partition(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A store that fails for now, behind one that worked, makes nobody count twice or too little."""
    for number in range(3):
        bench.produce(number, 100)
    server.faults[161] = deque([0x7FFF])  # the first store; those that follow work
    result = clear(job(bench, tmp_path, workers=1))
    assert (result.verified, result.totals.messages) == (True, 300)


@in_repo_only
def test_unrouted_polls_are_no_end(server: IggyServer, bench: IggyBench, tmp_path: Path) -> None:
    """An empty answer that looked at no partition is an error to try again, not emptiness."""
    bench.produce(0, 100)
    server.unrouted = 3
    result = clear(job(bench, tmp_path, workers=1))
    assert (result.verified, result.totals.messages) == (True, 100)
    assert result.totals.retries > 0


@in_repo_only
@pytest.mark.parametrize("deleted", [400, 1000])
def test_retention_moves_the_start(
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


@in_repo_only
def test_purge_during_the_drain_is_told(server: IggyServer, bench: IggyBench, tmp_path: Path) -> None:
    """A topic purged while it is drained ends the run, and what is new in it is not acknowledged."""
    bench.produce(0, 5000)

    def purge(_: object) -> bool:
        server.streams[bench.stream].topics[bench.topic].logs[0].__init__()  # type: ignore[misc] # a log anew
        bench.produce(0, 3)
        return True

    result = clear(job(bench, tmp_path), Callbacks(confirm=purge))
    assert result.cleared is False
    assert any("purged" in (row.error or "") for row in result.partitions) or "purged" in str(
        result.error
    )
    assert bench.stored()[0] is None


@pytest.mark.parametrize(
    ("log", "stored", "target", "left"),
    [
        (Log(0, 0, 0), None, None, 0),  # never had a message
        (Log(0, 1, 9), None, None, 1),
        (Log(0, 1, 9), 0, None, 0),
        (Log(99, 100, 9), 49, None, 50),
        (Log(99, 100, 9), 49, 59, 10),
        (Log(99, 30, 9), None, None, 30),  # the start has moved
        (Log(99, 30, 9), 49, None, 30),
        (Log(99, 30, 9), 49, 59, 0),  # all up to the target is deleted
        (Log(99, 0, 0), 49, None, 0),  # everything is deleted
        (Log(9, 10, 9), 49, 99, 0),  # purged, and filled anew
    ],
)
def test_left(log: Log, stored: int | None, target: int | None, left: int) -> None:
    """Backlog is what is retained behind the stored offset, up to the target."""
    assert log.left(stored, target) == left

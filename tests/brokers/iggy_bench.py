"""A topic on an Iggy server, filled and read by Iggy's own client.

The server is the in-repo one, or a real one: IGGY_ADDRESS=HOST:PORT (user iggy, its password in
IGGY_PASSWORD).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from apache_iggy import (
    AutoLogin,
    Consumer,
    IggyClient,
    PollingStrategy,
    SendMessage,
    TcpConfig,
    TcpReconnectionConfig,
)

from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.source import IggySource, open_source
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.restore import restore
from backlog_clearer.testing import Bench
from backlog_clearer.testing.servers.iggy import PASSWORD, USER, IggyServer

ADDRESS = os.environ.get("IGGY_ADDRESS")
SECRET = os.environ.get("IGGY_PASSWORD", "iggy") if ADDRESS else PASSWORD
GROUP = "billing"
WRONG = "not-the-password"


class Plain:
    """Iggy's own client, driven from a test's thread."""

    def __init__(self, address: str, password: str, ca: str | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = IggyClient(
            TcpConfig(
                server_address=address,
                auto_login=AutoLogin.username_password(USER, password),
                reconnection=TcpReconnectionConfig(enabled=False, max_retries=0),
                tls_enabled=ca is not None,
                tls_domain="localhost",
                tls_ca_file=ca,
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
    """A separate topic, filled and read by Iggy's own client."""

    system = "iggy"
    cuts_by_time = cuts_by_count = shows_age = True
    attempts = 1
    notices_silence = True
    missing_name = "no-such-group"

    def __init__(
        self,
        address: str,
        *,
        group: bool = True,
        password: str = SECRET,
        ca: str | None = None,
        server: IggyServer | None = None,
    ) -> None:
        self.address, self.password, self.ca, self.server = address, password, ca, server
        host, _, port = address.partition(":")
        self.endpoint = host, int(port)
        # A real server's password may be a word of the output.
        self.secrets = () if ADDRESS else (password, WRONG)
        self.detects_live = group
        self.damaged_answers = int(group)
        self.plain = Plain(address, password, ca)
        self.stream = f"shop-{uuid.uuid4().hex[:8]}"
        self.topic = "orders"
        self.plain.run("create_stream", self.stream)
        self.create_topic(self.stream, self.topic)
        self.numbers = sorted(part.id for part in self.details().partitions)
        if group:
            self.plain.run("create_consumer_group", self.stream, self.topic, GROUP)
        self.whose = {"group_id": GROUP} if group else {"consumer_id": "7"}

    def create_topic(self, stream: int | str, name: str, partitions: int | None = None) -> None:
        """Create a topic without the options of the SDK's own call, which not every server 0.9 takes."""
        count = (self.partitions if partitions is None else partitions).to_bytes(4, "little")
        payload = _ident(stream) + count + bytes([len(name)]) + name.encode()
        self.plain.run("send_binary_request", 302, payload)

    def details(self) -> Any:
        """The topic as the server describes it."""
        return self.plain.run("get_topic", self.stream, self.topic)

    def options_of(self, **changes: Any) -> IggyOptions:
        """How to reach the offsets."""
        host, _, port = self.address.partition(":")
        values = {
            "host": host, "port": int(port), "stream_id": self.stream, "topic_id": self.topic,
            "username": USER, "password": self.password, **self.whose, **changes,
        }  # fmt: skip
        return build(IggyOptions, {key: value for key, value in values.items() if value is not None})

    def source(self, run: RunOptions, run_id: str = "contract") -> IggySource:
        return open_source(self.options_of(), run, run_id)

    def missing_source(self, run: RunOptions) -> IggySource:
        changes = {"group_id": self.missing_name, "consumer_id": None}
        return open_source(self.options_of(**changes), run, "contract")

    def source_via(self, run: RunOptions, host: str, port: int) -> IggySource:
        return open_source(self.options_of(host=host, port=port), run, "contract")

    def other_source(self, run: RunOptions) -> IggySource:
        if not self.detects_live:
            return open_source(self.options_of(consumer_id="8"), run, "contract")
        self.plain.run("create_consumer_group", self.stream, self.topic, "shipping")
        return open_source(self.options_of(group_id="shipping"), run, "contract")

    def denied_source(self, run: RunOptions) -> IggySource:
        return open_source(self.options_of(password=WRONG), run, "contract")

    def produce(self, number: int, count: int) -> None:
        for first in range(0, count, 1000):
            batch = [SendMessage(b"x" * 100) for _ in range(min(1000, count - first))]
            self.plain.run("send_messages", self.stream, self.topic, self.numbers[number], batch)

    def _payload(self, number: int) -> bytes:
        """What a request for a partition's stored offset begins with."""
        kind, who = (2, GROUP) if self.detects_live else (1, 7)
        prefix = bytes([kind]) + b"".join(_ident(item) for item in (who, self.stream, self.topic))
        return prefix + b"\x01" + number.to_bytes(4, "little")

    def stored(self) -> dict[int, int | None]:
        """The stored offsets, by a request built here."""
        found = {}
        for index, number in enumerate(self.numbers):
            reply = self.plain.run("send_binary_request", 120, self._payload(number))
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

    def abandon(self, count: int) -> None:
        """Poll without storing an offset, which is all that a consumer leaves behind."""
        consumer = Plain(self.address, self.password, self.ca)
        got = consumer.run(
            "poll_messages",
            self.stream,
            self.topic,
            consumer=Consumer.Single(7),
            polling_strategy=PollingStrategy.First(),
            count=count,
            auto_commit=False,
            partition_id=self.numbers[0],
        )
        assert len(got) == count
        consumer.close()

    def advance(self, number: int, to: int) -> None:
        payload = self._payload(self.numbers[number]) + (to - 1).to_bytes(8, "little") + b"\x01"
        group = self.stream, self.topic, GROUP
        if self.detects_live:
            self.plain.run("join_consumer_group", *group)
        self.plain.run("send_binary_request", 121, payload)
        if self.detects_live:
            self.plain.run("leave_consumer_group", *group)

    def recreate(self) -> None:
        self.plain.run("delete_topic", self.stream, self.topic)
        self.create_topic(self.stream, self.topic)
        if self.detects_live:
            self.plain.run("create_consumer_group", self.stream, self.topic, GROUP)

    def add_partition(self) -> int:
        self.plain.run("create_partitions", self.stream, self.topic, 1)
        self.numbers = sorted(part.id for part in self.details().partitions)
        return int(self.numbers[-1])

    @contextmanager
    def refusing(self, number: int) -> Iterator[None]:
        if self.server is None:
            self._not_offered("refusing")
        self.server.refused.add(self.numbers[number])
        yield
        self.server.refused.clear()

    @contextmanager
    def attach(self) -> Iterator[None]:
        member = Plain(self.address, self.password, self.ca)
        member.run("join_consumer_group", self.stream, self.topic, GROUP)
        try:
            yield
        finally:
            member.run("leave_consumer_group", self.stream, self.topic, GROUP)
            member.close()

    def close(self) -> None:
        """Drop the connection."""
        self.plain.close()


@contextmanager
def opened(*, group: bool = True) -> Iterator[IggyBench]:
    """A topic on the real server, or on an in-repo one for each test."""
    if ADDRESS:
        with closing(IggyBench(ADDRESS, group=group)) as found:
            yield found
        return
    with (
        IggyServer() as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", group=group, server=server)) as found,
    ):
        yield found


def undo(
    bench: IggyBench,
    tmp_path: Path,
    done: RunResult,
    options: dict[str, Any] | None = None,
    **run: Any,
) -> RunResult:
    """Restore a run by its receipt."""
    receipt = load(str(done.receipt))
    return restore(
        job(bench, tmp_path, options, **run), original_positions([receipt]), receipt.identity
    )


def _ident(value: int | str) -> bytes:
    raw = value.to_bytes(4, "little") if isinstance(value, int) else value.encode()
    return bytes([1 if isinstance(value, int) else 2, len(raw)]) + raw


def job(bench: IggyBench, tmp_path: Path, options: dict[str, Any] | None = None, **run: Any) -> Job:
    """A run that clears what is there."""
    values = {"stop_when_empty": True, "receipt_dir": str(tmp_path), **run}
    return Job("iggy", bench.options_of(**(options or {})), RunOptions(**values))

"""A Redis server for tests, and a stream with a group on it, filled and judged by plain redis-py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench
from backlog_clearer.testing.support import Server, free_port, need, running
from tests.adapters.redis_streams.options import RedisOptions
from tests.adapters.redis_streams.source import open_source

ADMIN, USER, PASSWORD, WRONG = "of-the-judge", "clearer", "of-the-clearer", "of-nobody"
STREAM, GROUP = "orders", "billing"
IDLE_S = 0.2  # after which a consumer is not attached any more


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of a server with two users: the judge's, and one for the adapter under test."""
    need("redis-server")
    port = free_port()
    (folder / "users.acl").write_text(
        f"user default on >{ADMIN} ~* &* +@all\nuser {USER} on >{PASSWORD} ~* &* +@all\n"
    )
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--dir", str(folder), "--aclfile", str(folder / "users.acl")]
    with running(Server(command, port=port, log=folder / "redis.log")):
        yield port


class RedisBench(Bench):
    """A stream with a group."""

    system = "redis"
    partitions = 1
    missing_name = "no-such-group"
    damaged_answers = 0  # it waits long for answers that are swallowed
    secrets = (PASSWORD, WRONG)

    def __init__(self, port: int) -> None:
        self.endpoint = "127.0.0.1", port
        self.plain = redis.Redis(port=port, password=ADMIN, protocol=2, decode_responses=True)
        self.plain.flushall()
        self.plain.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        self.plain.xgroup_create(STREAM, "shipping", id="0")

    def open(self, run: RunOptions, **changes: Any) -> Source:
        """The adapter with other options."""
        values = {
            "host": "127.0.0.1",
            "port": self.plain.connection_pool.connection_kwargs["port"],
            "username": USER,
            "password": PASSWORD,
            "stream": STREAM,
            "group": GROUP,
            "live_idle_seconds": IDLE_S,
            **changes,
        }
        return open_source(RedisOptions(**values), run, "contract")

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return self.open(run)

    def source_via(self, run: RunOptions, host: str, port: int) -> Source:
        return self.open(run, host=host, port=port)

    def missing_source(self, run: RunOptions) -> Source:
        return self.open(run, group=self.missing_name)

    def other_source(self, run: RunOptions) -> Source:
        return self.open(run, group="shipping")

    def denied_source(self, run: RunOptions) -> Source:
        return self.open(run, password=WRONG)

    def produce(self, number: int, count: int) -> None:
        with self.plain.pipeline(transaction=False) as pipe:
            for _ in range(count):
                pipe.xadd(STREAM, {"data": "x" * 10})
            pipe.execute()

    def left(self) -> dict[int, int]:
        (group,) = [each for each in self.plain.xinfo_groups(STREAM) if each["name"] == GROUP]
        undelivered = self.plain.xrange(STREAM, f"({group['last-delivered-id']}")
        return {0: len(undelivered) + int(group["pending"])}

    def exists(self, name: str) -> bool:
        return name in [group["name"] for group in self.plain.xinfo_groups(STREAM)]

    @contextmanager
    def attach(self) -> Iterator[None]:
        self.plain.xgroup_createconsumer(STREAM, GROUP, "worker-7")
        yield

    def abandon(self, count: int) -> None:
        self.plain.xreadgroup(GROUP, "vanished", {STREAM: ">"}, count=count)
        time.sleep(IDLE_S + 0.1)

    def advance(self, number: int, to: int) -> None:
        self.plain.xreadgroup(GROUP, "worker-8", {STREAM: ">"}, count=to, noack=True)

    @contextmanager
    def refusing(self, number: int) -> Iterator[None]:
        self.plain.acl_setuser(USER, enabled=True, commands=["-xgroup", "-xack"])
        try:
            yield
        finally:
            self.plain.acl_setuser(USER, enabled=True, categories=["+@all"])

    def close(self) -> None:
        """Close the judge's connection."""
        self.plain.close()

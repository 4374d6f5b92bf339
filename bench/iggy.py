"""Draining an Iggy topic, compared with the official client's `poll_messages`, on one server.

IGGY_SERVER=PATH of the program `iggy-server` starts a real server; IGGY_ADDRESS=HOST:PORT uses one that runs
(user iggy, its password in IGGY_PASSWORD), on which streams are filled, and deleted again. Without either it
is the tests' own server, a separate process that builds replies once.
The programs take turns, ask for the same number of messages at a time, and store offsets: this tool once a
second, the official client by `auto_commit`, since it has no other way. Each is timed with its logins, this
tool also with its survey and its verification. Connections are those of the line; bare polls drop what
arrives, and show what the server can send.

    make bench-iggy [BENCH_ARGS='--only rates|memory|skip --rounds N --quick']
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from apache_iggy import AutoLogin, IggyClient, SendMessage, TcpConfig

from backlog_clearer.testing.servers.iggy import PASSWORD, USER, IggyServer
from backlog_clearer.testing.servers.iggy_model import PartitionLog, Stream, Topic
from backlog_clearer.testing.servers.iggy_process import PROGRAM, ROOT, ROOT_SECRET, IggyProcess
from backlog_clearer.text import counted
from bench.processes import Ended, Ran, compare, ended, served

ADDRESS = os.environ.get("IGGY_ADDRESS")
REAL = bool(PROGRAM or ADDRESS)
PARTITIONS, MANY = 4, 1_000
SENT = 500  # messages in one request that fills a stream
_consumers = itertools.count(1)  # each run clears another consumer's backlog

OFFICIAL = """
import asyncio, os, sys, time
from apache_iggy import AutoLogin, Consumer, IggyClient, PollingStrategy, TcpConfig
cpu = time.process_time()
address, stream, user = sys.argv[1:4]
consumer, partitions, each, batch, connections = map(int, sys.argv[4:])
async def connected():
    login = AutoLogin.username_password(user, os.environ["SECRET"])
    client = IggyClient(TcpConfig(server_address=address, auto_login=login))
    await client.connect()
    return client
async def drain(client, mine):
    who = Consumer.Single(consumer)
    for partition in mine:
        at = 0
        while at < each:
            at += len(await client.poll_messages(
                stream, "bench", consumer=who, polling_strategy=PollingStrategy.Offset(value=at),
                count=batch, auto_commit=True, partition_id=partition))
async def main():
    begun = time.perf_counter()
    clients = [await connected() for _ in range(connections)]
    shares = [range(index, partitions, connections) for index in range(connections)]
    await asyncio.gather(*map(drain, clients, shares))
    print(time.perf_counter() - begun, time.process_time() - cpu, flush=True)
    os._exit(0)  # the library may abort a process that ends while it has a connection
asyncio.run(main())
"""


def serve(partitions: int, each: int, size: int) -> None:
    """Serve one topic until standard input ends."""
    server = IggyServer()
    logs = {number: PartitionLog(next=each, size=size) for number in range(partitions)}
    server.streams["bench"] = Stream(0, "bench", {"bench": Topic(0, "bench", logs)})
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


@dataclass(frozen=True)
class Site:
    """A server: where it listens, how to log in, and its seconds of CPU so far, where they are known."""

    address: str
    user: str
    secret: str
    cpu: Callable[[], float | None]

    async def connected(self) -> IggyClient:
        """The official client."""
        login = AutoLogin.username_password(self.user, self.secret)
        client = IggyClient(TcpConfig(server_address=self.address, auto_login=login))
        await client.connect()
        return client


@dataclass(frozen=True)
class Field:
    """A filled topic, and its readers."""

    site: Site
    stream: str
    partitions: int
    each: int
    size: int

    @property
    def messages(self) -> int:
        """All messages."""
        return self.partitions * self.each

    def environment(self) -> dict[str, str]:
        """With the password, which is not an argument."""
        return {**os.environ, "SECRET": self.site.secret}

    async def group(self, name: str) -> None:
        """Make a consumer group."""
        await (await self.site.connected()).create_consumer_group(self.stream, "bench", name)

    def command(self, *words: str) -> Ended:
        """A command line of this tool."""
        host, _, port = self.site.address.rpartition(":")
        with tempfile.TemporaryDirectory() as receipts:
            receipt = () if words[0] == "status" else ("--receipt-dir", receipts)
            return ended(
                sys.executable, "cleaner.py", *words, "--host", host, "--port", port,
                "--stream-id", self.stream, "--topic-id", "bench", "--username", self.site.user,
                "--password", "${env:SECRET}", "--output", "json", *receipt, env=self.environment(), code=0,
            )  # fmt: skip

    def _ran(self, before: float | None, seconds: float, cpu: float, peak: float) -> Ran:
        """A run, and the server's part in it; `before`: its seconds of CPU when the run began."""
        after, million = self.site.cpu(), self.messages / 1e6
        server = None if before is None or after is None else (after - before) / million
        return Ran(self.messages / seconds, cpu, peak, server, seconds, million=cpu / million)

    def ours(self, batch: int) -> Ran:
        """The command line with one worker; a second run that finds nothing shows what its start costs."""
        words = (
            "iggy", "--consumer-id", str(next(_consumers)), "--workers", "1", "--stop-when-empty",
            "--batch-size", str(batch),
        )  # fmt: skip
        before = self.site.cpu()
        done = self.command(*words)
        result = json.loads(done.output)
        if not result["verified"] or result["totals"]["messages"] != self.messages:
            raise SystemExit(f"not cleared: {result}")
        ran = self._ran(before, result["seconds"], done.cpu, done.peak)
        idle = min(self.command(*words).cpu for _ in range(2))
        return ran._replace(million=(done.cpu - idle) / self.messages * 1e6)

    def _script(self, *command: str) -> Ran:
        before = self.site.cpu()
        done = ended(sys.executable, *command, env=self.environment())
        seconds, cpu = map(float, done.output.split())
        return self._ran(before, seconds, cpu, done.peak)

    def official(self, batch: int, connections: int) -> Ran:
        """The official client in bare loops over so many connections."""
        figures = (next(_consumers), self.partitions, self.each, batch, connections)
        return self._script(
            "-c", OFFICIAL, self.site.address, self.stream, self.site.user, *map(str, figures)
        )

    def bare(self, batch: int, connections: int, ahead: int) -> Ran:
        """Polls whose replies are dropped, with so many under way on each connection; stores nothing."""
        figures = (self.partitions, self.each, batch, connections, ahead)
        return self._script(
            "-m",
            "bench.iggy_socket",
            self.site.address,
            self.stream,
            self.site.user,
            *map(str, figures),
        )


@contextmanager
def real_site() -> Iterator[Site]:
    """A real server."""
    if ADDRESS:
        yield Site(ADDRESS, ROOT, os.environ.get("IGGY_PASSWORD", "iggy"), lambda: None)
        return
    with tempfile.TemporaryDirectory() as folder, IggyProcess(Path(folder)) as server:
        (process,) = psutil.Process().children()
        yield Site(server.address, ROOT, ROOT_SECRET, lambda: sum(process.cpu_times()[:2]))


@contextmanager
def filled(site: Site | None, partitions: int, each: int, size: int) -> Iterator[Field]:
    """A topic with so many messages in each partition; None: on the tests' own server."""
    if site is None:
        with served("bench.iggy", "--serve", partitions, each, size) as server:
            site = Site(f"127.0.0.1:{server.line}", USER, PASSWORD, server.cpu)
            yield Field(site, "bench", partitions, each, size)
        return
    field = Field(site, f"bench-{uuid.uuid4().hex[:8]}", partitions, each, size)
    try:
        asyncio.run(fill(field))
        yield field
    finally:
        asyncio.run(drop(field))


async def fill(field: Field) -> None:
    """Make the stream."""
    client = await field.site.connected()
    await client.create_stream(field.stream)
    name = field.stream.encode()
    asked = bytes((2, len(name))) + name + field.partitions.to_bytes(4, "little") + b"\x05bench"
    await client.send_binary_request(302, asked)  # without options, which not every server 0.9 takes
    topic = await client.get_topic(field.stream, "bench")
    batch = [SendMessage(bytes(field.size)) for _ in range(min(SENT, field.each))]
    for part in topic.partitions if topic else ():
        for _ in range(field.each // len(batch)):
            await client.send_messages(field.stream, "bench", part.id, batch)


async def drop(field: Field) -> None:
    """Delete the stream."""
    await (await field.site.connected()).delete_stream(field.stream)


def rates(site: Site | None, rounds: int, scale: int) -> None:
    """Read by this tool, by the official client, and by bare polls."""
    for size, each in ((100, 2_000_000), (1000, 200_000)):
        with filled(site, PARTITIONS, each // scale, size) as field:
            for batch in (1000, 10_000):
                print(
                    f"{field.messages:,} messages of {size} B, {PARTITIONS} partitions, {batch:,} a poll"
                )
                made = {"this tool, 1 connection": partial(field.ours, batch)}
                for count in (1, 2, PARTITIONS):
                    name = f"poll_messages, {counted(count, 'connection')}"
                    made[name] = partial(field.official, batch, count)
                for count, ahead in ((1, 1), (1, 2), (2, 2), (PARTITIONS, 2)):
                    name = f"bare, {counted(count, 'connection')}, {ahead} ahead"
                    made[name] = partial(field.bare, batch, count, ahead)
                compare(made, rounds)


def memory(site: Site | None, rounds: int, scale: int) -> None:
    """Peak memory by the length of the backlog."""
    for each in (200_000 // scale, 2_000_000 // scale):
        with filled(site, PARTITIONS, each, 100) as field:
            print(f"{field.messages:,} messages of 100 B, 10,000 a poll")
            compare({"this tool": partial(field.ours, 10_000)}, rounds)


def skip(site: Site | None, rounds: int, scale: int) -> None:
    """Whole commands on a topic of many partitions."""
    with filled(site, MANY // scale, 2, 100) as field:
        print(f"{field.partitions:,} partitions of 2 messages, whole commands")
        for number in range(rounds):
            group = f"group-{number}"
            asyncio.run(field.group(group))
            for who in (("--consumer-id", str(next(_consumers))), ("--group-id", group)):
                for words in (("status", "iggy"), ("iggy", "--mode", "skip", "--yes", "--new")):
                    done = field.command(*words, *who)
                    name = f"{'status' if words[0] == 'status' else 'skip'}, {who[0][2:-3]}"
                    print(
                        f"  {name:32} wall {done.wall:5.2f} s  cpu {done.cpu:5.2f} s"
                        f"  peak {done.peak:4.0f} MB",
                        flush=True,
                    )


PARTS = {"rates": rates, "memory": memory, "skip": skip}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (3)")
    parser.add_argument("--only", choices=PARTS, help="one part of the benchmark")
    parser.add_argument("--serve", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(*args.serve)
        return
    scale = 10 if args.quick else 1
    for name, part in PARTS.items():
        if args.only in {None, name}:
            if REAL:
                with real_site() as site:
                    part(site, args.rounds, scale)
            else:
                part(None, args.rounds, scale)


if __name__ == "__main__":
    main()

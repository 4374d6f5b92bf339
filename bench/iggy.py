"""Draining an Iggy topic, compared with the official client's `poll_messages`, on one server.

The server is the tests' (a separate process, which builds replies once), or with IGGY_ADDRESS=HOST:PORT
a real one (user iggy, its password in IGGY_PASSWORD), on which a stream is filled, and deleted again.
Both ask for the same number of messages at a time, over as many connections of their own. Peak memory is shown
for two lengths of backlog: it must not grow.

    make bench-iggy [BENCH_ARGS=--quick]
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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from apache_iggy import AutoLogin, IggyClient, SendMessage, TcpConfig

from backlog_clearer.brokers.iggy.lane import CONNECTIONS
from backlog_clearer.testing.servers.iggy import PASSWORD, USER, IggyServer
from backlog_clearer.testing.servers.iggy_model import PartitionLog, Stream, Topic
from bench.processes import Ran, best, ended, served, show

ADDRESS = os.environ.get("IGGY_ADDRESS")
SECRET = os.environ.get("IGGY_PASSWORD", "iggy") if ADDRESS else PASSWORD
PARTITIONS, SIZE = 4, 100
SENT = 500  # messages in one request that fills a stream: no poll cuts one of them up
_consumers = itertools.count(1)  # each run clears another consumer's backlog

OFFICIAL = """
import asyncio, os, sys, time
from apache_iggy import AutoLogin, Consumer, IggyClient, PollingStrategy, TcpConfig
address, stream, user = sys.argv[1:4]
partitions, each, batch, connections = map(int, sys.argv[4:])
async def connected():
    login = AutoLogin.username_password(user, os.environ["SECRET"])
    client = IggyClient(TcpConfig(server_address=address, auto_login=login))
    await client.connect()
    return client
async def drain(client, mine):
    consumer = Consumer.Single(0)
    for partition in mine:
        at = 0
        while at < each:
            at += len(await client.poll_messages(
                stream, "bench", consumer=consumer, polling_strategy=PollingStrategy.Offset(value=at),
                count=batch, auto_commit=False, partition_id=partition))
async def main():
    clients = [await connected() for _ in range(connections)]
    begun = time.perf_counter()
    shares = [range(index, partitions, connections) for index in range(connections)]
    await asyncio.gather(*map(drain, clients, shares))
    print(time.perf_counter() - begun, flush=True)
    os._exit(0)  # the library may abort a process that ends while it has a connection
asyncio.run(main())
"""


def serve(each: int) -> None:
    """Serve one topic until standard input ends."""
    server = IggyServer()
    logs = {number: PartitionLog(next=each, size=SIZE) for number in range(PARTITIONS)}
    server.streams["bench"] = Stream(0, "bench", {"bench": Topic(0, "bench", logs)})
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


class Place(NamedTuple):
    """A filled stream."""

    address: str
    stream: str


@contextmanager
def serving(each: int) -> Iterator[Place]:
    """A stream with this many messages in each partition of its topic."""
    if ADDRESS is None:
        with served("bench.iggy", "--serve", each) as port:
            yield Place(f"127.0.0.1:{port}", "bench")
        return
    place = Place(ADDRESS, f"bench-{uuid.uuid4().hex[:8]}")
    try:
        asyncio.run(fill(place, each))
        yield place
    finally:
        asyncio.run(drop(place))


async def connected(place: Place) -> IggyClient:
    """The official client."""
    login = AutoLogin.username_password(USER, SECRET)
    client = IggyClient(TcpConfig(server_address=place.address, auto_login=login))
    await client.connect()
    return client


async def fill(place: Place, each: int) -> None:
    """Make the stream."""
    client = await connected(place)
    await client.create_stream(place.stream)
    name = place.stream.encode()
    asked = bytes((2, len(name))) + name + PARTITIONS.to_bytes(4, "little") + b"\x05bench"
    await client.send_binary_request(302, asked)  # without options, which not every server 0.9 takes
    topic = await client.get_topic(place.stream, "bench")
    batch = [SendMessage(bytes(SIZE)) for _ in range(SENT)]
    for part in topic.partitions if topic else ():
        for _ in range(each // SENT):
            await client.send_messages(place.stream, "bench", part.id, batch)


async def drop(place: Place) -> None:
    """Delete the stream."""
    await (await connected(place)).delete_stream(place.stream)


def ours(place: Place, each: int, batch: int) -> Ran:
    """The command line with one worker, which stores offsets too."""
    host, _, port = place.address.partition(":")
    with tempfile.TemporaryDirectory() as receipts:
        done = ended(
            sys.executable, "cleaner.py", "iggy", "--host", host, "--port", port,
            "--stream-id", place.stream, "--topic-id", "bench", "--consumer-id", str(next(_consumers)),
            "--username", USER, "--password", "${env:SECRET}", "--workers", "1",
            "--batch-size", str(batch), "--stop-when-empty", "--receipt-dir", receipts,
            "--output", "json", env={**os.environ, "SECRET": SECRET}, code=0,
        )  # fmt: skip
    result = json.loads(done.output)
    if not result["verified"] or result["totals"]["messages"] != each * PARTITIONS:
        raise SystemExit(f"not cleared: {result}")
    return Ran(each * PARTITIONS / result["seconds"], done.cpu, done.peak)


def official(place: Place, each: int, batch: int) -> Ran:
    """The official client in bare loops over as many connections as a worker has; it stores nothing."""
    done = ended(
        sys.executable, "-c", OFFICIAL, place.address, place.stream, USER,
        str(PARTITIONS), str(each), str(batch), str(CONNECTIONS), env={**os.environ, "SECRET": SECRET},
    )  # fmt: skip
    return Ran(each * PARTITIONS / float(done.output), done.cpu, done.peak)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    each = (5_000_000 if ADDRESS is None else 2_000_000) // (10 if args.quick else 1)
    with serving(each) as place:
        for batch in (500, 1000, 10_000):
            print(
                f"{each * PARTITIONS:,} messages of {SIZE} B, {PARTITIONS} partitions,"
                f" {batch:,} at a time"
            )
            mine = best(lambda: ours(place, each, batch))  # noqa: B023
            show("offsets (this tool)", mine, mine)
            show("poll_messages", best(lambda: official(place, each, batch)), mine)  # noqa: B023
    print(f"{each * PARTITIONS * 5:,} messages, 10,000 at a time")
    with serving(each * 5) as place:
        long = ours(place, each * 5, 10_000)
    show("offsets (this tool)", long, long)
    print(f"  memory: {long.peak - mine.peak:+.0f} MB for five times the messages")


if __name__ == "__main__":
    main()

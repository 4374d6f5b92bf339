"""Draining an Iggy topic, beside the official client's `poll_messages`, on one server.

The server is the tests' (a process of its own, which makes replies once), so the figures compare
readers and say nothing of a real server. Both ask for the same number of messages at a time. Peak memory
is shown for two lengths of backlog: it has to be flat.

    make bench-iggy [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.processes import Ran, best, ended, served, show
from tests.brokers.iggy_server import PASSWORD, USER, IggyServer, Log, Stream, Topic

PARTITIONS, SIZE = 4, 100
_consumers = itertools.count(1)  # each run clears a backlog of its own

OFFICIAL = """
import asyncio, os, sys, time
from apache_iggy import AutoLogin, Consumer, IggyClient, PollingStrategy, TcpConfig
address, user, password, partitions, each, batch = sys.argv[1:4] + [int(item) for item in sys.argv[4:7]]
async def main():
    login = AutoLogin.username_password(user, password)
    client = IggyClient(TcpConfig(server_address=address, auto_login=login))
    await client.connect()
    begun, consumer = time.perf_counter(), Consumer.Single(0)
    for partition in range(partitions):
        at = 0
        while at < each:
            at += len(await client.poll_messages(
                "bench", "bench", consumer=consumer, polling_strategy=PollingStrategy.Offset(value=at),
                count=batch, auto_commit=False, partition_id=partition))
    print(time.perf_counter() - begun, flush=True)
    os._exit(0)  # the library may abort a process that ends while it has a connection
asyncio.run(main())
"""


def serve(each: int) -> None:
    """Serve one topic until standard input ends."""
    server = IggyServer()
    logs = {number: Log(next=each, size=SIZE) for number in range(PARTITIONS)}
    server.streams["bench"] = Stream(0, "bench", {"bench": Topic(0, "bench", logs)})
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


@contextmanager
def serving(each: int) -> Iterator[int]:
    """A server process with so many messages in each partition; yields its port."""
    with served("bench.iggy", "--serve", each) as port:
        yield int(port)


def ours(port: int, each: int, batch: int) -> Ran:
    """The command line with one worker, which stores offsets too."""
    with tempfile.TemporaryDirectory() as receipts:
        done = ended(
            sys.executable, "cleaner.py", "iggy", "--port", str(port), "--stream-id", "bench",
            "--topic-id", "bench", "--consumer-id", str(next(_consumers)), "--username", USER,
            "--password", PASSWORD, "--workers", "1", "--batch-size", str(batch), "--stop-when-empty",
            "--receipt-dir", receipts, "--output", "json", code=0,
        )  # fmt: skip
    result = json.loads(done.output)
    if not result["verified"] or result["totals"]["messages"] != each * PARTITIONS:
        raise SystemExit(f"not cleared: {result}")
    return Ran(each * PARTITIONS / result["seconds"], done.cpu, done.peak)


def official(port: int, each: int, batch: int) -> Ran:
    """The official client in a bare loop, which stores nothing."""
    done = ended(
        sys.executable, "-c", OFFICIAL, f"127.0.0.1:{port}", USER, PASSWORD,
        str(PARTITIONS), str(each), str(batch),
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
    each = 5_000_000 // (10 if args.quick else 1)
    for batch in (1000, 10_000):
        print(
            f"{each * PARTITIONS:,} messages of {SIZE} B, {PARTITIONS} partitions, {batch:,} at a time"
        )
        with serving(each) as port:
            mine = best(lambda: ours(port, each, batch))  # noqa: B023
            show("offsets (this tool)", mine, mine)
            show("poll_messages", best(lambda: official(port, each, batch)), mine)  # noqa: B023
    print(f"{each * PARTITIONS * 5:,} messages, 10,000 at a time")
    with serving(each * 5) as port:
        long = ours(port, each * 5, 10_000)
    show("offsets (this tool)", long, long)
    print(f"  memory: {long.peak - mine.peak:+.0f} MB for five times the messages")


if __name__ == "__main__":
    main()

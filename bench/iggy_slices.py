"""16 slices of one Iggy group at once, each a process, compared with one process, on one real server.

Like with like: the programs are started first, and begin together. The rate is that of all messages from the
first read of any process to the last acknowledgement of any; what the start of 16 Python processes costs is
shown apart. Each round clears the same messages again, by another group.

    IGGY_SERVER=PATH make bench-iggy_slices [BENCH_ARGS='--each 100000 --rounds 5']

PATH is the program `iggy-server`. Without it, the tests' server is used, one process whose own time decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from backlog_clearer.brokers.iggy.lane import IggyLane
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.model import Advance, Settled
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.testing.servers.iggy import PASSWORD, USER, IggyServer
from bench.iggy import REAL, Field, Site, fill, real_site
from bench.processes import ROOT

PARTITIONS = SLICES = 16
_CREATE_TOKEN = 42  # the code of the request


class Share(NamedTuple):
    """What one process did; times by the clock of the machine."""

    released: float
    first: float  # it began to read
    last: float  # its last acknowledgement ended
    messages: int
    retries: int
    settles: int
    settling_s: float
    cpu_s: float  # of the process, from its release to its end


class Round(NamedTuple):
    """What all processes of one way did."""

    rate: float  # messages a second, from the first read to the last acknowledgement
    longest_s: float  # of one process, from its first read to its last acknowledgement
    surveys_s: float  # until all read
    settling_s: float  # of one process at most, in all its acknowledgements
    retries: int
    start_s: float  # until all programs had started
    cpu_s: float  # of all processes, from their release to their ends
    server_s: float | None  # the server's CPU in that time, where it is known


def run_share(values: dict[str, Any]) -> None:
    """One process: print a line when it has started, clear when one comes, and print what it did."""
    first = last = settling_s = 0.0
    settles = 0
    read, settle = IggyLane.read, IggyLane.settle

    def timed_read(lane: IggyLane, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        nonlocal first
        first = first or time.monotonic()
        return read(lane, max_wait_s, max_messages)

    def timed_settle(lane: IggyLane) -> Sequence[Settled]:
        nonlocal last, settles, settling_s
        begun = time.monotonic()
        done = settle(lane)
        last = time.monotonic()
        settles += bool(done)
        settling_s += last - begun
        return done

    for name, timed in (("read", timed_read), ("settle", timed_settle)):
        setattr(IggyLane, name, timed)
    options = build(IggyOptions, values["options"])
    job = Job("iggy", options, build(RunOptions, values["run"]))
    print("started", flush=True)
    sys.stdin.readline()
    released, cpu = time.monotonic(), time.process_time()
    result = clear(job)
    if not result.cleared:
        raise SystemExit(f"not cleared: {result.model_dump_json()}")
    totals = result.totals
    cpu_s = time.process_time() - cpu
    share = Share(released, first, last, totals.messages, totals.retries, settles, settling_s, cpu_s)
    print(json.dumps(share), flush=True)


def run_round(
    field: Field, group: str, login: dict[str, str], shares: Sequence[dict[str, Any]]
) -> Round:
    """Start all processes, let them begin together, and wait for their ends."""
    host, _, port = field.site.address.rpartition(":")
    options = {
        "host": host, "port": int(port), "stream_id": field.stream, "topic_id": "bench",
        "group_id": group, **login,
    }  # fmt: skip
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as receipts:
        run = {"stop_when_empty": True, "receipt_dir": receipts, "batch_size": 5000, "new": True}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.iggy_slices", "--share"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
            )
            for _ in shares
        ]  # fmt: skip
        for process, values in zip(started, shares, strict=True):
            assert process.stdin is not None  # noqa: S101 narrows the type
            process.stdin.write(json.dumps({"options": options, "run": run | values}) + "\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None  # noqa: S101 narrows the type
            process.stdout.readline()
        start_s = time.monotonic() - begun
        before = field.site.cpu()
        for process in started:
            assert process.stdin is not None  # noqa: S101 narrows the type
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in started]
        after = field.site.cpu()
    failed = [text for process, text in zip(started, outputs, strict=True) if process.returncode]
    if failed:
        raise SystemExit("\n".join(failed))
    done = [Share(*json.loads(text)) for text in outputs]
    window_s = max(share.last for share in done) - min(share.first for share in done)
    return Round(
        sum(share.messages for share in done) / window_s,
        max(share.last - share.first for share in done),
        max(share.first for share in done) - min(share.released for share in done),
        max(share.settling_s for share in done),
        sum(share.retries for share in done),
        start_s,
        sum(share.cpu_s for share in done),
        None if before is None or after is None else after - before,
    )


@contextmanager
def serving() -> Iterator[Site]:
    """A server."""
    if REAL:
        with real_site() as site:
            yield site
        return
    with IggyServer() as server:
        yield Site(f"127.0.0.1:{server.port}", USER, PASSWORD, lambda: None)


async def measure(site: Site, each: int, rounds: int, *, token: bool) -> None:
    """Rounds of both ways in turn."""
    field = Field(site, f"slices-{uuid.uuid4().hex[:8]}", PARTITIONS, each, 100)
    await fill(field)
    login = {"username": site.user, "password": site.secret}
    if token:
        client = await site.connected()
        reply = await client.send_binary_request(_CREATE_TOKEN, b"\x05bench" + bytes(8))
        login = {"token": bytes(reply[1:]).decode()}
    ways: dict[str, list[dict[str, Any]]] = {
        "one process, 4 workers": [{"workers": 4}],
        f"{SLICES} slices": [{"workers": 1, "slice": f"{i}/{SLICES}"} for i in range(SLICES)],
    }
    print(f"{each * PARTITIONS:,} messages in {PARTITIONS} partitions; load {os.getloadavg()[0]:.0f}")
    print(
        "| round | | messages/s | longest share | until all read | acknowledging | retries | start"
        " | CPU of the processes | of the server |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for number in range(1, rounds + 1):
        for name, shares in ways.items():
            group = f"{'one' if len(shares) == 1 else 'slices'}-{number}"
            await field.group(group)
            done = await asyncio.to_thread(run_round, field, group, login, shares)
            server = "" if done.server_s is None else f"{done.server_s:.2f} s"
            print(
                f"| {number} | {name} | {done.rate / 1e6:.2f}M | {done.longest_s:.2f} s |"
                f" {done.surveys_s:.2f} s | {done.settling_s:.2f} s | {done.retries} | {done.start_s:.1f} s |"
                f" {done.cpu_s:.2f} s | {server} |",
                flush=True,
            )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--each", type=int, default=500_000, help="messages in each partition")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--token", action="store_true", help="log in by a token, not by a password")
    parser.add_argument("--share", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.share:
        run_share(json.loads(sys.stdin.readline()))
        return
    with serving() as site:
        asyncio.run(measure(site, args.each, args.rounds, token=args.token))


if __name__ == "__main__":
    main()

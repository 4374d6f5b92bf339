"""Clearing a Pulsar backlog, side by side on one real broker in the same minute.

This tool (one worker, in order and shared) against `pulsar-perf consume` and a plain `receive()` and
`acknowledge()` loop, each with a separate subscription over the same batched backlog. The programs take turns;
each has one connection, and may have 50,000 messages in flight. Rates leave out what each needs to start:
ours is the run's own time with the survey's and the verification's requests, pulsar-perf's its own aggregate,
the loop's from its first message on; the CPU is that of whole processes.
All but the shared one read as exclusive consumers: a failover subscription's first message comes
a second late for every reader.

    make bench-pulsar [BENCH_ARGS='--only rates|skip --rounds N --quick']
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil

from backlog_clearer.testing.servers.pulsar import COORDINATES, JAVA, VERSION, running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import KEPT, Judge
from backlog_clearer.testing.support import maven_jars
from backlog_clearer.text import counted
from bench.processes import Ended, Ran, compare, ended

PERF = "org.apache.pulsar:pulsar-testclient:4.0.8"  # the version nearest to the broker's that Maven Central has
IN_FLIGHT = 50_000
MANY = 1_000  # partitions
NAMES = ("in-order", "shared", "perf", "loop", "socket")

LOOP = """
import sys, time, pulsar
url, subscription, messages, topic = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
quiet = pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null")
client = pulsar.Client(url, logger=quiet, stats_interval_in_seconds=0)
consumer = client.subscribe(
    topic, subscription, pulsar.ConsumerType.Exclusive, receiver_queue_size=int(sys.argv[5]))
begun = None
for _ in range(messages):
    consumer.acknowledge(consumer.receive())
    begun = begun or time.perf_counter()
print(time.perf_counter() - begun)
client.close()
"""


class Field:
    """One topic on one broker, with a subscription for each reader and run."""

    def __init__(self, judge: Judge, partitions: int, size: int, messages: int, rounds: int) -> None:
        self.judge, self.messages = judge, messages
        self.topic = f"persistent://{KEPT}/bench-{uuid.uuid4().hex[:8]}"
        self._parts = [f"{self.topic}-partition-{number}" for number in range(partitions)]
        self._broker = next(
            process
            for process in psutil.process_iter(["cmdline"])
            if str(judge.server.config) in (process.info["cmdline"] or [])
        )
        path = self.topic.replace("://", "/")
        judge.admin("PUT", f"{path}/partitions", partitions)
        for name in NAMES:
            for run in range(rounds):
                judge.admin("PUT", f"{path}/subscription/{name}-{run}")
        for part in self._parts:  # a batch: 1,000 messages or 128 KiB
            judge.produce(part, messages // partitions, size=size, batch=1000)
        self._runs = dict.fromkeys(NAMES, 0)

    def _subscription(self, name: str) -> str:
        """The next unused subscription."""
        self._runs[name] += 1
        return f"{name}-{self._runs[name] - 1}"

    def _broker_cpu(self) -> float:
        """The broker's seconds of CPU so far."""
        return sum(self._broker.cpu_times()[:2])

    def _ran(self, before: float, done: Ended, rate: float) -> Ran:
        """A run; `before`: the broker's seconds of CPU when it began."""
        million = self.messages / 1e6
        broker = (self._broker_cpu() - before) / million
        return Ran(rate, done.cpu, done.peak, broker, done.wall, million=done.cpu / million)

    def ours(self, name: str, kind: str) -> Ran:
        """The project itself, as a user runs it; the whole backlog must be verified as cleared."""
        before = self._broker_cpu()
        done = command(
            self.judge, self.topic, self._subscription(name), "pulsar", "--subscription-type", kind,
            "--workers", "1", "--stop-when-empty",
        )  # fmt: skip
        result = json.loads(done.output)
        if not result["verified"] or result["totals"]["messages"] != self.messages:
            raise SystemExit(f"not cleared: {result}")
        return self._ran(before, done, self.messages / result["seconds"])

    def socket(self) -> Ran:
        """Only the broker's bytes, not parsed."""
        name, before = self._subscription("socket"), self._broker_cpu()
        entries = sum(self.judge.backlog(part, name) for part in self._parts)
        done = ended(
            sys.executable, "-m", "bench.pulsar_socket", "127.0.0.1", str(self.judge.server.port), name,
            str(self.messages), str(entries), *self._parts,
        )  # fmt: skip
        return self._ran(before, done, self.messages / float(done.output))

    def perf(self, classpath: str, config: Path) -> Ran:
        """`pulsar-perf consume`."""
        before = self._broker_cpu()
        done = ended(
            "java", "-Xmx1g", "-XX:MaxDirectMemorySize=1g", "-cp", classpath,
            "org.apache.pulsar.testclient.PulsarPerfTestTool", str(config), "consume",
            "-u", self.judge.server.service_url, "-ss", self._subscription("perf"), "-st", "Exclusive",
            "-q", str(IN_FLIGHT), "-p", str(IN_FLIGHT), "-m", str(self.messages), "-i", "1", self.topic,
        )  # fmt: skip
        found = re.search(r"Aggregated throughput stats --- .*? --- +([\d.,]+) +msg/s", done.output)
        if not found:
            raise SystemExit(f"pulsar-perf printed no rate:\n{done.output[-2000:]}")
        return self._ran(before, done, float(found[1].replace(",", "")))

    def loop(self) -> Ran:
        """A plain loop over single messages."""
        before = self._broker_cpu()
        done = ended(
            sys.executable, "-c", LOOP, self.judge.server.service_url, self._subscription("loop"),
            str(self.messages), self.topic, str(IN_FLIGHT),
        )  # fmt: skip
        return self._ran(before, done, self.messages / float(done.output))


def command(judge: Judge, topic: str, subscription: str, *words: str) -> Ended:
    """A command line of this tool."""
    server = judge.server
    with tempfile.TemporaryDirectory() as receipts:
        receipt = () if words[0] == "status" else ("--receipt-dir", receipts)
        return ended(
            sys.executable, "cleaner.py", *words, "--service-url", server.service_url,
            "--admin-url", server.admin_url, "--topic", topic, "--subscription", subscription,
            "--output", "json", *receipt,
        )  # fmt: skip


def rates(judge: Judge, perf: str, rounds: int, scale: int) -> None:
    """All readers on each backlog; ratios are of the first one to each."""
    config = judge.server.folder / "client.conf"
    config.touch()
    warm = Field(judge, 1, 100, 100_000, 1)
    warm.ours("in-order", "exclusive")
    for size, messages in ((100, 5_000_000 // scale), (1000, 1_000_000 // scale)):
        for partitions in (1, 4):
            field = Field(judge, partitions, size, messages, rounds)
            print(
                f"{messages:,} messages of {size} B, batched, in {counted(partitions, 'partition')}",
                flush=True,
            )
            runs: dict[str, Callable[[], Ran]] = {
                "exclusive (this tool)": partial(field.ours, "in-order", "exclusive"),
                "pulsar-perf consume": partial(field.perf, perf, config),
                "receive + acknowledge": field.loop,
                "bare socket": field.socket,
                "shared (this tool)": partial(field.ours, "shared", "shared"),
            }
            compare(runs, rounds)


def skip(judge: Judge, _perf: str, rounds: int, scale: int) -> None:
    """Whole commands on a topic of many partitions."""
    topic = f"persistent://{KEPT}/many-{uuid.uuid4().hex[:8]}"
    path, partitions = topic.replace("://", "/"), MANY // scale
    judge.admin("PUT", f"{path}/partitions", partitions)
    for number in range(partitions):
        for each in range(rounds):
            judge.admin("PUT", f"{path}-partition-{number}/subscription/skip-{each}")
    producer = judge.client.create_producer(topic, batching_enabled=False)
    for _ in range(2 * partitions):  # two for each, in turn
        producer.send_async(bytes(100), None)
    producer.flush()
    producer.close()
    print(f"{partitions:,} partitions of 2 messages, whole commands")
    for number in range(rounds):
        for name, words in (
            ("status", ("status", "pulsar")),
            ("skip", ("pulsar", "--mode", "skip", "--yes")),
        ):
            done = command(judge, topic, f"skip-{number}", *words)
            print(
                f"  {name:32} wall {done.wall:5.2f} s  cpu {done.cpu:5.2f} s  peak {done.peak:4.0f} MB",
                flush=True,
            )


PARTS = {"rates": rates, "skip": skip}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (3)")
    parser.add_argument("--only", choices=PARTS, help="one part of the benchmark")
    args = parser.parse_args()
    perf = maven_jars("pulsar-perf", [PERF], alone=True)
    broker = maven_jars(f"pulsar-{VERSION}", COORDINATES)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pulsar(Path(folder) / "pulsar", java=JAVA) as server,
        closing(Judge(server)) as judge,
    ):
        for name, part in PARTS.items():
            if args.only in {None, name}:
                part(judge, f"{perf}/*:{broker}/*", args.rounds, 10 if args.quick else 1)


if __name__ == "__main__":
    main()

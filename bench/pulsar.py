"""Clearing a Pulsar backlog, side by side on one real broker in the same minute.

This tool (one worker, in order and shared) against `pulsar-perf consume` and a plain `receive()` and
`acknowledge()` loop, each with a separate subscription over the same batched backlog. Rates leave out
what each needs to start: ours is the run's own time with the survey's and the verification's requests,
pulsar-perf's its own aggregate, the loop's from its first message on. All but the shared one read as
exclusive consumers: a failover subscription's first message comes a second late for every reader.

    make bench-pulsar [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import uuid
from pathlib import Path

from backlog_clearer.testing.servers.pulsar import COORDINATES, JAVA, VERSION, running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import KEPT, Judge
from backlog_clearer.testing.support import maven_jars
from bench.processes import Ran, best, ended, show

PERF = "org.apache.pulsar:pulsar-testclient:4.0.8"  # the version nearest to the broker's that Maven Central has
RUNS = 2
NAMES = ("in-order", "shared", "perf", "loop", "socket")

LOOP = """
import sys, time, pulsar
url, subscription, messages, topic = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
quiet = pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null")
client = pulsar.Client(url, logger=quiet, stats_interval_in_seconds=0)
consumer = client.subscribe(topic, subscription, pulsar.ConsumerType.Exclusive)
begun = None
for _ in range(messages):
    consumer.acknowledge(consumer.receive())
    begun = begun or time.perf_counter()
print(time.perf_counter() - begun)
client.close()
"""


class Field:
    """One topic on one broker, with a subscription for each reader and run."""

    def __init__(self, judge: Judge, partitions: int, size: int, messages: int) -> None:
        self.judge, self.messages = judge, messages
        self.topic = f"persistent://{KEPT}/bench-{uuid.uuid4().hex[:8]}"
        self._parts = [f"{self.topic}-partition-{number}" for number in range(partitions)]
        path = self.topic.replace("://", "/")
        judge.admin("PUT", f"{path}/partitions", partitions)
        for name in NAMES:
            for run in range(RUNS):
                judge.admin("PUT", f"{path}/subscription/{name}-{run}")
        for part in self._parts:  # a batch: 1,000 messages or 128 KiB
            judge.produce(part, messages // partitions, size=size, batch=1000)
        self._runs = dict.fromkeys(NAMES, 0)

    def _subscription(self, name: str) -> str:
        """The next unused subscription."""
        self._runs[name] += 1
        return f"{name}-{self._runs[name] - 1}"

    def ours(self, name: str, kind: str) -> Ran:
        """The project itself, as a user runs it; the whole backlog must be verified as cleared."""
        server = self.judge.server
        with tempfile.TemporaryDirectory() as receipts:
            done = ended(
                sys.executable, "cleaner.py", "pulsar", "--service-url", server.service_url,
                "--admin-url", server.admin_url, "--topic", self.topic,
                "--subscription", self._subscription(name), "--subscription-type", kind,
                "--workers", "1", "--stop-when-empty", "--receipt-dir", receipts, "--output", "json",
            )  # fmt: skip
        result = json.loads(done.output)
        if not result["verified"] or result["totals"]["messages"] != self.messages:
            raise SystemExit(f"not cleared: {result}")
        return Ran(self.messages / result["seconds"], done.cpu, done.peak, wall=done.wall)

    def socket(self) -> Ran:
        """Only the broker's bytes, not parsed."""
        name = self._subscription("socket")
        entries = sum(self.judge.backlog(part, name) for part in self._parts)
        done = ended(
            sys.executable, "-m", "bench.pulsar_socket", "127.0.0.1", str(self.judge.server.port), name,
            str(self.messages), str(entries), *self._parts,
        )  # fmt: skip
        return Ran(self.messages / float(done.output), done.cpu, done.peak, wall=done.wall)

    def perf(self, classpath: str, config: Path) -> Ran:
        """`pulsar-perf consume`."""
        done = ended(
            "java", "-Xmx1g", "-XX:MaxDirectMemorySize=1g", "-cp", classpath,
            "org.apache.pulsar.testclient.PulsarPerfTestTool", str(config), "consume",
            "-u", self.judge.server.service_url, "-ss", self._subscription("perf"), "-st", "Exclusive",
            "-q", "50000", "-p", "50000", "-m", str(self.messages), "-i", "1", self.topic,
        )  # fmt: skip
        found = re.search(r"Aggregated throughput stats --- .*? --- +([\d.,]+) +msg/s", done.output)
        if not found:
            raise SystemExit(f"pulsar-perf printed no rate:\n{done.output[-2000:]}")
        return Ran(float(found[1].replace(",", "")), done.cpu, done.peak, wall=done.wall)

    def loop(self) -> Ran:
        """A plain loop over single messages."""
        done = ended(
            sys.executable, "-c", LOOP, self.judge.server.service_url, self._subscription("loop"),
            str(self.messages), self.topic,
        )  # fmt: skip
        return Ran(self.messages / float(done.output), done.cpu, done.peak, wall=done.wall)


def compare(field: Field, classpath: str, config: Path) -> None:
    """All readers on one topic; ratios are of the first one to each."""
    ours = best(lambda: field.ours("in-order", "exclusive"))
    show("exclusive (this tool)", ours, ours)
    show("shared (this tool)", best(lambda: field.ours("shared", "shared")), ours)
    show("pulsar-perf consume", best(lambda: field.perf(classpath, config)), ours)
    show("receive + acknowledge", best(field.loop), ours)
    show("bare socket", best(field.socket), ours)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    scale = 10 if parser.parse_args().quick else 1
    perf = maven_jars("pulsar-perf", [PERF], alone=True)
    broker = maven_jars(f"pulsar-{VERSION}", COORDINATES)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pulsar(Path(folder) / "pulsar", java=JAVA) as server,
    ):
        config = Path(folder) / "client.conf"
        config.touch()
        judge = Judge(server)
        warm = Field(judge, 1, 100, 100_000)
        warm.ours("in-order", "exclusive")
        for size, messages in ((100, 5_000_000 // scale), (1000, 1_000_000 // scale)):
            for partitions in (1, 4):
                field = Field(judge, partitions, size, messages)
                print(f"{size} B, batched, {partitions} partitions, {messages:,} messages")
                compare(field, f"{perf}/*:{broker}/*", config)
        judge.close()


if __name__ == "__main__":
    main()

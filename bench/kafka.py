"""Clearing a Kafka backlog, side by side on one real broker in the same minute.

This tool (one worker, header reader and client reader) against `kcat -C -e -q -f ''`, Kafka's own
ConsumerPerformance and confluent-kafka's `consume` in a bare loop. Rates leave out the start-up of
each: ours is the run's own time up to the last commit, kcat's its wall time less that on an empty
topic, ConsumerPerformance's its own figure without the group join, and the loop's from the first
message on. CPU is the time that the process and the broker used in that run; memory is the peak resident set.

    make bench-kafka [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

from backlog_clearer.testing.servers.kafka import SERVER_JAVA, KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge
from bench.processes import Ended, Ran, best, ended, show

LOOP = """
import sys, time, json
from confluent_kafka import Consumer, TopicPartition
servers, topic, partitions, messages = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
consumer = Consumer({"bootstrap.servers": servers, "group.id": "loop", "enable.auto.commit": False,
                     "fetch.queue.backoff.ms": 10, **json.loads(sys.argv[5])})
consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
count, begun = 0, None
while count < messages:
    count += len(consumer.consume(10000, 1.0))
    begun = begun or time.perf_counter()
print(time.perf_counter() - begun)
"""


@dataclass(frozen=True)
class Backlog:
    """One topic."""

    topic: str
    partitions: int
    messages: int
    size: int
    codec: str


class Field:
    """A broker, and the programs that read from it through one listener."""

    def __init__(self, cluster: KafkaCluster, listener: str) -> None:
        self.cluster = cluster
        self.servers = cluster.bootstrap(listener)
        self.login = cluster.login(listener) if listener != "PLAINTEXT" else {}
        self.broker = next(
            process
            for process in psutil.process_iter(["cmdline"])
            if str(cluster.folder) in " ".join(process.info["cmdline"] or [])
        )

    def process(self, *command: str) -> tuple[Ended, float]:
        """A program that runs to its end, and the broker's CPU seconds meanwhile."""
        before = sum(self.broker.cpu_times()[:2])
        done = ended(*command)
        return done, sum(self.broker.cpu_times()[:2]) - before

    def ours(self, backlog: Backlog, reader: str, workers: int = 1) -> Ran:
        """The command line as a user runs it; the whole backlog must be verified as cleared."""
        settings = [part for key, value in self.login.items() for part in ("-X", f"{key}={value}")]
        with tempfile.TemporaryDirectory() as receipts:
            done, broker = self.process(
                sys.executable, "cleaner.py", "kafka", "--bootstrap-servers", self.servers,
                "--topic", backlog.topic, "--group-id", f"bench-{uuid.uuid4().hex}",
                "--reader", reader, "--workers", str(workers), "--stop-when-empty",
                "--receipt-dir", receipts, "--output", "json", *settings,
            )  # fmt: skip
        result = json.loads(done.output)
        if not result["verified"] or result["totals"]["messages"] != backlog.messages:
            raise SystemExit(f"not cleared: {result}")
        return Ran(backlog.messages / result["seconds"], done.cpu, done.peak, broker, done.wall)

    def kcat(self, backlog: Backlog, empty: str) -> Ran:
        """`kcat -C -e -q -f ''`."""
        settings = [part for key, value in self.login.items() for part in ("-X", f"{key}={value}")]
        (start, _), (done, broker) = (
            self.process(
                "kcat", "-C", "-e", "-q", "-f", "", "-b", self.servers, "-t", topic,
                "-o", "beginning", *settings,
            )
            for topic in (empty, backlog.topic)
        )  # fmt: skip
        rate = backlog.messages / max(0.001, done.wall - start.wall)
        return Ran(rate, done.cpu, done.peak, broker, done.wall)

    def perf(self, backlog: Backlog) -> Ran:
        """Kafka's own ConsumerPerformance, by its own figure for fetching."""
        config = self.cluster.folder / "perf.properties"
        names = {"ssl.ca.location": "ssl.truststore.location"}
        lines = [f"{names.get(key, key)}={value}" for key, value in self.login.items()]
        config.write_text("\n".join([*lines, "ssl.truststore.type=PEM", ""]))
        done, broker = self.process(
            "java", "-Xmx512m", "-cp", f"{self.cluster.jars}/*",
            "org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", self.servers,
            "--topic", backlog.topic, "--messages", str(backlog.messages), "--group",
            uuid.uuid4().hex, "--consumer.config", str(config), "--timeout", "60000",
        )  # fmt: skip
        rows = [line.split(", ") for line in done.output.splitlines() if ", " in line]
        named = dict(zip(rows[0], rows[1], strict=True))
        return Ran(float(named["fetch.nMsg.sec"]), done.cpu, done.peak, broker, done.wall)

    def loop(self, backlog: Backlog) -> Ran:
        """confluent-kafka's `consume` in a bare loop."""
        done, broker = self.process(
            sys.executable, "-c", LOOP, self.servers, backlog.topic, str(backlog.partitions),
            str(backlog.messages), json.dumps(self.login),
        )  # fmt: skip
        rate = backlog.messages / float(done.output)
        return Ran(rate, done.cpu, done.peak, broker, done.wall)


def publish(cluster: KafkaCluster, judge: Judge, backlog: Backlog) -> None:
    """Fill a topic with Kafka's own ProducerPerformance."""
    judge.create(backlog.topic, backlog.partitions)
    subprocess.run(
        [
            "java", "-Xmx512m", "-cp", f"{cluster.jars}/*",
            "org.apache.kafka.tools.ProducerPerformance", "--topic", backlog.topic,
            "--num-records", str(backlog.messages), "--record-size", str(backlog.size),
            "--throughput", "-1", "--producer-props", f"bootstrap.servers={cluster.bootstrap()}",
            f"compression.type={backlog.codec}", "batch.size=65536", "linger.ms=20", "acks=1",
        ],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def compare(field: Field, backlog: Backlog, empty: str) -> None:
    """All programs on one backlog; ratios are of the header reader to each."""
    print(
        f"{backlog.size} B, {backlog.codec}, {backlog.partitions} partitions,"
        f" {backlog.messages:,} messages, {field.login.get('security.protocol', 'PLAINTEXT')}"
    )
    ours = best(lambda: field.ours(backlog, "headers"))
    show("headers (this tool)", ours, ours)
    show("client (this tool)", best(lambda: field.ours(backlog, "client")), ours)
    show("kcat", best(lambda: field.kcat(backlog, empty)) if shutil.which("kcat") else None, ours)
    show("consume() loop", best(lambda: field.loop(backlog)), ours)
    show("ConsumerPerformance", best(lambda: field.perf(backlog)), ours)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one topic, a tenth of the messages")
    quick = parser.parse_args().quick
    scale = 10 if quick else 1
    with (
        tempfile.TemporaryDirectory() as folder,
        running_kafka(Path(folder) / "kafka", java=SERVER_JAVA) as cluster,
    ):
        judge = Judge(cluster.bootstrap())
        judge.wait_for_coordinators()
        empty = judge.create("empty")
        plain, tls = Field(cluster, "PLAINTEXT"), Field(cluster, "SSL")
        warm = Backlog("warm", 4, 1_000_000 // scale, 100, "none")  # the broker's code gets compiled
        publish(cluster, judge, warm)
        for _ in range(2):
            for run in (plain.ours, tls.ours):
                run(warm, "headers")
            plain.loop(warm)
        for size, codec, messages in (
            (100, "none", 5_000_000),
            (100, "lz4", 5_000_000),
            (1000, "none", 1_000_000),
        ):
            for partitions in (4,) if quick else (1, 4, 32):
                name = f"bench-{size}-{codec}-{partitions}"
                backlog = Backlog(name, partitions, messages // scale, size, codec)
                publish(cluster, judge, backlog)
                compare(plain, backlog, empty)
                if partitions == 4 and size == 100:
                    compare(tls, backlog, empty)
                if partitions == 32 and codec == "none":
                    many = plain.ours(backlog, "headers", workers=20)
                    show("headers, 20 workers", many, many)
                    show("client, 20 workers", plain.ours(backlog, "client", workers=20), many)
                judge.admin.delete_topics([name])[name].result(30)


if __name__ == "__main__":
    main()

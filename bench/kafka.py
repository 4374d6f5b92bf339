"""Clearing a Kafka backlog, side by side on one real broker in the same minute.

This tool (one worker, header reader and client reader) against `kcat -C -e -q -f ''`, Kafka's own
ConsumerPerformance and confluent-kafka's `consume` in a bare loop, and against an earlier checkout of this
tool. The programs take turns, and the best of the rounds counts. Rates leave out the start-up of
each: ours is the run's own time up to the last commit, kcat's its wall time less that on an empty
topic, ConsumerPerformance's its own figure without the group join, and the loop's from the first
message on. CPU is the time that the process and the broker used in that run; CPU for each GB leaves out
what the same program uses on an empty topic. Memory is the peak resident set.

    make bench-kafka [BENCH_ARGS="--quick --against ../earlier --only batches --rounds 3"]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined] # it is documented there

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.metadata import SharedMetadata
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError
from backlog_clearer.testing.servers.kafka import SERVER_JAVA, KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from bench.processes import ROOT, Ended, Ran, best_of_rounds, ended, show

_CREATED = 5_000  # partitions at a time; a controller refuses more than 10,000 changes

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
    batch: int = 64 * 1024  # the producer's largest batch, in bytes


class Field:
    """A broker, and the programs that read from it through one listener; `empty`: a topic without messages."""

    def __init__(self, cluster: KafkaCluster, listener: str, empty: str) -> None:
        self.cluster = cluster
        self.empty = empty
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

    def cleared(
        self, topic: str, reader: str, workers: int, root: Path, mode: str = "consume"
    ) -> tuple[Ended, float]:
        """The command line of the checkout at `root`, as a user runs it, and the broker's CPU seconds."""
        settings = [part for key, value in self.login.items() for part in ("-X", f"{key}={value}")]
        with tempfile.TemporaryDirectory() as receipts:
            return self.process(
                sys.executable, str(root / "cleaner.py"), "kafka", "--bootstrap-servers", self.servers,
                "--topic", topic, "--group-id", f"bench-{uuid.uuid4().hex}",
                "--reader", reader, "--workers", str(workers), "--stop-when-empty", "--mode", mode, "--yes",
                "--receipt-dir", receipts, "--output", "json", *settings,
            )  # fmt: skip

    @lru_cache  # noqa: B019 a field lives as long as the benchmark
    def idle(self, reader: str, root: Path) -> float:
        """CPU seconds of a run that finds nothing to clear."""
        return min(self.cleared(self.empty, reader, 1, root)[0].cpu for _ in range(3))

    def ours(self, backlog: Backlog, reader: str, workers: int = 1, root: Path = ROOT) -> Ran:
        """A run of this tool, or of an earlier one; the whole backlog must be verified as cleared."""
        done, broker = self.cleared(backlog.topic, reader, workers, root)
        result = json.loads(done.output)
        if not result["verified"] or result["totals"]["messages"] != backlog.messages:
            raise SystemExit(f"not cleared: {result}")
        busy = None
        if reader == "headers":
            busy = (done.cpu - self.idle(reader, root)) / result["totals"]["bytes"] * 1e9
        rate = backlog.messages / result["seconds"]
        return Ran(rate, done.cpu, done.peak, broker, done.wall, busy)

    def kcat(self, backlog: Backlog) -> Ran:
        """`kcat -C -e -q -f ''`."""
        settings = [part for key, value in self.login.items() for part in ("-X", f"{key}={value}")]
        (start, _), (done, broker) = (
            self.process(
                "kcat", "-C", "-e", "-q", "-f", "", "-b", self.servers, "-t", topic,
                "-o", "beginning", *settings,
            )
            for topic in (self.empty, backlog.topic)
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
            f"compression.type={backlog.codec}", f"batch.size={backlog.batch}", "linger.ms=100", "acks=1",
            "max.request.size=4000000", "buffer.memory=67108864",
        ],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def compare(field: Field, backlog: Backlog, rounds: int, against: Path | None) -> None:
    """All programs on one backlog; ratios are of the header reader to each."""
    print(
        f"{backlog.size} B, {backlog.codec}, batches of {backlog.batch:,} B,"
        f" {backlog.partitions} partitions, {backlog.messages:,} messages,"
        f" {field.login.get('security.protocol', 'PLAINTEXT')}"
    )
    name = "headers (this tool)"
    runs: dict[str, Callable[[], Ran]] = {name: lambda: field.ours(backlog, "headers")}
    if against is not None:
        runs["headers (earlier)"] = lambda: field.ours(backlog, "headers", root=against)
    runs["client (this tool)"] = lambda: field.ours(backlog, "client")
    if shutil.which("kcat"):
        runs["kcat"] = lambda: field.kcat(backlog)
    runs["consume() loop"] = lambda: field.loop(backlog)
    runs["ConsumerPerformance"] = lambda: field.perf(backlog)
    found = best_of_rounds(runs, rounds)
    for each, ran in found.items():
        show(each, ran, found[name])


def many_workers(field: Field, backlog: Backlog, rounds: int, against: Path | None) -> None:
    """Memory and rate of one process with more and more workers."""
    print(f"{backlog.partitions} partitions, {backlog.messages:,} messages of {backlog.size} B")
    roots = {"headers": ROOT, **({} if against is None else {"earlier": against})}
    for workers in (1, 20, 256):
        runs = {
            name: partial(field.ours, backlog, "headers", workers, root) for name, root in roots.items()
        }
        found = best_of_rounds(runs, rounds)
        for name, ran in found.items():
            show(f"{name}, {workers} workers", ran, found["headers"])


def small(field: Field, judge: Judge, rounds: int, against: Path | None) -> None:
    """Wall time and CPU of whole commands: a small backlog, and skips of many partitions."""
    print("whole commands")
    roots = {"this tool": ROOT, **({} if against is None else {"earlier": against})}
    for mode, partitions, each in (("consume", 4, 250), ("skip", 1_000, 1), ("skip", 10_000, 1)):
        topic = f"{mode}-{partitions}"
        judge.create(topic, min(partitions, _CREATED))
        if partitions > _CREATED:
            judge.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(60)
            wait_until(lambda: len(judge.leaders(topic)) == partitions, "the partitions")  # noqa: B023
        producer = Producer({"bootstrap.servers": field.servers})
        for number in range(partitions):
            for _ in range(each):
                producer.produce(topic, b"x" * 100, partition=number)
            producer.poll(0)
        producer.flush()
        for _ in range(rounds):
            for name, root in roots.items():
                done, _ = field.cleared(topic, "headers", 4, root, mode)
                what = f"{mode}, {partitions} partitions, {name}"
                print(f"  {what:42} wall {done.wall:5.2f} s  cpu {done.cpu:5.2f} s", flush=True)


def settles(field: Field, judge: Judge, seconds: float = 5.0) -> None:
    """How often lanes can ask whether their logs are still the same ones, all at the same time."""
    topic = judge.create("settles", 256)
    options = KafkaOptions(bootstrap_servers=field.servers, topic=topic, group_id="bench")
    admin = GroupAdmin(options)
    shared = SharedMetadata(options, admin)
    print("questions for the topic of 256 partitions, at the same time, from so many lanes")
    for lanes in (1, 20, 256):
        asks: dict[str, Callable[[], object]] = {
            "one request for all that wait": lambda: shared.topics([topic]),
            "one request for each": lambda: admin.incarnations([topic]),
        }
        for name, ask in asks.items():
            until, cpu = time.monotonic() + seconds, time.process_time()
            with ThreadPoolExecutor(lanes) as pool:
                count = sum(pool.map(lambda _: _repeated(ask, until), range(lanes)))  # noqa: B023
            cpu = time.process_time() - cpu
            rate = count / seconds
            print(
                f"  {lanes:3} lanes, {name:30} {rate:8.0f}/s  cpu {cpu / max(1, count) * 1e3:5.2f} ms each"
            )
    shared.close()


def _repeated(ask: Callable[[], object], until: float) -> int:
    """How often something could be asked by then; questions that fail do not count."""
    count = 0
    while time.monotonic() < until:
        with suppress(BrokerError):
            ask()
            count += 1
    return count


def cases(scale: int) -> dict[str, list[tuple[Backlog, bool]]]:
    """The backlogs by the part of the benchmark; whether each is read over TLS, too."""
    found: dict[str, list[tuple[Backlog, bool]]] = {"batches": [], "partitions": [], "workers": []}
    for size, messages in ((100, 20_000_000), (1000, 3_000_000)):
        for batch in (16 * 1024, 64 * 1024, 1_000_000):
            name = f"batches-{size}-{batch}"
            tls = batch != 1_000_000
            found["batches"].append((Backlog(name, 4, messages // scale, size, "none", batch), tls))
    for size, codec, messages in ((100, "none", 20_000_000), (100, "lz4", 20_000_000)):
        for partitions in (1, 32):
            name = f"partitions-{size}-{codec}-{partitions}"
            found["partitions"].append(
                (Backlog(name, partitions, messages // scale, size, codec), False)
            )
    found["workers"].append((Backlog("workers", 256, 10_000_000 // scale, 100, "none"), False))
    return found


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--against", type=Path, help="an earlier checkout to compare with")
    parser.add_argument(
        "--only", choices=[*cases(1), "small", "settles"], help="one part of the benchmark"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each program runs")
    args = parser.parse_args()
    scale = 10 if args.quick else 1
    against = args.against and args.against.resolve()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_kafka(Path(folder) / "kafka", java=SERVER_JAVA) as cluster,
    ):
        judge = Judge(cluster.bootstrap())
        judge.wait_for_coordinators()
        empty = judge.create("empty")
        plain, tls = Field(cluster, "PLAINTEXT", empty), Field(cluster, "SSL", empty)
        warm = Backlog("warm", 4, 1_000_000 // scale, 100, "none")  # the broker's code gets compiled
        publish(cluster, judge, warm)
        for _ in range(2):
            for run in (plain.ours, tls.ours):
                run(warm, "headers")
            plain.loop(warm)
        if args.only in {None, "small"}:
            small(plain, judge, args.rounds, against)
        if args.only in {None, "settles"}:
            settles(plain, judge)
        for part, backlogs in cases(scale).items():
            for backlog, also_tls in backlogs if args.only in {None, part} else ():
                publish(cluster, judge, backlog)
                if part == "workers":
                    many_workers(plain, backlog, args.rounds, against)
                else:
                    compare(plain, backlog, args.rounds, against)
                if also_tls:
                    compare(tls, backlog, args.rounds, against)
                judge.admin.delete_topics([backlog.topic])[backlog.topic].result(30)


if __name__ == "__main__":
    main()

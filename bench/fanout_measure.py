"""Eight processes of the job on a real Kafka, beside the prediction of the model.

The inputs of the prediction are measured without eight processes that read: the rate of one process
that clears the topic by itself; the most that the machine allows, from two processes, one a core; and
the start-up, from as many processes on an empty topic. Each run has a separate consumer group, and
Kafka's own tool shows whether all of it is cleared. The header reader is so fast that starting Python
eight times is a good part of its time; with the client reader nearly all of it is reading.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing.servers.kafka import SERVER_JAVA, KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge
from bench.fanout_model import shares, simulate
from bench.fanout_platforms import this_machine
from bench.kafka import Backlog, publish
from bench.processes import ended

PARTITIONS, SIZE, SLICES = 32, 100, 8
CORES = 2  # processes that measure the most that the machine allows
READERS = {Reader.HEADERS: 1, Reader.CLIENT: 4}  # the divisor of each one's messages


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of measurements; seconds, and messages a second."""

    reader: Reader
    messages: int
    start_1: float  # one process on an empty topic
    start_8: float  # eight of them at once
    rate: float  # of one process, start-up left out
    capacity: float  # of the machine and its broker, from two processes
    predicted: float  # eight processes on the full topic, by the model
    measured: float  # and by the clock

    @property
    def ratio(self) -> float:
        """Predicted to measured."""
        return self.predicted / self.measured


@dataclass(frozen=True, slots=True)
class Topic:
    """The backlog of one reader."""

    name: str
    sizes: tuple[int, ...]  # messages of each partition, by Kafka's own figures


class Field:
    """A broker with a full topic for each reader, and an empty one."""

    def __init__(self, cluster: KafkaCluster, folder: Path, messages: int) -> None:
        self.cluster, self.folder = cluster, folder
        self.judge = Judge(cluster.bootstrap())
        self.judge.wait_for_coordinators()
        self.empty = Topic(self.judge.create("empty", PARTITIONS), (0,) * PARTITIONS)
        self.full = {
            reader: self.fill(reader.value, messages // part) for reader, part in READERS.items()
        }

    def fill(self, name: str, messages: int) -> Topic:
        """A topic with so many messages."""
        publish(self.cluster, self.judge, Backlog(name, PARTITIONS, messages, SIZE, "none"))
        sizes = tuple(end - start for start, end in self.judge.ends(name).values())
        if sum(sizes) != messages:
            raise SystemExit(f"{messages:,} messages were published, but Kafka has {sum(sizes):,}")
        return Topic(name, sizes)

    def wall(self, topic: Topic, slices: int, reader: Reader) -> float:
        """Seconds from the first start to the last exit of so many slices as processes."""
        group = f"bench-{uuid.uuid4().hex}"
        config = {
            "receipts": str(self.folder / "receipts"),
            "backlogs": {
                "bench": {
                    "system": "kafka",
                    "options": {
                        "bootstrap_servers": self.cluster.bootstrap(),
                        "topic": topic.name,
                        "group_id": group,
                        "reader": reader,
                    },
                }
            },
        }
        env = {**os.environ, "BACKLOG_CLEARER_CONFIG": json.dumps(config)}

        def process(index: int) -> int:
            done = ended(
                sys.executable, "-m", "functions.job.main", "--backlog", "bench", "--run-id", group,
                "--slice", str(index), "--total", str(slices), env=env,
            )  # fmt: skip
            return int(json.loads(done.output)["totals"]["messages"])

        with ThreadPoolExecutor(slices) as pool:
            begun = time.perf_counter()
            counts = list(pool.map(process, range(slices)))
            seconds = time.perf_counter() - begun
        self._verify(topic, group, counts)
        return seconds

    def _verify(self, topic: Topic, group: str, counts: Sequence[int]) -> None:
        """End the benchmark unless Kafka's own tool sees the whole topic cleared, and as many counted."""
        if topic is self.empty:
            return
        offsets = self.cluster.group_offsets(group)
        cleared = sum(item.current or 0 for item in offsets.values())
        if not cleared == sum(topic.sizes) == sum(counts):
            raise SystemExit(f"counted {sum(counts):,}, Kafka has {cleared:,} of {sum(topic.sizes):,}")
        if {item.lag for item in offsets.values()} != {0} or len(offsets) != PARTITIONS:
            raise SystemExit(f"not cleared: {offsets}")

    def round(self, reader: Reader) -> Measured:
        """Measure everything, each the better of two runs; the eight processes that read come last."""
        full = self.full[reader]
        runs = [(self.empty, 1), (self.empty, CORES), (self.empty, SLICES)]
        runs += [(full, 1), (full, CORES), (full, SLICES)]
        walls = [[self.wall(topic, count, reader) for topic, count in runs] for _ in range(2)]
        start_1, start_2, start_8, full_1, full_2, full_8 = map(min, *walls)
        if full_1 <= start_1 or full_2 <= start_2:
            raise SystemExit(
                "Reading took no longer than starting: measure on a quieter machine, or with more --messages."
            )
        messages = sum(full.sizes)
        rate = messages / (full_1 - start_1)
        capacity = messages / (full_2 - start_2)
        predicted = simulate(
            this_machine(SLICES), shares(full.sizes, SLICES),
            rate=rate, capacity=capacity, startup_s=start_8,
        ).seconds  # fmt: skip
        return Measured(reader, messages, start_1, start_8, rate, capacity, predicted, full_8)


def measure(messages: int, rounds: int) -> list[Measured]:
    """Start a broker, fill it, and measure so many rounds with each reader; prints each."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_kafka(folder / "kafka", java=SERVER_JAVA) as cluster:
            field = Field(cluster, folder, messages)
            for reader in READERS:
                field.wall(field.full[reader], 1, reader)  # the broker's code gets compiled
            for _ in range(rounds):
                for reader in READERS:
                    found.append(field.round(reader))
                    print(f"  {line(found[-1])}", flush=True)
    return found


def line(item: Measured) -> str:
    """One round in one line."""
    return (
        f"{item.reader}, {item.messages:,} messages: 1 process {item.rate / 1e6:.2f}M/s, 2 processes"
        f" {item.capacity / 1e6:.2f}M/s, start-up {item.start_1:.2f} s, of 8 {item.start_8:.2f} s;"
        f" 8 processes: predicted {item.predicted:.2f} s, measured {item.measured:.2f} s,"
        f" ratio {item.ratio:.2f}"
    )


def median(found: Sequence[Measured], reader: Reader) -> Measured:
    """The round with this reader in the middle by its ratio: its figures belong together."""
    ratios = [item.ratio for item in found if item.reader is reader]
    middle = statistics.median_low(ratios)
    return next(item for item in found if item.reader is reader and item.ratio == middle)


def literal(item: Measured) -> str:
    """One round as the constant that bench/fanout.py holds."""
    return (
        f"    Measured(Reader.{item.reader.name}, {item.messages:_}, {item.start_1:.2f},"
        f" {item.start_8:.2f}, {item.rate:.3g}, {item.capacity:.3g},"
        f" {item.predicted:.2f}, {item.measured:.2f}),"
    )

"""Shared by most tests on real Kafka: a topic and a group, cleared in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.restore import restore
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.kafka_judge import Judge, unique


class Case:
    """A separate topic and group, and a way to read them."""

    def __init__(self, judge: Judge, folder: Path, reader: Reader) -> None:
        self.judge = judge
        self.folder = folder
        self.reader = reader
        self.group = unique("group")
        self.topic = ""
        self.more: dict[str, Any] = {}  # other options of the system

    def create(self, partitions: int = 1, **config: Any) -> str:
        """Create the topic."""
        self.topic = self.judge.create(unique("log"), partitions, **config)
        return self.topic

    def clear(self, callbacks: Callbacks | None = None, **run: Any) -> RunResult:
        """Clear the backlog in this process."""
        values = {"stop_when_empty": True, "receipt_dir": str(self.folder), **run}
        return clear(Job("kafka", self.options(), RunOptions(**values)), callbacks)

    def committed(self) -> dict[int, int | None]:
        """The offsets that the group has committed, as the broker reports them."""
        return self.judge.committed(self.topic, self.group)

    def ends(self) -> dict[int, int]:
        """The high watermarks."""
        return {number: high for number, (_, high) in self.judge.ends(self.topic).items()}

    def options(self) -> KafkaOptions:
        """How to reach the group."""
        values: dict[str, Any] = {
            "bootstrap_servers": self.judge.bootstrap_servers,
            "topic": self.topic,
            "group_id": self.group,
            "reader": self.reader,
        }
        return KafkaOptions(**{**values, **self.more})

    def status(self, **run: Any) -> RunResult:
        """Look at the backlog in this process."""
        return status(Job("kafka", self.options(), RunOptions(**run)))

    def restore(self, *runs: RunResult, **run: Any) -> RunResult:
        """Undo runs by their receipts."""
        receipts = [load(each.receipt) for each in runs if each.receipt]
        job = Job("kafka", self.options(), RunOptions(receipt_dir=str(self.folder), **run))
        return restore(job, original_positions(receipts), receipts[0].identity)

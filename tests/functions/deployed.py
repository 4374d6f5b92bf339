"""A configured backlog on a Kafka, as the handlers' tests share it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backlog_clearer.testing.servers.kafka_judge import Judge, unique


class Deployed:
    """A topic with a backlog of one group, and the configuration that names it `orders`."""

    def __init__(
        self, judge: Judge, folder: Path, *, partitions: int = 6, each: int = 500,
        options: Mapping[str, Any] | None = None, receipts: str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.judge, self.partitions, self.each = judge, partitions, each
        self.receipts = receipts or str(folder / "receipts")
        self.topic, self.group = judge.create(unique("jobs"), partitions), unique("group")
        for number in range(partitions):
            judge.produce(self.topic, number, each)
        reach = {
            "bootstrap_servers": judge.bootstrap_servers, "topic": self.topic, "group_id": self.group,
        }  # fmt: skip
        entry = {"system": "kafka", "options": {**reach, **(options or {})}, **settings}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps({"receipts": self.receipts, "backlogs": {"orders": entry}}))

    def left(self) -> int:
        """The backlog by the broker's own figures."""
        return sum(self.judge.left(self.topic, self.group).values())

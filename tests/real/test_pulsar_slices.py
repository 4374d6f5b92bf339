"""Slices of a run on real Pulsar as separate processes: one killed, one started twice, restored."""

from __future__ import annotations

import json
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.command import cleaner, ended, job_started

PARTITIONS, EACH, SLICES = 6, 2000, 3
RATE = 500  # messages a second of each partition, so that they can be interrupted
VICTIM = 1
RUN = "night-7"


class Fleet:
    """A partitioned topic whose backlog is cleared by several jobs."""

    def __init__(self, judge: Judge, folder: Path, kind: str) -> None:
        self.judge = judge
        namespace = f"public/{unique('fleet')}"
        judge.keep(namespace)
        judge.slow_down(namespace, RATE)
        self.topic = judge.create(f"persistent://{namespace}/{unique('log')}", PARTITIONS)
        self.parts = [f"{self.topic}-partition-{number}" for number in range(PARTITIONS)]
        for part in self.parts:
            judge.produce(part, EACH)
        self.receipts = str(folder / "receipts")
        options = {
            "service_url": judge.server.service_url, "admin_url": judge.server.admin_url,
            "topic": self.topic, "subscription": SUBSCRIPTION, "subscription_type": kind,
        }  # fmt: skip
        entry = {"system": "pulsar", "options": options, "workers": 1}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps({"receipts": self.receipts, "backlogs": {"orders": entry}}))

    def start(self, index: int) -> AbstractContextManager[subprocess.Popen[str]]:
        """One slice's job, as an indexed Kubernetes Job starts it."""
        env = {
            "JOB_COMPLETION_INDEX": str(index), "BACKLOG_CLEARER_TOTAL": str(SLICES),
            "BACKLOG_CLEARER_RUN_ID": RUN,
        }  # fmt: skip
        return job_started(str(self.config), "--backlog", "orders", env=env)

    def left(self) -> list[int]:
        """Messages that the broker still has to deliver, by partition."""
        return [self.judge.backlog(part) for part in self.parts]

    def consumers(self, number: int) -> list[dict[str, Any]]:
        """Consumers attached to a partition, by the broker."""
        found: list[dict[str, Any]] = self.judge.stats(self.parts[number])["consumers"]
        return found


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_slices_killed_and_started_twice_add_up(pulsar_judge: Judge, tmp_path: Path, kind: str) -> None:
    """Slices that begin while others read, one killed, one started twice: empty, and undone as one run."""
    fleet = Fleet(pulsar_judge, tmp_path, kind)

    def midway() -> bool:
        left = fleet.left()[VICTIM]
        assert left > 0, "too late to be killed midway"
        return left < EACH

    with ExitStack() as stack:
        jobs = [stack.enter_context(fleet.start(VICTIM))]
        wait_until(lambda: bool(fleet.consumers(VICTIM)), "a consumer of the first slice")
        names = [item["consumerName"] for item in fleet.consumers(VICTIM)]
        assert all(name.startswith(f"backlog-clearer-{RUN}-") for name in names)
        jobs += [stack.enter_context(fleet.start(index)) for index in (0, 2, 2)]
        wait_until(midway, "a first acknowledgement")
        jobs.pop(0).kill()
        jobs.append(stack.enter_context(fleet.start(VICTIM)))
        done = [ended(job) for job in jobs]
    assert [each.code for each in done] == [0] * 4, [each.stderr for each in done]
    assert fleet.left() == [0] * PARTITIONS
    undone = cleaner("restore", "--run", RUN, "--receipt-dir", fleet.receipts, "--yes")
    assert undone.code == 0, undone.stderr
    assert fleet.left() == [EACH] * PARTITIONS

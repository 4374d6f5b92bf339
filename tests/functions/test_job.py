"""The container job as processes of its own, each a slice, as the platforms start them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.brokers.kafka_embedded import embedded
from tests.brokers.kafka_judge import Judge, unique
from tests.command import cleaner, ended, job_started

__all__ = ["embedded"]

PARTITIONS, EACH = 6, 500


class Deployed:
    """A configured backlog on a broker, and the image's command."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge, self.receipts = judge, folder / "receipts"
        self.topic, self.group = judge.create(unique("jobs"), PARTITIONS), unique("group")
        for number in range(PARTITIONS):
            judge.produce(self.topic, number, EACH)
        options = {
            "bootstrap_servers": judge.bootstrap_servers, "topic": self.topic, "group_id": self.group,
        }  # fmt: skip
        entry = {"system": "kafka", "options": options}
        value = {"receipts": str(self.receipts), "backlogs": {"orders": entry}}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps(value))

    def start(
        self, environ: Mapping[str, str], *args: str
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start the job."""
        return job_started(str(self.config), *args, env=environ)

    def left(self) -> int:
        """What the broker says is left."""
        return sum(self.judge.left(self.topic, self.group).values())


@pytest.fixture
def deployed(embedded: Judge, tmp_path: Path) -> Deployed:
    """A backlog of its own."""
    return Deployed(embedded, tmp_path)


PLATFORMS = {
    "cloud run": ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT", "CLOUD_RUN_EXECUTION"),
    "batch": ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", "AWS_BATCH_JOB_ID"),
    "kubernetes": ("JOB_COMPLETION_INDEX", "BACKLOG_CLEARER_TOTAL", "BACKLOG_CLEARER_RUN_ID"),
}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_slices_side_by_side_clear_all(deployed: Deployed, platform: str) -> None:
    """Four processes clear disjoint partitions and together everything; one restore undoes them all."""
    index, total, run = PLATFORMS[platform]
    deployed.judge.commit(deployed.topic, deployed.group, dict.fromkeys(range(PARTITIONS), 10))
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                deployed.start({index: str(number), total: "4", run: "run-7"}, "--backlog", "orders")
            )
            for number in range(4)
        ]
        done = [ended(job) for job in jobs]
    assert [each.code for each in done] == [0] * 4, done[0].stderr
    assert sum(each.result["totals"]["messages"] for each in done) == PARTITIONS * (EACH - 10)
    assert deployed.left() == 0
    assert {each.result["run_id"] for each in done} == {"run-7"}
    undone = cleaner("restore", "--run", "run-7", "--receipt-dir", str(deployed.receipts), "--yes")
    assert undone.code == 0, undone.stderr
    committed = deployed.judge.committed(deployed.topic, deployed.group)
    assert committed == dict.fromkeys(range(PARTITIONS), 10)


def test_a_slice_delivered_twice_does_no_harm(deployed: Deployed) -> None:
    """The same slice twice at the same time: cleared, and no message is acknowledged that was not."""
    args = ("--backlog", "orders", "--slice", "0", "--total", "2", "--run-id", "again")
    with deployed.start({}, *args) as first, deployed.start({}, *args) as second:
        done = [ended(first), ended(second)]
    assert [each.result["verified"] for each in done] == [True, True], done
    assert sum(each.result["totals"]["messages"] for each in done) >= 3 * EACH
    left = deployed.judge.left(deployed.topic, deployed.group)
    assert [left[number] for number in range(PARTITIONS)] == [0, EACH] * 3


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("--backlog", "order"), "Did you mean"),
        (("--backlog", "orders", "--mode", "skip"), "consume alone"),
        (("--backlog", "orders", "--slice", "1"), "together"),
    ],
)
def test_wrong_use_asks_for_no_retry(deployed: Deployed, args: tuple[str, ...], hint: str) -> None:
    """What another attempt cannot mend exits with 2, says why, and changes nothing."""
    with deployed.start({}, *args) as process:
        ran = ended(process)
    assert (ran.code, ran.result["cleared"]) == (2, False)
    assert hint in ran.result["error"]
    assert deployed.left() == PARTITIONS * EACH


def test_the_same_file_on_a_laptop(deployed: Deployed) -> None:
    """`cleaner.py run NAME` clears what the configuration names."""
    ran = cleaner("run", "orders", env={"BACKLOG_CLEARER_CONFIG": str(deployed.config)})
    assert (ran.code, deployed.left()) == (0, 0), ran.stderr

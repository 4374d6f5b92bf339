"""Brokers that die and processes that are stopped, on a separate real Apache Kafka.

The broker limits how fast it delivers (a client quota), so that there is a middle to act in.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing.servers.kafka import KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.command import ended, job_started, started

PARTITIONS, EACH = 4, 30_000
MESSAGES = PARTITIONS * EACH


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that delivers 2 MB/s to a client, and that may be killed."""
    with running_kafka(tmp_path_factory.mktemp("slow"), settings={"quota.window.num": "2"}) as cluster:
        Judge(cluster.bootstrap()).wait_for_coordinators()
        cluster.limit_reads(2_000_000)
        yield cluster


class Slow:
    """A backlog that takes seconds to clear, and the command that clears it."""

    def __init__(self, cluster: KafkaCluster, reader: Reader, receipts: Path) -> None:
        self.judge = Judge(cluster.bootstrap())
        self.topic = self.judge.create(unique("slow"), PARTITIONS)
        self.group = unique("group")
        for number in range(PARTITIONS):
            self.judge.produce(self.topic, number, EACH, compression="none")
        self.args = (
            "kafka", "--bootstrap-servers", cluster.bootstrap(), "--topic", self.topic,
            "--group-id", self.group, "--reader", reader.value, "--workers", "4",
            "--stop-when-empty", "--receipt-dir", str(receipts),
        )  # fmt: skip

    def committed(self) -> int:
        """Messages that are acknowledged, by the broker's figures."""
        return sum(offset or 0 for offset in self.judge.committed(self.topic, self.group).values())

    def wait_for_the_middle(self, process: subprocess.Popen[str]) -> None:
        """Wait until something, and not everything, is committed."""

        def begun() -> bool:
            assert process.poll() is None, process.communicate()
            return self.committed() > 0

        wait_until(begun, "a first commit")
        assert self.committed() < MESSAGES


@pytest.fixture
def backlog(slow: KafkaCluster, reader: Reader, tmp_path: Path) -> Slow:
    """A separate topic and group on the slow broker."""
    return Slow(slow, reader, tmp_path)


def test_sigterm_then_resume_adds_up(backlog: Slow) -> None:
    """SIGTERM commits the messages counted and exits 1; the next run counts exactly the rest."""
    with started(*backlog.args) as process:
        backlog.wait_for_the_middle(process)
        process.send_signal(signal.SIGTERM)
        first = ended(process)
    assert (first.code, first.result["stop_reason"]) == (1, "signal")
    assert first.result["totals"]["messages"] == backlog.committed()
    assert first.result["totals"]["remaining"] == MESSAGES - backlog.committed()
    assert 0 < backlog.committed() < MESSAGES
    with started(*backlog.args) as process:
        second = ended(process)
    assert (second.code, second.result["verified"]) == (0, True)
    assert backlog.committed() == MESSAGES
    assert first.result["totals"]["messages"] + second.result["totals"]["messages"] == MESSAGES


def test_a_broker_restarted_mid_drain_costs_retries_and_no_messages(
    backlog: Slow, slow: KafkaCluster
) -> None:
    """A broker that dies and comes back costs retries, not messages: all is cleared and verified."""
    with started(*backlog.args) as process:
        backlog.wait_for_the_middle(process)
        slow.kill()
        slow.restart()
        ran = ended(process)
    assert (ran.code, ran.result["verified"]) == (0, True), ran.stderr
    assert backlog.committed() == MESSAGES
    assert ran.result["totals"]["retries"] > 0
    # A commit whose answer died with the broker is found again, but its messages are not counted.
    assert 0 < ran.result["totals"]["messages"] <= MESSAGES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_container_job_is_finished_by_its_retry(
    backlog: Slow, tmp_path: Path, number: signal.Signals
) -> None:
    """A stopped job commits and exits 1; a killed one commits no more; a retry clears the rest."""
    options = {
        "bootstrap_servers": backlog.judge.bootstrap_servers,
        "topic": backlog.topic,
        "group_id": backlog.group,
        "reader": backlog.args[backlog.args.index("--reader") + 1],
    }
    entry = {"system": "kafka", "options": options, "workers": 4}
    config = json.dumps({"receipts": str(tmp_path), "backlogs": {"slow": entry}})
    args = ("--backlog", "slow", "--run-id", "one")
    with job_started(config, *args) as process:
        backlog.wait_for_the_middle(process)
        process.send_signal(number)
        first = ended(process)
    committed = backlog.committed()
    assert 0 < committed < MESSAGES
    if number is signal.SIGTERM:
        assert (first.code, first.result["stop_reason"]) == (1, "signal")
        assert first.result["totals"]["messages"] == committed
    with job_started(config, *args) as process:
        second = ended(process)
    assert (second.code, second.result["verified"]) == (0, True)
    assert second.result["totals"]["messages"] == MESSAGES - committed
    assert backlog.committed() == MESSAGES

"""The undo line that a run prints, run by a shell as it is, on the real brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case
from tests.command import shown, undone


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_the_printed_line_undoes_a_run_on_kafka(judge: Judge, tmp_path: Path, mode: str) -> None:
    """Offsets are back in another directory, and a partition without one has none again."""
    topic, group = judge.create(unique("undo"), 3), unique("group")
    for number in range(3):
        judge.produce(topic, number, 50)
    judge.commit(topic, group, {0: 7, 1: 8})
    where = str(tmp_path / "my receipts")
    ran = shown(
        "kafka", "--bootstrap-servers", judge.bootstrap_servers, "--topic", topic, "--group-id", group,
        "--stop-when-empty", "--mode", mode, "--yes", "--receipt-dir", where,
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    assert judge.committed(topic, group) == {0: 50, 1: 50, 2: 50}
    back = undone(ran, tmp_path)
    assert back.code == 0, back.stdout + back.stderr
    assert judge.committed(topic, group) == {0: 7, 1: 8, 2: None}


def test_the_printed_line_undoes_a_run_on_pulsar(pulsar_case: Case, tmp_path: Path) -> None:
    """The token's reference is in the line; every message is delivered again."""
    topic = pulsar_case.create(2)
    pulsar_case.judge.produce(f"{topic}-partition-1", 300)
    server = pulsar_case.judge.server
    env = {"PULSAR_TOKEN": "no-broker-asks-for-it"}
    ran = shown(
        "pulsar", "--service-url", server.service_url, "--admin-url", server.admin_url, "--topic", topic,
        "--subscription", SUBSCRIPTION, "--token", "${env:PULSAR_TOKEN}", "--stop-when-empty", "--yes",
        "--receipt-dir", str(tmp_path / "my receipts"), env=env,
    )  # fmt: skip
    assert ran.code == 0, ran.stdout + ran.stderr
    assert pulsar_case.judge.backlog(f"{topic}-partition-1") == 0
    back = undone(ran, tmp_path, env)
    assert back.code == 0, back.stdout + back.stderr
    assert pulsar_case.judge.backlog(f"{topic}-partition-1") == 300

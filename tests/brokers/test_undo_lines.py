"""The undo line that a run prints, run by a shell as it is, on every system with a small test server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import EventHubsServer
from backlog_clearer.testing.servers.iggy import USER
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.servers.pubsub import PubSubServer
from tests import command
from tests.brokers.iggy_bench import GROUP, opened
from tests.brokers.kafka_embedded import embedded
from tests.brokers.test_eventhubs import EventHubsBench
from tests.brokers.test_googlepubsub import PubSubBench
from tests.command import shown, undone

__all__ = ["embedded"]

AGAIN = ("--stop-when-empty", "--yes", "--receipt-dir", "my receipts")


@pytest.fixture(autouse=True)
def _checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let commands run in a folder that is removed, where relative receipts go."""
    (tmp_path / "checkout").mkdir()
    started = tmp_path / "checkout" / "cleaner.py"
    started.symlink_to(command.CLEANER)
    monkeypatch.setattr(command, "CLEANER", started)


def elsewhere(folder: Path) -> Path:
    """Another directory."""
    made = folder / "elsewhere"
    made.mkdir()
    return made


def test_the_printed_line_undoes_a_run_on_kafka(embedded: Judge, tmp_path: Path) -> None:
    """Offsets are back after the printed line ran in another directory."""
    topic, group = embedded.create(unique("undo"), 3), unique("group")
    for number in range(3):
        embedded.produce(topic, number, 50)
    embedded.commit(topic, group, {0: 7, 1: 8, 2: 9})
    ran = shown(
        "kafka", "--bootstrap-servers", embedded.bootstrap_servers, "--topic", topic, "--group-id", group,
        *AGAIN,
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    assert embedded.committed(topic, group) == {0: 50, 1: 50, 2: 50}
    back = undone(ran, elsewhere(tmp_path))
    assert back.code == 0, back.stdout + back.stderr
    assert embedded.committed(topic, group) == {0: 7, 1: 8, 2: 9}


def test_the_printed_line_undoes_a_run_on_iggy(tmp_path: Path) -> None:
    """The password is a reference in the receipt, which the line allows to be used."""
    with opened() as bench:
        bench.produce(0, 100)
        bench.produce(1, 10)
        before = bench.stored()
        host, _, port = bench.address.partition(":")
        secret = {"IGGY_PW": bench.password}
        ran = shown(
            "iggy", "--host", host, "--port", port, "--stream-id", bench.stream, "--topic-id", bench.topic,
            "--group-id", GROUP, "--username", USER, "--password", "${env:IGGY_PW}", *AGAIN, env=secret,
        )  # fmt: skip
        assert ran.code == 0, ran.stderr
        assert (bench.stored()[0], bench.stored()[1]) == (99, 9)
        back = undone(ran, elsewhere(tmp_path), secret)
        assert back.code == 0, back.stdout + back.stderr
        assert bench.stored() == before


@pytest.fixture
def pubsub() -> Iterator[PubSubServer]:
    """The Pub/Sub server."""
    with PubSubServer() as running:
        yield running


def test_the_printed_line_undoes_a_run_on_pubsub(pubsub: PubSubServer, tmp_path: Path) -> None:
    """All messages are delivered again; Pub/Sub reports no position, so that the exit code is 4."""
    bench = PubSubBench(pubsub, figures=True)
    pubsub.publish(bench.sub, 200)
    env = {"PUBSUB_EMULATOR_HOST": pubsub.address}
    ran = shown(
        "googlepubsub", "--project-id", "test", "--subscription-id", "billing", "--monitoring-endpoint",
        f"http://{pubsub.address}", "--mode", "skip", *AGAIN, env=env,
    )  # fmt: skip
    assert ran.code == 0, ran.stdout + ran.stderr
    assert bench.sub.unacked() == 0
    back = undone(ran, elsewhere(tmp_path), env)
    assert back.code == 4, back.stdout + back.stderr
    assert bench.sub.unacked() == 200


def test_the_printed_line_undoes_a_run_on_eventhubs(storage: Azurite, tmp_path: Path) -> None:
    """Both connection strings are references; the checkpoints are as before, including one that was not."""
    server = EventHubsServer()
    try:
        bench = EventHubsBench(server, storage)
        for number in range(bench.partitions):
            bench.produce(number, 40)
        bench.advance(0, 10)
        before = bench.checkpoints()
        env = {"HUB": server.connection_string(), "STORE": storage.connection_string}
        ran = shown(
            "eventhubs", "--connection-string", "${env:HUB}", "--eventhub-name", bench.hub,
            "--checkpoint-store", "${env:STORE}", "--checkpoint-container",
            bench.container.container_name, *AGAIN, env=env,
        )  # fmt: skip
        assert ran.code == 0, ran.stdout + ran.stderr
        assert set(bench.checkpoints()) == set(range(bench.partitions))
        back = undone(ran, elsewhere(tmp_path), env)
        assert back.code == 0, back.stdout + back.stderr
        assert bench.checkpoints() == before
    finally:
        server.stop()

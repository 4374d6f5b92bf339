"""Pulsar's adapter on the broker that pip installs: what it does without an admin API.

That broker has neither partitioned topics nor an admin API, without which positions are unknown; the
contract is held to on real Pulsar, in tests/real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pulsar
import pytest
from pulsar_lite import __file__ as package

from core.model import Mode, StopReason
from core.options.base import RunOptions
from core.options.pulsar import PulsarOptions
from core.report import RunResult
from core.run import Job, clear
from tests.real.pulsar_judge import SUBSCRIPTION, received
from tests.support import Server, free_port, running

TOPIC = "persistent://public/default/orders"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where the broker listens."""
    port = free_port()
    (tmp_path / "pulsar-lite.toml").write_text("[metrics]\nenabled = false\n")
    binary = Path(package).parent / "bin" / "pulsar-lite"
    server = Server(
        [str(binary), "--addr", f"127.0.0.1:{port}", "--db-path", str(tmp_path / "db")],
        port=port,
        log=tmp_path / "lite.log",
        cwd=tmp_path,
    )
    with running(server):
        yield f"pulsar://127.0.0.1:{port}"


@pytest.fixture
def client(url: str) -> Iterator[pulsar.Client]:
    """A plain client."""
    found = pulsar.Client(url, operation_timeout_seconds=10)
    yield found
    found.close()


def fill(client: pulsar.Client, count: int, kind: pulsar.ConsumerType) -> None:
    """Create the subscription, then publish."""
    client.subscribe(TOPIC, SUBSCRIPTION, kind).close()
    producer = client.create_producer(TOPIC, block_if_queue_full=True)
    for _ in range(count):
        producer.send_async(bytes(100), None)
    producer.flush()
    producer.close()


def run(url: str, kind: str, receipts: Path, **more: object) -> RunResult:
    """Clear without an admin API."""
    options = PulsarOptions(
        service_url=url, topic=TOPIC, subscription=SUBSCRIPTION, subscription_type=kind,
        assume_exists=True,
    )  # fmt: skip
    values = {"stop_when_empty": True, "receipt_dir": str(receipts), "quiet_seconds": 2, **more}
    return clear(Job("pulsar", options, RunOptions.model_validate(values)))


@pytest.mark.parametrize(
    ("kind", "own"),
    [("exclusive", pulsar.ConsumerType.Exclusive), ("failover", pulsar.ConsumerType.Failover)],
)
def test_drains_in_order(
    url: str, client: pulsar.Client, tmp_path: Path, kind: str, own: pulsar.ConsumerType
) -> None:
    """A cumulative subscription is drained, and proved empty by the last message's identifier."""
    fill(client, 3000, own)
    result = run(url, kind, tmp_path)
    assert (result.totals.messages, result.verified) == (3000, True)
    assert received(client, TOPIC, own) == 0


def test_drains_shared(url: str, client: pulsar.Client, tmp_path: Path) -> None:
    """A shared subscription is drained, but what nobody can know is not claimed."""
    fill(client, 3000, pulsar.ConsumerType.Shared)
    result = run(url, "shared", tmp_path, workers=2)
    assert (result.totals.messages, result.verified, result.cleared) == (3000, None, False)
    assert received(client, TOPIC, pulsar.ConsumerType.Shared) == 0


def test_limit(url: str, client: pulsar.Client, tmp_path: Path) -> None:
    """What is beyond the limit stays."""
    fill(client, 500, pulsar.ConsumerType.Failover)
    result = run(url, "failover", tmp_path, max_messages=100, workers=1)
    assert result.stop_reason is StopReason.LIMIT
    left = received(client, TOPIC, pulsar.ConsumerType.Failover)
    assert result.totals.messages + left == 500
    assert left >= 400


def test_skip(url: str, client: pulsar.Client, tmp_path: Path) -> None:
    """Skip acknowledges the last message without receiving any."""
    fill(client, 500, pulsar.ConsumerType.Failover)
    result = run(url, "failover", tmp_path, mode=Mode.SKIP)
    assert (result.totals.messages, result.verified) == (0, True)
    assert received(client, TOPIC, pulsar.ConsumerType.Failover) == 0

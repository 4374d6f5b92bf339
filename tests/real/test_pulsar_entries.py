"""Heads of entries on real Pulsar: acknowledged in part, large, encrypted, the last of a topic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pulsar
import pytest

from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case
from backlog_clearer.testing.support import need, wait_until

BATCHES, SIZE = 12, 100


@pytest.mark.parametrize("kind", ["failover", "shared", "key_shared"])
def test_batches_acknowledged_in_part_are_counted_right(pulsar_case: Case, kind: str) -> None:
    """Of a batch that is acknowledged in part, the other messages are counted, and all of it is cleared."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, BATCHES * SIZE, batch=SIZE)
    consumer = pulsar_case.judge.client.subscribe(
        topic, SUBSCRIPTION, pulsar.ConsumerType.Shared, batch_index_ack_enabled=True
    )
    acknowledged = 0
    for number in range(BATCHES * SIZE):
        message = consumer.receive(5000)
        if number % 3 == 0 and number < BATCHES * SIZE // 2:
            consumer.acknowledge(message)
            acknowledged += 1
    consumer.close()
    assert pulsar_case.judge.backlog(topic) == BATCHES  # a batch counts until all of it is acknowledged
    assert pulsar_case.judge.cursor(topic)["individuallyDeletedMessages"] == "[]"
    pulsar_case.changes["subscription_type"] = kind
    pulsar_case.cleared(BATCHES * SIZE - acknowledged)


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_metadata_may_exceed_the_buffer(pulsar_case: Case, kind: str) -> None:
    """Properties of hundreds of kilobytes before a payload do not hide what the entry holds."""
    topic = pulsar_case.create()
    producer = pulsar_case.judge.client.create_producer(topic, batching_enabled=False)
    for number in range(20):
        size = 300_000 if number % 3 == 0 else 10
        producer.send(b"x" * 100_000, properties={"large": "v" * size})
    producer.close()
    pulsar_case.changes["subscription_type"] = kind
    pulsar_case.cleared(20)


@pytest.mark.parametrize("batch", [0, 50])
def test_encrypted_messages_are_cleared(pulsar_case: Case, tmp_path: Path, batch: int) -> None:
    """Encrypted messages are counted and acknowledged without any key."""
    need("openssl")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    for command in (
        ["openssl", "genrsa", "-out", str(private), "2048"],
        ["openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    topic = pulsar_case.create()
    keys = pulsar.CryptoKeyReader(str(public), str(private))
    pulsar_case.judge.produce(
        topic, 500, batch=batch, encryption_key="client-rsa.pem", crypto_key_reader=keys
    )
    pulsar_case.cleared(500)


def test_a_terminated_topic_is_cleared(pulsar_case: Case) -> None:
    """The backlog of a topic that accepts no more messages is cleared like any other."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, 300, batch=30)
    pulsar_case.judge.admin("POST", f"{topic.replace('://', '/')}/terminate")
    pulsar_case.cleared(300)


def test_follow_clears_what_arrives(pulsar_case: Case) -> None:
    """With --follow, messages published meanwhile are cleared, too, beyond the first end and its permits."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, 3000, batch=100)
    later = iter([4000])

    def more(_: object) -> None:
        for count in later:
            pulsar_case.judge.produce(topic, count, batch=100)

    result = pulsar_case.clear(
        Callbacks(progress=more), follow=True, stop_when_empty=True, batch_size=20, workers=1
    )
    wait_until(lambda: pulsar_case.judge.backlog(topic) == 0, "acknowledgements")
    assert result.totals.messages == 7000

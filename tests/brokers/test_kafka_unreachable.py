"""Kafka: an address that brokers advertise is distinguished from the one that the user gave."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.kafka.librdkafka import Complaints
from backlog_clearer.brokers.kafka.options import KafkaOptions

REFUSED = "failed: Connection refused (after 0ms in state CONNECT)"


@pytest.mark.parametrize(
    ("name", "advertised"),
    [
        ("boot:9092/bootstrap", False),
        ("boot:9092/1", False),  # its own address: the broker is gone
        ("inside.example:9092/1", True),
        ("sasl_ssl://inside.example:9092/12", True),
        ("GroupCoordinator", False),
    ],
)
def test_an_advertised_address_that_cannot_be_reached_is_named(name: str, advertised: bool) -> None:
    """The texts are librdkafka's; only a broker of another address than the user's has advertised it."""
    options = KafkaOptions.model_validate(
        {"bootstrap_servers": "boot:9092", "topic": "t", "group_id": "g"}
    )
    complaints = Complaints(options)
    text = f"[thrd:{name}]: {name}: Connect to ipv4#10.0.0.1:9092 {REFUSED}"
    complaints.log(40, "%s %s %s", "FAIL", "backlog-clearer#admin-1", text)
    error = str(complaints.unreachable("finding the group"))
    assert ("advertised.listeners" in error) is advertised
    assert ("Check --bootstrap-servers" in error) is not advertised
    assert ("gives inside.example:9092 as the address of broker 1" in error) is advertised
    assert REFUSED in error

"""Pulsar's client library as a reader: when it is used, and how its messages become entries."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pulsar
import pytest

from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.brokers import Brokers
from backlog_clearer.brokers.pulsar.client import ClientCluster
from backlog_clearer.brokers.pulsar.cluster import Cluster
from backlog_clearer.brokers.pulsar.options import PulsarOptions, PulsarReader, SubscriptionType
from backlog_clearer.brokers.pulsar.readers import open_brokers, reader_notes
from backlog_clearer.errors import ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, produce, unique
from backlog_clearer.testing.support import free_port, wait_until
from tests.brokers.test_pulsar_lite import client, url

__all__ = ["client", "url"]  # fixtures

JAVA = "org.apache.pulsar.client.impl.auth."
ATHENZ = {"auth_plugin": f"{JAVA}AuthenticationAthenz", "auth_params": '{"tenantDomain": "s3cret"}'}


def options(service: str = "pulsar://127.0.0.1:1", **changes: Any) -> PulsarOptions:
    """How to reach a topic without the admin API."""
    values = {"topic": "orders", "subscription": SUBSCRIPTION, "assume_exists": True, **changes}
    return build(PulsarOptions, {"service_url": service, **values})


def opened(found: PulsarOptions) -> Brokers:
    """What a lane opens."""
    return open_brokers(found, access(found), "run")


@pytest.mark.parametrize(
    ("changes", "reader", "kind"),
    [
        ({}, PulsarReader.ENTRIES, Cluster),
        ({"token": "t"}, PulsarReader.ENTRIES, Cluster),
        ({"auth_plugin": "token", "auth_params": "token:t"}, PulsarReader.ENTRIES, Cluster),
        (ATHENZ, PulsarReader.CLIENT, ClientCluster),
        ({"auth_plugin": sys.executable}, PulsarReader.CLIENT, ClientCluster),
        ({"reader": "client"}, PulsarReader.CLIENT, ClientCluster),
    ],
)
def test_auto_takes_the_client_library_where_only_it_can_log_in(
    changes: dict[str, str], reader: PulsarReader, kind: type
) -> None:
    """Our own reader is used unless a login, or the user, needs the library; a note gives the reason."""
    found = options(**changes)
    assert found.chosen_reader is reader
    with closing(opened(found)) as brokers:
        assert type(brokers) is kind
    notes = " ".join(reader_notes(found))
    assert ("client library" in notes) is (reader is PulsarReader.CLIENT)
    assert ("--auth-plugin" in notes) is ("auth_plugin" in changes and reader is PulsarReader.CLIENT)
    assert "s3cret" not in notes


def test_a_login_of_the_library_needs_its_reader() -> None:
    """Our own reader together with a login that it does not have is wrong use."""
    with pytest.raises(UsageError, match="only --reader client has"):
        options(**ATHENZ, reader="entries")


def test_a_plugin_is_not_taken_from_a_receipt() -> None:
    """A receipt keeps no plugin, which may be a library whose code runs, and names it as withheld."""
    found = options(**ATHENZ)
    assert "auth_plugin" not in found.public()
    assert {"auth_plugin", "auth_params"} <= set(found.withheld())


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, a run that needs it ends with the command that installs it."""
    monkeypatch.delitem(sys.modules, "backlog_clearer.brokers.pulsar.client")
    monkeypatch.setitem(sys.modules, "pulsar", None)
    with pytest.raises(UsageError, match="pip install pulsar-client"):
        opened(options(reader="client"))
    assert isinstance(opened(options()), Cluster)


def test_an_athenz_login_that_fails_is_an_error_without_its_parameters() -> None:
    """The library's own login ends in an error of this project, within the time of a call."""
    begun = time.monotonic()
    with closing(opened(options(**ATHENZ))) as brokers, pytest.raises(ClearerError) as raised:
        brokers.partitions("persistent://public/default/orders")
    assert time.monotonic() - begun < 15
    assert "s3cret" not in str(raised.value)


def test_a_closed_port_is_named() -> None:
    """A broker that does not answer is an error that may pass, with the address."""
    service = f"pulsar://127.0.0.1:{free_port()}"
    with (
        closing(opened(options(service, reader="client"))) as brokers,
        pytest.raises(TransientError, match=service),
    ):
        brokers.partitions("persistent://public/default/orders")


@pytest.fixture
def topic(client: pulsar.Client) -> str:
    """A topic with the subscription, and nothing in it."""
    name = f"persistent://public/default/{unique('orders')}"
    client.subscribe(name, SUBSCRIPTION, pulsar.ConsumerType.Failover).close()
    return name


@pytest.fixture
def brokers(url: str) -> Iterator[Brokers]:
    """The library's reader, connected."""
    with closing(opened(options(url, reader="client"))) as found:
        yield found


def heads(brokers: Brokers, messages: int) -> list[tuple[int, int]]:
    """(entry, messages) of the entries that arrive, until there are so many messages."""
    found: list[tuple[int, int]] = []

    def enough() -> bool:
        for feed in brokers.arrived(0.2):
            while head := feed.next():
                found.append((head.entry, head.messages))
        return sum(count for _, count in found) >= messages

    wait_until(enough, "the messages")
    return found


@pytest.mark.parametrize("batch", [0, 7, 100])
def test_messages_of_a_batch_are_one_entry(
    brokers: Brokers, client: pulsar.Client, topic: str, batch: int
) -> None:
    """However the library hands over messages, each entry is passed on once, with all of its messages."""
    produce(client, topic, 2_000, batch=batch)  # half a queue: this server repeats itself after a FLOW
    brokers.subscribe(Partition(topic, 0), topic, SubscriptionType.FAILOVER)
    found = heads(brokers, 2_000)
    entries = [entry for entry, _ in found]
    assert entries == list(range(entries[0], entries[0] + len(found)))
    assert max(count for _, count in found) <= max(1, batch)
    assert sum(count for _, count in found) == 2_000


def test_chunks_are_passed_on_with_their_message(
    brokers: Brokers, client: pulsar.Client, topic: str
) -> None:
    """The entries of a message's chunks follow each other without a gap, and count as one message."""
    producer = client.create_producer(topic, chunking_enabled=True, batching_enabled=False)
    for size in (10, 11_000_000, 10):
        producer.send(bytes(size))
    producer.close()
    brokers.subscribe(Partition(topic, 0), topic, SubscriptionType.FAILOVER)
    found = heads(brokers, 3)
    first = found[0][0]
    assert found == [(first, 1), (first + 1, 0), (first + 2, 0), (first + 3, 1), (first + 4, 1)]

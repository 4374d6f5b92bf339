"""Whatever a library raises in any call of a real adapter is one sentence with the address."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import EventHubsServer
from backlog_clearer.testing.servers.kafka_judge import Judge, KafkaBench
from backlog_clearer.testing.servers.pubsub import PubSubServer
from tests.brokers.kafka_embedded import embedded
from tests.brokers.strange import check_calls
from tests.brokers.test_eventhubs import EventHubsBench
from tests.brokers.test_eventhubs import server as hubs
from tests.brokers.test_googlepubsub import PubSubBench
from tests.brokers.test_googlepubsub import server as pubsub

__all__ = ["embedded", "hubs", "pubsub"]


@pytest.mark.parametrize("reader", [Reader.CLIENT, Reader.HEADERS])
def test_kafka_names_the_place_of_what_its_libraries_raise(
    embedded: Judge, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both readers, each call ends in one sentence with the broker's address."""
    bench = KafkaBench(embedded, reader)
    check_calls(bench, embedded.bootstrap_servers, monkeypatch)


def test_event_hubs_names_the_place_of_what_its_library_raises(
    hubs: EventHubsServer, storage: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the AMQP reader, each call ends in one sentence with the namespace's address."""
    bench = EventHubsBench(hubs, storage)
    check_calls(bench, f"127.0.0.1:{hubs.port}", monkeypatch)


def test_pubsub_names_the_place_of_what_its_libraries_raise(
    pubsub: PubSubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call ends in one sentence with the service's address."""
    bench = PubSubBench(pubsub, figures=True)
    wire = "backlog_clearer.brokers.googlepubsub.wire"  # a thread holds the stream
    check_calls(bench, pubsub.address, monkeypatch, names=[f"{wire}._IDS", f"{wire}._MERGED"])


def test_iggy_names_the_place_of_what_its_library_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends in one sentence with the server's address."""
    pytest.importorskip("apache_iggy")
    from tests.brokers.iggy_bench import opened  # noqa: PLC0415 not on every Python

    with opened() as bench:
        assert bench.endpoint
        host, port = bench.endpoint
        check_calls(bench, f"{host}:{port}", monkeypatch)

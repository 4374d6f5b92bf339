"""The SDK's public client as the reader of last resort, through the contract suite and whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.eventhubs import client_admin
from backlog_clearer.brokers.eventhubs.errors import AttachedElsewhereError
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Claim
from backlog_clearer.source import Lane
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import STOLEN, EventHubsServer
from tests.brokers.test_eventhubs import TIMEOUT_S, EventHubsBench, bench, server, storage  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of
from tests.brokers.websocket_gateway import Gateway, Proxy

pytestmark = pytest.mark.timeout(60)


class ClientBench(EventHubsBench):
    """The same Event Hub, asked and read only by the SDK's public client."""

    def options_of(self, **changes: Any) -> EventHubsOptions:
        return super().options_of(**{"reader": "client", **changes})


class TestContract(Contract):
    """The contract of every adapter, by the public client."""

    @pytest.fixture
    def bench(
        self, server: EventHubsServer, storage: Azurite, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Bench]:
        """One Event Hub and its container; requests may take `TIMEOUT_S`."""
        monkeypatch.setattr(client_admin, "TIMEOUT_S", TIMEOUT_S)
        bench = ClientBench(server, storage)
        bench.call_limit_s = 2 * TIMEOUT_S
        yield bench


@pytest.fixture
def by_client(server: EventHubsServer, storage: Azurite) -> ClientBench:
    """One Event Hub that is read by the public client."""
    return ClientBench(server, storage)


def test_a_backlog_is_cleared_through_a_proxy_over_websockets(
    by_client: ClientBench, tmp_path: Path
) -> None:
    """Every event is counted once, and every connection, also of the survey, is asked of the proxy."""
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    gateway, proxy = Gateway(by_client.server.port), Proxy("me", "pass:word@")
    fill(by_client, 1000)
    before = len(by_client.server.connections)
    options: dict[str, Any] = {
        "transport": "websocket",
        "custom_endpoint_address": f"sb://127.0.0.1:{gateway.port}",
        "http_proxy": f"http://me:pass%3Aword%40@127.0.0.1:{proxy.port}",
    }
    try:
        result = clear(by_client, run_options(tmp_path), **options)
    finally:
        gateway.stop()
        proxy.stop()
    assert (result.cleared, result.totals.messages, before) == (True, 3000, 0)
    assert by_client.left() == {0: 0, 1: 0, 2: 0}
    assert set(proxy.connected) == {f"127.0.0.1:{gateway.port}"}


def read_to_error(lane: Lane) -> None:
    """Read until the lane raises; the test's own limit ends it otherwise."""
    while True:
        lane.read(0.2, None)


def test_a_partition_taken_by_a_higher_owner_level_is_an_error_with_its_name(
    by_client: ClientBench, tmp_path: Path
) -> None:
    """A reader that is disconnected reports the partition, and that another consumer holds it."""
    run = run_options(tmp_path)
    by_client.produce(0, 100)
    with closing(open_source(by_client.options_of(owner_level=1), run, "run")) as source:
        states = source.survey().partitions[:1]
        with closing(source.open_lane([Claim(states[0], None, None)])) as lane:
            count = 0
            while count < 100:  # the test's own limit ends it
                count += sum(advance.messages for advance in lane.read(0.2, None))
            assert by_client.server.readers() == [("0", 1)]
            by_client.server.detach(STOLEN, "a receiver with a higher epoch took it")
            with pytest.raises(AttachedElsewhereError) as caught:
                read_to_error(lane)
    assert caught.value.partition == states[0].partition


def test_a_consumer_group_that_does_not_exist_is_wrong_use(
    by_client: ClientBench, tmp_path: Path
) -> None:
    """The survey of an Event Hub with events ends, and names the consumer group."""
    by_client.produce(0, 5)
    with pytest.raises(UsageError, match="consumer group 'nosuch'"):
        survey_of(by_client.options_of(consumer_group="nosuch"), tmp_path)

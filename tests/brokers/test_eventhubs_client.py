"""The SDK's public client as the reader of last resort.

Every run of the tests has some cases of the contract suite. The whole suite takes about ten minutes, since the
SDK opens a connection for each request; it is run when the reader changes:
`python -m pytest tests/brokers/test_eventhubs_client.py -o python_classes=WholeContract`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub._utils import event_position_selector
from azure.eventhub.amqp import AmqpAnnotatedMessage

from backlog_clearer.brokers.eventhubs import client_admin
from backlog_clearer.brokers.eventhubs.access import open_hub_admin, position_of
from backlog_clearer.brokers.eventhubs.client import consumer_client
from backlog_clearer.brokers.eventhubs.client_links import body_size
from backlog_clearer.brokers.eventhubs.errors import AttachedElsewhereError
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import Start, sequence_number, start_at
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Claim, Partition
from backlog_clearer.source import Lane
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.contract_faults import FaultContract
from backlog_clearer.testing.contract_isolation import IsolationContract
from backlog_clearer.testing.contract_lanes import LaneContract
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import STOLEN, EventHubsServer
from backlog_clearer.testing.suite import Suite
from tests.brokers.test_eventhubs import TIMEOUT_S, EventHubsBench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import run_options, survey_of
from tests.brokers.websocket_gateway import Gateway, Proxy

pytestmark = pytest.mark.timeout(300)

BOUND = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)


class ClientBench(EventHubsBench):
    """The same Event Hub, asked and read only by the SDK's public client."""

    def options_of(self, **changes: Any) -> EventHubsOptions:
        return super().options_of(**{"reader": "client", **changes})


class PairBench(ClientBench):
    """An Event Hub of two partitions."""

    partitions = 2


class TestContract(Suite):
    """Some cases of the contract: a lane, a partition that is broken, and faults of the connection."""

    @pytest.fixture
    def bench(self, server: EventHubsServer, storage: Azurite) -> Iterator[Bench]:
        """One Event Hub and its container."""
        yield PairBench(server, storage)

    left = LaneContract.left
    test_settle_acknowledges_what_read_returned_and_no_more = (
        LaneContract.test_settle_acknowledges_what_read_returned_and_no_more
    )
    test_a_survey_reports_a_broken_partition_and_all_others = (
        IsolationContract.test_a_survey_reports_a_broken_partition_and_all_others
    )
    test_an_unreachable_broker_is_named_at_once = (
        FaultContract.test_an_unreachable_broker_is_named_at_once
    )
    test_refused_credentials_are_final = FaultContract.test_refused_credentials_are_final


class WholeContract(Contract):
    """The contract of every adapter; its name keeps it from being collected unless it is asked for."""

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


def test_requests_and_events_pass_a_proxy_over_websockets(by_client: ClientBench) -> None:
    """Figures and an event arrive over WebSockets, and every connection is asked of the proxy."""
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    gateway, proxy = Gateway(by_client.server.port), Proxy("me", "pass:word@")
    by_client.produce(1, 5)
    options = by_client.options_of(
        transport="websocket",
        custom_endpoint_address=f"sb://127.0.0.1:{gateway.port}",
        http_proxy=f"http://me:pass%3Aword%40@127.0.0.1:{proxy.port}",
    )
    try:
        with closing(open_hub_admin(options)) as admin:
            last = admin.properties(1).last
        position = position_of(options, Partition(by_client.hub, 1), 3)
    finally:
        gateway.stop()
        proxy.stop()
    assert (last, sequence_number(position)) == (4, 3)
    assert set(proxy.connected) == {f"127.0.0.1:{gateway.port}"}
    assert len(proxy.connected) == gateway.opened


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


def test_websockets_without_their_package_are_wrong_use(
    by_client: ClientBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where websocket-client is missing, either reader ends with the command that installs it."""
    monkeypatch.setitem(sys.modules, "websocket", None)  # as if it were missing
    for reader in ("amqp", "client"):
        with pytest.raises(UsageError, match="pip install 'websocket-client"):
            consumer_client(by_client.options_of(reader=reader, transport="websocket"))


@pytest.mark.parametrize(
    "start",
    [
        Start("-1"),
        Start("640"),
        Start(0, inclusive=True),
        Start(7),
        start_at(BOUND),
        start_at(BOUND + timedelta(microseconds=400)),
    ],
)
def test_both_readers_ask_for_the_same_start(start: Start) -> None:
    """The SDK makes the same filter of a start, also of a time between two milliseconds."""
    assert event_position_selector(start.value, start.inclusive).decode() == start.selector


def test_bodies_of_values_have_no_size() -> None:
    """Data sections are measured; the body of a value or a sequence counts 0 bytes, and is not an error."""
    assert body_size(AmqpAnnotatedMessage(data_body=[b"abc", b"de"])) == 5
    for body in (b"abc", 1.5, None, "text"):
        assert body_size(AmqpAnnotatedMessage(value_body=body)) == 0
    assert body_size(AmqpAnnotatedMessage(sequence_body=[[1, 2], [3]])) == 0

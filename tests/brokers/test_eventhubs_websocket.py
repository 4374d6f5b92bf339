"""AMQP over WebSockets, directly and through a proxy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.options.base import build
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.support import free_port, make_certificates
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of
from tests.brokers.websocket_gateway import Gateway, Proxy

pytest.importorskip("websocket", reason="websocket-client is not installed")

pytestmark = pytest.mark.timeout(300)

PASSWORD = "pass:word@"


@pytest.fixture
def gateway(bench: EventHubsBench) -> Iterator[Gateway]:
    """The WebSocket endpoint of the bench's server."""
    running = Gateway(bench.server.port)
    yield running
    running.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy that wants a password."""
    running = Proxy("me", PASSWORD)
    yield running
    running.stop()


def through(gateway: Gateway, **more: Any) -> dict[str, Any]:
    """Options that reach the server only over WebSockets."""
    address = f"sb://127.0.0.1:{gateway.port}"
    return {"transport": "websocket", "custom_endpoint_address": address, **more}


def test_a_backlog_is_cleared_over_websockets(
    bench: EventHubsBench,
    gateway: Gateway,
    tmp_path: Path,
) -> None:
    """Survey, drain and verification use WebSockets only, and every event is counted once."""
    fill(bench, 20_000)
    before = len(bench.server.connections)
    result = clear(bench, run_options(tmp_path), **through(gateway))
    assert (result.cleared, result.totals.messages) == (True, 60_000)
    assert bench.left() == {0: 0, 1: 0, 2: 0}
    assert gateway.opened > 3
    assert before == 0


def test_large_events_over_websockets_are_counted_once(
    bench: EventHubsBench,
    gateway: Gateway,
    tmp_path: Path,
) -> None:
    """Events that span AMQP frames and WebSocket messages are one event each."""
    bench.log.body = b"x" * 250_000
    fill(bench, 7)
    result = clear(bench, run_options(tmp_path), **through(gateway))
    assert (result.cleared, result.totals.messages) == (True, 21)


def test_a_broken_websocket_is_opened_again(
    bench: EventHubsBench,
    gateway: Gateway,
    tmp_path: Path,
) -> None:
    """A connection that breaks in the middle loses and doubles nothing."""
    fill(bench, 5000)

    def harm(_: object) -> bool:
        bench.server.faults.drop_after.extend([300, 4100])
        return True

    result = clear(bench, run_options(tmp_path, workers=1), Callbacks(confirm=harm), **through(gateway))
    assert (result.cleared, result.totals.messages) == (True, 15_000)
    assert result.totals.retries >= 1


def test_a_backlog_is_cleared_over_websockets_with_tls(
    bench: EventHubsBench,
    tmp_path: Path,
) -> None:
    """With a certificate of an authority that is named, the service's own kind of string works."""
    make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    gateway = Gateway(bench.server.port, context)
    fill(bench, 5000)
    text = bench.server.connection_string().replace(";UseDevelopmentEmulator=true", "")
    name = text.replace(bench.server.namespace, "ns.servicebus.windows.net")
    try:
        result = clear(
            bench,
            run_options(tmp_path / "receipts"),
            **through(gateway, connection_string=name, connection_verify=str(tmp_path / "ca.pem")),
        )
    finally:
        gateway.stop()
    assert (result.cleared, result.totals.messages) == (True, 15_000)
    assert gateway.opened > 3


def test_a_proxy_is_used_with_its_password(
    bench: EventHubsBench,
    gateway: Gateway,
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    """Every connection is asked of the proxy; its password is in no result."""
    fill(bench, 100)
    url = f"http://me:pass%3Aword%40@127.0.0.1:{proxy.port}"
    result = clear(bench, run_options(tmp_path), **through(gateway, http_proxy=url))
    assert (result.cleared, result.totals.messages) == (True, 300)
    assert set(proxy.connected) == {f"127.0.0.1:{gateway.port}"}
    assert len(proxy.connected) == gateway.opened
    assert "pass" not in result.to_json().replace("passing", "")


def test_a_proxy_that_refuses_is_an_error_without_the_password(
    bench: EventHubsBench,
    gateway: Gateway,
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    """A wrong password of the proxy ends the survey with its answer."""
    url = f"http://me:secret@127.0.0.1:{proxy.port}"
    with pytest.raises(BrokerError, match="407") as caught:
        survey_of(bench.options_of(**through(gateway, http_proxy=url)), tmp_path)
    assert "secret" not in str(caught.value)
    assert gateway.opened == 0


def test_an_unreachable_endpoint_names_the_port_of_websockets(
    bench: EventHubsBench,
    tmp_path: Path,
) -> None:
    """Where nothing listens, the error names the address and port 443, not 5671."""
    address = f"sb://127.0.0.1:{free_port()}"
    options = bench.options_of(transport="websocket", custom_endpoint_address=address)
    with pytest.raises(BrokerError, match=f"{address} cannot be reached.*port 443"):
        survey_of(options, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"http_proxy": "http://proxy:3128"},
        {"transport": "websocket", "http_proxy": "proxy:3128"},
        {"transport": "websocket", "http_proxy": "http://proxy"},
        {"transport": "websocket", "http_proxy": "http://proxy:port"},
        {"transport": "websocket", "http_proxy": "socks5://proxy:1080"},
    ],
)
def test_a_proxy_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    """A proxy without WebSockets, or of another form, is wrong use."""
    values = {"fully_qualified_namespace": "ns.servicebus.windows.net", "eventhub_name": "orders"}
    with pytest.raises(UsageError, match="--http-proxy"):
        build(EventHubsOptions, {**values, **changes})

"""Answers are bounded as a whole: by what was asked, in size, in pages, and in the work of reading them."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.protocol.metadata import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    MetadataRequest,
    MetadataResponse,
)

from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.googlepubsub.client import subscriptions
from backlog_clearer.brokers.googlepubsub.monitoring import COUNT, Monitoring
from backlog_clearer.brokers.kafka.connection import MOST_DECODED
from backlog_clearer.brokers.kafka.socket_settings import TIMEOUT_S
from backlog_clearer.brokers.kafka.token_endpoint import client_credentials
from backlog_clearer.brokers.pulsar.wire import EntryHead, parse_head
from backlog_clearer.brokers.shared import pages
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.pulsar_frames import fields, message
from backlog_clearer.testing.support import Stopwatch, answering
from tests.brokers.test_kafka_inlet import connected
from tests.secret_forms import leaks
from tests.secret_paths import SECRET


@pytest.mark.parametrize(
    ("request_class", "response", "most", "size"),
    [
        (FindCoordinatorRequest, FindCoordinatorResponse, None, 1_000_000),
        (MetadataRequest, MetadataResponse, MOST_DECODED, MOST_DECODED + 5),
    ],
)
def test_an_answer_has_a_size_that_fits_its_request(
    request_class: Any, response: Any, most: int | None, size: int
) -> None:
    """A Kafka answer that is much larger than its request allows is refused before it becomes objects."""

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(struct.pack(">ii", size, correlation))

    with (
        connected(script) as connection,
        pytest.raises(TransientError, match=f"answer of {size - 4:d}"),
    ):
        connection.call(request_class(version=1), response, 1, most=most)


class _Tokens(BaseHTTPRequestHandler):
    """A token endpoint: what each path answers; notes the logins that arrive elsewhere."""

    logins: list[str] = []  # noqa: RUF012 one for the test

    def do_POST(self) -> None:
        self.logins.append(f"{self.path} {self.headers.get('Authorization')}")
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        with suppress(OSError):
            if self.path == "/deep":
                self.wfile.write(b"[" * 100_000)
            while self.path == "/endless":
                self.wfile.write(bytes(65536))
            self.wfile.write(json.dumps({"access_token": "of a test"}).encode())

    do_GET = do_POST  # noqa: N815 # http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


def test_a_token_endpoint_is_not_followed_and_not_kept_without_end() -> None:
    """A redirect does not get the client's secret, and an endless or nested answer is an error."""
    _Tokens.logins.clear()
    with answering(_Tokens) as port:

        def token(path: str) -> str:
            return client_credentials(
                {
                    "sasl.oauthbearer.token.endpoint.url": f"http://127.0.0.1:{port}{path}",
                    "sasl.oauthbearer.client.id": "app",
                    "sasl.oauthbearer.client.secret": SECRET,
                },
                TIMEOUT_S,
            )

        assert token("/token") == "of a test"
        for path in ("/moved", "/endless", "/deep"):
            with pytest.raises((OSError, ValueError)) as refused:
                token(path)
            assert not leaks(str(refused.value), SECRET)
    assert not any(login.startswith("/elsewhere") for login in _Tokens.logins)


def test_acknowledgements_of_a_batch_are_read_in_one_pass() -> None:
    """A Pulsar message with a megabyte of acknowledgement bits is counted at once."""
    words = [-1] * 100_000
    data = bytearray(message(1, (7, 1), metadata=fields(f11=6_400_000), ack_set=words))
    with Stopwatch() as watch:
        head = parse_head(data, 0, len(data))
    assert isinstance(head, EntryHead)
    assert head.permits == 6_400_000
    assert watch.seconds < 5


def forever(**page: Any) -> Any:
    """A pager whose last page never comes."""
    return SimpleNamespace(pages=(SimpleNamespace(**page) for _ in itertools.count()))


def test_a_listing_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriptions and figures of Google end with an error where a next page is always named."""
    client: Any = SimpleNamespace(list_subscriptions=lambda **_: forever(subscriptions=()))
    with pytest.raises(
        TransientError, match=f"projects/p at host did not end after {pages.MOST_PAGES} pages"
    ):
        list(subscriptions(client, "p", "host"))
    monitoring = Monitoring("p", "s", credentials=None, endpoint="http://127.0.0.1:1")
    endless = forever(execution_errors=(), time_series=())
    monkeypatch.setattr(monitoring._client, "list_time_series", lambda *_, **__: endless)
    with pytest.raises(TransientError, match="127.0.0.1:1 did not end"):
        monitoring.samples(COUNT, ["s"], datetime.now(timezone.utc))
    monitoring.close()


class _Blobs(BaseHTTPRequestHandler):
    """A container whose listing names a next page for ever."""

    folders = ("", "127.0.0.1/", "127.0.0.1/orders/", "127.0.0.1/orders/$default/")
    blob = (
        "<Blob><Name>127.0.0.1/orders/$default/checkpoint/1</Name><Properties><Etag>x</Etag><Last-Modified>"
        "Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified><BlobType>BlockBlob</BlobType></Properties></Blob>"
    )

    def do_GET(self) -> None:
        next_page = "marker=m" in self.path  # without the prefix
        prefix = next(each for each in reversed(self.folders) if next_page or self._asks_for(each))
        more = self.folders[self.folders.index(prefix) + 1] if prefix != self.folders[-1] else None
        found = self.blob if more is None else f"<BlobPrefix><Name>{more}</Name></BlobPrefix>"
        marker = "m" if more is None else ""
        body = (
            '<?xml version="1.0"?><EnumerationResults ServiceEndpoint="http://h" ContainerName="c">'
            f"<Delimiter>/</Delimiter><Blobs>{found}</Blobs><NextMarker>{marker}</NextMarker>"
            "</EnumerationResults>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _asks_for(self, folder: str) -> bool:
        escaped = folder.replace("/", "%2F").replace("$", "%24")
        return f"prefix={escaped}" in self.path or not folder

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


@pytest.fixture
def endless_container() -> Iterator[Checkpoints]:
    """The checkpoints in that container."""
    with answering(_Blobs) as port:
        yield Checkpoints(
            build(
                EventHubsOptions,
                {
                    "connection_string": "Endpoint=sb://127.0.0.1/;SharedAccessKeyName=k;"
                    "SharedAccessKey=a2V5;UseDevelopmentEmulator=true",
                    "eventhub_name": "orders",
                    "checkpoint_store": f"BlobEndpoint=http://127.0.0.1:{port}/a;AccountName=a;"
                    "AccountKey=a2V5",
                    "checkpoint_container": "c",
                },
            ),
            "run",
        )


def test_a_container_without_end_is_an_error(endless_container: Checkpoints) -> None:
    """A listing of checkpoints that names a next page for ever is an error with the container."""
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:\d+/a/c did not end after 100 pages"):
        endless_container.look()

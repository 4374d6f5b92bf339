"""Every answer has a deadline as a whole: a peer that sends a byte now and then holds nothing up."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler

import pytest
import requests
from azure.core.exceptions import ServiceResponseTimeoutError
from azure.core.pipeline.transport import HttpRequest

from backlog_clearer.brokers.eventhubs import storage_transport
from backlog_clearer.brokers.eventhubs.counting import CountingTransport
from backlog_clearer.brokers.eventhubs.wire import first_gap
from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.connection import IggyConnection, ServerAddress
from backlog_clearer.brokers.iggy.errors import SilentError
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.poll_wire import PollWalk
from backlog_clearer.brokers.pulsar import connection as pulsar_connection
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.service_url import Address
from backlog_clearer.brokers.shared.http import whole_answer
from backlog_clearer.brokers.shared.http_connection import HttpConnection
from backlog_clearer.deadline import within
from backlog_clearer.errors import TransientError
from backlog_clearer.testing.servers.pulsar_frames import CONNECTED, MESSAGE, fields, frame
from backlog_clearer.testing.support import Stopwatch, answering

LONG_S = 20.0  # far less than a peer would take that drips for all of an answer
DRIP_S = 0.05


@contextmanager
def dripping(*answers: bytes, repeated: bytes = b"\0") -> Iterator[int]:
    """The port of a server that sends each of these after something it receives, then `repeated` slowly."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as peer:
            for answer in answers:
                peer.recv(65536)
                peer.sendall(answer)
            while not ended.wait(DRIP_S):
                peer.sendall(repeated)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        listener.close()
        thread.join(5)


def repeat(step: Callable[[], object]) -> None:
    """Call it until it raises, or for a long time."""
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        step()


def test_a_pulsar_frame_that_drips_breaks_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose payload arrives byte by byte is not waited for without end."""
    monkeypatch.setattr(pulsar_connection, "_WHOLE_S", 0.5)
    monkeypatch.setattr(pulsar_connection, "_SLOWEST", 1 << 30)
    head = frame(MESSAGE, b"\x00\x00\x00\x02\x58\x01", f1=1, f2=fields(f1=3, f2=4))
    announced = struct.pack(">I", len(head) - 4 + 1_000_000) + head[4:]
    with dripping(frame(CONNECTED, f1="x") + announced) as port:
        address = Address("127.0.0.1", port, tls=False)
        options = PulsarOptions(
            service_url=f"pulsar://127.0.0.1:{port}", topic="persistent://public/default/orders",
            subscription="billing", assume_exists=True,
        )  # fmt: skip
        with closing(pulsar_connection.Connection(address, access(options))) as connection:

            def step() -> None:
                assert connection.next() is None
                connection.receive()

            with pytest.raises(TransientError, match=f"{port} broke: a frame was not complete"):
                repeat(step)


def test_an_iggy_reply_that_drips_breaks_the_connection() -> None:
    """A poll's reply that arrives byte by byte is given up on, although there is never a long silence."""
    reply = struct.Struct("<48xI8xB155xI36x")
    login = reply.pack(reply.size + 16, 8, 0) + struct.pack("<IIQ", 0, 1, 7)
    options = IggyOptions(
        stream_id="shop", topic_id="orders", username="iggy", password="of a test"
    )  # fmt: skip
    with dripping(login, reply.pack(reply.size + 500_000, 8, 0)) as port:
        found = IggyConnection(options, ServerAddress("127.0.0.1", port), 0.2)
        with closing(found) as connection:
            connection.ask(wire.READ, wire.POLL, b"", PollWalk(1000))
            with pytest.raises(SilentError, match="had not sent a whole answer"):
                repeat(lambda: connection.answer(0.1))


class _Drips(BaseHTTPRequestHandler):
    """Announces a megabyte, and sends it byte by byte."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with suppress(OSError):
            for _ in range(int(LONG_S / DRIP_S)):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(DRIP_S)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


def test_an_http_answer_that_drips_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of an admin API, an issuer, or Blob Storage has a deadline for all of its content."""
    monkeypatch.setattr(storage_transport, "WHOLE_S", 0.5)
    with answering(_Drips) as port:
        url = f"http://127.0.0.1:{port}/"
        with Stopwatch() as watch:
            with pytest.raises(requests.Timeout, match="no whole answer"):
                whole_answer(requests.get, url, timeout_s=0.5)
            with (
                closing(HttpConnection(url, LONG_S, None)) as connection,
                pytest.raises(TimeoutError),
            ):
                connection.ask("GET", "/", {}, None, time.monotonic() + 0.5)
            with (
                storage_transport.BoundedTransport() as transport,
                pytest.raises(ServiceResponseTimeoutError, match="no whole answer"),
            ):
                transport.send(HttpRequest("GET", url))
        assert watch.seconds < LONG_S


def test_amqp_heartbeats_do_not_keep_a_request_waiting() -> None:
    """A service that sends heartbeats, and never the answer, is given up on when the time is over."""
    heartbeat = struct.pack(">IBBH", 8, 2, 0, 0)
    with dripping(repeated=heartbeat) as port:
        transport = CountingTransport("127.0.0.1", port=port, use_tls=False, credential=None)
        transport.sock = socket.create_connection(("127.0.0.1", port), 5)
        transport.give_up_at = time.monotonic() + 0.5

        def step() -> None:
            with suppress(TimeoutError):
                transport.read()

        with closing(transport.sock), pytest.raises(OSError, match="did not answer in time"):
            repeat(step)


def test_a_call_that_does_not_end_is_left_behind() -> None:
    """`within` returns what a call returns, raises what it raises, and `TimeoutError` where it takes longer."""
    ended = threading.Event()
    assert within(LONG_S, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(LONG_S, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="no whole answer within"):
        within(0.05, ended.wait)
    ended.set()


@pytest.mark.parametrize(
    ("numbers", "expected", "gap"),
    [
        ([5, 6, 7], 5, None),
        ([5, 6, 7], None, None),
        ([5, 6, 7], 4, (0, 4)),
        ([5, 6, 9, 10, 12], 5, (2, 7)),
        ([5, 7], None, (1, 6)),
        ([8], 5, (0, 5)),
    ],
)
def test_events_that_are_missing_are_found(
    numbers: list[int], expected: int | None, gap: tuple[int, int] | None
) -> None:
    """The first event that does not follow the one before is found by few looks."""
    assert first_gap(numbers.__getitem__, len(numbers), expected) == gap

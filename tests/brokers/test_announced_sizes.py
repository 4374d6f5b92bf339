"""No reader allocates by what a peer announces: an answer that cannot be is an error, and takes no memory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from typing import Any

import grpc
import pytest

from backlog_clearer.brokers.eventhubs.wire import check_frame, check_message, check_value
from backlog_clearer.brokers.pulsar.positions import Entries, Place
from backlog_clearer.testing.servers.pulsar_frames import CONNECTED, frame
from backlog_clearer.testing.support import answering, free_port
from tests.paths import MODULE_PATH, ROOT

PEAK_MB = 200
HUGE = 0x7FFF_FF00


@contextmanager
def announcing(*answers: bytes) -> Iterator[int]:
    """The port of a server that sends one of these after each thing that it receives; more follows the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with suppress(OSError), peer:
            for answer in answers:
                if not peer.recv(65536):
                    return
                peer.sendall(answer)
            while True:
                peer.sendall(bytes(65536))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class _Lists(BaseHTTPRequestHandler):
    """Pulsar's admin API with two billion partitions."""

    body = b'{"partitions": 2000000000}'
    encoding: str | None = None

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        if self.encoding:
            self.send_header("Content-Encoding", self.encoding)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


class _Deep(_Lists):
    """A hundred thousand arrays, one in the other."""

    body = b"[" * 100_000


class _Many(_Lists):
    """Ten million objects, in an answer of the largest size."""

    body = b"[" + b"{}," * 3_900_000 + b"{}]"


class _Endless(_Lists):
    """An answer without end."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"<Blob>" + bytes(65536))

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 # http.server's names


class _Away(_Endless):
    """A redirect with a body without end."""

    status = 302


class _Bomb(_Lists):
    """A small answer that becomes 200 MB."""

    encoding = "deflate"


@contextmanager
def compressed_answers() -> Iterator[int]:
    """A server with those."""
    packer = zlib.compressobj(1)
    _Bomb.body = b"".join([packer.compress(bytes(1_000_000)) for _ in range(200)]) + packer.flush()
    with answering(_Bomb) as port:
        yield port


@contextmanager
def large_answers() -> Iterator[int]:
    """A gRPC server with answers of 100 MB."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC ships no types
        def service(self, details: Any) -> Any:
            del details
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: bytes(100_000_000))

    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0)


def pulsar(port: int) -> dict[str, Any]:
    """Options for a server that speaks Pulsar's binary protocol."""
    return {
        "service_url": f"pulsar://127.0.0.1:{port}", "topic": "persistent://public/default/orders",
        "subscription": "billing", "subscription_type": "failover", "assume_exists": True,
    }  # fmt: skip


def pulsar_admin(port: int) -> dict[str, Any]:
    """Options for a server that is Pulsar's admin API."""
    changes = {"admin_url": f"http://127.0.0.1:{port}", "assume_exists": False}
    return {**pulsar(free_port()), **changes}


def pulsar_login(port: int) -> dict[str, Any]:
    """Options for a server that is an OAuth2 issuer."""
    key = {"client_id": "app", "client_secret": "of a test", "issuer_url": f"http://127.0.0.1:{port}"}
    return {**pulsar_admin(free_port()), "oauth2_private_key": json.dumps(key)}


def iggy(port: int) -> dict[str, Any]:
    """Options for a server that speaks Iggy's protocol."""
    return {
        "host": "127.0.0.1", "port": port, "stream_id": "shop", "topic_id": "orders",
        "group_id": "billing", "username": "iggy", "password": "of a test",
    }  # fmt: skip


def eventhubs(port: int) -> dict[str, Any]:
    """Options for a server that speaks AMQP."""
    text = (
        f"Endpoint=sb://127.0.0.1:{port}/;SharedAccessKeyName=k;SharedAccessKey=a2V5;"
        "UseDevelopmentEmulator=true"
    )
    return {"connection_string": text, "eventhub_name": "orders", "no_checkpoint": True}


def eventhubs_client(port: int) -> dict[str, Any]:
    """The same, by the SDK's public client."""
    return {**eventhubs(port), "reader": "client"}


def websockets(port: int) -> dict[str, Any]:
    """Options for a server that speaks AMQP over WebSockets."""
    return {**eventhubs(port), "transport": "websocket"}


def blobs(port: int) -> dict[str, Any]:
    """Options for a server that is a storage account."""
    account = f"BlobEndpoint=http://127.0.0.1:{port}/a;AccountName=a;AccountKey=a2V5"
    stored = {"checkpoint_store": account, "checkpoint_container": "c", "no_checkpoint": False}
    return {**eventhubs(free_port()), **stored}


@contextmanager
def large_message() -> Iterator[int]:
    """A WebSocket with a message of a terabyte."""

    class Upgrade(_Lists):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(magic.encode()).digest())  # noqa: S324 RFC 6455
            self.send_response(101)
            for name, value in {
                "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "AMQPWSB10",
                "Sec-WebSocket-Accept": accept.decode(),
            }.items():  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(b"\x82\x7f" + struct.pack(">Q", 1 << 40))
                while True:
                    self.wfile.write(bytes(65536))

    with answering(Upgrade) as port:
        yield port


def googlepubsub(port: int) -> dict[str, Any]:
    """Options for a Pub/Sub emulator, whose address is in the environment."""
    del port
    return {"subscription_id": "projects/test/subscriptions/orders"}


def amqp(body: bytes, *, size: int | None = None) -> bytes:
    """A SASL frame."""
    return struct.pack(">IBBH", size or 8 + len(body), 2, 1, 0) + body


SASL = b"AMQP\x03\x01\x00\x00"
LIST32, ARRAY32 = b"\xd0" + struct.pack(">II", 9, HUGE), b"\xf0" + struct.pack(">II", 9, HUGE) + b"\xa3"
CASES: Mapping[str, tuple[Callable[[int], dict[str, Any]], Any]] = {
    "pulsar, a frame": (pulsar, lambda: announcing(struct.pack(">II", HUGE, 100) + bytes(100))),
    "pulsar, a payload": (
        pulsar,
        lambda: announcing(struct.pack(">I", HUGE) + frame(CONNECTED, f1="x")[4:]),
    ),
    "pulsar, partitions": (pulsar_admin, lambda: answering(_Lists)),
    "pulsar, a nested answer": (pulsar_admin, lambda: answering(_Deep)),
    "pulsar, a compressed answer": (pulsar_admin, compressed_answers),
    "pulsar, many values": (pulsar_admin, lambda: answering(_Many)),
    "pulsar, an answer without end": (pulsar_admin, lambda: answering(_Endless)),
    "pulsar, a redirect of the issuer": (pulsar_login, lambda: answering(_Away)),
    "iggy, a reply": (
        iggy,
        lambda: announcing(struct.pack("<48xI8xB155xI36x", HUGE, 8, 0)),
    ),
    "eventhubs, a frame": (eventhubs, lambda: announcing(SASL + amqp(b"", size=HUGE))),
    "eventhubs, a performative": (
        eventhubs,
        lambda: announcing(SASL + amqp(b"\x00\x53\x40" + LIST32)),
    ),
    "eventhubs, an array": (
        eventhubs,
        lambda: announcing(SASL + amqp(b"\x00\x53\x40\xc0\x0b\x01" + ARRAY32)),
    ),
    "eventhubs, a frame for the client": (
        eventhubs_client,
        lambda: announcing(SASL + amqp(b"", size=HUGE)),
    ),
    "eventhubs, a message of a WebSocket": (websockets, large_message),
    "eventhubs, blobs without end": (blobs, lambda: answering(_Endless)),
    "googlepubsub, a message": (googlepubsub, large_answers),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_that_announces_too_much_is_an_error_and_takes_no_memory(case: str) -> None:
    """Each announced size that cannot be is an error with the address, and memory stays under 200 MB."""
    system = case.partition(",")[0]
    if system == "iggy":
        import_module("apache_iggy")  # not on every Python
    options, serving = CASES[case]
    with serving() as port:
        asked = json.dumps(options(port))
        command = [sys.executable, "-m", "tests.brokers.announcing", system, asked]
        names = {"PYTHONPATH": MODULE_PATH, "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{port}"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **names}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert f"127.0.0.1:{port}" in found["error"]
    assert "Traceback" not in done.stderr
    assert found["peak_mb"] < PEAK_MB


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        pytest.param(b"\x00\x53\x10" + LIST32, "a list of", id="performative"),
        pytest.param(b"\x00\x53\x10\xc0\x0b\x01" + ARRAY32, "a list of", id="array"),
        pytest.param(b"\x00\x53\x10\xc0\x0b\x02\xa1\x05ab", "ends too early", id="string"),
        pytest.param(b"\x00\x53\x10\xc0\x0b\x01\x99", "not an AMQP constructor", id="constructor"),
        pytest.param(
            b"\x00\x53\x10\xc0\xff\x01" + b"\xc0\xff\x01" * 40 + b"\x40", "too deep", id="depth"
        ),
        pytest.param(b"\x01\x02\x03\x04", "without a performative", id="no performative"),
        pytest.param(b"\x00\x53\x14\xc0\x01\x00", "without a link", id="transfer"),
    ],
)
def test_a_frame_that_the_sdk_cannot_decode_is_refused(body: bytes, fault: str) -> None:
    """Counts, sizes, constructors and depths that cannot be are found before anything is allocated."""
    with pytest.raises(ValueError, match=fault):
        check_frame(body)


def test_a_transfer_is_taken_apart() -> None:
    """A transfer's link, whether more follows, and its payload are found; a damaged payload is refused."""
    fields = b"\x52\x03\x43\xa0\x01\x00\x43\x41\x41"
    piece = check_frame(b"\x00\x53\x14\xc0" + bytes([len(fields) + 1, 6]) + fields + b"payload")
    assert piece is not None
    assert (piece.handle, piece.more) == (b"\x52\x03", True)
    assert check_frame(b"\x00\x53\x18\xc0\x01\x00") is None
    check_message(b"\x00\x53\x77\xc1\x05\x02\xa1\x01a\x40")
    with pytest.raises(ValueError, match="not a section"):
        check_message(b"payload")
    assert check_value(b"\xf0\x00\x00\x00\x06\x00\x00\x00\x02\x50ab", 0, 12) == 12


def test_an_entry_of_any_number_takes_one_page() -> None:
    """A broker that sends an entry whose number cannot be takes no memory for those before it."""
    seen = Entries()
    for entry in (0, 4095, 4096, 1 << 62):
        seen.add(Place(7, entry))
        assert Place(7, entry) in seen
    for entry in (1, 4097, (1 << 62) - 1):
        assert Place(7, entry) not in seen
    assert Place(8, 0) not in seen

"""A WebSocket endpoint before a TCP server, and an HTTP proxy: what is between clients and Event Hubs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable

PATHS = ("/$servicebus/websocket/", "/$servicebus/websocket")  # the SDK's client sends the second
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_MESSAGE = 3000  # bytes at most in one message, so that AMQP frames are cut anywhere


def _request(sock: socket.socket) -> tuple[str, dict[str, str]]:
    """The request line and the headers of an HTTP request."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise OSError("closed")
        data += byte
    first, *lines = data.decode().split("\r\n")
    return first, {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        got = sock.recv(count - len(data))
        if not got:
            raise OSError("closed")
        data += got
    return data


def _pump(read: Callable[[], bytes], write: Callable[[bytes], None], *sockets: socket.socket) -> None:
    """Copy until either side ends, then end both."""
    with contextlib.suppress(OSError):
        while data := read():
            write(data)
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _Listener:
    """Accepts connections, each served by a thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_quietly, args=(client,), daemon=True).start()

    def _serve_quietly(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(client)

    def serve(self, client: socket.socket) -> None:
        """Serve one connection."""
        raise NotImplementedError

    def stop(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Gateway(_Listener):
    """WebSockets with the subprotocol of AMQP, unwrapped to a TCP port of this machine."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = port
        self.tls = tls
        self.opened = 0  # connections so far
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        if self.tls is not None:
            client = self.tls.wrap_socket(client, server_side=True)
        first, headers = _request(client)
        known = any(f" {path} " in first for path in PATHS)
        if not known or headers.get("sec-websocket-protocol") != "AMQPWSB10":
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            client.close()
            return
        digest = hashlib.sha1(headers["sec-websocket-key"].encode() + _GUID).digest()  # noqa: S324 RFC 6455
        accept = base64.b64encode(digest).decode()
        client.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n".encode()
        )
        self.opened += 1
        server = socket.create_connection(("127.0.0.1", self.target))

        def send(data: bytes) -> None:
            client.sendall(struct.pack(">BBH", 0x82, 126, len(data)) + data)

        back = (lambda: server.recv(_MESSAGE), send, client, server)
        threading.Thread(target=_pump, args=back, daemon=True).start()
        _pump(lambda: self._frame(client), server.sendall, client, server)

    @staticmethod
    def _frame(client: socket.socket) -> bytes:
        """The content of the next binary frame; b"": closed."""
        code, size = _exactly(client, 2)
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", _exactly(client, 2))
        elif size == 127:
            (size,) = struct.unpack(">Q", _exactly(client, 8))
        mask = _exactly(client, 4)
        data = _exactly(client, size)
        if code & 0x0F != 0x2:
            return b""
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


class Proxy(_Listener):
    """An HTTP proxy that connects only who signs in as user:password."""

    def __init__(self, user: str, password: str) -> None:
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.connected: list[str] = []  # what was asked for
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        first, headers = _request(client)
        method, place, _ = first.split(" ")
        if method != "CONNECT" or headers.get("proxy-authorization") != self._expected:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            client.close()
            return
        self.connected.append(place)
        host, _, port = place.rpartition(":")
        server = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = (lambda: server.recv(65536), client.sendall, client, server)
        threading.Thread(target=_pump, args=back, daemon=True).start()
        _pump(lambda: client.recv(65536), server.sendall, client, server)

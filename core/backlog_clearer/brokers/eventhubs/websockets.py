"""Azure Event Hubs: AMQP over WebSockets, for networks where only port 443 is open."""

from __future__ import annotations

import time
from typing import Any

import websocket

from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S, Counting
from backlog_clearer.brokers.eventhubs.limits import bound_socket
from backlog_clearer.brokers.eventhubs.sdk import AMQPException, SASLWithWebSocket
from backlog_clearer.deadline import within

_LEAST_S = 0.01  # for what has arrived


class CountingWebSocket(Counting, SASLWithWebSocket):  # type: ignore[misc]
    """AMQP over WebSockets (subprotocol AMQPWSB10), counting; the SDK has it from websocket-client."""

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._message = b""  # what a message brought and the buffer had no room for
        self._until = 0.0  # a `time.monotonic()`: when a read ends whose frame is not complete

    def connect(self) -> None:
        """Connect, within a bounded time; raises `OSError` for whatever the library raises."""
        try:
            within(TIMEOUT_S, super().connect)
        except (AMQPException, OSError, websocket.WebSocketException) as error:
            raise OSError(f"Failed to initiate the connection: {error}") from error
        bound_socket(self.sock)
        received = self.sock.frame_buffer.recv

        def receive(size: int) -> bytes:
            if time.monotonic() >= self._until:  # the library keeps what came, and continues there
                raise websocket.WebSocketTimeoutException("a frame is not complete")
            found: bytes = received(size)
            return found

        self.sock.frame_buffer.recv = receive

    def negotiate(self) -> None:
        """Sign in, within a bounded time."""
        with self.block():
            self._negotiate()

    def _receive(self, view: memoryview) -> int:
        """The next message, or a part of it."""
        if not self._message:
            self._until = time.monotonic() + max(_LEAST_S, self.sock.gettimeout() or 0.0)
            try:
                message = self.sock.recv()
            except websocket.WebSocketTimeoutException as error:
                raise TimeoutError from error
            except websocket.WebSocketException as error:
                raise OSError(f"the WebSocket was disconnected: {error}") from error
            if isinstance(message, str):
                return 0  # closed
            self._message = message
        got = min(len(view), len(self._message))
        view[:got] = self._message[:got]
        self._message = self._message[got:]
        return got

    def _write(self, data: bytes) -> None:
        try:
            super()._write(data)
        except websocket.WebSocketException as error:
            raise OSError(f"the WebSocket was disconnected: {error}") from error

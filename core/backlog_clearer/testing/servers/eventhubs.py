"""An AMQP 1.0 server that behaves like Azure Event Hubs to the real azure-eventhub clients.

It has the parts of the service that consumers use: SASL, claims-based security with verified SAS tokens,
the management node, receiver links with selectors, credit and session windows, owner levels that
steal links, at most five readers without one, runtime metrics, and the service's refusals. Events are
numbered, not stored: event n of a partition has sequence number n and the offset `offset_of(n)`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable
from typing import Any

from azure.eventhub._pyamqp import outcomes, performatives
from azure.eventhub._pyamqp._decode import decode_frame, decode_payload
from azure.eventhub._pyamqp._encode import encode_frame, encode_payload
from azure.eventhub._pyamqp.endpoints import Source, Target
from azure.eventhub._pyamqp.error import AMQPError
from azure.eventhub._pyamqp.message import Message, Properties

from backlog_clearer.testing.servers.eventhubs_answers import KEY, KEY_NAME, describe, token_status
from backlog_clearer.testing.servers.eventhubs_events import (
    EventLog,
    Faults,
    Hub,
    Link,
    TransferWindow,
    bulk_transfers,
    offset_of,
    place_link,
    split_transfers,
    text_of,
)

__all__ = ["KEY", "EventHubsServer", "EventLog", "Faults", "Hub", "Link", "offset_of"]

STOLEN = b"amqp:link:stolen"
BUSY = b"com.microsoft:server-busy"
NOT_FOUND = b"amqp:not-found"
TOO_MANY = b"amqp:resource-limit-exceeded"
DETACH_FORCED = b"amqp:link:detach-forced"
DISABLED = b"com.microsoft:entity-disabled"

_SASL_HEADER, _AMQP_HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
_BLOCK = 2000  # events sent at a time, so that the other links of a connection get their turn
_METRIC = b"com.microsoft:enable-receiver-runtime-metric"


class EventHubsServer:
    """The server; every method may be called from any thread."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.hubs: dict[str, Hub] = {}
        self.faults = Faults()
        self.tls = tls
        self.jwt: str | None = None  # the bearer token that is accepted
        self.attached: list[tuple[str, str, int | None]] = []  # every (group, partition, level) so far
        self.lock = threading.RLock()
        self._created = 0
        self.connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def namespace(self) -> str:
        """The fully qualified namespace."""
        return f"127.0.0.1:{self.port}"

    def connection_string(self, key: str = KEY) -> str:
        """The connection string; without TLS it is the development emulator's kind."""
        emulator = "" if self.tls else ";UseDevelopmentEmulator=true"
        return (
            f"Endpoint=sb://{self.namespace}/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={key}"
            f"{emulator}"
        )

    def create(self, name: str, partitions: int, *, size: int = 100) -> Hub:
        """Create an Event Hub whose events have bodies of `size` bytes."""
        self._created += 1
        hub = Hub([EventLog() for _ in range(partitions)], body=b"x" * size)
        hub.created_ms = 1_700_000_000_000 + self._created
        self.hubs[name] = hub
        return hub

    def recreate(self, name: str) -> Hub:
        """Delete an Event Hub and create it again, as large and empty; its receivers are detached."""
        with self.lock:
            old = self.hubs[name]
            new = self.create(name, len(old.partitions), size=len(old.body))
            new.groups = set(old.groups)
            self._order(NOT_FOUND, f"The Event Hub '{name}' was deleted.", lambda link: link.hub is old)
        return new

    def produce(self, name: str, number: int, count: int) -> None:
        """Enqueue `count` events in one partition."""
        with self.lock:
            self.hubs[name].partitions[number].append(count)

    def readers(self, group: str | None = None) -> list[tuple[str, int | None]]:
        """The receivers attached now: (partition, owner level)."""
        with self.lock:
            return [
                (link.partition, link.level)
                for link in self._receivers()
                if group is None or link.group == group
            ]

    def _receivers(self) -> list[Link]:
        return [
            link
            for connection in self.connections
            for link in connection.links.values()
            if link.log is not None and link.open
        ]

    def rivals(self, link: Link) -> list[tuple[_Connection, Link]]:
        """Receivers on the same partition for the same group."""
        return [
            (connection, other)
            for connection in self.connections
            for other in connection.links.values()
            if other.log is link.log and other.group == link.group and other.open and other is not link
        ]

    def detach(self, condition: bytes, description: str) -> None:
        """Detach every receiver, as the service does when it moves a partition."""
        with self.lock:
            self._order(condition, description, lambda link: link.log is not None)

    def _order(self, condition: bytes, description: str, which: Callable[[Link], bool]) -> None:
        """Have receivers detached by the threads of their connections."""
        for connection in self.connections:
            for link in connection.links.values():
                if link.open and which(link):
                    connection.orders.append((link, condition, description))

    def disable(self, name: str, number: int) -> None:
        """Refuse everything about one partition, and detach its receivers."""
        with self.lock:
            self.faults.disabled.add((name, number))
            log = self.hubs[name].partitions[number]
            self._order(DISABLED, "The partition is disabled.", lambda link: link.log is log)

    def drop(self) -> None:
        """Break every connection."""
        with self.lock:
            for connection in list(self.connections):
                connection.stop()

    def stop(self) -> None:
        """Stop serving; idempotent."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, accepted)
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=connection.run, daemon=True).start()


class _Connection:
    """One connection, served by one thread."""

    def __init__(self, server: EventHubsServer, accepted: socket.socket) -> None:
        self.server = server
        self.sock = accepted
        self.links: dict[tuple[int, int], Link] = {}
        self.sessions: dict[int, TransferWindow] = {}
        self.orders: deque[tuple[Link, bytes, str]] = deque()
        self.frame_size = 65536
        self.heartbeat_s = 0.0  # 0: none is asked for
        self.beat_at = time.monotonic()
        self.alive = True

    def stop(self) -> None:
        """Break the connection."""
        self.alive = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until either side ends it."""
        try:
            if self.server.tls:
                self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
            self._serve()
        except (OSError, ConnectionError, ssl.SSLError):
            pass  # the client is gone
        finally:
            with self.server.lock:
                self.server.connections.discard(self)
                for link in self.links.values():
                    link.open = False
            self.sock.close()

    def _serve(self) -> None:
        buffer, heard = b"", 0
        with selectors.DefaultSelector() as selector:  # select has a limit on descriptors
            selector.register(self.sock, selectors.EVENT_READ)
            while self.alive:
                busy = self._push()
                self._beat()
                pending = self.server.tls and self.sock.pending()  # type: ignore[attr-defined]
                if pending or selector.select(0 if busy else 0.01):
                    data = self.sock.recv(1 << 16)
                    if not data:
                        return
                    if heard >= self.server.faults.silent_after:
                        continue
                    heard += 1
                    buffer = self._take(buffer + data)

    def _beat(self) -> None:
        """Send an empty frame where one is due."""
        if self.heartbeat_s and time.monotonic() - self.beat_at > self.heartbeat_s:
            self.sock.sendall(b"\x00\x00\x00\x08\x02\x00\x00\x00")
            self.beat_at = time.monotonic()

    def _take(self, buffer: bytes) -> bytes:
        """Handle every complete frame; returns the rest."""
        while len(buffer) >= 8:
            if buffer[:4] == b"AMQP":
                self._header(buffer[:8])
                buffer = buffer[8:]
                continue
            (size,) = struct.unpack_from(">I", buffer)
            if len(buffer) < size:
                break
            frame, buffer = buffer[:size], buffer[size:]
            if size > 8:
                self._handle(struct.unpack_from(">H", frame, 6)[0], memoryview(frame)[8:])
        return buffer

    def _header(self, header: bytes) -> None:
        self.sock.sendall(header)
        if header == _SASL_HEADER:
            self._send(0, performatives.SASLMechanism([b"ANONYMOUS", b"MSSBCBS"]), b"\x01")

    def _send(self, channel: int, frame: Any, kind: bytes = b"\x00") -> None:
        header, body = encode_frame(frame, frame_type=kind)
        self.sock.sendall(header + struct.pack(">H", channel) + bytes(body or b""))

    def _handle(self, channel: int, data: memoryview) -> None:
        code, fields = decode_frame(data)
        if code == 0x41:  # SASL init
            self._send(0, performatives.SASLOutcome(0, None), b"\x01")
        elif code == 0x10:  # open
            self.frame_size = min(fields[2] or 65536, 65536)
            self.heartbeat_s = (fields[4] or 0) / 2000  # half of what the client allows
            self._send(0, performatives.OpenFrame("server", None, 65536, 4999, 240_000, *[None] * 5))
        elif code == 0x11:  # begin
            self.sessions[channel] = TransferWindow(fields[2])
            self._send(channel, performatives.BeginFrame(channel, 0, 5000, 5000, 255, *[None] * 3))
        elif code == 0x12:
            with self.server.lock:
                self._attach(channel, fields)
        elif code == 0x13:
            self._flow(channel, fields)
        elif code == 0x14:
            self._request(channel, fields)
        elif code == 0x16:
            self._detached(channel, fields)
        elif code == 0x17:  # end
            self._send(channel, performatives.EndFrame(None))
        elif code == 0x18:  # close
            self._send(0, performatives.CloseFrame(None))
            self.alive = False

    def _attach(self, channel: int, fields: list[Any]) -> None:
        name, handle, receives = text_of(fields[0]), fields[1], fields[2]
        address = text_of((fields[5] if receives else fields[6])[0])
        link = self.links[channel, handle] = Link(channel, handle, address, sends=bool(receives))
        source, target = fields[5], fields[6]
        answer = performatives.AttachFrame(
            name=name,
            handle=handle,
            role=not receives,
            send_settle_mode=fields[3] or 0,
            rcv_settle_mode=fields[4] or 0,
            source=Source(address=text_of(source[0]) if source and source[0] else None),
            target=Target(address=text_of(target[0]) if target and target[0] else None),
            unsettled=None,
            incomplete_unsettled=False,
            initial_delivery_count=0,
            max_message_size=1 << 20,
            offered_capabilities=None,
            desired_capabilities=None,
            properties=None,
        )
        if not receives:
            self._send(channel, answer)
            self._send(channel, performatives.FlowFrame(0, 5000, 0, 5000, handle, 0, 1000, *[None] * 4))
        elif "/ConsumerGroups/" in address:
            refusal = self._open_receiver(link, fields)
            self._send(channel, answer)
            if refusal:
                self._detach(link, *refusal)
        else:
            self._send(channel, answer)

    def _open_receiver(self, link: Link, fields: list[Any]) -> tuple[bytes, str] | None:
        """Bind a receiver to its partition, or return the refusal."""
        if self.server.faults.attach:
            return self.server.faults.attach.popleft()
        path = urllib.parse.urlparse(link.address).path.strip("/").split("/")
        hub = self.server.hubs.get(path[0])
        if hub is None or path[2] not in hub.groups or int(path[4]) >= len(hub.partitions):
            return NOT_FOUND, f"The messaging entity 'sb:{link.address}' could not be found."
        if (path[0], int(path[4])) in self.server.faults.disabled:
            return DISABLED, "The partition is disabled."
        link.group, link.partition, link.hub = path[2], path[4], hub
        link.log = hub.partitions[int(path[4])]
        level = (fields[13] or {}).get(b"com.microsoft:epoch")
        link.level = level
        link.metric = _METRIC in (fields[12] or [])
        refusal = self._rank(link) or place_link(
            link, fields[5][7] or {}, geo=int(path[4]) in self.server.faults.refused_offsets
        )
        if refusal:
            link.log = None
            return refusal
        self.server.attached.append((link.group, link.partition, level))
        if self.server.faults.detach_after:
            link.limit = self.server.faults.detach_after.popleft()
        if self.server.faults.drop_after:
            link.drop = self.server.faults.drop_after.popleft()
        return None

    def _rank(self, link: Link) -> tuple[bytes, str] | None:
        """Owner levels: the highest reader wins, and with one there are no others."""
        rivals = self.server.rivals(link)
        levels = [other.level for _, other in rivals if other.level is not None]
        if link.level is None:
            if levels:
                return STOLEN, (
                    f"At least one receiver for the endpoint is created with epoch of '{max(levels)}', and"
                    " so non-epoch receiver is not allowed. Either reconnect with a higher epoch, or make"
                    " sure all epoch receivers are closed or disconnected."
                )
            if len(rivals) >= 5:
                return TOO_MANY, (
                    "Exceeded the maximum number of allowed receivers per partition in a consumer group"
                    " which is 5."
                )
            return None
        if levels and max(levels) > link.level:
            return STOLEN, f"A receiver with a higher epoch '{max(levels)}' already exists."
        for connection, other in rivals:
            connection.orders.append(
                (
                    other,
                    STOLEN,
                    (
                        f"New receiver with higher epoch of '{link.level}' is created hence current receiver"
                        f" with epoch '{other.level or 0}' is getting disconnected."
                    ),
                )
            )
        return None

    def _flow(self, channel: int, fields: list[Any]) -> None:
        session = self.sessions[channel]
        session.window = (fields[0] or 0) + fields[1] - session.next_outgoing
        link = self.links.get((channel, fields[4])) if fields[4] is not None else None
        if link and link.sends:
            link.credit = (fields[5] or 0) + (fields[6] or 0) - link.delivery_count

    def _detached(self, channel: int, fields: list[Any]) -> None:
        with self.server.lock:
            link = self.links.pop((channel, fields[0]), None)
            if link and link.open:
                link.open = False
                self._send(channel, performatives.DetachFrame(link.handle, True, None))

    def _detach(self, link: Link, condition: bytes, description: str) -> None:
        link.open = False
        error = AMQPError(condition=condition, description=description, info=None)
        self._send(link.channel, performatives.DetachFrame(link.handle, True, error))

    def _request(self, channel: int, fields: list[Any]) -> None:
        """A message to $cbs or $management: settle it and answer on the link beside it."""
        link = self.links[channel, fields[0]]
        message = decode_payload(fields[11])
        accepted = performatives.DispositionFrame(
            True, fields[1], fields[1], True, outcomes.Accepted(), None
        )
        self._send(channel, accepted)
        asked = message.application_properties or {}
        value: dict[str, Any] | None = None
        if link.address == "$cbs":
            server = self.server
            known = server.hubs if server.faults.missing_hub_at_cbs else None
            status, text = token_status(
                text_of(message.value), text_of(asked[b"name"]), known, server.jwt
            )
        elif self.server.faults.management:
            status, text = self.server.faults.management.popleft()
        else:
            server = self.server
            status, text, value = describe(server.hubs, server.namespace, asked, server.faults.disabled)
            if value and b"partition" in asked:
                value.update(self.server.faults.garbled.get(int(text_of(asked[b"partition"])), {}))
        reply = Message(
            value=value,
            properties=Properties(correlation_id=message.properties[0]),
            application_properties={"status-code": status, "status-description": text},
        )
        back = next(
            item
            for item in self.links.values()
            if item.channel == channel and item.address == link.address and item.sends
        )
        payload = bytearray()
        encode_payload(payload, reply)
        session = self.sessions[channel]
        transfer = performatives.TransferFrame(
            back.handle,
            session.next_outgoing,
            struct.pack(">I", session.next_outgoing),
            0,
            True,
            False,
            *[None] * 5,
            payload=bytes(payload),
        )
        session.next_outgoing += 1
        session.window -= 1
        back.delivery_count += 1
        self._send(channel, transfer)

    def _push(self) -> bool:
        """Send a block of events on every link that may have one; False if there was nothing to send."""
        busy = False
        with self.server.lock:
            self._detach_ordered()
            receivers = [link for link in self.links.values() if link.log is not None and link.open]
        for link in receivers:
            session = self.sessions[link.channel]
            assert link.log is not None
            count = min(_BLOCK, link.credit, session.window, link.log.end - link.next)
            if link.limit:
                count = min(count, link.limit[0])
            if link.drop is not None:
                count = min(count, link.drop)
            if count > 0:
                self._events(link, session, count)
                busy = True
            if link.limit:
                link.limit = (link.limit[0] - max(0, count), *link.limit[1:])
                if link.limit[0] <= 0:
                    with self.server.lock:
                        self._detach(link, *link.limit[1:])
            if link.drop is not None:
                link.drop -= max(0, count)
                if link.drop <= 0:
                    self.stop()
                    return False
        return busy

    def _detach_ordered(self) -> None:
        while self.orders:
            link, condition, description = self.orders.popleft()
            if link.open:
                self._detach(link, condition, description)

    def _events(self, link: Link, session: TransferWindow, count: int) -> None:
        assert link.log is not None
        assert link.hub is not None
        if len(link.hub.body) > self.frame_size - 512:
            count = 1
            data, frames = split_transfers(link, session.next_outgoing, self.frame_size)
        else:
            data, frames = bulk_transfers(link, session.next_outgoing, count), count
        link.next += count
        link.credit -= count
        link.delivery_count += count
        session.next_outgoing += frames
        session.window -= frames
        self.sock.sendall(data)

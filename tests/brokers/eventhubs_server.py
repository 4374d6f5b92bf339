"""An AMQP 1.0 server that the real azure-eventhub clients take for Azure Event Hubs.

It speaks what the service speaks to consumers: SASL, claims-based security with verified SAS tokens,
the management node, receiver links with selectors, credit and session windows, owner levels that
steal links, at most five readers without one, runtime metrics, and the service's refusals. Events are
numbered, not stored: event n of a partition has sequence number n and the offset `offset_of(n)`.

Run alone it serves one hub: `python -m tests.brokers.eventhubs_server PORT HUB PARTITIONS EVENTS SIZE`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from azure.eventhub._pyamqp import outcomes, performatives
from azure.eventhub._pyamqp._decode import decode_frame, decode_payload
from azure.eventhub._pyamqp._encode import encode_frame, encode_payload
from azure.eventhub._pyamqp.endpoints import Source, Target
from azure.eventhub._pyamqp.error import AMQPError
from azure.eventhub._pyamqp.message import Message, Properties
from azure.eventhub._pyamqp.utils import amqp_long_value

KEY_NAME = "RootManageSharedAccessKey"
KEY = base64.b64encode(b"the key of this test server").decode()

STOLEN = b"amqp:link:stolen"
BUSY = b"com.microsoft:server-busy"
NOT_FOUND = b"amqp:not-found"
TOO_MANY = b"amqp:resource-limit-exceeded"
DETACH_FORCED = b"amqp:link:detach-forced"
BAD_ARGUMENT = b"com.microsoft:argument-out-of-range"

_SASL_HEADER, _AMQP_HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
_BLOCK = 2000  # events sent at a time, so that the other links of a connection get their turn
_METRIC = b"com.microsoft:enable-receiver-runtime-metric"
_SELECTOR = re.compile(r"amqp\.annotation\.x-opt-([a-z-]+) (>=?) '([^']*)'")
_OFFSET_BASE, _OFFSET_STEP, _OFFSET_DIGITS = 1_000_000_000, 64, 10


def offset_of(sequence_number: int) -> str:
    """The offset of an event: like the service's it is no sequence number, and "-1" before the first."""
    return "-1" if sequence_number < 0 else str(_OFFSET_BASE + _OFFSET_STEP * sequence_number)


def _sequence_of(offset: str) -> int:
    return -1 if offset == "-1" else (int(offset) - _OFFSET_BASE) // _OFFSET_STEP


@dataclass(slots=True)
class Log:
    """One partition: events `begin` to `end - 1` are retained."""

    begin: int = 0
    end: int = 0


@dataclass(slots=True)
class Hub:
    """One Event Hub."""

    partitions: list[Log]
    groups: set[str] = field(default_factory=lambda: {"$Default"})
    body: bytes = b"x" * 100


@dataclass(slots=True)
class Faults:
    """What goes wrong next; each entry is used once."""

    attach: deque[tuple[bytes, str]] = field(default_factory=deque)  # the next receivers are refused
    management: deque[tuple[int, str]] = field(default_factory=deque)  # the next requests fail
    detach_after: deque[tuple[int, bytes, str]] = field(default_factory=deque)  # after n events sent
    drop_after: deque[int] = field(default_factory=deque)  # the connection breaks after n events
    silent_after: int | None = None  # what a connection sends after so many times is not answered
    missing_hub_at_cbs: bool = False  # a missing hub is told when the token is put, not later


@dataclass(slots=True, eq=False)
class _Link:
    """One link, from the server's side."""

    channel: int
    handle: int
    address: str
    sends: bool  # the server sends on it
    group: str = ""
    log: Log | None = None
    hub: Hub | None = None
    partition: str = ""
    level: int | None = None
    metric: bool = False
    next: int = 0  # sequence number of the next event
    credit: int = 0
    delivery_count: int = 0
    limit: tuple[int, bytes, str] | None = None
    drop: int | None = None
    open: bool = True


@dataclass(slots=True)
class _Session:
    """One session's transfer window."""

    window: int
    next_outgoing: int = 0


class EventHubsServer:
    """The server; every method may be called from any thread."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.hubs: dict[str, Hub] = {}
        self.faults = Faults()
        self.tls = tls
        self.jwt: str | None = None  # the bearer token that is accepted
        self.attached: list[tuple[str, str, int | None]] = []  # every (group, partition, level) so far
        self.lock = threading.RLock()
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
        hub = self.hubs[name] = Hub([Log() for _ in range(partitions)], body=b"x" * size)
        return hub

    def produce(self, name: str, number: int, count: int) -> None:
        """Enqueue `count` events in one partition."""
        with self.lock:
            self.hubs[name].partitions[number].end += count

    def readers(self, group: str | None = None) -> list[tuple[str, int | None]]:
        """The receivers attached now: (partition, owner level)."""
        with self.lock:
            return [
                (link.partition, link.level)
                for link in self._receivers()
                if group is None or link.group == group
            ]

    def _receivers(self) -> list[_Link]:
        return [
            link
            for connection in self.connections
            for link in connection.links.values()
            if link.log is not None and link.open
        ]

    def rivals(self, link: _Link) -> list[tuple[_Connection, _Link]]:
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
            for connection in self.connections:
                for link in connection.links.values():
                    if link.log is not None and link.open:
                        connection.orders.append((link, condition, description))

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

    def token_status(self, token: str, audience: str) -> tuple[int, str]:
        """Judge a claims-based security token as the service does."""
        hub = urllib.parse.urlparse(audience).path.strip("/").split("/")[0]
        if self.faults.missing_hub_at_cbs and hub not in self.hubs:
            return 404, f"The messaging entity '{audience}' could not be found."
        if token == self.jwt:
            return 202, "Accepted"
        fields = dict(part.partition("=")[::2] for part in token.rpartition(" ")[2].split("&"))
        signed = f"{fields.get('sr', '')}\n{fields.get('se', '')}".encode()
        digest = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
        expected = base64.b64encode(digest).decode()
        if fields.get("skn") != KEY_NAME or urllib.parse.unquote(fields.get("sig", "")) != expected:
            return 401, "InvalidSignature: The token has an invalid signature."
        return 202, "Accepted"

    def management(self, asked: dict[bytes, Any]) -> tuple[int, str, dict[str, Any] | None]:
        """Answer a request to the management node."""
        if self.faults.management:
            return (*self.faults.management.popleft(), None)
        name = _text(asked[b"name"])
        hub = self.hubs.get(name)
        if hub is None:
            return 404, f"The messaging entity 'sb://{self.namespace}/{name}' could not be found.", None
        if _text(asked[b"type"]) == "com.microsoft:eventhub":
            numbers = [str(number) for number in range(len(hub.partitions))]
            return 200, "OK", {"name": name, "created_at": 0, "partition_ids": numbers}
        log = hub.partitions[int(_text(asked[b"partition"]))]
        return (
            200,
            "OK",
            {
                "name": name,
                "partition": _text(asked[b"partition"]),
                "begin_sequence_number": amqp_long_value(log.begin),
                "last_enqueued_sequence_number": amqp_long_value(log.end - 1),
                "last_enqueued_offset": offset_of(log.end - 1),
                "last_enqueued_time_utc": amqp_long_value(int(time.time() * 1000)),
                "is_partition_empty": log.begin >= log.end,
            },
        )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Connection:
    """One connection, served by one thread."""

    def __init__(self, server: EventHubsServer, accepted: socket.socket) -> None:
        self.server = server
        self.sock = accepted
        self.links: dict[tuple[int, int], _Link] = {}
        self.sessions: dict[int, _Session] = {}
        self.orders: deque[tuple[_Link, bytes, str]] = deque()
        self.frame_size = 65536
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
        while self.alive:
            busy = self._push()
            pending = self.server.tls and self.sock.pending()  # type: ignore[attr-defined]
            if pending or select.select([self.sock], [], [], 0 if busy else 0.01)[0]:
                data = self.sock.recv(1 << 16)
                if not data:
                    return
                limit = self.server.faults.silent_after
                if limit is not None and heard >= limit:
                    continue
                heard += 1
                buffer = self._take(buffer + data)

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
            self._send(0, performatives.OpenFrame("server", None, 65536, 4999, 240_000, *[None] * 5))
        elif code == 0x11:  # begin
            self.sessions[channel] = _Session(fields[2])
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
        name, handle, receives = _text(fields[0]), fields[1], fields[2]
        address = _text((fields[5] if receives else fields[6])[0])
        link = self.links[channel, handle] = _Link(channel, handle, address, sends=bool(receives))
        source, target = fields[5], fields[6]
        answer = performatives.AttachFrame(
            name=name,
            handle=handle,
            role=not receives,
            send_settle_mode=fields[3] or 0,
            rcv_settle_mode=fields[4] or 0,
            source=Source(address=_text(source[0]) if source and source[0] else None),
            target=Target(address=_text(target[0]) if target and target[0] else None),
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

    def _open_receiver(self, link: _Link, fields: list[Any]) -> tuple[bytes, str] | None:
        """Bind a receiver to its partition, or say why not."""
        if self.server.faults.attach:
            return self.server.faults.attach.popleft()
        path = urllib.parse.urlparse(link.address).path.strip("/").split("/")
        hub = self.server.hubs.get(path[0])
        if hub is None or path[2] not in hub.groups or int(path[4]) >= len(hub.partitions):
            return NOT_FOUND, f"The messaging entity 'sb:{link.address}' could not be found."
        link.group, link.partition, link.hub = path[2], path[4], hub
        link.log = hub.partitions[int(path[4])]
        level = (fields[13] or {}).get(b"com.microsoft:epoch")
        link.level = level
        link.metric = _METRIC in (fields[12] or [])
        refusal = self._rank(link) or self._seek(link, fields[5][7] or {})
        if refusal:
            link.log = None
            return refusal
        self.server.attached.append((link.group, link.partition, level))
        if self.server.faults.detach_after:
            link.limit = self.server.faults.detach_after.popleft()
        if self.server.faults.drop_after:
            link.drop = self.server.faults.drop_after.popleft()
        return None

    def _rank(self, link: _Link) -> tuple[bytes, str] | None:
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
                    f"New receiver with higher epoch of '{link.level}' is created hence current receiver"
                    f" with epoch '{other.level or 0}' is getting disconnected.",
                )
            )
        return None

    @staticmethod
    def _seek(link: _Link, filters: dict[bytes, Any]) -> tuple[bytes, str] | None:
        assert link.log is not None
        link.next = link.log.begin
        for value in filters.values():
            found = _SELECTOR.fullmatch(_text(value))
            if not found:
                return BAD_ARGUMENT, f"The selector '{_text(value)}' is not understood."
            kind, sign, text = found.groups()
            if text == "@latest":
                at = link.log.end - 1
            elif kind == "offset":
                at = _sequence_of(text)
            else:
                at = int(text)
            if at >= link.log.end:
                return BAD_ARGUMENT, (
                    f"The supplied {kind} '{text}' is invalid. The last offset in the system is"
                    f" '{offset_of(link.log.end - 1)}'"
                )
            link.next = max(link.log.begin, at if sign == ">=" else at + 1)
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

    def _detach(self, link: _Link, condition: bytes, description: str) -> None:
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
            status, text = self.server.token_status(_text(message.value), _text(asked[b"name"]))
        else:
            status, text, value = self.server.management(asked)
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
            while self.orders:
                link, condition, description = self.orders.popleft()
                if link.open:
                    self._detach(link, condition, description)
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

    def _events(self, link: _Link, session: _Session, count: int) -> None:
        assert link.log is not None
        assert link.hub is not None
        if len(link.hub.body) > self.frame_size - 512:
            count = 1
            data, frames = _split(link, session.next_outgoing, self.frame_size)
        else:
            data, frames = _block(link, session.next_outgoing, count), count
        link.next += count
        link.credit -= count
        link.delivery_count += count
        session.next_outgoing += frames
        session.window -= frames
        self.sock.sendall(data)


def _symbol(text: str) -> bytes:
    return b"\xa3" + bytes([len(text)]) + text.encode()


def _map(section: int, pairs: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(_symbol(key) + value for key, value in pairs)
    return b"\x00\x53" + bytes([section, 0xC1, len(body) + 1, 2 * len(pairs)]) + body


def _payload(link: _Link) -> bytes:
    """The message of an event whose numbers are still 0."""
    assert link.hub is not None
    assert link.log is not None
    metric = b""
    if link.metric:
        last = link.log.end - 1
        metric = _map(
            0x71,
            [
                ("last_enqueued_sequence_number", b"\x81" + struct.pack(">q", last)),
                ("last_enqueued_offset", b"\xa1\x0a" + offset_of(last).encode()),
                ("last_enqueued_time_utc", b"\x83" + bytes(8)),
                ("runtime_info_retrieval_time_utc", b"\x83" + bytes(8)),
            ],
        )
    annotations = _map(
        0x72,
        [
            ("x-opt-sequence-number", b"\x81" + bytes(8)),
            ("x-opt-offset", b"\xa1" + bytes([_OFFSET_DIGITS]) + bytes(_OFFSET_DIGITS)),
            ("x-opt-enqueued-time", b"\x83" + bytes(8)),
        ],
    )
    body = link.hub.body
    return metric + annotations + b"\x00\x53\x75\xb0" + struct.pack(">I", len(body)) + body


def _transfer(link: _Link, payload: bytes, more: bool) -> bytes:
    """A settled transfer whose delivery id and tag are still 0."""
    fields = b"\x52" + bytes([link.handle]) + b"\x70" + bytes(4) + b"\xa0\x04" + bytes(4)
    # The service writes all eleven fields, and its clients count on it.
    fields += b"\x43\x41" + (b"\x41" if more else b"\x42") + b"\x40" * 5
    performative = b"\x00\x53\x14\xc0" + bytes([len(fields) + 1, 11]) + fields
    size = 8 + len(performative) + len(payload)
    return struct.pack(">IBBH", size, 2, 0, link.channel) + performative + payload


def _block(link: _Link, delivery_id: int, count: int) -> bytes:
    """Transfers of `count` events: one template, and each of its changing bytes set in one stride."""
    template = _transfer(link, _payload(link), more=False)
    size = len(template)
    block = bytearray(template * count)
    first = link.next
    ids = struct.pack(f">{count}I", *range(delivery_id, delivery_id + count))
    numbers = struct.pack(f">{count}q", *range(first, first + count))
    start = _OFFSET_BASE + _OFFSET_STEP * first
    stop = _OFFSET_BASE + _OFFSET_STEP * (first + count)
    offsets = "".join(map(str, range(start, stop, _OFFSET_STEP))).encode()
    at_sequence = template.index(b"x-opt-sequence-number") + len("x-opt-sequence-number") + 1
    at_offset = template.index(b"x-opt-offset") + len("x-opt-offset") + 2
    for at, width, values in (
        (17, 4, ids),
        (23, 4, ids),
        (at_sequence, 8, numbers),
        (at_offset, _OFFSET_DIGITS, offsets),
    ):
        for byte in range(width):
            block[at + byte :: size] = values[byte::width]
    return bytes(block)


def _split(link: _Link, delivery_id: int, frame_size: int) -> tuple[bytes, int]:
    """One event in as many transfers as it takes."""
    payload = bytearray(_payload(link))
    at_sequence = payload.index(b"x-opt-sequence-number") + len("x-opt-sequence-number") + 1
    payload[at_sequence : at_sequence + 8] = struct.pack(">q", link.next)
    at_offset = payload.index(b"x-opt-offset") + len("x-opt-offset") + 2
    payload[at_offset : at_offset + _OFFSET_DIGITS] = offset_of(link.next).encode()
    parts = [
        bytes(payload[at : at + frame_size - 64]) for at in range(0, len(payload), frame_size - 64)
    ]
    frames = []
    for index, part in enumerate(parts):
        frame = bytearray(_transfer(link, part, more=index + 1 < len(parts)))
        frame[17:21] = frame[23:27] = struct.pack(">I", delivery_id)
        frames.append(bytes(frame))
    return b"".join(frames), len(frames)


def main(argv: list[str]) -> None:
    """Serve one hub until standard input ends."""
    port, name, partitions, events, size = argv
    server = EventHubsServer(int(port))
    server.create(name, int(partitions), size=int(size))
    for number in range(int(partitions)):
        server.produce(name, number, int(events))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])

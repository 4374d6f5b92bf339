"""An in-memory Iggy server for the tests: the wire protocol of 0.9, as apache-iggy 0.9.0 speaks it.

Layouts: crate `iggy_binary_protocol` 0.11.0. It has what the tests need: log in, streams, topics, groups,
sending, polling by every strategy, offsets, purging, deleting segments; and faults on demand. What a
test asserts on it must also hold on a real server: see `IGGY_ADDRESS` in `tests/brokers/test_iggy.py`.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from typing_extensions import Self

from backlog_clearer.testing.servers.iggy_frames import ClientSession, receive, send, serve_old
from backlog_clearer.testing.servers.iggy_model import (
    HEADER,
    PartitionLog,
    RequestReader,
    Stream,
    Topic,
    batch_head,
    frames,
    free_id,
    join,
    leave,
    named,
    stream_head,
    topic_details,
    topic_head,
)

_REPLY, _EVICTION = 8, 13
_REGISTER, _READ, _LOGOUT = 1, 2, 3
_CREATE_STREAM, _DELETE_STREAM, _CREATE_TOPIC, _DELETE_TOPIC = 128, 130, 132, 134
_PURGE_TOPIC, _CREATE_PARTITIONS, _CREATE_GROUP = 135, 136, 139
_JOIN, _LEAVE, _SEND, _STORE, _DELETE = 148, 149, 160, 161, 162
_INVALID_CREDENTIALS, _INVALID_TOKEN, _INCOMPATIBLE = 9, 10, 14  # reasons of an eviction
_POLL, _POLL_OTHERWISE = 100, 1100  # faults of polls by offset do not affect the others
_STRATEGY_AT, _BY_OFFSET = 14, 1
_OK, _INVALID_COMMAND, _UNAUTHENTICATED, _UNAUTHORIZED = 0, 3, 40, 41
_NO_TOPIC, _NO_PARTITION, _NO_OFFSET, _INVALID_OFFSET = 2010, 3007, 3021, 4100
_NO_GROUP, _NO_MEMBER, _NOT_OWNED = 5000, 5006, 20

USER, PASSWORD, TOKEN = "iggy", "iggy-password", "iggypat-token"


class WireError(Exception):
    """A request that is answered with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class IggyServer:
    """The server, on separate threads; `port` is where it listens."""

    def __init__(self, *, first_partition: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.first_partition = first_partition
        self._tls = tls
        self.lock = threading.RLock()
        self.streams: dict[str, Stream] = {}
        self.requests: list[
            int
        ] = []  # codes of reads (1100: polls not by offset), operations of the rest
        self.stored: list[tuple[int, int]] = []  # (partition, offset) of every store
        self.faults: dict[int, deque[int]] = {}  # operation or code -> statuses to answer next
        self.answers: dict[int, deque[bytes]] = {}  # operation or code -> bodies to answer next
        self.cuts: set[int] = set()  # polls, counted over all connections, whose connection is cut
        self.hang_ups: deque[int] = deque()  # operations or codes, in order, that cut their connection
        self.lost_answers: deque[int] = deque()  # the same, once the request was carried out
        self.frame_bytes = 64 * 1024 * 1024  # a longer reply breaks its connection
        self.polls = 0
        self.forget_store = False  # answer a store without storing
        self.refused: set[int] = set()  # partitions whose offsets are not permitted to be written
        self.keeps_members = False  # whose connection ends, as a busy server does
        self.unrouted = 0  # polls to answer as if no partition had been looked at
        self.unread = 0  # polls to answer as if their partition were empty: reading it failed
        self.halt: threading.Event | None = None  # what polls wait for in the middle of their replies
        self.silent = False  # accept connections and answer nothing
        self.old = False  # speak the framing of servers before 0.9
        self.version = (0, 11, 0)
        self.nodes: list[tuple[int, int]] = []  # of a cluster: port, and role (0 leads, 1 follows)
        self._client_ids = iter(range(1, 1 << 30))
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop serving."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        client = ClientSession(next(self._client_ids))
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self.lock:
                self._connections.add(connection)
            with connection, connection.makefile("rb") as requests:
                (serve_old if self.old else self._converse)(client, connection, requests)
        with self.lock:
            self._connections.discard(connection)
            if not self.keeps_members:
                self._leave_all(client)

    def _converse(self, client: ClientSession, connection: socket.socket, requests: BinaryIO) -> None:
        while True:
            head = receive(requests, HEADER)
            body = receive(requests, struct.unpack_from("<I", head, 48)[0] - HEADER)
            if self.silent:
                continue
            with self.lock:
                answer = self._answer(client, head, body)
                if self.polls in self.cuts:
                    self.cuts.discard(self.polls)
                    return
            *rest, last = answer
            if rest and last and self.halt is not None:
                send(connection, [*rest, last[:1000]])
                self.halt.wait(20)
                rest, last = [], last[1000:]
            send(connection, [*rest, last])
            if answer[0][60] == _EVICTION:
                return

    def _leave_all(self, client: ClientSession) -> None:
        for stream in self.streams.values():
            for topic in stream.topics.values():
                for members in topic.groups.values():
                    leave(members, client.id, list(topic.logs))

    def _answer(self, client: ClientSession, head: bytes, body: bytes) -> list[bytes]:
        """The reply in parts, so that the messages are not copied."""
        operation = head[176]
        (code,) = struct.unpack_from("<I", head, 196)
        kind = code if operation == _READ else operation
        if kind == _POLL and body[-_STRATEGY_AT] != _BY_OFFSET:
            kind = _POLL_OTHERWISE
        self.requests.append(kind)
        if self.hang_ups and kind == self.hang_ups[0]:
            self.hang_ups.popleft()
            raise ConnectionError
        if operation == _REGISTER:
            return [self._login(client, head, body)]
        try:
            self._admit(client, kind)
            found = self._handle(client, kind, RequestReader(body))
        except WireError as error:
            return [self._reply(head, b"", error.status)]
        framed = operation in (_STORE, _DELETE) or 128 <= operation < _SEND
        more, client.frames = client.frames, b""
        if len(found) + len(more) > self.frame_bytes:
            raise ConnectionError
        if self.lost_answers and kind == self.lost_answers[0]:
            self.lost_answers.popleft()
            raise ConnectionError
        found = (struct.pack("<I", 0) if framed else b"") + found
        return [self._reply(head, found, _OK, len(more)), more]

    def _admit(self, client: ClientSession, kind: int) -> None:
        if not client.logged_in and kind not in (1, 12, _LOGOUT):
            raise WireError(_UNAUTHENTICATED)
        faults = self.faults.get(kind)
        if faults:
            raise WireError(faults.popleft())

    @staticmethod
    def _reply(head: bytes, body: bytes, status: int, more: int = 0) -> bytes:
        out = bytearray(HEADER)
        struct.pack_into("<I", out, 48, HEADER + len(body) + more)
        out[60] = _REPLY
        out[160:176] = head[128:144]
        struct.pack_into("<Q", out, 200, struct.unpack_from("<Q", head, 168)[0])
        out[208] = head[176]
        struct.pack_into("<I", out, 216, status)
        return bytes(out) + body

    def _evict(self, head: bytes, reason: int) -> bytes:
        out = bytearray(HEADER)
        struct.pack_into("<I", out, 48, HEADER)
        out[60] = _EVICTION
        out[128:144] = head[128:144]
        major, minor, patch = self.version
        packed = major << 20 | minor << 10 | patch
        struct.pack_into("<II", out, 144, packed, packed)
        out[255] = reason
        return bytes(out)

    def _login(self, client: ClientSession, head: bytes, body: bytes) -> bytes:
        fields = RequestReader(body)
        fields.take("I")
        fields.text()
        fields.text()
        if self.version != (0, 11, 0):
            return self._evict(head, _INCOMPATIBLE)
        first = fields.text()
        rest = body[fields.at :]
        by_password = len(rest) > 4 and rest[1 : 1 + rest[0]].decode(errors="replace") == PASSWORD
        if not (first == USER and by_password) and first != TOKEN:
            token = len(rest) <= 4
            return self._evict(head, _INVALID_TOKEN if token else _INVALID_CREDENTIALS)
        client.logged_in = True
        version = named("0.9.0")
        return self._reply(
            head, struct.pack("<I", 0) + struct.pack("<IQI", 1, 7, 11 << 10) + version, _OK
        )

    def _handle(self, client: ClientSession, kind: int, fields: RequestReader) -> bytes:
        handlers: dict[int, Callable[[ClientSession, RequestReader], bytes]] = {
            1: lambda _client, _fields: b"",
            12: self._cluster,
            _LOGOUT: lambda _client, _fields: b"",
            _POLL: self._poll,
            _POLL_OTHERWISE: self._poll,
            120: self._get_offset,
            200: self._get_stream,
            201: lambda _client, _fields: b"".join(map(stream_head, self.streams.values())),
            300: self._get_topic,
            600: self._get_group,
            601: self._get_groups,
            301: self._get_topics,
            _CREATE_STREAM: self._create_stream,
            _DELETE_STREAM: self._delete_stream,
            _CREATE_TOPIC: self._create_topic,
            _DELETE_TOPIC: self._delete_topic,
            _PURGE_TOPIC: self._purge,
            _CREATE_PARTITIONS: self._create_partitions,
            _CREATE_GROUP: self._create_group,
            _JOIN: self._join,
            _LEAVE: self._leave,
            _SEND: self._send,
            _STORE: self._store,
            _DELETE: self._delete,
        }
        handler = handlers.get(kind)
        if handler is None:
            raise WireError(_INVALID_COMMAND)
        if self.answers.get(kind):
            return self.answers[kind].popleft()
        return handler(client, fields)

    def _cluster(self, _client: ClientSession, _fields: RequestReader) -> bytes:
        def text(value: bytes) -> bytes:
            return struct.pack("<I", len(value)) + value

        nodes = self.nodes or [(self.port, 0)]
        return (
            text(b"a-cluster")
            + struct.pack("<I", len(nodes))
            + b"".join(
                text(b"node") + text(b"127.0.0.1") + struct.pack("<HHHHBB", port, 0, 0, 0, role, 0)
                for port, role in nodes
            )
        )

    def _stream(self, fields: RequestReader) -> Stream | None:
        ident = fields.ident()
        return next((item for item in self.streams.values() if ident in (item.id, item.name)), None)

    def _topic(self, fields: RequestReader) -> Topic | None:
        stream, ident = self._stream(fields), fields.ident()
        topics = stream.topics.values() if stream else ()
        return next((item for item in topics if ident in (item.id, item.name)), None)

    def topic(self, fields: RequestReader) -> Topic:
        """The topic that a request names."""
        found = self._topic(fields)
        if found is None:
            raise WireError(_NO_TOPIC)
        return found

    def _get_stream(self, _client: ClientSession, fields: RequestReader) -> bytes:
        found = self._stream(fields)
        if found is None:
            return b""
        return stream_head(found) + b"".join(map(topic_head, found.topics.values()))

    def _get_topic(self, _client: ClientSession, fields: RequestReader) -> bytes:
        found = self._topic(fields)
        return b"" if found is None else topic_details(found)

    def _create_stream(self, _client: ClientSession, fields: RequestReader) -> bytes:
        stream = Stream(free_id(self.streams.values()), fields.text())
        self.streams[stream.name] = stream
        return stream_head(stream)

    def _create_topic(self, _client: ClientSession, fields: RequestReader) -> bytes:
        stream, count, name = self._stream(fields), fields.take("I"), fields.text()
        if stream is None:
            raise WireError(1009)
        numbers = range(self.first_partition, self.first_partition + count)
        topic = Topic(
            free_id(stream.topics.values()), name, {number: PartitionLog() for number in numbers}
        )
        stream.topics[name] = topic
        return topic_details(topic)

    def _purge(self, _client: ClientSession, fields: RequestReader) -> bytes:
        topic = self.topic(fields)
        for log in topic.logs.values():
            log.purge()
        return b""

    def _get_topics(self, _client: ClientSession, fields: RequestReader) -> bytes:
        stream = self._stream(fields)
        topics = stream.topics.values() if stream else ()
        return struct.pack("<I", len(topics)) + b"".join(map(topic_head, topics))

    def _delete_stream(self, _client: ClientSession, fields: RequestReader) -> bytes:
        stream = self._stream(fields)
        if stream is None:
            raise WireError(1009)
        del self.streams[stream.name]
        return b""

    def _delete_topic(self, _client: ClientSession, fields: RequestReader) -> bytes:
        stream, ident = self._stream(fields), fields.ident()
        topics = stream.topics if stream else {}
        for name, topic in topics.items():
            if ident in (topic.id, name):
                del topics[name]
                return b""
        raise WireError(_NO_TOPIC)

    def _create_partitions(self, _client: ClientSession, fields: RequestReader) -> bytes:
        topic = self.topic(fields)
        topic.add(fields.take("I"))
        return b""

    def delete_up_to(self, stream: str, topic: str, number: int, offset: int) -> None:
        """Delete the messages before an offset, as retention does."""
        with self.lock:
            log = self.streams[stream].topics[topic].logs[number]
            log.first = max(log.first, min(offset, log.next))

    def _create_group(self, _client: ClientSession, fields: RequestReader) -> bytes:
        topic, name = self.topic(fields), fields.text()
        topic.groups[name] = {}
        return struct.pack("<III", len(topic.groups) - 1, len(topic.logs), 0) + named(name)

    def _members(self, fields: RequestReader) -> tuple[Topic, int, str, dict[int, list[int]]] | None:
        topic, ident = self.topic(fields), fields.ident()
        for number, (name, members) in enumerate(topic.groups.items()):
            if ident in (number, name):
                return topic, number, name, members
        return None

    def _get_group(self, _client: ClientSession, fields: RequestReader) -> bytes:
        found = self._members(fields)
        if found is None:
            return b""
        topic, number, name, members = found
        body = struct.pack("<III", number, len(topic.logs), len(members)) + named(name)
        for member, partitions in members.items():
            body += struct.pack(f"<II{len(partitions)}I", member, len(partitions), *partitions)
        return body

    def _get_groups(self, _client: ClientSession, fields: RequestReader) -> bytes:
        topic = self.topic(fields)
        return b"".join(
            struct.pack("<III", number, len(topic.logs), len(members)) + named(name)
            for number, (name, members) in enumerate(topic.groups.items())
        )

    def _group(self, fields: RequestReader) -> tuple[Topic, dict[int, list[int]]]:
        found = self._members(fields)
        if found is None:
            raise WireError(_NO_GROUP)
        return found[0], found[3]

    def _join(self, client: ClientSession, fields: RequestReader) -> bytes:
        topic, members = self._group(fields)
        join(members, client.id, list(topic.logs))
        return b""

    def _leave(self, client: ClientSession, fields: RequestReader) -> bytes:
        topic, members = self._group(fields)
        if client.id not in members:
            raise WireError(_NO_MEMBER)
        leave(members, client.id, list(topic.logs))
        return b""

    def _send(self, _client: ClientSession, fields: RequestReader) -> bytes:
        fields.take("I")
        topic = self.topic(fields)
        kind = fields.take("B")
        fields.take("B")
        number = fields.take("I") if kind == 2 else next(iter(topic.logs))
        log = topic.logs.get(number)
        if log is None:
            raise WireError(_NO_PARTITION)
        count = fields.take("I")
        (log.size,) = struct.unpack_from("<I", fields.data, fields.at + HEADER + 36)
        return struct.pack("<IIIIQ", 1, 0, topic.id, number, log.append(count))

    def _consumer(
        self, fields: RequestReader, writer: ClientSession | None = None
    ) -> tuple[PartitionLog, int, tuple[int, str]]:
        """The partition and the consumer of a request; only the partition's owner writes a group's offset."""
        kind, ident = fields.take("B"), fields.ident()
        topic = self.topic(fields)
        fields.take("B")
        number = fields.take("I")
        if kind == 2:
            numbered = enumerate(topic.groups)
            ident = next((name for number, name in numbered if ident in (number, name)), "")
            if not ident:
                raise WireError(_NO_GROUP)
            if writer is not None and number not in topic.groups[ident].get(writer.id, ()):
                raise WireError(_NOT_OWNED)
        if number not in topic.logs:
            raise WireError(_NO_PARTITION)
        return topic.logs[number], number, (kind, str(ident))

    def _poll(self, client: ClientSession, fields: RequestReader) -> bytes:
        log, number, key = self._consumer(fields)
        strategy, value, count = fields.take("B"), fields.take("Q"), fields.take("I")
        by_offset = strategy == _BY_OFFSET
        self.polls += by_offset
        if by_offset and self.unrouted:
            self.unrouted -= 1
            return struct.pack("<IQI", 0xFFFFFFFF, 0, 0)
        if by_offset and self.unread:
            self.unread -= 1
            return struct.pack("<IQI", number, 0, 0)
        start = {
            1: value,
            2: log.first_from(value),
            3: log.first,
            4: max(log.first, log.next - count),
            5: log.offsets.get(key, -1) + 1,
        }[strategy]
        start = max(start, log.first)
        head = struct.pack("<IQI", number, log.current, 0)
        parts, wanted = [], count
        for begin, end in log.ranges(start):
            taken = min(wanted, end - begin)
            if taken:
                body = frames(taken, log.size)
                parts += [batch_head(number, begin, taken, len(body), log.sent_at(begin)), body]
            wanted -= taken
        if not parts:
            return head
        client.frames = parts.pop()
        return struct.pack("<IQI", number, log.current, count - wanted) + b"".join(parts)

    def _get_offset(self, _client: ClientSession, fields: RequestReader) -> bytes:
        log, number, key = self._consumer(fields)
        found = log.offsets.get(key)
        return b"" if found is None else struct.pack("<IQQ", number, log.current, found)

    def _store(self, client: ClientSession, fields: RequestReader) -> bytes:
        log, number, key = self._consumer(fields, client)
        offset = fields.take("Q")
        if offset > log.current or not log.next:
            raise WireError(_INVALID_OFFSET)
        if number in self.refused:
            raise WireError(_UNAUTHORIZED)
        self.stored.append((number, offset))
        if not self.forget_store:
            log.offsets[key] = offset
        return b""

    def _delete(self, client: ClientSession, fields: RequestReader) -> bytes:
        log, _, key = self._consumer(fields, client)
        if log.offsets.pop(key, None) is None:
            raise WireError(_NO_OFFSET)
        return b""

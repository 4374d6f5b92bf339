"""A blocking connection to an Iggy server: requests, and as little of the replies as is needed.

The SDK returns each reply as an object, after two copies and a turn of two event loops, and does not report
why a connection over TLS failed. Here the messages in a poll's reply are dropped as they arrive: on Linux
they never leave the kernel. Frames and login: `iggy_binary_protocol` 0.11.0 (consensus/header.rs,
requests/users/login_register*.rs).
"""

from __future__ import annotations

import ssl
import struct
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.errors import SilentError, evicted, handshake_ended, tls_problem
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.poll_wire import Polled, PollWalk
from backlog_clearer.brokers.iggy.waits import TICK_S, Waits
from backlog_clearer.brokers.shared.sockets import DROP, Waitable, connect
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

TIMEOUT_S = 10.0  # without a byte of an answer
_CONNECT_S = 4.0  # to connect, and the same for a handshake
_REQUEST = struct.Struct("<48xI8xB67x16s24xQB7xQ4xI56x")
"""Size, command, client, number, operation, session, code."""
_REPLY = struct.Struct("<48xI8xB155xI36x")
"""Size, command, status."""
_EVICTION = struct.Struct("<144xII103xB")
"""The newest and the oldest protocol that the server accepts, and the reason."""
_AS_REQUEST, _AS_REPLY, _AS_EVICTION = 5, 8, 13  # commands
_SESSION = struct.Struct("<IIQ")  # results that failed (none), user, session
_LEAST_S = 0.001  # to wait: 0 would make the socket non-blocking
_DROP_BYTES = 1024 * 1024  # at a time
_WINDOW_BYTES = 64 * 1024  # to receive small batches in
_MOST_KEPT = 16 * 1024 * 1024  # of a reply that is kept as a whole
_WHOLE_TIMES = 3  # how many time-outs all of a reply may take; it should take a second
_SLOWEST = 64 * 1024  # bytes a second that a large reply takes at least


class ServerAddress(NamedTuple):
    """Where a server listens."""

    host: str  # an IP address, since the SDK resolves no names
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class IggyRequest(NamedTuple):
    """A request about one partition."""

    partition: Partition | None
    code: int
    payload: bytes
    walk: PollWalk | None = None  # for a poll, whose reply it reads
    operation: int = wire.READ


class Reply(NamedTuple):
    """A complete reply."""

    status: int  # 0: success
    body: bytes  # empty for a poll
    polled: Polled | None  # for a poll that succeeded
    size: int  # bytes after the frame's header


class IggyConnection(Waitable):
    """Connected and logged in. Requests are answered in their order; reads may be sent ahead.

    Methods raise `TransientError` if it breaks, `BrokerError` where the server ended the session for good.
    """

    def __init__(
        self,
        options: IggyOptions,
        address: ServerAddress,
        timeout_s: float = TIMEOUT_S,
        waits: Waits | None = None,
    ) -> None:
        """Connect and log in. Later, `timeout_s` without a byte of an answer counts as broken.

        Raises `BrokerError` for refused credentials, a certificate that does not verify, another protocol;
        `SilentError` where nothing is answered, `StoppedError` where `waits` end that because of a stop;
        `TransientError` otherwise.
        """
        self._name = f"{options.host}:{options.port}"
        if address.port != options.port:
            self._name += f" (its node {address})"
        self._timeout_s = timeout_s
        self._waits = waits or Waits()
        self._client = uuid.uuid4().bytes
        self._session = 0
        self._number = 1  # of the next write on the metadata, which is the only kind that uses one up
        self._walks: deque[PollWalk | None] = deque()  # of the replies to come; None: not a poll's
        self._head = bytearray(_REPLY.size)
        self._window = bytearray(_WINDOW_BYTES)
        self._dropped = bytearray(_DROP_BYTES)
        self._drop = 0 if options.tls else DROP
        name = options.tls_domain or options.host
        try:
            limit_s = max(_LEAST_S, self._waits.left_s(time.monotonic(), _CONNECT_S))
            self._socket = connect(*address, limit_s, tls_context(options), name)
        except ssl.SSLError as error:
            raise tls_problem(error, self._name) from None
        except OSError as error:
            # Only the text distinguishes a handshake that timed out from a connection that did.
            negotiating = isinstance(error, ConnectionResetError) or "handshake" in str(error)
            if options.tls and negotiating:
                raise handshake_ended(error, self._name) from None
            raise self._broken(error) from None
        self._begin()
        try:
            self._log_in(options)
        except BrokerError:
            self.close()
            raise

    def _begin(self) -> None:
        """Expect the next reply."""
        self._size: int | None = None  # of its body; None: its header is not complete
        self._status = self._at = 0  # `_at`: bytes received of the header, then of the body
        self._filled = 0  # bytes in the window, the last of which is the last one received
        self._heard = time.monotonic()
        self._waited = 0.0  # seconds for this reply

    def _broken(self, reason: object) -> TransientError:
        return TransientError(f"The connection to {self._name} broke: {reason}.")

    def _log_in(self, options: IggyOptions) -> None:
        secret = options.password or options.token
        if secret is None:
            self.exchange(wire.READ, wire.CLUSTER, b"")
            return
        reply = self.exchange(wire.REGISTER, 0, wire.login(options.username, secret.get_secret_value()))
        if reply.status or len(reply.body) < _SESSION.size:
            raise self._broken(f"the server did not complete the login (status {reply.status})")
        self._session = _SESSION.unpack_from(reply.body)[2]

    def ask(self, operation: int, code: int, payload: bytes, walk: PollWalk | None = None) -> None:
        """Send a request; a poll has a walk, which reads its reply."""
        self.ask_all((IggyRequest(None, code, payload, walk, operation),))

    def ask_all(self, requests: Sequence[IggyRequest]) -> None:
        """Send requests in one write, so that the server is woken up once for all of them."""
        if not self._walks:
            self._begin()
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.sendall(b"".join(map(self._frame, requests)))
        except OSError as error:
            raise self._broken(error) from None
        self._walks.extend(request.walk for request in requests)

    def _frame(self, request: IggyRequest) -> bytes:
        number = self._number if self._session else 0
        if request.operation in {wire.JOIN, wire.LEAVE}:
            self._number += 1
        size = _REQUEST.size + len(request.payload)
        head = _REQUEST.pack(
            size, _AS_REQUEST, self._client, number, request.operation, self._session, request.code
        )
        return head + request.payload

    def replay(self) -> None:
        """The next request is the last change of a membership again, under its number: it is done once."""
        self._number -= 1

    def part(self, operation: int, payload: bytes, most_s: float) -> None:
        """Send a last request, whose answer and those before it may take so long; see `parted`."""
        self._timeout_s, self._heard, self._waited = most_s, time.monotonic(), 0.0
        self.ask(operation, 0, payload)

    def parted(self, max_wait_s: float) -> bool:
        """Whether everything is answered, or no answer will come any more; waits so long at most."""
        until = time.monotonic() + max_wait_s
        try:
            while self._walks:
                if self.answer(max(0.0, until - time.monotonic())) is None:
                    return False
        except (BrokerError, wire.ReplyError):
            return True
        return True

    def exchange(
        self, operation: int, code: int, payload: bytes, walk: PollWalk | None = None
    ) -> Reply:
        """Send a request and wait for its reply, `TIMEOUT_S` at most; no other may be under way."""
        self.ask(operation, code, payload, walk)
        return self.next_answer(self._name)

    def next_answer(self, where: str, partition: Partition | None = None) -> Reply:
        """The reply to the oldest request, for which it waits `TIMEOUT_S` at most, and less at a stop.

        Raises like `answer`, and where there is none, with `where` in the text.
        """
        begun = time.monotonic()
        while (left_s := self._waits.left_s(begun, TIMEOUT_S)) > 0:
            reply = self.answer(min(left_s, TICK_S))
            if reply is not None:
                self._waits.answered(begun)
                return reply
        raise self._waits.silent(where, begun, partition)

    def answer(self, max_wait_s: float) -> Reply | None:
        """The reply to the oldest request; None: it has not arrived completely, call again.

        Waits up to `max_wait_s`. Raises `TransientError` also where no byte has arrived for too long, and
        `wire.ReplyError` for a poll's reply that cannot be.
        """
        begun = time.monotonic()
        until = begun + max_wait_s
        walk = self._walks[0]
        if self._waited > _WHOLE_TIMES * self._timeout_s + self._at / _SLOWEST:
            raise SilentError(f"{self._name} had not sent a whole answer after {self._waited:.0f} s.")
        try:
            self._socket.settimeout(max(max_wait_s, _LEAST_S))
            while self._size is None or self._at < self._size:
                if self._heard > until:
                    return None
                self._receive(walk)
        except TimeoutError:
            if time.monotonic() - self._heard > self._timeout_s:
                raise SilentError(
                    f"{self._name} did not answer within {self._timeout_s:.0f} s."
                ) from None
            return None
        except OSError as error:
            raise self._broken(error) from None
        finally:
            self._waited += time.monotonic() - begun
        status, size = self._status, self._size
        polled = walk.end(size) if walk is not None and not status else None
        body = b"" if polled else bytes(self._window[: self._filled])
        self._walks.popleft()
        self._begin()
        return Reply(status, body, polled, size)

    def _receive(self, walk: PollWalk | None) -> None:
        """Receive some of what has arrived."""
        if self._size is None:
            got = self._socket.recv_into(memoryview(self._head)[self._at :])
        elif walk is None or self._status:
            got = self._into_window(self._size - self._at)
        else:
            got = self._walk(walk, self._size)
        if not got:
            raise ConnectionResetError("the server closed it")
        self._at += got
        self._heard = time.monotonic()
        if self._size is None and self._at == len(self._head):
            self._read_head()

    def _read_head(self) -> None:
        size, command, self._status = _REPLY.unpack_from(self._head)
        if command == _AS_EVICTION:
            newest, oldest, reason = _EVICTION.unpack_from(self._head)
            raise evicted(reason, wire.version(oldest), wire.version(newest), self._name)
        if command != _AS_REPLY:
            raise SilentError(f"{self._name} answers in another protocol.")
        kept = self._walks[0] is None or bool(self._status)  # what is dropped costs no memory
        if size < _REPLY.size or (kept and size > _MOST_KEPT):
            raise ConnectionError(f"a frame of {size:,} bytes, which cannot be")
        self._size, self._at = size - _REPLY.size, 0

    def _into_window(self, size: int) -> int:
        """Receive at most so many bytes behind those in the window."""
        size = min(size, _WINDOW_BYTES)  # memory grows with what arrives, not with what is announced
        if self._filled + size > len(self._window):
            self._window += bytes(len(self._window))
        got = self._socket.recv_into(memoryview(self._window)[self._filled : self._filled + size])
        self._filled += got
        return got

    def _walk(self, walk: PollWalk, size: int) -> int:
        """Receive a part of a poll's reply of `size` bytes: read the headers, drop the rest."""
        skip = min(walk.at, size) - self._at
        if skip > 0:
            return self._socket.recv_into(self._dropped, min(skip, _DROP_BYTES), self._drop)
        want = walk.at + walk.length - self._at if walk.large else _WINDOW_BYTES - self._filled
        got = self._into_window(min(want, size - self._at))
        end = self._at + got
        walk.feed(self._window, end - self._filled, end)
        rest = max(0, end - walk.at)
        self._window[:rest] = self._window[self._filled - rest : self._filled]
        self._filled = rest
        return got


def tls_context(options: IggyOptions) -> ssl.SSLContext | None:
    """How connections verify the server; None: without TLS. Raises `OSError`."""
    return ssl.create_default_context(cafile=options.tls_ca_file) if options.tls else None

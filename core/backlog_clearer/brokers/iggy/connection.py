"""A blocking connection that polls, and keeps only the first bytes of each reply.

The SDK returns each reply as an object, after two copies and a turn of two event loops. Here the
messages are dropped as they arrive: on Linux they never leave the kernel. Frames and login:
`iggy_binary_protocol` 0.11.0 (consensus/header.rs, requests/users/login_register*.rs).
"""

from __future__ import annotations

import ssl
import struct
import time
import uuid
from typing import NamedTuple

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import TIMEOUT_S, ServerAddress, tls_context
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.shared.sockets import DROP, connect
from backlog_clearer.errors import BrokerError, TransientError

_REQUEST = struct.Struct("<48xI8xB67x16s24xQB7xQ4xI56x")
"""Size, command, client, number, operation, session, code."""
_REPLY = struct.Struct("<48xI8xB155xI36x")
"""Size, command, status."""
_AS_REQUEST, _AS_REPLY = 5, 8  # commands
_REGISTER, _READ = 1, 2  # operations
_SESSION = struct.Struct("<IIQ")  # results that failed (none), user, session
_MAX_BYTES = 64 * 1024 * 1024  # of a frame: the protocol's own limit
_LEAST_S = 0.001  # to wait: 0 would make the socket non-blocking
_DROP_BYTES = 1024 * 1024  # at a time


class Reply(NamedTuple):
    """What is kept of a reply."""

    status: int  # 0: success
    head: bytes  # the first bytes after the frame's header
    size: int  # bytes after that header


class PollConnection:
    """Connected and logged in; one request at a time. Methods raise `TransientError` if it breaks."""

    def __init__(self, options: IggyOptions, address: ServerAddress) -> None:
        """Connect and log in; the SDK logged in before, so that a wrong login is reported already.

        Raises `BrokerError` for a certificate that does not verify, `TransientError` otherwise.
        """
        self._name = f"{address.host}:{address.port}"
        self._client = uuid.uuid4().bytes
        self._session = 0
        self._head = bytearray(_REPLY.size + wire.POLLED_BYTES)
        self._dropped = bytearray(_DROP_BYTES)
        self._drop = 0 if options.tls else DROP
        name = options.tls_domain or options.host
        try:
            self._socket = connect(*address, TIMEOUT_S, tls_context(options), name)
        except ssl.SSLCertVerificationError as error:
            raise BrokerError(
                f"{self._name} has a certificate that does not verify ({error.verify_message}): check"
                " --tls-ca-file and --tls-domain."
            ) from None
        except OSError as error:
            raise self._broken(error) from None
        try:
            self._log_in(options)
        except TransientError:
            self.close()
            raise

    def _broken(self, reason: object) -> TransientError:
        return TransientError(f"The connection to {self._name} broke: {reason}.")

    def _log_in(self, options: IggyOptions) -> None:
        secret = options.password or options.token
        if secret is None:
            return
        self._send(_REGISTER, 0, wire.login(options.username, secret.get_secret_value()))
        reply = self.answer(TIMEOUT_S)
        if reply is None or reply.status or len(reply.head) < _SESSION.size:
            raise self._broken("the server did not complete the login")
        self._session = _SESSION.unpack_from(reply.head)[2]

    def ask(self, payload: bytes) -> None:
        """Send a poll."""
        self._send(_READ, wire.POLL, payload)

    def _send(self, operation: int, code: int, payload: bytes) -> None:
        number = 1 if self._session else 0  # a read has the number of the next write, and uses none up
        size = _REQUEST.size + len(payload)
        head = _REQUEST.pack(size, _AS_REQUEST, self._client, number, operation, self._session, code)
        self._at, self._size, self._heard = 0, 0, time.monotonic()
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.sendall(head + payload)
        except OSError as error:
            raise self._broken(error) from None

    def answer(self, max_wait_s: float) -> Reply | None:
        """The reply to the request; None: it has not arrived completely, call again.

        Waits up to `max_wait_s`. Raises `TransientError` also where no byte has arrived for `TIMEOUT_S`.
        """
        until = time.monotonic() + max_wait_s
        try:
            self._socket.settimeout(max(max_wait_s, _LEAST_S))
            while not self._size or self._at < self._size:
                if self._heard > until:
                    return None
                self._receive()
        except TimeoutError:
            if time.monotonic() - self._heard > TIMEOUT_S:
                raise self._broken(f"no answer within {TIMEOUT_S:.0f} s") from None
            return None
        except OSError as error:
            raise self._broken(error) from None
        command, status = _REPLY.unpack_from(self._head)[1:]
        if command != _AS_REPLY:
            raise self._broken(f"the server ended the session, reason {self._head[_REPLY.size - 1]}")
        kept = min(self._size, len(self._head))
        return Reply(status, bytes(self._head[_REPLY.size : kept]), self._size - _REPLY.size)

    def _receive(self) -> None:
        """Receive what has arrived: keep the head, drop the rest."""
        kept = min(self._size or len(self._head), len(self._head))
        if self._at < kept:
            got = self._socket.recv_into(memoryview(self._head)[self._at : kept])
        else:
            left = min(self._size - self._at, _DROP_BYTES)
            got = self._socket.recv_into(self._dropped, left, self._drop)
        if not got:
            raise ConnectionResetError("the server closed it")
        self._at += got
        self._heard = time.monotonic()
        if not self._size and self._at >= _REPLY.size:
            self._size = _REPLY.unpack_from(self._head)[0]
            if not _REPLY.size <= self._size <= _MAX_BYTES:
                raise ConnectionError(f"a frame of {self._size} bytes")

    def close(self) -> None:
        """Close; never raises."""
        self._socket.close()

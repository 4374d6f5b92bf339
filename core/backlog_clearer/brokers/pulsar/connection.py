"""One connection to one Pulsar broker or proxy, which keeps only the heads of entries.

Pulsar's client libraries decompress every batch, make an object of every message and hold thousands of
them. A drain needs only what precedes the payload: which entry it is, and how many messages it holds. So
the payload is dropped on arrival: on Linux it never leaves the kernel (bench/README-pulsar.md has the
figures).
"""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from typing import Any

from backlog_clearer import __version__
from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.errors import ANOTHER_NAME, RefusalError
from backlog_clearer.brokers.pulsar.service_url import Address
from backlog_clearer.brokers.pulsar.wire import (
    PROTOCOL_VERSION,
    Command,
    EntryHead,
    FrameError,
    Kind,
    error_name,
    frame,
    parse_head,
)
from backlog_clearer.brokers.shared.sockets import DROP, Waitable, connect
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.redaction.redact import redacted

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 10.0  # for an answer
_RECEIVE_S = 0.25  # longest wait for the rest of a frame
_PING_S = 30.0  # silence after which a PING is sent, as Pulsar's clients do
_BUFFER_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 16 * 1024 * 1024  # a message with larger metadata is refused
_DROP_BYTES = 1024 * 1024  # at a time
_MAX_MESSAGE = 5 * 1024 * 1024  # bytes, where the broker does not send its limit
_AROUND_MESSAGE = 1024 * 1024  # more than a frame has besides its message
_WHOLE_S = 3 * TIMEOUT_S  # for all of a frame; it should take a second
_SLOWEST = 64 * 1024  # bytes a second that a large frame takes at least
_LOGIN = 0  # in place of a request id, which CONNECT does not have
_CLIENT = f"backlog-clearer-{__version__}"


class Connection(Waitable):
    """Connected and logged in; for one thread.

    Every method raises `TransientError` if the connection breaks, with the address.
    """

    def __init__(
        self,
        address: Address,
        access: Access,
        *,
        through: str | None = None,
        ping_s: float | None = None,
    ) -> None:
        """Connect and log in; `through`: the broker ("host:port") that a proxy there is to connect to.

        After `ping_s` seconds of silence, if not as Pulsar's clients, a PING is sent; see `check`.

        Raises `RefusalError` where the broker refuses the login, `BrokerError` for its certificate.
        """
        self.address = address
        self._access = access
        self._ping_s = _PING_S if ping_s is None else min(_PING_S, ping_s)
        self._requests = itertools.count(1)
        self._answers: dict[int, Any] = {_LOGIN: None}  # bodies, by request; None: awaited
        self.broken_by: TransientError | None = None
        self.lost: set[int] = set()  # consumers that the broker has closed
        self._buffer = bytearray(_BUFFER_BYTES)
        self._at = self._end = 0  # received bytes that are not parsed yet
        self._skip = 0  # bytes of a payload that are not received yet
        self._held: EntryHead | None = None  # the entry whose payload that is
        self._largest = _MAX_MESSAGE + _AROUND_MESSAGE  # bytes of a frame
        self._waited = 0.0  # seconds for the rest of a frame that has begun
        self._dropped = bytearray(_DROP_BYTES)
        self._drop = 0 if address.tls else DROP
        self._received_at = self._asked_at = time.monotonic()
        self._socket = self._connect()
        try:
            self._log_in(through)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        address = self.address
        tls = self._access.tls if address.tls else None
        to = self._access.proxy or address
        try:
            # An SNI proxy connects to the host that the TLS handshake names.
            made = connect(to.host, to.port, CONNECT_TIMEOUT_S, tls, address.host)
        # A broker that shuts down, or a port without TLS; the second class: Python before 3.11.4
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise self._broken("it ended the TLS handshake (is this its port for TLS?)") from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or error.reason or "the handshake failed"
            raise BrokerError(
                f"{address} has a certificate that is not trusted, or does not use TLS ({reason}): check"
                f" --tls-trust-certs and --service-url{ANOTHER_NAME if 'mismatch' in reason.lower() else ''}."
            ) from None
        except OSError as error:
            raise self._broken(error) from None
        made.settimeout(_RECEIVE_S)
        return made

    def _broken(self, reason: object) -> TransientError:
        self.broken_by = TransientError(
            f"The connection to Pulsar at {self.address}{self._way()} broke: {reason}. Check --service-url,"
            " and that it is up."
        )
        return self.broken_by

    def _way(self) -> str:
        proxy = self._access.proxy
        return f" through the proxy {proxy} (--proxy-service-url)" if proxy else ""

    def _log_in(self, through: str | None) -> None:
        login = self._access.credentials()
        if through:
            login["proxy_to_broker_url"] = through
        self.send(
            frame(
                Kind.CONNECT,
                client_version=_CLIENT,
                protocol_version=PROTOCOL_VERSION,
                feature_flags={"auth_refresh": True, "no_auto_creation": True},
                **login,
            )
        )
        self.wait_for(_LOGIN)

    def ask(self, kind: Kind, **fields: Any) -> Any:
        """Send a request and wait for the body of its answer; drops messages that arrive meanwhile.

        Raises `RefusalError` for an answer that is an error.
        """
        return self.wait_for(self.request(kind, **fields))

    def request(self, kind: Kind, **fields: Any) -> int:
        """Send a request without waiting for its answer; returns its number."""
        number = next(self._requests)
        self._answers[number] = None
        self.send(frame(kind, request_id=number, **fields))
        return number

    def wait_for(self, number: int, until: float | None = None) -> Any:
        """The body of the answer to a request; see `ask`. `until`: a time.monotonic(), if not `TIMEOUT_S`."""
        begun = time.monotonic()
        until = begun + TIMEOUT_S if until is None else until
        while self._answers[number] is None:
            if self.broken_by:
                raise self.broken_by
            if self.next() is None and self._answers[number] is None:
                self.receive()
                if time.monotonic() > until:
                    raise self._broken(f"no answer within {time.monotonic() - begun:.0f} s")
        body = self._answers.pop(number)
        if "error" in body.DESCRIPTOR.fields_by_name and body.HasField("error"):
            raise self._refusal(body)
        return body

    def send(self, frames: bytes) -> None:
        """Send frames."""
        if self.broken_by:
            raise self.broken_by
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.sendall(frames)
            self._socket.settimeout(_RECEIVE_S)
        except OSError as error:
            raise self._broken(error) from None

    def receive(self) -> None:
        """Receive what has arrived, or wait a moment for it; payloads are dropped."""
        begun = time.monotonic()
        partly = bool(self._skip) or self._at < self._end
        try:
            self._receive(begun + _RECEIVE_S)
        finally:
            self._waited = self._waited + time.monotonic() - begun if partly else 0.0
        if self._waited > _WHOLE_S + (self._held.size / _SLOWEST if self._held else 0.0):
            raise self._broken(f"a frame was not complete after {self._waited:.0f} s")

    def _receive(self, until: float) -> None:
        try:
            while self._skip:
                size = min(self._skip, _DROP_BYTES)
                self._skip -= self._received(self._socket.recv_into(self._dropped, size, self._drop))
                if self._received_at > until:  # a large payload on a slow line
                    return
            if self._held:
                return
            self._make_room()
            free = memoryview(self._buffer)[self._end :]
            self._end += self._received(self._socket.recv_into(free))
        except TimeoutError:
            return
        except OSError as error:
            raise self._broken(error) from None

    def _received(self, size: int) -> int:
        if not size:
            hint = " (does its port want pulsar+ssl://?)" if _LOGIN in self._answers else ""
            raise ConnectionResetError(f"the other side closed it{hint}")
        self._received_at = time.monotonic()
        return size

    def _make_room(self) -> None:
        """Move an incomplete head to the start of the buffer, which grows if the head fills it."""
        rest = self._buffer[self._at : self._end]
        if len(rest) == len(self._buffer):
            if len(rest) >= _MAX_HEAD_BYTES:
                raise self._broken(f"metadata of more than {_MAX_HEAD_BYTES:,} bytes")
            self._buffer = bytearray(2 * len(rest))
        self._buffer[: len(rest)] = rest
        self._at, self._end = 0, len(rest)

    def next(self) -> EntryHead | None:
        """The next entry that was received whole; None: more has to be received.

        Other commands are handled on the way. Raises `RefusalError` for an error that answers no request.
        """
        if self._held and not self._skip:
            whole, self._held = self._held, None
            return whole
        while not self._skip:
            try:
                found = parse_head(self._buffer, self._at, self._end)
            except FrameError as error:
                raise self._broken(error) from None
            if found is None:
                return None
            if found.size > self._largest:
                raise self._broken(f"a frame of {found.size:,} bytes, more than a message can have")
            self._waited = 0.0
            self._at += found.size
            if self._at > self._end:
                self._skip = self._at - self._end
                self._at = self._end = 0
            if isinstance(found, EntryHead):
                if self._skip:
                    self._held = found
                    return None
                return found
            self._carry_out(found)
        return None

    def _carry_out(self, found: Command) -> None:
        kind, body = found.kind, found.body
        if kind == Kind.PING:
            self.send(frame(Kind.PONG))
        elif kind == Kind.AUTH_CHALLENGE:
            self._present_again()
        elif kind == Kind.CLOSE_CONSUMER:
            self.lost.add(body.consumer_id)
        elif kind == Kind.TOPIC_MIGRATED:
            raise self._broken("the topic is migrating to another cluster")
        elif kind == Kind.CONNECTED:
            self._answers[_LOGIN] = body
            self._largest = max(_MAX_MESSAGE, body.max_message_size) + _AROUND_MESSAGE
        elif (number := getattr(body, "request_id", None)) in self._answers:  # a PONG has none
            self._answers[number] = body
        elif kind == Kind.ERROR:
            raise self._refusal(body)

    def _refusal(self, body: Any) -> RefusalError:
        return RefusalError(error_name(body.error), redacted(body.message))

    def _present_again(self) -> None:
        """Present a token again: the one presented before expires."""
        self.send(
            frame(
                Kind.AUTH_RESPONSE,
                client_version=_CLIENT,
                protocol_version=PROTOCOL_VERSION,
                response=self._access.credentials(),
            )
        )

    def check(self) -> None:
        """After a long silence, send a PING; raise `TransientError` if it was not answered."""
        now = time.monotonic()
        if now - self._received_at > 2 * self._ping_s:
            raise self._broken(f"nothing was received for {2 * self._ping_s:.0f} s")
        if now - max(self._received_at, self._asked_at) > self._ping_s:
            self._asked_at = now
            self.send(frame(Kind.PING))

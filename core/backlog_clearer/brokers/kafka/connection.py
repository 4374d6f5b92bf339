"""One connection to one Kafka broker.

Messages and SASL mechanisms are kafka-python's, which supports every version of them. The socket is
opened here, because a Fetch response is walked while it arrives, and most of it is dropped: through
kafka-python's or aiokafka's transport the bytes are copied several times (bench/README-kafka.md has the
figures).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, refusal
from backlog_clearer.brokers.kafka.fetch_wire import framed
from backlog_clearer.brokers.kafka.library import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
    kafka,
)
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.brokers.shared.sockets import DROP, Waitable, connect
from backlog_clearer.errors import BrokerError, TransientError

_MOST_BYTES = 512 * 1024 * 1024  # a larger answer is not accepted
_MOST_KEPT = 32 * 1024 * 1024  # the same where all of an answer is kept in memory
_LEAST_DECODED = 64 * 1024  # an answer that becomes objects may have so many bytes,
_PER_BYTE = 32  # and so many for each byte of its request; objects take 40 times as much memory
MOST_DECODED = 6 * 1024 * 1024
"""Bytes of an answer whose size its request does not show: 100,000 partitions, or 50,000 groups."""
_PIECE_BYTES = 64 * 1024  # memory grows with what arrives, not with what is announced
_FRAME = struct.Struct(">ii")  # size (of what follows it), correlation id
FRAME_BYTES = _FRAME.size
_TICK_S = 0.25  # longest wait for the next bytes, after which time-outs are looked at
_TIMEVAL = struct.Struct("@ll")  # seconds and microseconds
_MAX_ROUNDS = 10  # of a SASL exchange


def _tags_end(response: Any, data: bytes, version: int) -> int:
    """Where an answer's body starts: flexible versions have tagged fields in its header (KIP-482).

    No broker sends any there. The answer to ApiVersions never has them (KIP-511).
    """
    if response is ApiVersionsResponse or not response.flexible_version_q(version):
        return 0
    if data[0]:
        raise ValueError("its header has tagged fields")
    return 1


class Connection(Waitable):
    """Connected and logged in; used by one thread. All methods raise `TransientError` if it breaks."""

    def __init__(self, host: str, port: int, options: KafkaOptions, settings: SocketSettings) -> None:
        """Connect, agree on versions, log in.

        Raises `TransientError` where the broker cannot be reached, `BrokerError` where it refuses the
        login, `HeadersUnsupportedError` where it has no version of a request in common with this module.
        """
        self.name = f"{host}:{port}"
        self.timeout_s = settings.timeout_s  # for a whole answer
        self._options = options
        self._settings = settings
        self._correlation = 0
        self._versions: dict[int, tuple[int, int]] = {}
        self._socket = self._connect(host, port)
        try:
            self._agree()
            if settings.mechanism is not None:
                self._log_in(host, settings.mechanism)
        except BaseException:
            self.close()
            raise

    def _connect(self, host: str, port: int) -> socket.socket:
        settings = self._settings
        try:
            made = connect(host, port, settings.connect_timeout_s, settings.tls)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or error.reason or "handshake failed"
            raise refusal(KafkaError(KafkaError._SSL, str(reason)), self._options) from None  # noqa: SLF001 librdkafka's public name
        except OSError as error:
            raise self._broken(error) from None
        self.drops = bool(DROP) and settings.tls is None
        if self.drops:  # then one call waits for all the bytes it asks for
            seconds = int(settings.timeout_s), int(settings.timeout_s % 1 * 1e6)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(*seconds))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, int(_TICK_S * 1e6)))
        self._flags = socket.MSG_WAITALL if self.drops else 0
        return made

    def _broken(self, error: Exception) -> TransientError:
        reason = str(error) or type(error).__name__
        return TransientError(f"The connection to Kafka at {self.name} failed: {reason}.")

    def _agree(self) -> None:
        answer = self.call(ApiVersionsRequest(version=0), ApiVersionsResponse, 0)
        self._versions = {
            item.api_key: (item.min_version, item.max_version) for item in answer.api_keys
        }

    def version(self, request: Any, lowest: int, highest: int) -> int:
        """The newest version of a request that the broker supports within these bounds.

        Raises `HeadersUnsupportedError` if there is none.
        """
        oldest, newest = self._versions.get(request.API_KEY, (0, -1))
        agreed = min(newest, highest, request.max_version)
        if agreed < max(oldest, lowest):
            raise HeadersUnsupportedError(
                f"the broker at {self.name} supports {request.__name__} {oldest} to {newest},"
                f" not {lowest} to {highest}"
            )
        return int(agreed)

    def offers(self, request: Any, version: int) -> bool:
        """Whether the broker supports this version of a request."""
        oldest, newest = self._versions.get(request.API_KEY, (0, -1))
        return oldest <= version <= newest

    def _log_in(self, host: str, name: str) -> None:
        """SASL as in KIP-43 and KIP-152: handshake, then tokens in separate frames."""
        # Only a login needs them, and they take long to load.
        from kafka.net.sasl import get_sasl_mechanism  # noqa: PLC0415
        from kafka.net.sasl.oauth import AbstractTokenProvider  # noqa: PLC0415

        if (provider := self._settings.login.get("sasl_oauth_token_provider")) is not None:
            AbstractTokenProvider.register(type(provider))
        version = self.version(SaslHandshakeRequest, 1, 1)
        answer = self.call(
            SaslHandshakeRequest(version=version, mechanism=name), SaslHandshakeResponse, version
        )
        if answer.error_code:
            raise self._refused(f"it offers SASL {', '.join(answer.mechanisms)}, not {name}")
        try:
            mechanism = get_sasl_mechanism(name)(host=host, **self._settings.login)
            for _ in range(_MAX_ROUNDS):
                if mechanism.is_done():
                    break
                mechanism.receive(self._exchange(mechanism.auth_bytes()))
            if not mechanism.is_authenticated():
                raise self._refused("the login did not end")
        except (kafka.errors.KafkaError, ValueError, KeyError, OSError) as error:
            raise self._refused(str(error)) from None

    def _exchange(self, token: bytes) -> bytes:
        version = self.version(SaslAuthenticateRequest, 0, 1)
        answer = self.call(
            SaslAuthenticateRequest(version=version, auth_bytes=token),
            SaslAuthenticateResponse,
            version,
        )
        if answer.error_code:
            raise self._refused(
                answer.error_message or kafka.errors.for_code(answer.error_code).__name__
            )
        return cast("bytes", answer.auth_bytes)

    def _refused(self, reason: str) -> BrokerError:
        return refusal(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, reason), self._options)

    def call(
        self,
        request: Any,
        response: Any,
        version: int,
        *,
        most: int | None = None,
        least_s: float = 0.0,
    ) -> Any:
        """Send a request and wait for its answer; both are messages of kafka-python.

        `most`: bytes that the answer may have; None: in proportion to its request. Raises `TransientError`
        where the whole answer does not arrive within `timeout_s`, or `least_s` where that is longer, or is not
        valid.
        """
        sent = self.send(request, version)
        answer = self._next_answer(most or _LEAST_DECODED + _PER_BYTE * sent, least_s)
        try:
            return response.decode(answer[_tags_end(response, answer, version) :], version=version)
        except (ValueError, struct.error, IndexError, EOFError) as error:
            raise TransientError(
                f"Kafka at {self.name} sent an answer that is not a valid {response.__name__}: {error}."
            ) from None

    def answers(self, requests: Sequence[bytes], version: int) -> Iterator[bytes]:
        """Send Fetch requests at once, a few dozens at most, and yield the bytes of their answers in order.

        Raises like `call`. A connection of which not all answers were taken has no further use.
        """
        before = self._correlation
        for request in requests:
            self.send_fetch(request, version)
        for number in range(before + 1, before + 1 + len(requests)):
            self._correlation = number  # of the answer that is awaited
            yield self._next_answer(_MOST_KEPT)

    def _next_answer(self, most: int, least_s: float = 0.0) -> bytes:
        seconds = max(self.timeout_s, least_s)
        until = time.monotonic() + seconds
        size = self.answer_size(self._whole(FRAME_BYTES, until, seconds), min(most, _MOST_KEPT))
        return self._whole(size, until, seconds)

    def _whole(self, size: int, until: float, seconds: float) -> bytes:
        """Wait for so many bytes, at most until then; `seconds`: how long the answer was awaited."""
        self.be_patient()
        whole = bytearray()
        piece = memoryview(bytearray(min(size, _PIECE_BYTES)))
        while len(whole) < size:
            if time.monotonic() >= until:
                raise self.late(seconds)
            got = self.gather(piece[: size - len(whole)], until)
            whole += piece[:got]
        return bytes(whole)

    def late(self, seconds: float) -> TransientError:
        """The error of an answer that is not there in time."""
        return self._broken(TimeoutError(f"no whole answer within {seconds:.0f} s"))

    def send(self, request: Any, version: int) -> int:
        """Send a request without waiting; returns its size in bytes."""
        self._correlation += 1
        request.API_VERSION = version
        request.with_header(correlation_id=self._correlation, client_id=self._settings.client_id)
        return self._send(request.encode(framed=True, header=True))

    def send_fetch(self, request: bytes, version: int) -> None:
        """Send a request of `fetch_wire.fetch_request` without waiting."""
        self._correlation += 1
        self._send(framed(request, version, self._correlation, self._settings.client_id))

    def _send(self, data: bytes) -> int:
        try:
            self._socket.settimeout(None if self.drops else self.timeout_s)
            self._socket.sendall(data)
        except BlockingIOError:
            raise self._broken(TimeoutError("timed out")) from None
        except OSError as error:
            raise self._broken(error) from None
        return len(data)

    def answer_size(self, frame: bytes, most: int = _MOST_BYTES) -> int:
        """How many bytes the answer to the last request has behind its header, the first `FRAME_BYTES`.

        Raises `TransientError` where it answers another request or has more than `most` bytes.
        """
        size, correlation = _FRAME.unpack(frame)
        size -= 4
        if not 0 <= size <= most:
            raise TransientError(
                f"Kafka at {self.name} announced an answer of {size} bytes, which is not valid (at most {most}"
                " are): the connection was disturbed, or this is not a port for this protocol."
            )
        if correlation != self._correlation:
            raise TransientError(
                f"Kafka at {self.name} sent an answer to another request ({size} bytes, answer {correlation}"
                f" to request {self._correlation})."
            )
        return int(size)

    def be_patient(self, *, patient: bool = True) -> None:
        """Whether `gather` and `drop` wait for bytes from now on."""
        seconds = None if self.drops else _TICK_S
        self._socket.settimeout(seconds if patient else 0.0)

    def gather(self, view: memoryview, until: float) -> int:
        """Receive bytes, where patient until `view` is full or the time comes; returns how many.

        `until`: a `time.monotonic()`; it may be passed by a quarter of a second.
        """
        receive, flags = self._socket.recv_into, self._flags
        got, size = 0, len(view)
        try:
            while got < size:
                count = receive(view[got:] if got else view, size - got, flags)
                if not count:
                    raise ConnectionResetError("the broker closed it")
                got += count
                if got < size and time.monotonic() >= until:
                    break
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            raise self._broken(error) from None
        return got

    def drop(self, sink: memoryview, size: int, head: memoryview) -> tuple[int, int]:
        """Drop the next `size` bytes in the kernel, and receive `head` behind them. Only where `drops`.

        `sink`: nothing is written to it. Returns how many bytes were dropped, and how many received; fewer
        than were asked for as with `gather`, or if `sink` is too small.
        """
        receive, flags = self._socket.recv_into, self._flags
        dropped = got = 0
        try:
            dropped = receive(sink, min(size, len(sink)), flags | DROP)
            if head and dropped == size:
                got = receive(head, 0, flags)
                if not got:
                    raise ConnectionResetError("the broker closed it")
        except BlockingIOError:
            return dropped, 0
        except OSError as error:
            raise self._broken(error) from None
        if not dropped:
            raise self._broken(ConnectionResetError("the broker closed it"))
        return dropped, got

"""One blocking connection to one Kafka broker.

Messages and SASL mechanisms are kafka-python's, which supports every version of them. The socket is
opened here, because a Fetch response has to arrive in a buffer that is used again: through
kafka-python's or aiokafka's transport the bytes are copied several times and arrive at a quarter of
the speed (bench/README-kafka.md has the figures).
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any, cast

import kafka.errors
from confluent_kafka import KafkaError
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, redact, refusal
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings
from backlog_clearer.brokers.shared.sockets import Waitable, connect
from backlog_clearer.errors import BrokerError, TransientError

MAX_FRAME = 512 * 1024 * 1024  # a larger response is not accepted
_INT32 = struct.Struct(">i")
_FRAME = struct.Struct(">ii")  # size (of what follows it), correlation id
_MAX_ROUNDS = 10  # of a SASL exchange


def _tags_end(response: Any, data: memoryview, version: int) -> int:
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
        made.settimeout(settings.timeout_s)
        return made

    def _broken(self, error: Exception) -> TransientError:
        reason = redact(str(error) or type(error).__name__, self._options)
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

    def _log_in(self, host: str, name: str) -> None:
        """SASL as in KIP-43 and KIP-152: handshake, then tokens in separate frames."""
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

    def call(self, request: Any, response: Any, version: int) -> Any:
        """Send a request and wait for its answer; both are messages of kafka-python."""
        self.send(request, version)
        buffer = bytearray()
        size, buffer = self.receive(buffer)
        try:
            data = memoryview(buffer)[:size]
            return response.decode(data[_tags_end(response, data, version) :], version=version)
        except (ValueError, struct.error, IndexError, EOFError) as error:
            raise BrokerError(
                f"Kafka at {self.name} sent an answer that is not a valid {response.__name__}: {error}."
            ) from None

    def send(self, request: Any, version: int) -> None:
        """Send a request without waiting."""
        self._correlation += 1
        request.API_VERSION = version
        request.with_header(correlation_id=self._correlation, client_id=self._settings.client_id)
        try:
            self._socket.sendall(request.encode(framed=True, header=True))
        except OSError as error:
            raise self._broken(error) from None

    def receive(self, buffer: bytearray) -> tuple[int, bytearray]:
        """Receive the answer to the last request: (its size, the buffer that holds it).

        The buffer given is used again unless the answer needs a larger one. The answer's own header
        is not part of it.
        """
        frame = bytearray(_FRAME.size)
        self._fill(memoryview(frame))
        size, correlation = _FRAME.unpack(frame)
        size -= 4
        if not 0 <= size <= MAX_FRAME or correlation != self._correlation:
            raise TransientError(
                f"Kafka at {self.name} sent an answer to another request ({size} bytes, answer {correlation}"
                f" to request {self._correlation})."
            )
        if size > len(buffer):
            buffer = bytearray(size)
        self._fill(memoryview(buffer)[:size])
        return size, buffer

    def _fill(self, view: memoryview) -> None:
        receive = self._socket.recv_into
        got, size = 0, len(view)
        try:
            while got < size:
                count = receive(view[got:])
                if not count:
                    raise ConnectionResetError("the broker closed it")
                got += count
        except OSError as error:
            raise self._broken(error) from None

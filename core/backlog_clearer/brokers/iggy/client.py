"""Iggy's SDK, one call at a time: bounded in time, its errors in this project's terms."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar, cast

from apache_iggy import AutoLogin, IggyClient, TcpConfig, TcpReconnectionConfig

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.errors import (
    ConnectionLostError,
    NoAnswerError,
    library,
    to_broker_error,
)
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.shared.sockets import connect
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

TIMEOUT_S = 10.0  # of every call
PROBE_S = 2.0
_OLD_PING = struct.pack("<II", 4, 1)  # length and command, as servers before 0.9 frame them
_OLD_PONG_BYTES = 8

_Result = TypeVar("_Result")


class ServerAddress(NamedTuple):
    """Where a server listens."""

    host: str  # an IP address, since the SDK resolves no names
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ident(value: str) -> int | str:
    """A number or a name as the SDK takes it."""
    return int(value) if value.isdecimal() else value


class SdkClient:
    """One connection of the SDK, shared by threads. Raises only `BrokerError` and `TransientError`."""

    def __init__(self, options: IggyOptions) -> None:
        self.options = options
        self.address = f"{options.host}:{options.port}"
        self.lock = threading.RLock()  # held over calls that belong together
        self._loop = asyncio.new_event_loop()
        self._client: IggyClient | None = None

    def connect(self) -> None:
        """Connect and log in; distinguishes a server of another protocol from an unreachable one."""
        options = self.options
        self._server = _resolved(options.host, options.port)
        try:
            client = IggyClient(
                TcpConfig(
                    server_address=str(self._server),
                    auto_login=_login(options),
                    # By default it reconnects without end; here only the engine retries.
                    reconnection=TcpReconnectionConfig(enabled=False, max_retries=0),
                    tls_enabled=options.tls,
                    tls_domain=options.tls_domain or options.host,
                    tls_ca_file=options.tls_ca_file,
                )
            )
        except (ValueError, RuntimeError) as error:
            raise BrokerError(f"{self.address}: {error}") from None
        try:
            self._run(client.connect, None)
            self._run(client.ping, None)
        except TransientError as error:
            raise self._unreachable(error) from None
        self._client = client

    def _unreachable(self, error: TransientError) -> BrokerError:
        if not isinstance(error, NoAnswerError):
            problem = _certificate_problem(self.options, self._server) if self.options.tls else None
            if problem:
                return BrokerError(
                    f"{self.address} has a certificate that does not verify ({problem}): check --tls,"
                    " --tls-ca-file and --tls-domain."
                )
            return TransientError(
                f"{error} Check --host, --port and --tls: nothing there answers {library()}."
            )
        if not self.options.tls and _speaks_old_protocol(self.options.host, self.options.port):
            return BrokerError(
                f"{self.address} is an Iggy server from before 0.9, whose protocol differs from that of"
                f" {library()}: upgrade the server."
            )
        return BrokerError(
            f"{self.address} accepts connections, but does not answer {library()}: the server has another"
            " version, is not an Iggy server, or needs --tls."
        )

    def call(
        self, begin: Callable[[IggyClient], Awaitable[_Result]], partition: Partition | None = None
    ) -> _Result:
        """Run one of the SDK's calls to its end, over a new connection if the last one was lost."""
        with self.lock:
            if self._client is None:
                self.connect()
            client = cast("IggyClient", self._client)
            try:
                return self._run(lambda: begin(client), partition)
            except (ConnectionLostError, NoAnswerError):
                self._client = None
                raise

    def _run(self, begin: Callable[[], Awaitable[_Result]], partition: Partition | None) -> _Result:
        async def bounded() -> _Result:
            return await asyncio.wait_for(begin(), TIMEOUT_S)

        try:
            return self._loop.run_until_complete(bounded())
        except asyncio.TimeoutError:
            raise NoAnswerError(
                f"{self.address} did not answer within {TIMEOUT_S:.0f} s.", partition
            ) from None
        except (RuntimeError, ConnectionError) as error:
            where = f"{self.address}, {partition}" if partition else self.address
            raise to_broker_error(str(error), where, partition) from None

    def request(self, code: int, payload: bytes, partition: Partition | None = None) -> bytes:
        """Send a command as bytes, and return the reply's."""
        return self.call(lambda iggy: iggy.send_binary_request(code, payload), partition)

    def leader(self) -> ServerAddress:
        """Where the SDK is connected to: a cluster's leader, or the server given by the options."""
        try:
            found = wire.leader(self.request(wire.CLUSTER, b""))
        except wire.ReplyError as error:
            raise BrokerError(f"{self.address}: {error}.") from None
        return self._server if found is None else ServerAddress(*found)

    def close(self) -> None:
        """Drop the connection for good; never raises."""
        self._client = None
        self._loop.close()


def _login(options: IggyOptions) -> AutoLogin:
    if options.token is not None:
        return AutoLogin.personal_access_token(options.token.get_secret_value())
    if options.username is not None and options.password is not None:
        return AutoLogin.username_password(options.username, options.password.get_secret_value())
    return AutoLogin.disabled()


def _resolved(host: str, port: int) -> ServerAddress:
    """IP address and port, since the SDK resolves no names; raises `BrokerError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise BrokerError(f"The name {host} cannot be resolved: check --host.") from None
    # IPv4 first: by default servers listen on 0.0.0.0.
    _, *_, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    return ServerAddress(str(address[0]), port)


def tls_context(options: IggyOptions) -> ssl.SSLContext | None:
    """How this project's own connections verify the server; None: without TLS. Raises `OSError`."""
    return ssl.create_default_context(cafile=options.tls_ca_file) if options.tls else None


def _certificate_problem(options: IggyOptions, server: ServerAddress) -> str | None:
    """Why the server's certificate does not verify, which the SDK does not report; None: not the cause."""
    name = options.tls_domain or options.host
    try:
        connect(*server, PROBE_S, tls_context(options), name).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError:
        return None
    return None


def _speaks_old_protocol(host: str, port: int) -> bool:
    """Whether a ping as servers before 0.9 frame it is answered."""
    try:
        with socket.create_connection((host, port), PROBE_S) as probe:
            probe.settimeout(PROBE_S)
            probe.sendall(_OLD_PING)
            return probe.recv(_OLD_PONG_BYTES) == bytes(_OLD_PONG_BYTES)
    except OSError:
        return False

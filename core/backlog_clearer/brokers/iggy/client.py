"""Iggy's own client, for one call at a time: bounded in time, its errors in the tool's terms."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import NamedTuple, TypeVar, cast

from apache_iggy import AutoLogin, IggyClient, TcpConfig, TcpReconnectionConfig

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

TIMEOUT_S = 10.0  # of every call
PROBE_S = 2.0
_OLD_PING = struct.pack("<II", 4, 1)  # length and command, as servers before 0.9 frame them
_OLD_PONG_BYTES = 8

_LOGIN = (
    "Invalid credentials",
    "Unauthenticated",
    "Invalid personal access token",
    "has expired",
    "Invalid username",
    "Invalid password",
)
_GONE = ("Disconnected", "Not connected", "Client shutdown")
_FORBIDDEN = "Unauthorized"
NOT_FOUND = "was not found"
_VERSION = "Incompatible binary protocol version"
INVALID_OFFSET = "Invalid offset"
OFFSET_NOT_FOUND = "Consumer offset for consumer"
# What the server says to who is no member, or not the owner: the first by its source, the second in fact.
NOT_OWNED = ("does not own partition", "Resource with key")

_Result = TypeVar("_Result")


class Address(NamedTuple):
    """Where a server listens."""

    host: str  # an IP address, where the library is to connect
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ident(value: str) -> int | str:
    """A number or a name as the client takes it."""
    return int(value) if value.isdecimal() else value


class Client:
    """One connection, shared by threads. Raises `BrokerError` and `TransientError` alone."""

    def __init__(self, options: IggyOptions) -> None:
        self.options = options
        self.address = f"{options.host}:{options.port}"
        self.lock = threading.RLock()  # held over calls that belong together
        self._loop = asyncio.new_event_loop()
        self._client: IggyClient | None = None

    def connect(self) -> None:
        """Connect and log in; tells a server of another protocol apart from one that is away."""
        options = self.options
        self._server = _resolved(options.host, options.port)
        try:
            client = IggyClient(
                TcpConfig(
                    server_address=str(self._server),
                    auto_login=_login(options),
                    # The default waits without end; the engine alone tries again.
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
        mine = f"apache-iggy {version('apache-iggy')}, which speaks to servers 0.9"
        if not self.options.tls and _speaks_old_protocol(self.options.host, self.options.port):
            return BrokerError(
                f"{self.address} is an Iggy server from before 0.9, whose protocol is another one than"
                f" that of {mine}: upgrade the server."
            )
        if isinstance(error, _SilentError):
            return BrokerError(
                f"{self.address} accepts connections, but does not answer {mine}: it is of another"
                " version, no Iggy server, or wants --tls."
            )
        return TransientError(
            f"{error} Check --host, --port and --tls: nothing there speaks to {mine}."
        )

    def call(
        self, begin: Callable[[IggyClient], Awaitable[_Result]], partition: Partition | None = None
    ) -> _Result:
        """Run one of the library's calls to its end, over a new connection if the last one broke."""
        with self.lock:
            if self._client is None:
                self.connect()
            client = cast("IggyClient", self._client)
            try:
                return self._run(lambda: begin(client), partition)
            except _GoneError:
                self._client = None
                raise

    def _run(self, begin: Callable[[], Awaitable[_Result]], partition: Partition | None) -> _Result:
        async def bounded() -> _Result:
            return await asyncio.wait_for(begin(), TIMEOUT_S)

        try:
            return self._loop.run_until_complete(bounded())
        except asyncio.TimeoutError:
            raise _SilentError(
                f"{self.address} did not answer within {TIMEOUT_S:.0f} s.", partition
            ) from None
        except (RuntimeError, ConnectionError) as error:
            raise self._failure(str(error), partition) from None

    def request(self, code: int, payload: bytes, partition: Partition | None = None) -> bytes:
        """Send a command as bytes, and return the reply's."""
        return self.call(lambda iggy: iggy.send_binary_request(code, payload), partition)

    def leader(self) -> Address:
        """Where the library is connected to: a cluster's leader, or the server as it was named."""
        try:
            found = wire.leader(self.request(wire.CLUSTER, b""))
        except wire.ReplyError as error:
            raise BrokerError(f"{self.address}: {error}.") from None
        return self._server if found is None else Address(*found)

    def _failure(self, said: str, partition: Partition | None) -> BrokerError:
        where = f"{self.address}{f', {partition}' if partition else ''}"
        if any(text in said for text in _LOGIN):
            return BrokerError(
                f"{where} refused the login ({said}): check --username and --password, or --token.",
                partition,
            )
        if _FORBIDDEN in said:
            return BrokerError(
                f"{where} does not permit this ({said}): the user needs to read the stream's topics"
                " and to poll messages.",
                partition,
            )
        if _VERSION in said:
            return BrokerError(
                f"{where} refuses the protocol of apache-iggy {version('apache-iggy')} ({said}).",
                partition,
            )
        if any(text in said for text in (NOT_FOUND, INVALID_OFFSET, *NOT_OWNED)):
            return BrokerError(f"{where}: {said}", partition)
        kind = _GoneError if said in _GONE else TransientError
        return kind(f"{where}: {said}", partition)

    def close(self) -> None:
        """Drop the connection, for good; never raises."""
        self._client = None
        self._loop.close()


class _GoneError(TransientError):
    """The library has no connection any more, and was told to open none by itself."""


class _SilentError(TransientError):
    """The server accepted a request and said nothing."""


def _login(options: IggyOptions) -> AutoLogin:
    if options.token is not None:
        return AutoLogin.personal_access_token(options.token.get_secret_value())
    if options.username is not None and options.password is not None:
        return AutoLogin.username_password(options.username, options.password.get_secret_value())
    return AutoLogin.disabled()


def _resolved(host: str, port: int) -> Address:
    """IP address and port, since the client resolves no names; raises `BrokerError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise BrokerError(f"The name {host} cannot be resolved: check --host.") from None
    # IPv4 first: servers listen on 0.0.0.0 unless told otherwise.
    _, *_, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    return Address(str(address[0]), port)


def _speaks_old_protocol(host: str, port: int) -> bool:
    """Whether a ping as it was framed before 0.9 is answered."""
    try:
        with socket.create_connection((host, port), PROBE_S) as probe:
            probe.settimeout(PROBE_S)
            probe.sendall(_OLD_PING)
            return probe.recv(_OLD_PONG_BYTES) == bytes(_OLD_PONG_BYTES)
    except OSError:
        return False

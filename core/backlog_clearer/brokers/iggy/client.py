"""One Iggy server or cluster: a connection for offsets and descriptions, and the SDK; both bounded in time.

The SDK lists streams and topics, where one is given by a number or does not exist. Everything else goes over
a connection of this project, so that most runs log in there only: a login with a password costs the server
some 30 ms of CPU (argon2), the SDK names no cause where TLS fails, and its process may abort at exit after a
failed login.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from apache_iggy import AutoLogin, IggyClient, TcpConfig, TcpReconnectionConfig

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.connection import (
    TIMEOUT_S,
    IggyConnection,
    IggyRequest,
    Reply,
    ServerAddress,
)
from backlog_clearer.brokers.iggy.errors import (
    ConnectionLostError,
    ContentionError,
    HandshakeError,
    SilentError,
    StoppedError,
    check_library,
    is_unknown_command,
    library,
    status_error,
    to_broker_error,
)
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.waits import TICK_S, Waits
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

PROBE_S = 2.0
_REPLAY_S = (0.02, 0.05, 0.1, 0.2)  # waits before a change of a membership is sent again
_PARTING_S = 60.0  # for the answer that a member has left, before its connection is closed
_LAST_PARTING_S = 2.0  # the same at the end of a run
_AT_ONCE = 64  # requests in one write; twice as many are under way
_OLD_PING = struct.pack("<II", 4, 1)  # length and command, as servers before 0.9 frame them
_OLD_PONG_BYTES = 8

_Result = TypeVar("_Result")


class IggyCluster:
    """Connections shared by threads. Raises only `ClearerError`s."""

    def __init__(self, options: IggyOptions) -> None:
        self.options = options
        self.address = f"{options.host}:{options.port}"
        self.lock = threading.RLock()  # held over calls that belong together
        self.waits = Waits()
        self._loop = asyncio.new_event_loop()
        self._sdk: IggyClient | None = None
        self._main: IggyConnection | None = None
        self._nodes: dict[ServerAddress, tuple[IggyConnection, bytes]] = {}
        self._leader: ServerAddress | None = None
        self._clustered = False
        self._joined: bytes | None = None  # the membership of the main connection
        self._parting: list[IggyConnection] = []  # given up, but not closed before their member left

    def connection(self) -> IggyConnection:
        """The connection to the leader, or to the only node; opened where there is none."""
        if self._main is not None:
            return self._main
        self._part(0.0)
        check_library()
        server = _resolved(self.options.host, self.options.port)
        try:
            main = self.opened(server)
        except TransientError as error:
            raise self._unreachable(error, server) from None
        try:
            reply = main.exchange(wire.READ, wire.CLUSTER, b"")
            if reply.status:
                raise status_error(reply.status, self.address, None)
            nodes, leader = wire.cluster(reply.body)
            self._clustered = nodes > 1
            self._leader = ServerAddress(*leader) if leader and self._clustered else server
            if self._leader != server:
                main.close()
                main = self.opened(self._leader)
        except wire.ReplyError as error:
            main.close()
            raise BrokerError(f"{self.address}: {error}.") from None
        except BrokerError:
            main.close()
            raise
        self._main = main
        return main

    def opened(self, address: ServerAddress, timeout_s: float = TIMEOUT_S) -> IggyConnection:
        """Another connection, for its caller to close; raises like `IggyConnection`."""
        return IggyConnection(self.options, address, timeout_s, self.waits)

    def leader(self) -> ServerAddress:
        """Where the polls go: a cluster's leader, or the server given by the options."""
        with self.lock:
            self.connection()
            return cast("ServerAddress", self._leader)

    def _unreachable(self, error: TransientError, server: ServerAddress) -> BrokerError:
        if isinstance(error, HandshakeError):
            return error
        if not isinstance(error, SilentError):
            return TransientError(
                f"{error} Check --host, --port and --tls: nothing there answers {library()}; older servers"
                " may close a connection like that."
            )
        if not self.options.tls and _speaks_old_protocol(server):
            return BrokerError(
                f"{self.address} is an Iggy server from before 0.9, whose protocol differs from"
                f" {wire.PROTOCOL}, that of {library()}: upgrade the server, or see docs/iggy.md for what can"
                " be done without."
            )
        return BrokerError(
            f"{self.address} accepts connections, but does not answer protocol {wire.PROTOCOL}, that of"
            f" {library()}: the server has another version, is not an Iggy server, or needs --tls."
        )

    def call(
        self, begin: Callable[[IggyClient], Awaitable[_Result]], partition: Partition | None = None
    ) -> _Result:
        """Run one of the SDK's calls to its end, over a new connection if the last one was lost."""
        with self.lock:
            if self._sdk is None:
                self.connection()
                self._sdk = self._connected()
            client = self._sdk
            try:
                return self._run(lambda: begin(client), partition)
            except (ConnectionLostError, SilentError, StoppedError):
                self._sdk = None
                self._forget()
                raise

    def _connected(self) -> IggyClient:
        options = self.options
        try:
            client = IggyClient(
                TcpConfig(
                    server_address=str(self._leader),
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
        self._run(client.connect, None)
        return client

    def _run(self, begin: Callable[[], Awaitable[_Result]], partition: Partition | None) -> _Result:
        begun = time.monotonic()

        async def bounded() -> _Result:
            answer = asyncio.ensure_future(begin())
            while not answer.done():
                left_s = self.waits.left_s(begun, TIMEOUT_S)
                if left_s <= 0:
                    answer.cancel()
                    raise self.waits.silent(self.address, begun, partition)
                await asyncio.wait({answer}, timeout=min(left_s, TICK_S))
            self.waits.answered(begun)
            return answer.result()

        try:
            return self._loop.run_until_complete(bounded())
        except (RuntimeError, ConnectionError) as error:
            raise to_broker_error(str(error), self.where(partition), partition) from None

    def where(self, partition: Partition | None) -> str:
        """The server and the partition, for an error's text."""
        return f"{self.address}, {partition}" if partition else self.address

    def answers(self, requests: Sequence[IggyRequest]) -> list[Reply | BrokerError]:
        """The replies to requests, in their order, or why one failed; many are under way at a time.

        Raises `TransientError` where the connection breaks.
        """
        found: list[Reply | BrokerError] = []
        with self.lock:
            connection = self.connection()
            try:
                for begin in range(0, len(requests) + _AT_ONCE, _AT_ONCE):
                    if begin < len(requests):
                        connection.ask_all(requests[begin : begin + _AT_ONCE])
                    due = requests[len(found) : begin]
                    found.extend(self._reply(connection, request.partition) for request in due)
            except BrokerError:
                self._forget()
                raise
        return found

    def _reply(self, connection: IggyConnection, partition: Partition | None) -> Reply | BrokerError:
        try:
            reply = connection.next_answer(self.where(partition), partition)
        except wire.ReplyError as error:
            raise TransientError(f"{self.where(partition)}: {error}.", partition) from None
        if reply.status:
            return status_error(reply.status, self.where(partition), partition)
        return reply

    def join(self, membership: bytes) -> None:
        """Become a member of a group; where that fails, the connection is given up, as in `leave`."""
        with self.lock:
            connection = self.connection()
            self._joined = membership
            self._membership(connection, wire.JOIN, membership)

    def leave(self, membership: bytes) -> None:
        """Leave a group."""
        with self.lock:
            if self._main is not None:
                self._membership(self._main, wire.LEAVE, membership)
                self._joined = None

    def _membership(self, connection: IggyConnection, operation: int, membership: bytes) -> None:
        """Change the membership; where the answer is an error, the server may have a member left.

        It is seen by other slices, each of which would wait for it. A busy server answers that the change is
        not committed (yet): then its clients are to send it again, on the same session and under its number
        (`submit_request_in_process` in the server's metadata.rs).
        """
        for wait_s in (*_REPLAY_S, None):
            try:
                self._write(connection, operation, membership, None)
            except ContentionError:
                if wait_s is None:
                    self._forget()
                    raise
                time.sleep(wait_s)
                connection.replay()
            except BrokerError:
                self._forget()
                raise
            else:
                return

    @property
    def clustered(self) -> bool:
        """Whether there are several nodes, of which each may lead other partitions."""
        return self._clustered

    def write(
        self, operation: int, payload: bytes, about: bytes, partition: Partition
    ) -> wire.StoredOffset | None:
        """Write an offset where the partition's leader is, and return the stored offset there afterwards.

        `about` is the request's beginning, which names the consumer and the partition.
        """
        with self.lock:
            connection = self._primary(about, partition) if self._clustered else self.connection()
            self._write(connection, operation, payload, partition)
            reply = self._exchange(connection, wire.READ, wire.GET_OFFSET, about, partition)
            try:
                return wire.stored(reply.body)
            except wire.ReplyError as error:
                raise TransientError(f"{self.where(partition)}: {error}.", partition) from None

    def _write(
        self, connection: IggyConnection, operation: int, payload: bytes, partition: Partition | None
    ) -> None:
        reply = self._exchange(connection, operation, 0, payload, partition)
        try:
            refused = wire.result(reply.body)
        except wire.ReplyError as error:
            raise TransientError(f"{self.where(partition)}: {error}.", partition) from None
        if refused:
            raise status_error(refused, self.where(partition), partition)

    def _exchange(
        self,
        connection: IggyConnection,
        operation: int,
        code: int,
        payload: bytes,
        partition: Partition | None,
    ) -> Reply:
        try:
            reply = connection.exchange(operation, code, payload)
        except BrokerError as error:
            self._forget()
            error.partition = error.partition or partition
            raise
        if reply.status:
            raise status_error(reply.status, self.where(partition), partition)
        return reply

    def _primary(self, about: bytes, partition: Partition) -> IggyConnection:
        """A connection to the node that leads a partition, which writes for the main one's membership.

        As the SDK's typed calls do it (`poll_routing.rs` of the crate `iggy` 0.11.0).
        """
        main = self.connection()
        try:
            reply = self._exchange(main, wire.READ, wire.OFFSET_ROUTE, about, partition)
            route = wire.route(reply.body)
        except wire.ReplyError as error:
            raise TransientError(f"{self.where(partition)}: {error}.", partition) from None
        except BrokerError as error:
            if is_unknown_command(error):  # a server before routes: its leader takes all offsets
                return main
            raise
        address = ServerAddress(route.host, route.port)
        if address == self._leader:
            return main
        known, session = self._nodes.get(address, (None, b""))
        if known is None:
            known = self.opened(address)
            self._nodes[address] = known, b""
        if session != route.session:
            self._exchange(known, wire.READ, wire.ATTACH, route.session, partition)
            self._nodes[address] = known, route.session
        return known

    def _forget(self) -> None:
        """Give up the connections for offsets; the next request opens new ones.

        A busy server keeps a member for good whose connection is closed (its "disconnect logout" is refused,
        as a real server of 0.9 logs), so that one is told to leave, and closed once it has answered.
        """
        connections = [connection for connection, _ in self._nodes.values()]
        self._nodes.clear()
        main, self._main = self._main, None
        joined, self._joined = self._joined, None
        if main is not None and joined is not None:
            with suppress(BrokerError):
                main.part(wire.LEAVE, joined, _PARTING_S)
                self._parting.append(main)
                main = None
        for connection in [*connections, main]:
            if connection is not None:
                connection.close()

    def _part(self, max_wait_s: float) -> None:
        """Close the connections that were given up and whose members have left."""
        until = time.monotonic() + max_wait_s
        for connection in list(self._parting):
            if connection.parted(max(0.0, until - time.monotonic())):
                self._parting.remove(connection)
                connection.close()

    def close(self) -> None:
        """Drop the connections for good; never raises."""
        self._forget()
        self._part(0.0 if self.waits.stopping else _LAST_PARTING_S)
        for connection in self._parting:
            connection.close()
        self._parting.clear()
        self._sdk = None
        with suppress(RuntimeError):
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


def _speaks_old_protocol(server: ServerAddress) -> bool:
    """Whether a ping as servers before 0.9 frame it is answered."""
    try:
        with socket.create_connection(server, PROBE_S) as probe:
            probe.settimeout(PROBE_S)
            probe.sendall(_OLD_PING)
            return probe.recv(_OLD_PONG_BYTES) == bytes(_OLD_PONG_BYTES)
    except OSError:
        return False

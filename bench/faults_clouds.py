"""Iggy, Event Hubs and Pub/Sub for the bench of faults: a real Iggy where IGGY_SERVER names its program."""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apache_iggy import AutoLogin, IggyClient, SendMessage, TcpConfig
from azure.storage.blob import ContainerClient

from backlog_clearer.testing.servers import iggy as iggy_stand_in
from backlog_clearer.testing.servers import iggy_process
from backlog_clearer.testing.servers.azurite import Azurite, azurite
from backlog_clearer.testing.servers.eventhubs import KEY, EventHubsServer
from backlog_clearer.testing.servers.iggy import IggyServer
from backlog_clearer.testing.servers.iggy_process import IggyProcess
from backlog_clearer.testing.servers.pubsub import PubSubServer
from bench.faults_relay import AMQP, BYTES, HTTP2, IGGY, Framing
from bench.faults_systems import VARIABLE, Address, Backlog, System

_GROUP = "billing"
_CREATE_TOPIC, _GET_OFFSET = 302, 120  # codes of Iggy's requests


def _identifier(value: str) -> bytes:
    return bytes([2, len(value)]) + value.encode()


class IggyJudge:
    """Iggy's own client; for one thread at a time."""

    def __init__(self, address: str, user: str, secret: str) -> None:
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        login = AutoLogin.username_password(user, secret)
        self._client = IggyClient(TcpConfig(server_address=address, auto_login=login))
        self.call("connect")

    def call(self, method: str, *args: Any) -> Any:
        """One call to its end."""

        async def work() -> Any:
            return await asyncio.wait_for(getattr(self._client, method)(*args), 30)

        with self._lock:
            return self._loop.run_until_complete(work())


class IggyBacklog(Backlog):
    """A consumer group on a topic of three partitions."""

    def __init__(self, system: IggySystem, size: int) -> None:
        self.system = system
        self.stream = f"faults-{uuid.uuid4().hex[:8]}"
        call = system.judge.call
        call("create_stream", self.stream)
        payload = _identifier(self.stream) + (3).to_bytes(4, "little") + b"\x06orders"
        call("send_binary_request", _CREATE_TOPIC, payload)
        call("create_consumer_group", self.stream, "orders", _GROUP)
        self.numbers = sorted(part.id for part in call("get_topic", self.stream, "orders").partitions)
        for number in self.numbers:
            for _ in range(4):
                batch = [SendMessage(b"x" * 100) for _ in range(size // 12)]
                call("send_messages", self.stream, "orders", number, batch)
        self.total = sum(self.left().values())

    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        host, port = routes.get("broker", self.system.address)
        return [
            "iggy", "--host", host, "--port", str(port), "--stream-id", self.stream,
            "--topic-id", "orders", "--group-id", _GROUP, "--username", self.system.user,
            "--password", f"${{env:{VARIABLE}}}",
        ]  # fmt: skip

    def left(self) -> dict[int, int]:
        call = self.system.judge.call
        logs = {part.id: part for part in call("get_topic", self.stream, "orders").partitions}
        found = {}
        for index, number in enumerate(self.numbers):
            names = map(_identifier, (_GROUP, self.stream, "orders"))
            asked = b"\x02" + b"".join(names) + b"\x01" + number.to_bytes(4, "little")
            reply = call("send_binary_request", _GET_OFFSET, asked)
            stored = int.from_bytes(reply[12:20], "little") if reply else -1
            found[index] = logs[number].current_offset - stored if logs[number].messages_count else 0
        return found


class IggySystem(System):
    """One node."""

    name = "iggy"

    def __init__(self, port: int, user: str, secret: str, *, real: bool) -> None:
        self.address = ("127.0.0.1", port)
        self.user, self.secret = user, secret
        self.name = "iggy" if real else "iggy (stand-in)"
        self.judge = IggyJudge(f"127.0.0.1:{port}", user, secret)

    @property
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        return {"broker": (self.address, IGGY)}

    def backlog(self, variant: str, size: int) -> IggyBacklog:
        del variant
        return IggyBacklog(self, size)


@contextmanager
def iggy(folder: Path) -> Iterator[IggySystem]:
    """The real server where its program is given, otherwise the stand-in."""
    if iggy_process.PROGRAM is None:
        with IggyServer() as server:
            yield IggySystem(server.port, iggy_stand_in.USER, iggy_stand_in.PASSWORD, real=False)
        return
    (folder / "iggy").mkdir()
    with IggyProcess(folder / "iggy") as process:
        yield IggySystem(process.port, iggy_process.ROOT, iggy_process.ROOT_SECRET, real=True)


class EventHubsBacklog(Backlog):
    """An Event Hub of three partitions, with checkpoints in a container."""

    def __init__(self, system: EventHubsSystem, size: int) -> None:
        self.system = system
        self.hub = f"faults-{uuid.uuid4().hex[:8]}"
        self.log = system.server.create(self.hub, 3)
        for number in range(3):
            system.server.produce(self.hub, number, size // 3)
        self.container = ContainerClient.from_connection_string(
            system.storage.connection_string, self.hub
        )
        self.container.create_container()
        self.total = sum(self.left().values())

    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        host, port = routes.get("broker", self.system.routes["broker"][0])
        return [
            "eventhubs", "--connection-string", f"${{env:{VARIABLE}}}",
            "--eventhub-name", self.hub, "--checkpoint-store", "${env:FAULTS_STORE}",
            "--checkpoint-container", self.hub, "--custom-endpoint-address", f"sb://{host}:{port}",
        ]  # fmt: skip

    def environment(self, routes: Mapping[str, Address]) -> dict[str, str]:
        text = self.system.storage.connection_string
        if "store" in routes:
            old = self.system.routes["store"][0][1]
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{routes['store'][1]}")
        return {"FAULTS_STORE": text, VARIABLE: self.system.server.connection_string()}

    def left(self) -> dict[int, int]:
        prefix = f"{self.system.server.namespace}/{self.hub}/$default/checkpoint/".lower()
        stored = {
            int(blob.name.removeprefix(prefix)): int((blob.metadata or {})["sequencenumber"])
            for blob in self.container.list_blobs(prefix, include=["metadata"])
        }
        return {
            number: log.end - (stored.get(number, log.begin - 1) + 1)
            for number, log in enumerate(self.log.partitions)
        }


class EventHubsSystem(System):
    """The test server, with checkpoints in Azurite."""

    name = "eventhubs (stand-in)"
    secret = KEY

    def __init__(self, server: EventHubsServer, storage: Azurite) -> None:
        self.server, self.storage = server, storage

    @property
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        store = urlsplit(self.storage.blob_url)
        return {
            "broker": (("127.0.0.1", self.server.port), AMQP),
            "store": (("127.0.0.1", int(store.port or 0)), BYTES),
        }

    def backlog(self, variant: str, size: int) -> EventHubsBacklog:
        del variant
        return EventHubsBacklog(self, size)


@contextmanager
def eventhubs(folder: Path) -> Iterator[EventHubsSystem]:
    """The test server and Azurite."""
    (folder / "azurite").mkdir()
    with ExitStack() as stack:
        storage = stack.enter_context(azurite(folder / "azurite"))
        server = EventHubsServer()
        stack.callback(server.stop)
        yield EventHubsSystem(server, storage)


class PubSubBacklog(Backlog):
    """A subscription with a snapshot for its undo."""

    _numbers = itertools.count()

    def __init__(self, system: PubSubSystem, size: int) -> None:
        self.system = system
        name = f"faults-{next(self._numbers)}"
        self.subscription = f"projects/test/subscriptions/{name}"
        self.sub = system.server.create(name)
        system.server.publish(self.sub, size)
        self.total = size

    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        del routes
        return [
            "googlepubsub", "--subscription-id", self.subscription, "--monitoring-endpoint",
            f"http://{self.system.server.address}", "--verify-seconds", "5",
            "--stream-ack-deadline-seconds", "10",
        ]  # fmt: skip

    def environment(self, routes: Mapping[str, Address]) -> dict[str, str]:
        host, port = routes.get("broker", self.system.routes["broker"][0])
        return {"PUBSUB_EMULATOR_HOST": f"{host}:{port}"}

    def left(self) -> dict[int, int]:
        with self.system.server.changed:
            return {0: self.sub.unacked()}


class PubSubSystem(System):
    """The test server; an emulator takes no login, so no secret is planted."""

    name = "googlepubsub (stand-in)"
    settle_s = 11.0  # leases of 10 s

    def __init__(self, server: PubSubServer) -> None:
        self.server = server
        server.truthful()

    @property
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        host, _, port = self.server.address.partition(":")
        return {"broker": ((host, int(port)), HTTP2)}

    def backlog(self, variant: str, size: int) -> PubSubBacklog:
        del variant
        return PubSubBacklog(self, min(size, 3000))


@contextmanager
def googlepubsub(folder: Path) -> Iterator[PubSubSystem]:
    """The test server."""
    del folder
    with PubSubServer() as server:
        yield PubSubSystem(server)

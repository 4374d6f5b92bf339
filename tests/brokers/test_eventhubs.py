"""Event Hubs through the contract suite: the real SDK, an in-repo AMQP server, and real Azurite."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from azure.eventhub import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
from azure.storage.blob import ContainerClient

from backlog_clearer.brokers.eventhubs import connection, counting, links, management
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.source import EventHubsSource, open_source
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.bench import Approach
from backlog_clearer.testing.servers.azurite import KEY as STORAGE_KEY
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import KEY, EventHubsServer, EventLog, offset_of
from backlog_clearer.testing.support import wait_until

TIMEOUT_S = 4.0  # of requests in the contract; a third of the usual
WRONG_KEY = "b25lIHRoYXQgaXMgbm90IHJpZ2h0"


class EventHubsBench(Bench):
    """One Event Hub on the AMQP server, with its checkpoints in a container of Azurite."""

    system = "eventhubs"
    missing = "nosuchhub"
    cuts_by_time = cuts_by_count = shows_age = True
    notices_silence = True

    def __init__(self, server: EventHubsServer, storage: Azurite) -> None:
        self.server = server
        self.storage = storage
        self.hub = f"Orders-{uuid.uuid4().hex[:8]}"
        self.log = server.create(self.hub, self.partitions)
        self.container = ContainerClient.from_connection_string(
            storage.connection_string, f"checkpoints-{uuid.uuid4().hex[:8]}"
        )
        self.container.create_container()
        self.log.groups.add("shipping")
        self.endpoint: tuple[str, int] | None = ("127.0.0.1", server.port)
        self.secrets = (KEY, STORAGE_KEY, WRONG_KEY)

    def options_of(self, **changes: Any) -> EventHubsOptions:
        """The adapter's options for this Event Hub."""
        values = {
            "connection_string": self.server.connection_string(),
            "eventhub_name": self.hub,
            "checkpoint_store": self.storage.connection_string,
            "checkpoint_container": self.container.container_name,
        }
        return build(EventHubsOptions, {**values, **changes})

    def source(self, run: RunOptions, run_id: str = "contract") -> EventHubsSource:
        return open_source(self.options_of(), run, run_id)

    def missing_source(self, run: RunOptions) -> EventHubsSource:
        return open_source(self.options_of(eventhub_name=self.missing), run, "contract")

    def source_via(self, run: RunOptions, host: str, port: int) -> EventHubsSource:
        options = self.options_of(custom_endpoint_address=f"sb://{host}:{port}")
        return open_source(options, run, "contract")

    def approaches(self) -> Mapping[str, Approach]:
        return {
            **super().approaches(),
            "store": Approach("127.0.0.1", self.storage.blob_port, self.source_storing),
        }

    def source_storing(self, run: RunOptions, host: str, port: int) -> EventHubsSource:
        """The adapter, with another address of the checkpoint store."""
        text = self.storage.connection_string.replace(
            f"127.0.0.1:{self.storage.blob_port}", f"{host}:{port}"
        )
        return open_source(self.options_of(checkpoint_store=text), run, "contract")

    def other_source(self, run: RunOptions) -> EventHubsSource:
        return open_source(self.options_of(consumer_group="shipping"), run, "contract")

    def denied_source(self, run: RunOptions) -> EventHubsSource:
        text = self.server.connection_string(WRONG_KEY)
        return open_source(self.options_of(connection_string=text), run, "contract")

    def abandon(self, count: int) -> None:
        received: list[Any] = []
        client = EventHubConsumerClient.from_connection_string(
            self.server.connection_string(), "$Default", eventhub_name=self.hub
        )

        def note(_context: Any, event: Any) -> None:
            received.append(event)
            if len(received) >= count:
                client.close()

        client.receive(note, partition_id="0", starting_position="-1")

    def advance(self, number: int, to: int) -> None:
        metadata = {"offset": offset_of(to - 1), "sequencenumber": str(to - 1)}
        self.container.upload_blob(self.checkpoint(number), b"", metadata=metadata, overwrite=True)

    @contextmanager
    def refusing(self, number: int) -> Iterator[None]:
        if number not in self.checkpoints():
            self.advance(number, 0)
        lease = self.container.get_blob_client(self.checkpoint(number)).acquire_lease()
        yield
        lease.release()

    def recreate(self) -> None:
        self.log = self.server.recreate(self.hub)
        for name in self.container.list_blob_names():
            self.container.delete_blob(name)

    @contextmanager
    def breaking(self, number: int) -> Iterator[Callable[[], None]]:
        leases: list[Any] = []

        def breaks() -> None:
            self.server.disable(self.hub, number)
            name = self.checkpoint(number)
            if number not in self.checkpoints():  # a skip only writes: it fails where that is refused
                self.container.upload_blob(name, b"", metadata={"offset": "-1", "sequencenumber": "-1"})
            leases.append(self.container.get_blob_client(name).acquire_lease())

        yield breaks
        self.server.faults.disabled.clear()
        for lease in leases:
            lease.release()

    def add_partition(self) -> int:
        self.log.partitions.append(EventLog())
        return len(self.log.partitions) - 1

    def checkpoint(self, number: int) -> str:
        """The name of a partition's checkpoint blob."""
        return f"{self.server.namespace}/{self.hub}/$Default/checkpoint/{number}".lower()

    def produce(self, number: int, count: int) -> None:
        self.server.produce(self.hub, number, count)

    def checkpoints(self) -> dict[int, dict[str, str]]:
        """The checkpoint blobs' metadata, read with only the storage library."""
        prefix = f"{self.server.namespace}/{self.hub}/$default/checkpoint/".lower()
        return {
            int(blob.name.removeprefix(prefix)): blob.metadata or {}
            for blob in self.container.list_blobs(prefix, include=["metadata"])
        }

    def left(self) -> dict[int, int]:
        stored = self.checkpoints()
        return {
            number: log.end - max(log.begin, int(stored[number]["sequencenumber"]) + 1)
            if number in stored
            else log.end - log.begin
            for number, log in enumerate(self.log.partitions)
        }

    def exists(self, name: str) -> bool:
        return name in self.server.hubs or any(name in n for n in self.container.list_blob_names())

    @property
    def missing_name(self) -> str:
        return self.missing

    @contextmanager
    def attach(self) -> Iterator[None]:
        with processor(self, []):
            yield


@contextmanager
def processor(bench: EventHubsBench, received: list[tuple[str, int]]) -> Iterator[None]:
    """A plain consumer client of the SDK, balancing through the checkpoint store; notes its events."""
    store = BlobCheckpointStore.from_connection_string(
        bench.storage.connection_string, bench.container.container_name
    )
    client = EventHubConsumerClient.from_connection_string(
        bench.server.connection_string(),
        "$Default",
        eventhub_name=bench.hub,
        checkpoint_store=store,
        load_balancing_interval=1,
    )

    def note(context: Any, event: Any) -> None:
        if event is not None:
            received.append((context.partition_id, event.sequence_number))

    thread = threading.Thread(
        target=lambda: client.receive(note, starting_position="-1", max_wait_time=1), daemon=True
    )
    thread.start()
    try:
        wait_until(
            lambda: len(bench.server.readers()) == bench.partitions, "the processor on every partition"
        )
        yield
    finally:
        client.close()
        thread.join(30)


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    """A separate AMQP server for each test, so that faults do not leak."""
    running = EventHubsServer()
    yield running
    running.stop()


@pytest.fixture
def bench(server: EventHubsServer, storage: Azurite) -> EventHubsBench:
    """One Event Hub and its container."""
    return EventHubsBench(server, storage)


class TestContract(Contract):
    """The contract of every adapter."""

    @pytest.fixture
    def bench(
        self, server: EventHubsServer, storage: Azurite, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Bench]:
        """One Event Hub and its container; requests may take `TIMEOUT_S`."""
        for module in (management, connection, counting, links):
            monkeypatch.setattr(module, "TIMEOUT_S", TIMEOUT_S)
        bench = EventHubsBench(server, storage)
        bench.call_limit_s = 2 * TIMEOUT_S
        yield bench

"""Azure Event Hubs: checkpoint and ownership blobs, as event processors and Azure Functions keep them.

Every current SDK (Python, .NET, Java, JavaScript) and the Event Hubs extension of Azure Functions use
the blobs `<namespace>/<hub>/<group>/checkpoint/<partition>` and `…/ownership/<partition>`, names in
lower case, no content, with the metadata `offset` and `sequencenumber`, or `ownerid`. Functions differ
in the container, `azure-webjobs-eventhub`, and in what they fall back to where a partition has no
checkpoint of that kind yet: the JSON lease `<namespace>/<hub>/<group>/<partition>`, case kept, of the
extension before version 5. They never write it. (.NET:
Azure.Messaging.EventHubs.Primitives.BlobCheckpointStoreInternal, initializeWithLegacyCheckpoints.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from azure.core.exceptions import (
    AzureError,
    ResourceNotFoundError,
)
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
from azure.storage.blob import BlobProperties, ContainerClient

from backlog_clearer.brokers.eventhubs.connection import credential
from backlog_clearer.brokers.eventhubs.errors import storage_error
from backlog_clearer.brokers.eventhubs.options import CheckpointFormat, EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import parse_checkpoint, parse_lease
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Position


class Ownership(NamedTuple):
    """A processor that owns a partition."""

    number: int
    name: str
    age_s: float  # since it last renewed the ownership, by the storage account's clock


class Blobs(NamedTuple):
    """What one look into the container found, by partition number."""

    positions: dict[int, dict[str, int | str | None]]
    faults: dict[int, str]  # checkpoints that cannot be read, and why
    owners: tuple[Ownership, ...]


class Checkpoints:
    """The blobs of one consumer group, through a client that belongs to one thread.

    Every method raises `UsageError` if the container does not exist, `TransientError` where the
    storage account may answer later, and `BrokerError` otherwise.
    """

    def __init__(self, options: EventHubsOptions) -> None:
        assert options.checkpoint_store is not None  # noqa: S101 the caller has one
        self._options = options
        self._container = _container(options)
        self._store: Any = BlobCheckpointStore(
            self.account, self._container.container_name, container_client=self._container
        )
        self._key = {
            "fully_qualified_namespace": options.namespace,
            "eventhub_name": options.hub,
            "consumer_group": options.consumer_group,
        }
        self._path = "/".join(self._key.values()) + "/"

    @property
    def account(self) -> str:
        """The account's URL, without a SAS."""
        parts = urlsplit(self._container.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}"

    @property
    def place(self) -> str:
        """Where the checkpoints are, for people."""
        return f"{self.account}/{self._container.container_name}/{self._path.lower()}checkpoint/"

    def look(self) -> Blobs:
        """Read every checkpoint and ownership of the group: one listing."""
        clock: list[datetime] = []

        def remember(response: Any) -> None:
            stamp = response.http_response.headers.get("Date")
            clock.append(parsedate_to_datetime(stamp) if stamp else datetime.now(timezone.utc))

        prefix = self._path.lower()
        try:
            found = list(
                self._container.list_blobs(prefix, include=["metadata"], raw_response_hook=remember)
            )
            positions, faults, owners = _sort(found, prefix, clock[-1] if clock else None)
            if self._options.checkpoint_format is CheckpointFormat.FUNCTIONS:
                for number, lease in self._leases().items():
                    positions.setdefault(number, lease)
        except AzureError as error:
            raise storage_error(error, self.account, self._container.container_name) from error
        return Blobs(positions, faults, owners)

    def _leases(self) -> dict[int, dict[str, int | str | None]]:
        """The positions in leases of before version 5."""
        leases = {}
        for blob in self._container.list_blobs(self._path):
            name = blob.name.removeprefix(self._path)
            if name.isdecimal():
                position = parse_lease(self._container.download_blob(blob.name).readall())
                if position:
                    leases[int(name)] = position
        return leases

    def write(self, number: int, position: Position) -> None:
        """Write one checkpoint, through the SDK's own store: exactly what its processors write."""
        if not isinstance(position, Mapping):
            raise TypeError(f"{position!r} is no Event Hubs position")
        checkpoint = {
            **self._key,
            "partition_id": str(number),
            "offset": position["offset"] if position["offset"] is not None else "",
            "sequence_number": (
                position["sequence_number"] if position["sequence_number"] is not None else ""
            ),
        }
        try:
            self._store.update_checkpoint(checkpoint)
        except AzureError as error:
            raise storage_error(error, self.account, self._container.container_name) from error

    def delete(self, number: int) -> None:
        """Delete one checkpoint; there being none is fine."""
        try:
            self._container.delete_blob(f"{self._path}checkpoint/{number}".lower())
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(error):
                raise storage_error(error, self.account, self._container.container_name) from error
        except AzureError as error:
            raise storage_error(error, self.account, self._container.container_name) from error

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


def _container(options: EventHubsOptions) -> ContainerClient:
    """The container's client: bounded, without retries of its own."""
    assert options.checkpoint_store is not None  # noqa: S101 the caller has one
    text = options.checkpoint_store.get_secret_value().strip()
    name = options.container or ""
    bounds: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 8}
    try:
        if "://" in text.split(";", maxsplit=1)[0] and "=" not in text.split("://")[0]:
            sas = urlsplit(text).query
            return ContainerClient(text, name, credential=None if sas else credential(), **bounds)
        return ContainerClient.from_connection_string(text, name, **bounds)
    except ValueError:  # its text may quote the connection string
        raise UsageError(
            "--checkpoint-store is neither a storage connection string (DefaultEndpointsProtocol=…;"
            "AccountName=…;AccountKey=…) nor an account URL (https://<account>.blob.core.windows.net)."
        ) from None


def _sort(
    found: list[BlobProperties], prefix: str, now: datetime | None
) -> tuple[dict[int, dict[str, int | str | None]], dict[int, str], tuple[Ownership, ...]]:
    """Tell the blobs of a group apart."""
    positions: dict[int, dict[str, int | str | None]] = {}
    faults: dict[int, str] = {}
    owners: list[Ownership] = []
    for blob in found:
        kind, _, name = blob.name.removeprefix(prefix).partition("/")
        if not name.isdecimal():
            continue
        metadata = blob.metadata or {}
        if kind == "checkpoint":
            try:
                positions[int(name)] = parse_checkpoint(metadata)
            except ValueError as error:
                faults[int(name)] = f"its checkpoint blob {blob.name} cannot be read: {error}"
        elif kind == "ownership" and metadata.get("ownerid") and now is not None:
            age = (now - blob.last_modified).total_seconds()
            owners.append(Ownership(int(name), metadata["ownerid"], age))
    return positions, faults, tuple(owners)

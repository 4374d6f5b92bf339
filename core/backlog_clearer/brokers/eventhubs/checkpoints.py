"""Azure Event Hubs: checkpoint and ownership blobs, as event processors and Azure Functions keep them.

Every current SDK (Python, .NET, Java, JavaScript) and the Event Hubs extension of Azure Functions use
the blobs `<namespace>/<hub>/<group>/checkpoint/<partition>` and `…/ownership/<partition>`, names in
lower case, no content, with the metadata `offset` and `sequencenumber`, or `ownerid`. Functions differ
in the container, `azure-webjobs-eventhub`, and in a fallback for partitions without a checkpoint of
that kind: the JSON lease `<namespace>/<hub>/<group>/<partition>`, case kept, of the
extension before version 5. They never write it. (.NET:
Azure.Messaging.EventHubs.Primitives.BlobCheckpointStoreInternal, initializeWithLegacyCheckpoints.)
"""

from __future__ import annotations

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
from backlog_clearer.brokers.eventhubs.positions import (
    Checkpoint,
    checked_position,
    parse_checkpoint,
    parse_lease,
)
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Position


class Ownership(NamedTuple):
    """A processor that owns a partition."""

    number: int
    name: str
    age_s: float  # since it last renewed the ownership, by the storage account's clock


class Blobs(NamedTuple):
    """The blobs of a group in the container, by partition number."""

    positions: dict[int, Checkpoint]
    faults: dict[int, str]  # why a checkpoint or lease cannot be read
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
    def location(self) -> str:
        """Where the checkpoints are, for people."""
        return f"{self.account}/{self._container.container_name}/{self._path.lower()}checkpoint/"

    def look(self) -> Blobs:
        """Read every checkpoint and ownership of the group: one listing."""
        clock: list[datetime] = []

        def remember(response: Any) -> None:
            clock.append(_clock(response.http_response.headers.get("Date")))

        prefix = self._path.lower()
        try:
            found = list(
                self._container.list_blobs(prefix, include=["metadata"], raw_response_hook=remember)
            )
            blobs = _sort(found, prefix, clock[-1] if clock else _clock(None))
            if self._options.checkpoint_format is CheckpointFormat.FUNCTIONS:
                self._add_leases(blobs)
        except AzureError as error:
            raise self._translated(error) from error
        return blobs

    def _add_leases(self, blobs: Blobs) -> None:
        """Add the leases of before version 5, for partitions without a checkpoint."""
        for blob in self._container.list_blobs(self._path):
            name = blob.name.removeprefix(self._path)
            if not name.isdecimal() or int(name) in blobs.positions or int(name) in blobs.faults:
                continue
            try:
                position = parse_lease(self._container.download_blob(blob.name).readall())
            except ResourceNotFoundError:
                continue  # deleted since it was listed
            except (ValueError, AzureError) as error:
                reason = self._translated(error) if isinstance(error, AzureError) else error
                blobs.faults[int(name)] = f"its lease blob {blob.name} cannot be read: {reason}"
                continue
            if position:
                blobs.positions[int(name)] = position

    def _translated(self, error: AzureError) -> ClearerError:
        return storage_error(error, self.account, self._container.container_name)

    def write(self, number: int, position: Position) -> None:
        """Write one checkpoint, through the SDK's own store: exactly what its processors write."""
        written = checked_position(position)
        checkpoint = {
            **self._key,
            "partition_id": str(number),
            **{
                key: "" if written[key] is None else written[key]
                for key in ("offset", "sequence_number")
            },
        }
        try:
            self._store.update_checkpoint(checkpoint)
        except AzureError as error:
            raise self._translated(error) from error

    def delete(self, number: int) -> None:
        """Delete one checkpoint; one that does not exist is not an error."""
        try:
            self._container.delete_blob(f"{self._path}checkpoint/{number}".lower())
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(error):
                raise self._translated(error) from error
        except AzureError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


def _container(options: EventHubsOptions) -> ContainerClient:
    """The container's client: bounded in time, without retries."""
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


def _clock(stamp: str | None) -> datetime:
    """The storage account's clock from an answer's Date header; without one, this machine's."""
    try:
        found = parsedate_to_datetime(stamp) if stamp else datetime.now(timezone.utc)
    except ValueError:
        return datetime.now(timezone.utc)
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _sort(found: list[BlobProperties], prefix: str, now: datetime) -> Blobs:
    """Checkpoints and ownerships by partition from the blobs of a group."""
    positions: dict[int, Checkpoint] = {}
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
        elif kind == "ownership" and metadata.get("ownerid"):
            age = (now - blob.last_modified).total_seconds()
            owners.append(Ownership(int(name), metadata["ownerid"], age))
    return Blobs(positions, faults, tuple(owners))

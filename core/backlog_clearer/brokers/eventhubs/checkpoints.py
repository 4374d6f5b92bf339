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

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobProperties, ContainerClient

from backlog_clearer.brokers.eventhubs.connection import credential
from backlog_clearer.brokers.eventhubs.errors import storage_error
from backlog_clearer.brokers.eventhubs.options import CheckpointFormat, EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    Checkpoint,
    metadata_of,
    parse_checkpoint,
    parse_lease,
    sequence_number,
)
from backlog_clearer.errors import BrokerError, ClearerError, UsageError
from backlog_clearer.model import Partition, Position, Settled


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
        self._path = f"{options.namespace}/{options.hub}/{options.consumer_group}/"

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

    def advance(self, number: int, position: Position) -> Position:
        """Write one checkpoint unless the stored one is as far; returns what is stored then.

        Raises `TransientError` if another client writes it at the same moment, and `BrokerError` if the
        stored one cannot be read.
        """
        blob = self._container.get_blob_client(self._name(number))
        try:
            try:
                found = blob.get_blob_properties()
            except ResourceNotFoundError as error:
                if "ContainerNotFound" in str(getattr(error, "error_code", "")):
                    raise
                blob.upload_blob(b"", metadata=metadata_of(position))  # raises if it exists by now
                return position
            stored = parse_checkpoint(found.metadata or {})
            at, to = sequence_number(stored), sequence_number(position)
            if at is not None and to is not None and at >= to:
                return stored
            unchanged = MatchConditions.IfNotModified
            blob.set_blob_metadata(metadata_of(position), etag=found.etag, match_condition=unchanged)
        except AzureError as error:
            raise self._translated(error) from error
        except ValueError as error:
            raise BrokerError(
                f"its checkpoint blob {blob.blob_name} cannot be read: {error}"
            ) from error
        return position

    def write(self, number: int, position: Position) -> None:
        """Write one checkpoint, whatever is stored."""
        try:
            self._container.upload_blob(
                self._name(number), b"", metadata=metadata_of(position), overwrite=True
            )
        except AzureError as error:
            raise self._translated(error) from error

    def _name(self, number: int) -> str:
        return f"{self._path}checkpoint/{number}".lower()

    def delete(self, number: int) -> None:
        """Delete one checkpoint; one that does not exist is not an error."""
        try:
            self._container.delete_blob(self._name(number))
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(error):
                raise self._translated(error) from error
        except AzureError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


def settled(
    checkpoints: Checkpoints | None, partition: Partition, messages: int, position: Position
) -> Settled:
    """Store how far a partition was read; without a checkpoint store, only count.

    Counts nothing if another client stored a position that is as far. Raises like `Checkpoints.advance`.
    """
    if checkpoints is None:
        return Settled(partition, messages, position)
    stored = checkpoints.advance(partition.number, position)
    return Settled(partition, messages if stored == position else 0, stored)


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

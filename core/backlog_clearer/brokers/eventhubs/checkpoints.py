"""Azure Event Hubs: reading, moving and restoring the checkpoint blobs of one consumer group.

Which blobs those are: `blobs`. Azure Functions differ from event processors in the container,
`azure-webjobs-eventhub`, and in a fallback for partitions without a checkpoint: the JSON lease
`<namespace>/<hub>/<group>/<partition>` of the extension before version 5, which they never write, and
ignore if it is malformed. (.NET: Azure.Messaging.EventHubs.Primitives.BlobCheckpointStoreInternal,
initializeWithLegacyCheckpoints.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceNotFoundError,
)
from azure.core.paging import ItemPaged
from azure.storage.blob import BlobProperties, ContainerClient

from backlog_clearer.brokers.eventhubs.blobs import (
    MARK,
    Blobs,
    Elsewhere,
    Held,
    StoredBlob,
    account_url,
    blobs_by_group,
    checkpoint_name,
    folded,
    is_own,
    layouts,
    moved_metadata,
    recorded_blobs,
    sort_blobs,
)
from backlog_clearer.brokers.eventhubs.client import credential
from backlog_clearer.brokers.eventhubs.errors import storage_error
from backlog_clearer.brokers.eventhubs.options import CheckpointFormat, EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    LEGACY,
    Checkpoint,
    checked_position,
    parse_checkpoint,
    parse_lease,
    sequence_number,
)
from backlog_clearer.brokers.eventhubs.storage_transport import WHOLE_S, BoundedTransport
from backlog_clearer.brokers.shared.pages import bounded_pages
from backlog_clearer.deadline import within
from backlog_clearer.errors import BrokerError, ClearerError, UsageError
from backlog_clearer.model import Position

_OTHERS = 5000  # blobs that are looked at for checkpoints of others: one page of a listing
_MOST_BLOBS = 100_000  # of a group or an Event Hub; a listing could have pages without end
_LEASE_BYTES = 64 * 1024  # a lease has a few hundred
_SINCE = "since the survey; nothing is written to it"


class Checkpoints:
    """The blobs of one consumer group, through a client that belongs to one thread.

    Every method raises `UsageError` if the container does not exist, `TransientError` where the
    storage account may answer later, and `BrokerError` otherwise.
    """

    def __init__(self, options: EventHubsOptions, run_id: str) -> None:
        assert options.checkpoint_store is not None  # noqa: S101 the caller has one
        self._options = options
        self._client = f"{MARK}/{run_id}"
        self._container = _container(options)
        self._reported: str | None = None  # the account's endpoint, by its answers
        self._hub_path = f"{options.namespace}/{options.hub}/"
        self.path = f"{self._hub_path}{options.consumer_group}/"

    @property
    def account(self) -> str:
        """The account's URL, without a SAS."""
        parts = urlsplit(self._container.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}"

    @property
    def container(self) -> str:
        """The container's URL, without a SAS."""
        return f"{self.account}/{self._container.container_name}"

    @property
    def location(self) -> str:
        """Where the checkpoints are, however the account's address is spelled; known after a listing."""
        key_of = getattr(self._container.credential, "account_name", None)
        account = account_url(self._container.url, key_of, self._reported)
        return f"{account}/{self._container.container_name}/{self.path.lower()}checkpoint/"

    def look(self) -> Blobs:
        """Read every checkpoint and ownership of the group, whatever the case of their names.

        If the group has none, what the container holds of others is in `Blobs.others`.
        """
        try:
            found, now = self._below_path(self.path)
            blobs = self._with_leases(sort_blobs(found, self.path, now), self.path, found)
            if blobs.nothing:
                blobs = replace(blobs, others=self._elsewhere())
        except AzureError as error:
            raise self._translated(error) from error
        return blobs

    def groups(self) -> dict[str, Blobs]:
        """The blobs of each consumer group of the Event Hub; groups of which nothing is stored are left out.

        One request for each 5,000 blobs, and three for each spelling of the namespace and the Event Hub.
        """
        try:
            found, now = self._below_path(self._hub_path)
            groups = blobs_by_group(found, self._hub_path, now)
            groups = {
                name: self._with_leases(blobs, f"{self._hub_path}{name}/", found)
                for name, blobs in groups.items()
            }
        except AzureError as error:
            raise self._translated(error) from error
        return {name: blobs for name, blobs in groups.items() if not blobs.nothing}

    def elsewhere(self) -> dict[Elsewhere, dict[int, Checkpoint]]:
        """What the container holds of other groups, Event Hubs, namespaces and layouts."""
        try:
            return self._elsewhere()
        except AzureError as error:
            raise self._translated(error) from error

    def _elsewhere(self) -> dict[Elsewhere, dict[int, Checkpoint]]:
        listed = self._items(self._container.list_blobs(include=["metadata"]))
        return layouts(_stored(islice(listed, _OTHERS)), self.path)

    def _items(self, listed: ItemPaged[Any]) -> Iterator[Any]:
        pages = listed.by_page()
        for page in bounded_pages(pages, f"The listing of {self.container}"):
            self._reported = getattr(pages, "service_endpoint", None)
            yield from page

    def _below_path(self, path: str) -> tuple[list[StoredBlob], datetime]:
        """The blobs below a path, whatever the case of their names, and the account's time."""
        clock: list[datetime] = []

        def remember(response: Any) -> None:
            clock.append(_clock(response.http_response.headers.get("Date")))

        found: list[StoredBlob] = []
        for folder in self._folders(path):
            listed = self._container.list_blobs(
                folder, include=["metadata"], raw_response_hook=remember
            )
            found += islice(_stored(self._items(listed)), _MOST_BLOBS + 1)
            if len(found) > _MOST_BLOBS:
                raise BrokerError(
                    f"{self.container}/{folder} has more than {_MOST_BLOBS:,} blobs, more than an Event"
                    " Hub has of them: check --checkpoint-store."
                )
        return found, clock[-1] if clock else _clock(None)

    def _folders(self, path: str) -> list[str]:
        """The folders of a path in every spelling: a prefix of a listing is case-sensitive."""
        folders = [""]
        for part in path.lower().split("/")[:-1]:
            folders = [
                name
                for folder in folders
                for name in self._below(folder)
                if name[len(folder) : -1].lower() == part
            ]
        return folders

    def _below(self, folder: str) -> Iterator[str]:
        """The folders directly below one."""
        for item in islice(self._items(self._container.walk_blobs(folder, delimiter="/")), _OTHERS):
            if item.name.endswith("/"):
                yield item.name

    def _with_leases(self, blobs: Blobs, path: str, found: Iterable[StoredBlob]) -> Blobs:
        """Add leases of before version 5, where they count: for partitions without a checkpoint."""
        if self._options.checkpoint_format is not CheckpointFormat.FUNCTIONS:
            return blobs
        positions: dict[int, Checkpoint] = dict(blobs.positions)
        faults, ignored = dict(blobs.faults), dict(blobs.ignored)
        names = [blob.name for blob in found if blob.name.lower().startswith(path.lower())]
        for name in sorted(names, key=lambda name: not name.startswith(path)):
            number = name[len(path) :]
            if not (number.isascii() and number.isdecimal()) or int(number) in {*positions, *faults}:
                continue
            try:
                content = within(WHOLE_S, partial(self._read, name))
            except TimeoutError as error:
                faults[int(number)] = f"its lease blob {name} cannot be read: {error}"
                continue
            except ResourceNotFoundError:
                continue  # deleted since it was listed
            except AzureError as error:
                reason = self._translated(error)
                faults[int(number)] = f"its lease blob {name} cannot be read: {reason}"
                continue
            try:
                position = parse_lease(content)
            except ValueError as error:
                ignored[int(number)] = f"the lease blob {name} is ignored, as Functions do: {error}"
                continue
            if position:
                positions[int(number)] = position
        return replace(blobs, positions=positions, faults=faults, ignored=ignored)

    def _read(self, name: str) -> bytes:
        """The content of a blob; nothing of one that is too large for a lease."""
        found = self._container.download_blob(name)
        return bytes(found.readall()) if found.size <= _LEASE_BYTES else b""

    def _translated(self, error: AzureError) -> ClearerError:
        return storage_error(error, self.account, self._container.container_name)

    def advance(self, held: Held, position: Position) -> Position:
        """Move a partition's checkpoints forward; returns what the one furthest behind holds then.

        A blob that is as far is left. Raises `TransientError` if another client writes one at the same
        moment, and `BrokerError` if one cannot be read, was deleted or was moved back.
        """
        reached: list[Position] = []
        for name, floor in held.floors.items():
            try:
                stored = self._advance(name, floor, position)
            except AzureError as error:
                raise self._translated(error) from error
            except ValueError as error:
                raise BrokerError(
                    f"its checkpoint blob {name} cannot be read: {error}", held.partition
                ) from error
            number = sequence_number(stored)
            held.floors[name] = -1 if number is None else number
            reached.append(stored)
        return min(reached, key=lambda stored: (sequence_number(stored) or 0, stored != position))

    def _advance(self, name: str, floor: int | None, position: Position) -> Position:
        blob = self._container.get_blob_client(name)
        try:
            found = blob.get_blob_properties()
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(getattr(error, "error_code", "")):
                raise
            if floor is not None:
                raise BrokerError(f"its checkpoint blob {name} was deleted {_SINCE}") from error
            metadata = moved_metadata({}, position, self._client)
            blob.upload_blob(b"", metadata=metadata)  # raises if it exists by now
            return position
        metadata = found.metadata or {}
        stored = parse_checkpoint(folded(metadata))
        at, to = sequence_number(stored), sequence_number(position)
        if at is not None and floor is not None and at < floor:
            raise BrokerError(
                f"its checkpoint blob {name} was moved back from sequence number {floor} to {at} {_SINCE}"
            )
        if at is not None and to is not None and at >= to:
            return stored
        unchanged = MatchConditions.IfNotModified
        blob.set_blob_metadata(
            moved_metadata(metadata, position, self._client), etag=found.etag, match_condition=unchanged
        )
        return position

    def restore(self, number: int, position: Position | None, present: Iterable[str]) -> None:
        """Put the checkpoint blobs of a partition back as they were recorded; None: there were none.

        `present` are those that are there now. One that was not recorded is deleted if this tool wrote
        it; otherwise raises `BrokerError`, after the others were written.
        """
        wanted: dict[str, dict[str, str]] = {}
        if position is not None and checked_position(position).get("layout") != LEGACY:
            wanted = recorded_blobs(position, checkpoint_name(self.path, number))
        try:
            for name, metadata in wanted.items():
                self._put(name, metadata)
            kept = [name for name in present if name not in wanted and not self._deleted(name)]
        except AzureError as error:
            raise self._translated(error) from error
        except ValueError as error:  # what the storage library refuses to send
            raise UsageError(f"the recorded checkpoint cannot be written: {error}") from error
        if kept:
            raise BrokerError(
                f"the checkpoint blob {kept[0]} was not written by this tool last, and there was none"
                " before the run: it is left as it is. Delete it if its position is not wanted"
            )

    def _put(self, name: str, metadata: dict[str, str]) -> None:
        """Write a blob's metadata as a whole, whatever is stored; keeps its content if it has any."""
        blob = self._container.get_blob_client(name)
        try:
            blob.set_blob_metadata(metadata)
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(getattr(error, "error_code", "")):
                raise
            blob.upload_blob(b"", metadata=metadata, overwrite=True)

    def _deleted(self, name: str) -> bool:
        """Delete a checkpoint that this tool wrote last; False: another client did, and it stays."""
        blob = self._container.get_blob_client(name)
        try:
            found = blob.get_blob_properties()
            if not is_own(found.metadata or {}):
                return False
            blob.delete_blob(etag=found.etag, match_condition=MatchConditions.IfNotModified)
        except ResourceNotFoundError as error:
            if "ContainerNotFound" in str(getattr(error, "error_code", "")):
                raise
        return True

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


def _stored(found: Iterable[BlobProperties]) -> Iterator[StoredBlob]:
    for blob in found:
        yield StoredBlob(blob.name, blob.metadata or {}, blob.last_modified)


def _container(options: EventHubsOptions) -> ContainerClient:
    """The container's client: bounded in time, without retries."""
    assert options.checkpoint_store is not None  # noqa: S101 the caller has one
    text = options.store_account
    name = options.container or ""
    bounds: dict[str, Any] = {
        "retry_total": 0,
        "connection_timeout": 5,
        "read_timeout": 8,
        "max_single_get_size": _LEASE_BYTES,
        "transport": BoundedTransport(connection_timeout=5, read_timeout=8),
    }
    try:
        if "://" in text.split(";", maxsplit=1)[0] and "=" not in text.split("://")[0]:
            sas = urlsplit(text).query
            return ContainerClient(text, name, credential=None if sas else credential(), **bounds)
        return ContainerClient.from_connection_string(text, name, **bounds)
    except ValueError:  # its text may quote the connection string
        raise UsageError(
            "--checkpoint-store is neither a storage connection string (DefaultEndpointsProtocol=…;"
            "AccountName=…;AccountKey=…) nor the URL of an account or a container"
            " (https://<account>.blob.core.windows.net)."
        ) from None


def _clock(stamp: str | None) -> datetime:
    """The storage account's clock from an answer's Date header; without one, this machine's."""
    try:
        found = parsedate_to_datetime(stamp) if stamp else datetime.now(timezone.utc)
    except ValueError:
        return datetime.now(timezone.utc)
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

"""Azure Event Hubs: which blobs of a container belong to a consumer group, and what they hold: pure.

Event processors and Azure Functions keep the blobs `<namespace>/<hub>/<group>/checkpoint/<partition>` and
`…/ownership/<partition>`, without content, with the metadata `offset` and `sequencenumber`, or `ownerid`.
Python, .NET, JavaScript and Functions write these names in lower case; Go (azeventhubs) and Java
(azure-messaging-eventhubs-checkpointstore-blob) as their settings spell namespace, hub and group. Blob names
are case-sensitive; names of metadata are not. So a partition may have several checkpoint blobs.

A position that a plain blob of the lower-case name holds is only offset and sequence number. Every other
position also records its blobs, whole, under the key `RECORD`, for a restore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from backlog_clearer.brokers.eventhubs.positions import (
    LEGACY,
    Checkpoint,
    checked_position,
    metadata_of,
    parse_checkpoint,
    sequence_number,
)
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Claim, Partition, Position
from backlog_clearer.options.addresses import plain_address

RECORD = "_blobs"
"""The key of a position that holds the checkpoint blobs as JSON: metadata by blob name."""

CLIENT = "clientidentifier"
"""The metadata in which .NET's processors, and this tool, write who wrote a checkpoint."""

MARK = "backlog-clearer"
"""What the client identifier of this tool's checkpoints begins with."""

Metadata = Mapping[str, str | None]
"""A blob's metadata; a listing returns an empty value as None."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_LAYOUT = re.compile(
    r"(?:(?P<namespace>[^/]+)/(?P<hub>[^/]+)/)?(?P<group>[^/]+)/"
    r"(?:(?P<kind>checkpoint|ownership)/)?(?P<number>[0-9]{1,9})"
)


_ACCOUNT_HOST = re.compile(
    r"(?P<account>[a-z0-9]{3,24})(?:-secondary)?\.(?:privatelink\.)?(?P<rest>(?:z[0-9]+\.)?blob\.[a-z.]+)"
)
_PLAIN_PORT = re.compile(r":(?:80|443)$")


def account_url(url: str, key_of: str | None, reported: str | None) -> str:
    """Which storage account a URL of a container or an account reaches, however its host is spelled; pure.

    `key_of`: the account whose key signs the requests, which only that account accepts; `reported`: the
    endpoint that the service names in a listing. Behind a custom domain, without both, only the domain is
    known. An account has one name in its cloud; an emulator's accounts are those of its address.
    """
    parts = urlsplit(url)
    for each in (parts, urlsplit(reported or "")):
        host = _PLAIN_PORT.sub("", each.netloc.lower()).rstrip(".")
        found = _ACCOUNT_HOST.fullmatch(host)
        if found is not None:
            return f"https://{found['account']}.{found['rest']}"
    host = plain_address(parts.netloc)
    path = parts.path.rpartition("/")[0]
    if key_of is not None and not path:
        return f"https://{key_of}.blob.core.windows.net"
    return f"{parts.scheme}://{host}{path}"


class StoredBlob(NamedTuple):
    """One blob of a listing."""

    name: str
    metadata: Metadata
    modified: datetime


class Ownership(NamedTuple):
    """A processor that owns a partition."""

    number: int
    name: str
    age_s: float  # since it last renewed the ownership, by the storage account's clock


class Elsewhere(NamedTuple):
    """Checkpoints in the container that are not the group's."""

    namespace: str  # in lower case; "": its layout has none
    hub: str  # in lower case; "": its layout has none
    group: str  # as its blobs spell it
    lease: bool  # JSON leases of an older layout


@dataclass(frozen=True, slots=True)
class Blobs:
    """The blobs of a group in the container, by partition number."""

    positions: Mapping[int, Checkpoint]
    faults: Mapping[int, str]  # why a checkpoint cannot be read
    owners: Sequence[Ownership]
    names: Mapping[int, Sequence[str]]  # the checkpoint blobs of each partition
    folder: str  # where a partition without a checkpoint blob gets one; ends with "/"
    modified: Mapping[int, datetime] = field(default_factory=dict)  # when a checkpoint was last written
    ignored: Mapping[int, str] = field(default_factory=dict)  # why a lease is not a position
    others: Mapping[Elsewhere, Mapping[int, Checkpoint]] = field(
        default_factory=dict
    )  # if the group has none

    @property
    def nothing(self) -> bool:
        """Whether nothing was ever stored for the group."""
        return not (self.positions or self.faults or self.owners or self.names)


def folded(metadata: Metadata) -> dict[str, str]:
    """Metadata by names in lower case; an empty value is ""."""
    return {name.lower(): value or "" for name, value in metadata.items()}


def sort_blobs(found: Iterable[StoredBlob], path: str, now: datetime) -> Blobs:
    """Checkpoints and ownerships by partition, from all blobs below a group's folders.

    `path` is "<namespace>/<hub>/<group>/"; the blobs' names may spell it in any case.
    """
    checkpoints: dict[int, dict[str, Metadata]] = {}
    modified: dict[int, datetime] = {}
    owners: list[Ownership] = []
    newest: tuple[datetime, str] | None = None
    for blob in found:
        kind, _, number = blob.name[len(path) :].partition("/")
        if not _NUMBER.fullmatch(number):
            continue
        if kind == "checkpoint":
            checkpoints.setdefault(int(number), {})[blob.name] = blob.metadata
            modified[int(number)] = max(blob.modified, modified.get(int(number), blob.modified))
        elif kind == "ownership" and folded(blob.metadata).get("ownerid"):
            age_s = (now - blob.modified).total_seconds()
            owners.append(Ownership(int(number), folded(blob.metadata)["ownerid"], age_s))
        else:
            continue
        newest = max(newest or (blob.modified, ""), (blob.modified, blob.name[: len(path)]))
    positions: dict[int, Checkpoint] = {}
    faults: dict[int, str] = {}
    for number_, blobs in checkpoints.items():
        try:
            positions[number_] = position_of_blobs(blobs, checkpoint_name(path, number_))
        except ValueError as error:
            faults[number_] = str(error)
    names = {number_: tuple(sorted(blobs)) for number_, blobs in checkpoints.items()}
    return Blobs(positions, faults, owners, names, newest[1] if newest else path.lower(), modified)


def blobs_by_group(found: Iterable[StoredBlob], path: str, now: datetime) -> dict[str, Blobs]:
    """The blobs of each consumer group below an Event Hub's folders; `path` is "<namespace>/<hub>/".

    Groups are distinguished whatever the case of their names, which are spelled as in the newest blob.
    """
    folders: dict[str, list[StoredBlob]] = {}
    for blob in found:
        folders.setdefault(blob.name[len(path) :].partition("/")[0].lower(), []).append(blob)
    groups: dict[str, Blobs] = {}
    for name, own in sorted(folders.items()):
        blobs = sort_blobs(own, f"{path}{name}/", now)
        groups[blobs.folder[len(path) : -1]] = blobs
    return groups


def checkpoint_name(path: str, number: int) -> str:
    """The name that Python's, .NET's and JavaScript's processors use."""
    return f"{path}checkpoint/{number}".lower()


def position_of_blobs(blobs: Mapping[str, Metadata], usual: str) -> Checkpoint:
    """The position of a partition from its checkpoint blobs: that of the one that is the furthest behind.

    Raises `ValueError` if one of them cannot be read.
    """
    found: list[Checkpoint] = []
    for name, metadata in blobs.items():
        try:
            found.append(parse_checkpoint(folded(metadata)))
        except ValueError as error:
            raise ValueError(f"its checkpoint blob {name} cannot be read: {error}") from error
    lowest = min(found, key=_order)
    whole = {
        name: {key: value or "" for key, value in sorted(metadata.items())}
        for name, metadata in sorted(blobs.items())
    }
    if whole == {usual: metadata_of(lowest)}:
        return lowest
    return {**lowest, RECORD: json.dumps(whole, ensure_ascii=False)}


def _order(position: Position) -> int:
    number = sequence_number(position)
    return -2 if number is None else number  # unknown: it may be the furthest behind


def recorded_blobs(position: Position, usual: str) -> dict[str, dict[str, str]]:
    """The checkpoint blobs that a position records, with their metadata.

    `usual` is the partition's name in lower case. Raises `UsageError` for a record that is not one of
    this partition's: a receipt can be edited.
    """
    text = checked_position(position).get(RECORD)
    if text is None:
        return {usual: metadata_of(position)}
    try:
        blobs = json.loads(str(text))
    except ValueError:
        blobs = None
    if not isinstance(blobs, dict) or not blobs:
        raise UsageError(f"{RECORD} of a recorded position is not a JSON object of blobs.")
    for name, metadata in blobs.items():
        if name.lower() != usual:
            raise UsageError(f"The recorded position names the blob {name!r}, which is not {usual!r}.")
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise UsageError(f"The recorded metadata of the blob {name!r} are not texts.")
    return blobs


def moved_metadata(metadata: Metadata, position: Position, client: str) -> dict[str, str]:
    """A checkpoint's metadata moved to a position; names keep their spelling, other values stay."""
    values = {**metadata_of(position), CLIENT: client}
    kept = {name: values.pop(name.lower(), value or "") for name, value in metadata.items()}
    return {**kept, **values}


def is_own(metadata: Metadata) -> bool:
    """Whether this tool wrote a checkpoint last: processors replace the metadata as a whole."""
    return folded(metadata).get(CLIENT, "").startswith(MARK)


class Held:
    """The checkpoint blobs that a claim moves, and what each must hold at least as long as it does.

    A floor of None means that the blob may not exist yet.
    """

    def __init__(self, claim: Claim, path: str, folder: str) -> None:
        self.partition: Partition = claim.partition
        number, position = claim.partition.number, claim.state.position
        self.floors: dict[str, int | None] = {}
        if position is None or checked_position(position).get("layout") == LEGACY:
            self.floors[f"{folder}checkpoint/{number}"] = None
        else:
            for name, metadata in recorded_blobs(position, checkpoint_name(path, number)).items():
                at = sequence_number(parse_checkpoint(folded(metadata)))
                self.floors[name] = -1 if at is None else at
        resumed = sequence_number(claim.resume)
        if resumed is not None:  # a lane before this one stored it
            self.floors = {name: max(floor or -1, resumed) for name, floor in self.floors.items()}


def layouts(found: Iterable[StoredBlob], path: str) -> dict[Elsewhere, dict[int, Checkpoint]]:
    """Checkpoints and leases of other groups, hubs, namespaces and layouts, from a container's listing.

    A lease has no position here, since a listing does not show its content; an ownership has none either.
    """
    others: dict[Elsewhere, dict[int, Checkpoint]] = {}
    for blob in found:
        match = _LAYOUT.fullmatch(blob.name)
        if match is None:
            continue
        namespace, hub = (match["namespace"] or "").lower(), (match["hub"] or "").lower()
        lease = match["kind"] is None
        if not lease and blob.name.lower().startswith(path.lower()):
            continue
        positions = others.setdefault(Elsewhere(namespace, hub, match["group"], lease), {})
        if match["kind"] == "checkpoint":
            try:
                positions[int(match["number"])] = parse_checkpoint(folded(blob.metadata))
            except ValueError:
                continue
    return others

"""Which consumer groups of an Event Hub have a backlog, as the checkpoints in a container show them.

The service does not list consumer groups over AMQP, and stores no positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TypeAlias

from backlog_clearer.brokers.eventhubs.admin import read_hub, read_partitions
from backlog_clearer.brokers.eventhubs.blobs import Blobs
from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.brokers.eventhubs.list_options import EventHubsListOptions
from backlog_clearer.brokers.eventhubs.notes import described_elsewhere, live_processors
from backlog_clearer.brokers.eventhubs.positions import (
    LEGACY,
    PartitionProperties,
    anomaly,
    backlog,
)
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Found, Listing, Partition, total_known
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.text import counted

_Partitions: TypeAlias = Mapping[int, PartitionProperties | ClearerError]


def list_eventhubs(options: SystemOptions) -> Listing:
    """The consumer groups whose names match; see `registry.Lister`."""
    assert isinstance(options, EventHubsListOptions)  # noqa: S101 the registry pairs them
    notes = []
    with closing(Checkpoints(options, "list")) as store:
        groups, container = store.groups(), store.container
        if not groups:
            others = described_elsewhere(store.elsewhere(), options)
            where = f" It has others: {others}." if others else ""
            notes.append(f"The container has no checkpoint of Event Hub {options.hub}.{where}")
    partitions: _Partitions = {}
    try:
        partitions = read_partitions(options, read_hub(options).numbers)
    except ClearerError as error:
        if isinstance(error, UsageError) and not groups:
            raise
        notes.append(f"Backlogs are unknown: {error}")
    found = [
        _found(name, blobs, partitions, options)
        for name, blobs in groups.items()
        if options.matches(name)
    ]
    never = sum(
        bool(partitions.keys() - blobs.positions.keys() - blobs.faults.keys())
        for name, blobs in groups.items()
        if options.matches(name)
    )
    if never:
        notes.append(
            f"{counted(never, 'consumer group')} without a checkpoint for some partition: the backlog there"
            " counts from the first event retained."
        )
    notes.append(
        "Consumer groups without blobs in this container are not listed: Event Hubs stores no positions."
        " Members are the processors that own partitions now."
    )
    place = f"Event Hub {options.hub} of {options.namespace}, checkpoints in {container}"
    return Listing(place, "events", tuple(found), tuple(notes))


def _found(name: str, blobs: Blobs, partitions: _Partitions, options: EventHubsListOptions) -> Found:
    """One consumer group's line; its backlog is unknown where that of one partition is."""
    errors = dict(blobs.faults)
    for number, item in partitions.items():
        if isinstance(item, ClearerError):
            errors.setdefault(number, str(item))
        elif (problem := anomaly(item, blobs.positions.get(number), None)) is not None:
            errors.setdefault(number, problem)
    left = total_known(
        None if isinstance(item, ClearerError) else backlog(item, blobs.positions.get(number))
        for number, item in partitions.items()
    )
    first = min(errors, default=None)
    return Found(
        name,
        _kind(blobs),
        (options.hub,),
        left if partitions and not errors else None,
        len(live_processors(blobs.owners, options.ownership_expiration)),
        None if first is None else f"{Partition(options.hub, first)}: {errors[first]}",
    )


def _kind(blobs: Blobs) -> str:
    """What is stored of a consumer group."""
    positions = blobs.positions.values()
    if positions and all(item.get("layout") == LEGACY for item in positions):
        return "leases"
    return "checkpoints" if positions or blobs.faults else "ownerships"

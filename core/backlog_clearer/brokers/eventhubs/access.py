"""Azure Event Hubs over AMQP: by the SDK's AMQP layers, or by its public client where those cannot be used.

The layers are not the SDK's API, and only the versions in `sdk.SUPPORTED` are known to have them as they
are expected. They are imported here only, and only when they are wanted.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence, Sized
from functools import lru_cache
from typing import Protocol

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventReader
from backlog_clearer.brokers.eventhubs.positions import (
    HubProperties,
    PartitionProperties,
    Start,
    position_from,
)
from backlog_clearer.errors import ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition, Position

_FIRST_S = 12.0


class HubAdmin(Protocol):
    """Requests to the management node; belongs to one thread."""

    def hub(self) -> HubProperties:
        """The Event Hub; raises `UsageError` if it does not exist."""

    def properties(self, number: int) -> PartitionProperties:
        """The properties of one partition; raises `TransientError` if they cannot be true."""

    def close(self) -> None:
        """Close the connection."""


class Arrived(Protocol):
    """Events that arrived and were not taken yet."""

    bytes: int

    @property
    def events(self) -> Sized:
        """The events, in order."""


class EventReceiver(Protocol):
    """A partition that is read from some position on."""

    @property
    def partition(self) -> Partition:
        """The partition."""

    @property
    def tally(self) -> Arrived:
        """What has arrived."""

    def event(self, index: int) -> Mapping[bytes, int | bytes]:
        """The annotations of an event that has arrived and was not taken yet."""

    def forget(self, count: int) -> None:
        """Take `count` events off the tally."""


class EventGroup(Protocol):
    """Receivers on some partitions; belongs to one thread."""

    @property
    def receivers(self) -> Sequence[EventReceiver]:
        """Those that were not dropped."""

    def attach(self) -> Mapping[Partition, ClearerError]:
        """Begin to attach every receiver; returns refusals that are known by then."""

    def start(self) -> None:
        """Begin to receive."""

    def pump(self, wait_s: float) -> Mapping[Partition, ClearerError]:
        """Receive for `wait_s` at most, less if anything arrives; returns why partitions cannot be read."""

    def drop(self, partition: Partition) -> None:
        """Read a partition no more."""

    def close(self) -> None:
        """Close everything."""


@lru_cache(maxsize=1)
def layers_fault() -> str | None:
    """Why the SDK's AMQP layers cannot be used; None: they can."""
    try:
        importlib.import_module("backlog_clearer.brokers.eventhubs.sdk")
    except UsageError as error:
        return str(error)
    return None


def _by_client(options: EventHubsOptions) -> bool:
    """Whether the SDK's public client is used; raises `UsageError` if --reader amqp cannot be."""
    if options.reader is EventReader.CLIENT:
        return True
    fault = layers_fault()
    if fault is not None and options.reader is EventReader.AMQP:
        raise UsageError(f"--reader amqp cannot be used: {fault} Or use --reader client.")
    return fault is not None


def open_hub_admin(options: EventHubsOptions) -> HubAdmin:
    """Requests to the management node."""
    if _by_client(options):
        from backlog_clearer.brokers.eventhubs.client_admin import ClientAdmin  # noqa: PLC0415 one of two

        return ClientAdmin(options)
    from backlog_clearer.brokers.eventhubs.management import Management  # noqa: PLC0415

    return Management(options)


def open_group(
    options: EventHubsOptions,
    starts: Mapping[Partition, Start],
    *,
    credit: int,
    wanted: int = 1000,
    metric: bool = False,
    silence_s: float | None = None,
) -> EventGroup:
    """Receivers that have not attached yet; raises `ClearerError` if the service does not answer.

    `credit`: events on the way for one partition; `wanted`: after how many a pump returns; `metric`: ask
    for the partition's end with each event; `silence_s`: how long the service may send nothing, not even a
    heartbeat (None: any time).
    """
    if _by_client(options):
        from backlog_clearer.brokers.eventhubs.client_links import ClientGroup as Group  # noqa: PLC0415
    else:
        from backlog_clearer.brokers.eventhubs.links import (  # type: ignore[assignment]  # noqa: PLC0415
            LinkGroup as Group,
        )
    return Group(options, starts, credit=credit, wanted=wanted, metric=metric, silence_s=silence_s)


def find_readers(
    options: EventHubsOptions,
    partitions: Sequence[Partition],
    found: Mapping[int, PartitionProperties],
) -> dict[Partition, ClearerError]:
    """Look for readers with an owner level, by trying to read beside them.

    `found`: the properties of partitions, where they are known. Returns why it was refused, by partition:
    `AttachedElsewhereError` where there is one. Raises `UsageError` if the consumer group does not exist.
    """
    if _by_client(options):
        from backlog_clearer.brokers.eventhubs.client_links import refusals  # noqa: PLC0415

        refused = refusals(options, partitions, found)
    else:
        from backlog_clearer.brokers.eventhubs.links import refused_links  # noqa: PLC0415

        refused = refused_links(options, partitions)
    missing = [error for error in refused.values() if isinstance(error, UsageError)]
    if missing and len(missing) == len(partitions):
        raise missing[0]
    return refused


def first_event(
    options: EventHubsOptions, partition: Partition, start: Start
) -> Mapping[bytes, int | bytes]:
    """The annotations of the first event from a start on; fetches only that event.

    Raises `TransientError` if none arrives.
    """
    group = open_group(options, {partition: start}, credit=1, wanted=1)
    try:
        for error in group.attach().values():
            raise error
        group.start()
        (receiver,) = group.receivers
        end = time.monotonic() + _FIRST_S
        while time.monotonic() < end:
            for error in group.pump(0.25).values():
                raise error
            if receiver.tally.events:
                return receiver.event(0)
    except (ValueError, IndexError) as error:
        raise TransientError(f"{partition}: {error}.", partition) from error
    finally:
        group.close()
    raise TransientError(f"{partition}: the event did not arrive that was asked for.", partition)


def position_of(options: EventHubsOptions, partition: Partition, number: int) -> Position:
    """The position of the event with a sequence number; fetches only that event.

    Raises `TransientError` if it does not arrive.
    """
    event = first_event(options, partition, Start(number, inclusive=True))
    try:
        return position_from(event)
    except ValueError as error:
        raise TransientError(f"{partition}: {error}.", partition) from error

"""Azure Event Hubs: what the management node reports about an Event Hub and its partitions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

from backlog_clearer.brokers.eventhubs.access import HubAdmin, open_hub_admin
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    HubProperties,
    PartitionProperties,
    incarnation_of,
)
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import BrokerError, ClearerError, RecreatedError, TransientError, UsageError
from backlog_clearer.model import Partition

_IDLE_S = 60.0  # after which a connection is not used again: the service closes idle ones
_REQUESTS = 32  # asked one after the other over one connection; more get a separate connection


def read_hub(options: EventHubsOptions) -> HubProperties:
    """The Event Hub; raises `UsageError` if it does not exist."""
    with contextlib.closing(open_hub_admin(options)) as management:
        return management.hub()


class HubWatch:
    """Asks whether the Event Hub is still the surveyed one; belongs to one thread."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._management: HubAdmin | None = None
        self._asked_at = 0.0

    def others(
        self, incarnations: Mapping[Partition, str | None], since: str = "since the survey"
    ) -> dict[Partition, BrokerError]:
        """The partitions that are not those of these incarnations any more; None is not compared.

        Raises `BrokerError` if the service does not answer.
        """
        known = {partition: held for partition, held in incarnations.items() if held is not None}
        if not known:
            return {}
        options = self._options
        try:
            now = incarnation_of(options.namespace, options.hub, self._hub().created_ms)
        except UsageError as error:  # it does not exist
            text = f"the Event Hub was deleted {since}: {error}"
            return {partition: BrokerError(text, partition) for partition in known}
        if now is None:
            raise TransientError(
                f"{options.hub}: the management node did not report when it was created."
            )
        return {
            partition: RecreatedError(partition, since)
            for partition, held in known.items()
            if held != now
        }

    def _hub(self) -> HubProperties:
        if time.monotonic() - self._asked_at > _IDLE_S:
            self.close()
        try:
            self._management = self._management or open_hub_admin(self._options)
            found = self._management.hub()
        except ClearerError:
            self.close()
            raise
        self._asked_at = time.monotonic()
        return found

    def close(self) -> None:
        """Close the connection."""
        management, self._management = self._management, None
        if management is not None:
            management.close()


def read_partitions(
    options: EventHubsOptions, numbers: Sequence[int]
) -> dict[int, PartitionProperties | ClearerError]:
    """The properties of each partition, or the error that its request met.

    When the Event Hub was created is asked last: where it is the one known before, all figures are its own.
    """

    def ask(chunk: Sequence[int]) -> dict[int, PartitionProperties | ClearerError]:
        found: dict[int, PartitionProperties | ClearerError] = {}
        with contextlib.closing(open_hub_admin(options)) as management:
            for number in chunk:
                try:
                    found[number] = management.properties(number)
                except ClearerError as error:
                    found[number] = error
            created_ms = management.hub().created_ms
        return {
            number: item._replace(created_ms=created_ms)
            if isinstance(item, PartitionProperties)
            else item
            for number, item in found.items()
        }

    chunks = [numbers[at : at + _REQUESTS] for at in range(0, len(numbers), _REQUESTS)]
    found: dict[int, PartitionProperties | ClearerError] = {}
    for chunk, answer in zip(
        chunks, in_parallel(chunks, lambda: ask, where=options.place), strict=True
    ):
        found.update(dict.fromkeys(chunk, answer) if isinstance(answer, ClearerError) else answer)
    return found

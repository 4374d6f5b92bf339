"""Azure Event Hubs by the SDK's public client: requests to the management node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from backlog_clearer.brokers.eventhubs.client import CLIENT_FAILURES, consumer_client
from backlog_clearer.brokers.eventhubs.errors import service_error, unusable_answer
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    HubProperties,
    PartitionProperties,
    parse_hub,
    parse_properties,
)
from backlog_clearer.brokers.shared.times import milliseconds
from backlog_clearer.deadline import within
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Partition

TIMEOUT_S = 12.0
"""The longest time that a request may take: the SDK's own loops have no end."""


class ClientAdmin:
    """Requests to the management node, each over a connection that the SDK opens for it."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._client = consumer_client(options)
        self._silent: TransientError | None = None  # a service that did not answer is not asked again

    def hub(self) -> HubProperties:
        """The Event Hub; raises `UsageError` if it does not exist."""
        found = self._ask(self._client.get_eventhub_properties, None)
        try:
            return parse_hub(
                {
                    b"partition_ids": found["partition_ids"],
                    b"created_at": milliseconds(found["created_at"]),
                }
            )
        except CLIENT_FAILURES as error:
            raise unusable_answer(error, self._options, None) from error

    def properties(self, number: int) -> PartitionProperties:
        """The properties of one partition; raises `TransientError` if they cannot be true."""
        found = self._ask(lambda: self._client.get_partition_properties(str(number)), number)
        try:
            answer = {
                b"partition": found["id"],
                b"begin_sequence_number": found["beginning_sequence_number"],
                b"last_enqueued_sequence_number": found["last_enqueued_sequence_number"],
                b"last_enqueued_offset": found["last_enqueued_offset"],
                b"last_enqueued_time_utc": milliseconds(found["last_enqueued_time_utc"]),
                b"is_partition_empty": found["is_empty"],
            }
            return parse_properties(answer, number)
        except CLIENT_FAILURES as error:
            raise unusable_answer(error, self._options, number) from error

    def _ask(self, call: Callable[[], dict[str, Any]], number: int | None) -> dict[str, Any]:
        options = self._options
        partition = None if number is None else Partition(options.hub, number)
        if self._silent is not None:
            raise self._silent
        late = f"{partition or options.hub}: {options.place} did not answer"
        try:
            return within(TIMEOUT_S, call, late)
        except TimeoutError as error:
            text = str(error) if str(error).startswith(late) else f"{late}: {error}"
            self._silent = TransientError(f"{text}.")
            raise self._silent from error
        except CLIENT_FAILURES as error:
            raise service_error(error, options, partition) from error

    def close(self) -> None:
        """Close the client."""
        with contextlib.suppress(*CLIENT_FAILURES):
            self._client.close()

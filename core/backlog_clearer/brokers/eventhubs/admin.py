"""Azure Event Hubs over AMQP: requests to the management node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from azure.eventhub._pyamqp import AMQPClient
from azure.eventhub._pyamqp.message import Message

from backlog_clearer.brokers.eventhubs.connection import FAILURES, TIMEOUT_S, AmqpConnection
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    PartitionProperties,
    parse_partition_ids,
    parse_properties,
)
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Partition

_ERRORS_FROM = 400  # of the management node's status codes, which are HTTP's
_REQUESTS = 32  # asked one after the other over one connection; more get a connection of their own


class Management:
    """Requests to the management node over one connection."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._link = AmqpConnection(options)
        auth = self._link.auth
        self._client = AMQPClient(options.namespace, auth=auth, auth_timeout=TIMEOUT_S)

    def partition_numbers(self) -> list[int]:
        """The partitions of the Event Hub; raises `UsageError` if it does not exist."""
        found = self._ask("com.microsoft:eventhub", None)
        try:
            return parse_partition_ids(found)
        except (TypeError, ValueError) as error:
            raise self._unusable(error, None) from error

    def properties(self, number: int) -> PartitionProperties:
        """The properties of one partition; raises `TransientError` if they cannot be true."""
        found = self._ask("com.microsoft:partition", number)
        try:
            return parse_properties(found, number)
        except ValueError as error:
            raise self._unusable(error, number) from error

    def _unusable(self, error: Exception, number: int | None) -> TransientError:
        partition = None if number is None else Partition(self._options.hub, number)
        return TransientError(
            f"{partition or self._options.hub}: the management node's answer cannot be used: {error}.",
            partition,
        )

    def _ask(self, kind: str, number: int | None) -> Any:
        options = self._options
        partition = None if number is None else Partition(options.hub, number)
        self._link.transport.give_up_at = time.monotonic() + TIMEOUT_S
        try:
            self._client.open(connection=self._link.connection)
            while not self._client.client_ready():  # ends at `give_up_at`
                pass
            about = {"name": options.hub, "security_token": self._link.auth.get_token().token}
            if number is not None:
                about["partition"] = str(number)
            status, text, answer = self._client.mgmt_request(
                Message(application_properties=about),
                operation="READ",
                operation_type=kind,
                status_code_field=b"status-code",
                status_description_field=b"status-description",
            )
            if not isinstance(status, int) or status >= _ERRORS_FROM:
                described = text.decode() if isinstance(text, bytes) else text
                raise ValueError(f"Status code: {status}, {described}")
        except FAILURES as error:
            raise service_error(error, options, partition) from error
        return answer.value

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(*FAILURES):
            self._client.close()
        self._link.close()


def read_partition_numbers(options: EventHubsOptions) -> list[int]:
    """The partitions of the Event Hub; raises `UsageError` if it does not exist."""
    with contextlib.closing(Management(options)) as management:
        return management.partition_numbers()


def read_partitions(
    options: EventHubsOptions, numbers: Sequence[int]
) -> dict[int, PartitionProperties | ClearerError]:
    """The properties of each partition, or the error that its request met."""

    def ask(chunk: Sequence[int]) -> dict[int, PartitionProperties | ClearerError]:
        found: dict[int, PartitionProperties | ClearerError] = {}
        with contextlib.closing(Management(options)) as management:
            for number in chunk:
                try:
                    found[number] = management.properties(number)
                except ClearerError as error:
                    found[number] = error
        return found

    chunks = [numbers[at : at + _REQUESTS] for at in range(0, len(numbers), _REQUESTS)]
    found: dict[int, PartitionProperties | ClearerError] = {}
    for chunk, answer in zip(chunks, in_parallel(chunks, lambda: ask), strict=True):
        found.update(dict.fromkeys(chunk, answer) if isinstance(answer, ClearerError) else answer)
    return found

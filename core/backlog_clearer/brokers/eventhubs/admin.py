"""Azure Event Hubs over AMQP: requests to the management node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from backlog_clearer.brokers.eventhubs.connection import FAILURES, AmqpConnection
from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S
from backlog_clearer.brokers.eventhubs.errors import service_error
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    HubProperties,
    PartitionProperties,
    incarnation_of,
    parse_hub,
    parse_properties,
)
from backlog_clearer.brokers.eventhubs.sdk import AMQPClient, Message
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import BrokerError, ClearerError, RecreatedError, TransientError, UsageError
from backlog_clearer.model import Partition

_ERRORS_FROM = 400  # of the management node's status codes, which are HTTP's
_IDLE_S = 60.0  # after which a connection is not used again: the service closes idle ones
_REQUESTS = 32  # asked one after the other over one connection; more get a connection of their own


class Management:
    """Requests to the management node over one connection."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._link = AmqpConnection(options)
        auth = self._link.auth
        self._client = AMQPClient(options.namespace, auth=auth, auth_timeout=TIMEOUT_S)

    def hub(self) -> HubProperties:
        """The Event Hub; raises `UsageError` if it does not exist."""
        found = self._ask("com.microsoft:eventhub", None)
        try:
            return parse_hub(found)
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


def read_hub(options: EventHubsOptions) -> HubProperties:
    """The Event Hub; raises `UsageError` if it does not exist."""
    with contextlib.closing(Management(options)) as management:
        return management.hub()


class HubWatch:
    """Asks whether the Event Hub is still the surveyed one; belongs to one thread."""

    def __init__(self, options: EventHubsOptions) -> None:
        self._options = options
        self._management: Management | None = None
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
            self._management = self._management or Management(self._options)
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
        with contextlib.closing(Management(options)) as management:
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
    for chunk, answer in zip(chunks, in_parallel(chunks, lambda: ask), strict=True):
        found.update(dict.fromkeys(chunk, answer) if isinstance(answer, ClearerError) else answer)
    return found

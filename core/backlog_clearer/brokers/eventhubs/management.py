"""Azure Event Hubs over AMQP: requests to the management node, on one connection of the SDK's layers."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from backlog_clearer.brokers.eventhubs.connection import FAILURES, AmqpConnection
from backlog_clearer.brokers.eventhubs.counting import TIMEOUT_S
from backlog_clearer.brokers.eventhubs.errors import service_error, unusable_answer
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import (
    HubProperties,
    PartitionProperties,
    parse_hub,
    parse_properties,
)
from backlog_clearer.brokers.eventhubs.sdk import AMQPClient, Message
from backlog_clearer.model import Partition

_ERRORS_FROM = 400  # of the management node's status codes, which are HTTP's


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
            raise unusable_answer(error, self._options, None) from error

    def properties(self, number: int) -> PartitionProperties:
        """The properties of one partition; raises `TransientError` if they cannot be true."""
        found = self._ask("com.microsoft:partition", number)
        try:
            return parse_properties(found, number)
        except ValueError as error:
            raise unusable_answer(error, self._options, number) from error

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

"""Acknowledgements: requests for many messages at once, and the service's answers added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from google.pubsub_v1 import SubscriberClient

from backlog_clearer.brokers.googlepubsub.errors import Call, error_info, to_broker_error
from backlog_clearer.brokers.googlepubsub.wire import Acknowledge, ModifyAckDeadline
from backlog_clearer.errors import BrokerError, TransientError

ACK_IDS = 1000  # of one request, which may have 512 KiB: an id has up to about 220 bytes
ACK_TIMEOUT_S = 10.0
PERMISSION = "pubsub.subscriptions.consume"
SERVICE = "/google.pubsub.v1.Subscriber/"


class Sent(NamedTuple):
    """A request that is not answered yet."""

    ids: Sequence[bytes]
    future: Any  # of gRPC


class Answer(NamedTuple):
    """A request's ids, and its error; None: it succeeded."""

    ids: Sequence[bytes]
    error: Exception | None


class Requests:
    """Acknowledge and ModifyAckDeadline with many ids, over a client's channel."""

    def __init__(self, client: SubscriberClient, subscription: str) -> None:
        self.transport: Any = client.transport  # of the gRPC kind, which the client does not declare
        self.subscription = subscription
        self.metadata = (("x-goog-request-params", f"subscription={quote(subscription, safe='')}"),)
        self._acknowledge = self._method("Acknowledge")
        self._modify = self._method("ModifyAckDeadline")

    def _method(self, name: str) -> Any:
        return self.transport.grpc_channel.unary_unary(
            SERVICE + name, request_serializer=lambda message: message.SerializeToString()
        )

    def call(self, what: str) -> Call:
        """How errors name a request."""
        return Call(what, self.subscription, PERMISSION, self.transport.host)

    def acknowledge(self, ids: Sequence[bytes]) -> list[Sent]:
        """Begin to acknowledge all ids, in parallel requests."""
        return self._send(
            self._acknowledge,
            ids,
            lambda part: Acknowledge(subscription=self.subscription, ack_ids=part),
        )

    def set_deadline(self, ids: Sequence[bytes], seconds: int) -> list[Answer]:
        """Lease all ids for this long from now; 0 gives them back. Never raises: see `Answer.error`."""
        sent = self._send(
            self._modify,
            ids,
            lambda part: ModifyAckDeadline(
                subscription=self.subscription, ack_deadline_seconds=seconds, ack_ids=part
            ),
        )
        return await_answers(sent)

    def _send(
        self, method: Any, ids: Sequence[bytes], request: Callable[[Sequence[bytes]], Any]
    ) -> list[Sent]:
        parts = (ids[first : first + ACK_IDS] for first in range(0, len(ids), ACK_IDS))
        return [
            Sent(part, method.future(request(part), timeout=ACK_TIMEOUT_S, metadata=self.metadata))
            for part in parts
        ]


def await_answers(sent: Sequence[Sent]) -> list[Answer]:
    """Wait for the answers to requests; each takes at most `ACK_TIMEOUT_S` from its start."""
    return [Answer(ids, future.exception()) for ids, future in sent]


@dataclass(slots=True)
class AckOutcome:
    """Acknowledgements by their outcome."""

    confirmed: int = 0
    again: list[bytes] = field(default_factory=list)  # failed for now
    unanswered: list[bytes] = field(default_factory=list)  # of these: may be acknowledged nevertheless
    lost: int = 0  # the lease was over: these messages will be delivered again
    transient: BrokerError | None = None
    refused: BrokerError | None = None


def sort_answers(answers: Sequence[Answer], call: Call) -> AckOutcome:
    """Add up the answers to acknowledgements.

    With exactly-once delivery an error lists single ids (TRANSIENT_*, PERMANENT_*); the ids it does
    not list were acknowledged (https://cloud.google.com/pubsub/docs/exactly-once-delivery).
    """
    outcome = AckOutcome()
    for ids, error in answers:
        if error is None:
            outcome.confirmed += len(ids)
            continue
        info = error_info(error)
        by_id = {
            key.encode(): value
            for key, value in info.items()
            if value.startswith(("TRANSIENT_", "PERMANENT_"))
        }
        if by_id:
            again = [one for one in ids if by_id.get(one, "").startswith("TRANSIENT_")]
            lost = sum(by_id.get(one, "").startswith("PERMANENT_") for one in ids)
            outcome.again += again
            outcome.lost += lost
            outcome.confirmed += len(ids) - len(again) - lost
            if again:
                outcome.transient = TransientError(
                    f"{call.host} put off {len(again)} acknowledgements of {call.resource}:"
                    f" {by_id[again[0]]}."
                )
            continue
        failure = to_broker_error(error, call)
        outcome.again += ids
        if isinstance(failure, TransientError):
            outcome.transient = failure
            outcome.unanswered += ids
        else:
            outcome.refused = failure
    return outcome

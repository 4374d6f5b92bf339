"""Acknowledging many messages at once, and what the broker said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from google.pubsub_v1 import SubscriberClient

from backlog_clearer.brokers.googlepubsub.errors import Call, error_info, translated
from backlog_clearer.brokers.googlepubsub.wire import Acknowledge, ModifyAckDeadline
from backlog_clearer.errors import BrokerError, TransientError

ACK_IDS = 1000  # of one request: an id has up to about 220 bytes, a request 512 KiB
ACK_TIMEOUT_S = 10.0
PERMISSION = "pubsub.subscriptions.consume"
SERVICE = "/google.pubsub.v1.Subscriber/"


class Sent(NamedTuple):
    """A request under way."""

    ids: Sequence[bytes]
    future: Any  # of gRPC


class Answer(NamedTuple):
    """What became of a request."""

    ids: Sequence[bytes]
    error: Exception | None


class Requests:
    """Acknowledge and ModifyAckDeadline with many ids, over a client's own channel."""

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
        """Begin to acknowledge all, in parallel requests."""
        return self._send(
            self._acknowledge,
            ids,
            lambda part: Acknowledge(subscription=self.subscription, ack_ids=part),
        )

    def set_deadline(self, ids: Sequence[bytes], seconds: int) -> list[Answer]:
        """Lease all for so long from now; 0 gives them back."""
        sent = self._send(
            self._modify,
            ids,
            lambda part: ModifyAckDeadline(
                subscription=self.subscription, ack_deadline_seconds=seconds, ack_ids=part
            ),
        )
        return answers(sent)

    def _send(
        self, method: Any, ids: Sequence[bytes], request: Callable[[Sequence[bytes]], Any]
    ) -> list[Sent]:
        parts = (ids[first : first + ACK_IDS] for first in range(0, len(ids), ACK_IDS))
        return [
            Sent(part, method.future(request(part), timeout=ACK_TIMEOUT_S, metadata=self.metadata))
            for part in parts
        ]


def answers(sent: Sequence[Sent]) -> list[Answer]:
    """Wait for the answers to requests; each takes at most `ACK_TIMEOUT_S` from its start."""
    return [Answer(ids, future.exception()) for ids, future in sent]


@dataclass(slots=True)
class Verdict:
    """What a broker said of acknowledgements."""

    confirmed: int = 0
    again: list[bytes] = field(default_factory=list)  # failed for now
    lost: int = 0  # the lease was over: these messages will be delivered again
    transient: BrokerError | None = None
    refused: BrokerError | None = None


def judge(results: Sequence[Answer], call: Call) -> Verdict:
    """Add up the answers to acknowledgements.

    With exactly-once delivery an error lists single ids (TRANSIENT_*, PERMANENT_*); the ids it does
    not list were acknowledged (https://cloud.google.com/pubsub/docs/exactly-once-delivery).
    """
    verdict = Verdict()
    for ids, error in results:
        if error is None:
            verdict.confirmed += len(ids)
            continue
        said = error_info(error)
        by_id = {
            key.encode(): value
            for key, value in said.items()
            if value.startswith(("TRANSIENT_", "PERMANENT_"))
        }
        if by_id:
            again = [one for one in ids if by_id.get(one, "").startswith("TRANSIENT_")]
            lost = sum(by_id.get(one, "").startswith("PERMANENT_") for one in ids)
            verdict.again += again
            verdict.lost += lost
            verdict.confirmed += len(ids) - len(again) - lost
            if again:
                verdict.transient = TransientError(
                    f"{call.host} put off {len(again)} acknowledgements of {call.resource}:"
                    f" {by_id[again[0]]}."
                )
            continue
        failure = translated(error, call)
        verdict.again += ids
        if isinstance(failure, TransientError):
            verdict.transient = failure
        else:
            verdict.refused = failure
    return verdict

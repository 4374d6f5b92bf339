"""What lanes and the source need of a cluster, whether our own reader or the client library provides it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from backlog_clearer.brokers.pulsar.options import SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Place
from backlog_clearer.brokers.pulsar.wire import EntryHead
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Partition


def name_of(run_id: str) -> str:
    """The beginning of the names of a run's consumers; see `is_of`."""
    return f"backlog-clearer-{run_id}"


def new_name(run_id: str) -> str:
    """A name for one more consumer of a run."""
    return f"{name_of(run_id)}-{uuid.uuid4().hex[:8]}"


def is_of(run_id: str, consumer_name: str) -> bool:
    """Whether a consumer belongs to this run, in any process."""
    return consumer_name.rpartition("-")[0] == name_of(run_id)


class TopicEnd(NamedTuple):
    """The end of a topic and a subscription's position, as the binary protocol returns them."""

    end: Place  # the last entry that is delivered; its entry is -1 if there is none
    mark_delete: Place | None  # None: the broker does not report it


class Feed(Protocol):
    """Where entries arrive, of one consumer or of several."""

    @property
    def lost(self) -> set[int]:
        """Numbers of consumers that the broker has ended."""

    @property
    def broken_by(self) -> TransientError | None:
        """Why nothing can arrive any more; None: something can."""

    def next(self) -> EntryHead | None:
        """The next entry that was received whole; None: nothing is waiting here."""


class EntryConsumer(Protocol):
    """A consumer of one partition."""

    @property
    def connection(self) -> Feed:
        """Where its entries arrive."""

    @property
    def number(self) -> int:
        """Its number in the heads of entries."""

    def give(self, permits: int) -> None:
        """Let the broker send this many messages more."""

    def request_again(self) -> None:
        """Request everything again that was delivered and is not acknowledged."""

    def acknowledge(self, kind: int, places: Sequence[Place]) -> None:
        """Acknowledge whole entries, `INDIVIDUAL` or (one) `CUMULATIVE`; the broker does not answer."""


class Brokers(Protocol):
    """Connections to one cluster; for one thread. Methods raise `TransientError` or `BrokerError`."""

    @property
    def connections(self) -> Sequence[Feed]:
        """All feeds of the consumers that are open."""

    def arrived(self, max_wait_s: float) -> Sequence[Feed]:
        """The feeds to which something came within the time."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: it is not partitioned, or does not exist."""

    def subscribe(self, partition: Partition, topic: str, kind: SubscriptionType) -> EntryConsumer:
        """A new consumer of one partition's topic."""

    def probe(self, partition: Partition, topic: str, kind: SubscriptionType) -> EntryConsumer | None:
        """Ask whether a subscription exists, and create nothing that lasts; None: it exists.

        Else a consumer of a subscription that `end` ends.
        """

    def subscribe_existing(
        self, partition: Partition, topic: str, kind: SubscriptionType
    ) -> EntryConsumer:
        """Like `subscribe`, but raises `BrokerError` where that would create the subscription."""

    def end(self, consumer: Any, partition: Partition) -> None:
        """Close one of its consumers now."""

    def backlog(self, consumer: Any, partition: Partition) -> int | None:
        """Entries in the backlog, as the broker counts them; None: not reported."""

    def last(self, consumer: Any, partition: Partition) -> TopicEnd:
        """The end of the topic of one of its consumers, and the position of the subscription."""

    def seek(self, consumer: Any, partition: Partition, after: Place) -> None:
        """Move the subscription of one of its consumers so that the next entry is the one after this place."""

    def close(self) -> bool:
        """Close all consumers, so that the broker has everything that was sent; never raise.

        Returns whether it has confirmed that, for each of them.
        """

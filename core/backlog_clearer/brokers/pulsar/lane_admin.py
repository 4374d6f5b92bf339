"""The admin API as one lane asks it: whether topic and subscription are still those that were surveyed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.errors import (
    NoSubscriptionError,
    NotFoundError,
    UnreachableError,
    deleted_meanwhile,
)
from backlog_clearer.brokers.pulsar.facts import recreation
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.gaps import FreshFigures
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Partition

_CHECK_S = 0.1  # at least, between two checks of one lane
_CHECKS_A_SECOND = 40.0  # partitions: a broker serves all its administrators with a few threads
_PAUSE_S = 30.0


class LaneAdmin:
    """One HTTP session; for one thread."""

    def __init__(
        self,
        admin: Admin,
        subscription: str,
        topics: Mapping[Partition, str],
        surveyed: Mapping[Partition, Origins],
        *,
        reconnects: bool = False,
    ) -> None:
        """`reconnects`: whether consumers connect again by themselves, and so may reach another topic."""
        self._reconnects = reconnects
        self._admin = admin
        self._subscription = subscription
        self._topics = topics
        self._surveyed = surveyed
        self._asked_at: dict[Partition, float] = {}  # time.monotonic(), each before it was asked about
        self._others: dict[Partition, str] = {}  # why partitions are not the same any more
        self._pause = 0.0  # seconds until an API that did not answer is asked again

    def check(self, partitions: Sequence[Partition]) -> None:
        """Raise `BrokerError` for a partition whose topic or subscription is not the one surveyed.

        A lane asks this before it subscribes, which would create a subscription that was deleted meanwhile.
        """
        now = time.monotonic()
        for answer in self._admin.each(partitions, self._one):
            if isinstance(answer, ClearerError):
                raise answer
        self._asked_at.update(dict.fromkeys(partitions, now))

    def changed(self, partitions: Sequence[Partition]) -> dict[Partition, str]:
        """Why partitions that `check` accepted are not the same any more, once that was found for good.

        A consumer's acknowledgements reach only the topic and subscription that it was opened on, so it is
        enough to ask once in a while, and nothing is lost where the admin API is not reached at all: the broker
        closes the consumer when either is deleted. Not so where consumers connect again by themselves: then
        each call asks, and has to be answered. Raises `TransientError` where the API is reached and has no
        figures of a partition: that topic may be about to be deleted or created, and its messages must not be
        counted as acknowledged.
        """
        now = time.monotonic()
        interval = self._pause or max(_CHECK_S, len(partitions) / _CHECKS_A_SECOND)
        if self._reconnects:
            interval = 0.0
        due = [
            partition
            for partition in partitions
            if partition not in self._others and now - self._asked_at.get(partition, 0.0) >= interval
        ]
        unknown: TransientError | None = None
        self._pause = 0.0 if due else self._pause
        for partition, answer in zip(due, self._admin.each(due, self._one), strict=True):
            if isinstance(answer, UnreachableError) and not self._reconnects:
                self._pause = _PAUSE_S
            elif isinstance(answer, TransientError):
                unknown = unknown or answer
                continue  # asked about again by the next call
            elif isinstance(answer, ClearerError):
                self._others[partition] = str(answer)
            self._asked_at[partition] = now
        if unknown:
            raise unknown
        return {key: self._others[key] for key in partitions if key in self._others}

    def _one(self, admin: Admin, partition: Partition) -> None:
        try:
            now = admin.origins(self._topics[partition], self._subscription)
        except NoSubscriptionError:
            raise deleted_meanwhile(partition, self._subscription) from None
        except NotFoundError:
            raise BrokerError(
                f"{partition}: the topic {self._topics[partition]} was deleted since the survey.",
                partition,
            ) from None
        except BrokerError as error:
            error.partition = partition
            raise
        other = recreation(partition, self._surveyed.get(partition), now)
        if other:
            raise other

    def figures(self, partition: Partition) -> FreshFigures:
        """How to ask about one partition."""
        topic, subscription = self._topics[partition], self._subscription
        return FreshFigures(
            lambda: self._admin.layout(topic, subscription),
            lambda: bool(self._admin.acknowledging(topic, subscription)),
        )

    def close(self) -> None:
        """Close the session."""
        self._admin.close()

"""The admin API as one lane asks it: whether what it reads still is what was surveyed.

Acknowledgements need no such check: they go to a consumer, which belongs to one topic and one subscription,
and which the broker closes when either is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.errors import NoSubscriptionError, NotFoundError
from backlog_clearer.brokers.pulsar.facts import recreation
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.gaps import Figures
from backlog_clearer.errors import BrokerError, ClearerError
from backlog_clearer.model import Partition


class LaneAdmin:
    """One HTTP session; for one thread."""

    def __init__(
        self,
        admin: Admin,
        subscription: str,
        topics: Mapping[Partition, str],
        surveyed: Mapping[Partition, Origins],
    ) -> None:
        self._admin = admin
        self._subscription = subscription
        self._topics = topics
        self._surveyed = surveyed

    def check(self, partitions: Sequence[Partition]) -> None:
        """Raise `BrokerError` for a partition whose topic or subscription is not the one surveyed.

        A lane asks this before it subscribes, which would create a subscription that was deleted meanwhile.
        """
        for answer in self._admin.each(partitions, self._one):
            if isinstance(answer, ClearerError):
                raise answer

    def _one(self, admin: Admin, partition: Partition) -> None:
        try:
            now = admin.origins(self._topics[partition], self._subscription)
        except NoSubscriptionError:
            raise BrokerError(
                f"{partition}: the subscription {self._subscription!r} was deleted since the survey; it was"
                " not created again.",
                partition,
            ) from None
        except NotFoundError:
            raise BrokerError(
                f"{partition}: the topic {self._topics[partition]} was deleted since the survey.",
                partition,
            ) from None
        except BrokerError as error:
            error.partition = partition
            raise
        created_again = recreation(partition, self._surveyed.get(partition), now)
        if created_again:
            raise created_again

    def figures(self, partition: Partition) -> Figures:
        """How to ask about one partition."""
        topic, subscription = self._topics[partition], self._subscription
        return Figures(
            lambda: self._admin.layout(topic, subscription),
            lambda: bool(self._admin.acknowledging(topic, subscription)),
        )

    def close(self) -> None:
        """Close the session."""
        self._admin.close()

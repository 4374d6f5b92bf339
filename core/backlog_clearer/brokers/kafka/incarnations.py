"""Whether the logs are still those that were surveyed, and their committed offsets as they were left.

A topic that is deleted and created again has another id (KIP-516), and Kafka lets a group commit any
offset for it. What all lanes of a source have to know about a partition is kept here; a partition belongs
to one lane at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.figures import meddled, offset_of
from backlog_clearer.errors import BrokerError, RecreatedError, TransientError
from backlog_clearer.model import Claim, Partition

_GONE_S = 5.0  # a broker that has just started may not have heard of a topic yet
_SET_BACK_S = 3.0  # nor may a coordinator that has just taken over have all that was committed


def gone(partition: Partition) -> BrokerError:
    """The error of a partition whose topic was deleted."""
    return BrokerError(
        f"{partition} does not exist any more: its topic was deleted. Nothing of it was changed.",
        partition,
    )


class Incarnations:
    """The logs that a source was asked to clear; used from several threads."""

    def __init__(self, admin: GroupAdmin, now: Callable[[], float] = time.monotonic) -> None:
        self._admin = admin
        self._now = now
        self._missing: dict[str, float] = {}  # by topic: since when no broker has it
        self._behind: dict[Partition, float] = {}  # since when the offset is not where it was
        self.committed: dict[Partition, int | None] = {}  # as this source left or found them last
        self.beyond: dict[Partition, int] = {}  # the log's end, where the offset is to be lowered to it
        self.epochs: dict[Partition, int] = {}  # the leader epoch of the last batch read of each

    def begin(self, claim: Claim) -> None:
        """Remember a claim's committed offset, unless a lane has moved it since."""
        self.committed.setdefault(claim.partition, offset_of(claim.state.position))

    def set_back(self, partition: Partition, now: int | None) -> BrokerError | None:
        """Why a partition is left alone whose committed offset is `now`; None: it is where it was, or further.

        `TransientError` for the first few seconds: a coordinator that has just taken over answers with
        older offsets until its replicas have confirmed the last ones.
        """
        fault = meddled(partition, self.committed.get(partition), now)
        if fault is None:
            self._behind.pop(partition, None)
            return None
        passing = self._now() - self._behind.setdefault(partition, self._now()) < _SET_BACK_S
        return (TransientError if passing else BrokerError)(fault, partition)

    def faults(
        self,
        expected: Mapping[Partition, str | None],
        since: str = "since the survey",
        *,
        patient: bool = False,
    ) -> dict[Partition, BrokerError]:
        """Why partitions must not be touched: `RecreatedError`, or the topic is gone.

        `expected` has the incarnation of each partition; None: not known, which is no fault.
        `patient`: a topic is gone only once no broker has had it for a few seconds; until then
        `TransientError`. Raises like `GroupAdmin.incarnations`.
        """
        if not expected:
            return {}
        found = self._admin.incarnations({partition.topic for partition in expected})
        missing = {partition.topic: partition for partition in expected if partition.topic not in found}
        for topic in found:
            self._missing.pop(topic, None)
        for topic, partition in missing.items():
            since_when = self._missing.setdefault(topic, self._now())
            if patient and self._now() - since_when < _GONE_S:
                raise TransientError(
                    f"The brokers do not know the topic {topic} at present.", partition
                )
        return {
            partition: gone(partition)
            if partition.topic in missing
            else RecreatedError(partition, since)
            for partition, incarnation in expected.items()
            if partition.topic in missing or _differs(incarnation, found[partition.topic])
        }


def _differs(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def expected(claims: Iterable[Claim]) -> dict[Partition, str | None]:
    """The incarnation that each claim is about."""
    return {claim.partition: claim.state.incarnation for claim in claims}

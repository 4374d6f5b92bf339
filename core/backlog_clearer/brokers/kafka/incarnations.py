"""Whether the logs are still those that were surveyed, and their committed offsets as they were left.

A topic that is deleted and created again has another id (KIP-516), and Kafka lets a group commit any
offset for it. A log that an unclean election cut off keeps its id; there the leader epoch grows
(`leader_epochs`). What all lanes of a source have to know about a partition is kept here; a partition
belongs to one lane at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from backlog_clearer.brokers.kafka.figures import meddled, offset_of
from backlog_clearer.brokers.kafka.leader_epochs import Doubt, ReadUpTo
from backlog_clearer.brokers.kafka.metadata import TopicNow
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


class Pending(NamedTuple):
    """A commit that was perhaps written, and was not reported: its answer was lost, or another failed."""

    start: int  # the offset after which its messages lie
    offset: int
    messages: int
    read: ReadUpTo | None


class AsksTopics(Protocol):
    """Asks brokers what they have of topics (`metadata.SharedMetadata`)."""

    def topics(self, names: Iterable[str]) -> Mapping[str, TopicNow]:
        """The topics that exist."""

    def cut(self, doubts: Mapping[Partition, Doubt]) -> Mapping[Partition, BrokerError]:
        """The partitions whose leaders do not confirm what was read."""


class Incarnations:
    """The logs that a source was asked to clear; used from several threads."""

    def __init__(self, topics: AsksTopics, now: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._now = now
        self._missing: dict[str, float] = {}  # by topic: since when no broker has it
        self._behind: dict[Partition, float] = {}  # since when the offset is not where it was
        self.committed: dict[Partition, int | None] = {}  # as this source left or found them last
        self.beyond: dict[Partition, int] = {}  # the log's end, where the offset is to be lowered to it
        self.ids: Mapping[
            str, str | None
        ] = {}  # of the topics that existed when they were asked for last
        self.read: dict[Partition, ReadUpTo] = {}  # what was read and committed
        self.pending: dict[Partition, Pending] = {}  # commits that were not reported
        self.owed: dict[Partition, int] = {}  # messages of such commits that were written after all
        self._late: dict[Partition, list[Pending]] = {}  # such commits that may still be written
        self._confirmed: dict[
            Partition, int
        ] = {}  # the leader epoch in which the log had what was read
        self._at_survey: dict[Partition, int] = {}  # the leader epoch then

    def surveyed(self, partitions: Iterable[Partition]) -> None:
        """Remember the leader epochs in which the ends of the logs were surveyed."""
        self.faults(dict.fromkeys(partitions))
        self._at_survey = dict(self._confirmed)

    def epoch(self, partition: Partition) -> int | None:
        """The leader epoch in which the end of a log was surveyed; None: not known."""
        return self._at_survey.get(partition)

    def lost(self, frozen: Mapping[Partition, ReadUpTo]) -> Mapping[Partition, BrokerError]:
        """The logs that do not have all before targets which an earlier attempt froze in another epoch.

        `TransientError` where a leader does not answer. Raises like `AsksTopics.topics`.
        """
        found = self._topics.topics({partition.topic for partition in frozen})
        doubts = {}
        for partition, read in frozen.items():
            topic = found.get(partition.topic)
            epoch = None if topic is None else topic.epochs.get(partition.number)
            if topic is not None and epoch is not None and epoch != read.epoch:
                doubts[partition] = Doubt(read, epoch, topic.leader(partition.number))
        return self._topics.cut(doubts)

    def skipped(self, claims: Iterable[Claim]) -> dict[Partition, ReadUpTo]:
        """What the logs must still have for their targets to be the ends that were surveyed."""
        targets = {claim.partition: offset_of(claim.target) for claim in claims}
        return {
            partition: ReadUpTo(target, self._at_survey[partition], seen=False)
            for partition, target in targets.items()
            if target is not None and partition in self._at_survey
        }

    def begin(self, claim: Claim) -> None:
        """Remember a claim's committed offset, unless a lane has moved it since."""
        self.committed.setdefault(claim.partition, offset_of(claim.state.position))

    def written(self, partition: Partition, now: int | None) -> Pending | None:
        """Whether a commit that was not reported was written, by the committed offset, `now`.

        If so, its messages are owed: the next settle reports them. Returns a commit that was not written.
        """
        pending = self.pending.pop(partition, None)
        if pending is None:
            return None
        if pending.offset != now:
            self._late.setdefault(partition, []).append(pending)
            return pending
        self.settled(partition, now, pending.messages, pending.read)
        self.owed[partition] = self.owed.get(partition, 0) + pending.messages
        return None

    def resumed(self, partition: Partition, now: int | None) -> None:
        """As `written`, where a lane starts at the committed offset, `now`, and reads nothing again.

        An earlier commit that was taken for not written may be the one that is found there.
        """
        before = self.committed.get(partition)
        self.written(partition, now)
        for each in self._late.get(partition, ()):
            if each.offset == now and now != before and before in {None, each.start}:
                self.settled(partition, now, each.messages, each.read)
                self.owed[partition] = self.owed.get(partition, 0) + each.messages
                return

    def unreported(self, stored: Mapping[Partition, int | None]) -> dict[Partition, int | None]:
        """What commits that were not reported acknowledged, by the offsets committed now; None: unknown."""
        found: dict[Partition, int | None] = dict(self.owed)
        for partition in {*self.pending, *self._late}:
            sent = [*self._late.get(partition, ()), *self._unanswered(partition)]
            if not sent:
                continue
            owed, now = self.owed.get(partition, 0), stored.get(partition)
            written = [each.messages for each in sent if each.offset == now]
            if written:
                found[partition] = owed + max(written)
            elif partition in stored and (now is None or now <= sent[0].start):
                found[partition] = owed
            else:
                found[partition] = None
        return found

    def _unanswered(self, partition: Partition) -> Sequence[Pending]:
        return [self.pending[partition]] if partition in self.pending else []

    def was_late(self, partition: Partition, start: int, now: int) -> bool:
        """Whether a commit of messages after `start` to the offset `now` was taken for not written."""
        return any((each.start, each.offset) == (start, now) for each in self._late.get(partition, ()))

    def settled(self, partition: Partition, offset: int, messages: int, read: ReadUpTo | None) -> None:
        """Remember a committed offset with its messages, and up to which leader epoch the log was read."""
        self._late[partition] = [
            each._replace(start=offset, messages=max(0, each.messages - messages))
            for each in self._late.pop(partition, ())
            if each.offset > offset
        ]
        self.committed[partition] = offset
        if read is not None:
            self.read[partition] = read

    def set_back(self, partition: Partition, now: int | None) -> BrokerError | None:
        """Why a partition is not changed whose committed offset is `now`; None: it is where it was, or further.

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
        read: Mapping[Partition, ReadUpTo] | None = None,
    ) -> dict[Partition, BrokerError]:
        """Why partitions must not be touched: `RecreatedError`, the topic is gone, or its log was cut off.

        `expected` has the incarnation of each partition; None: not known, which is not a fault.
        `patient`: a topic is gone only once no broker has had it for a few seconds; until then
        `TransientError`. `read`: what was read of some of them, which their logs must still have; where
        that is not known, `TransientError`. Raises like `AsksTopics.topics`.
        """
        if not expected:
            return {}
        found = self._topics.topics({partition.topic for partition in expected})
        return self._faults(found, expected, since, patient=patient, read=read or {})

    def sound(self, claims: Iterable[Claim]) -> Mapping[str, TopicNow]:
        """The topics of claims as brokers have them at present, for a lane that is about to be opened.

        Raises the first of the claims' faults, and like `faults` where patient.
        """
        asked = expected(claims)
        if not asked:
            return {}
        found = self._topics.topics({partition.topic for partition in asked})
        for fault in self._faults(found, asked, patient=True, read=self.read).values():
            raise fault
        return found

    def _faults(
        self,
        found: Mapping[str, TopicNow],
        expected: Mapping[Partition, str | None],
        since: str = "since the survey",
        *,
        patient: bool,
        read: Mapping[Partition, ReadUpTo],
    ) -> dict[Partition, BrokerError]:
        """See `faults`; by what brokers have at present, `found`."""
        self.ids = {name: now.incarnation for name, now in found.items() if now.fault is None}
        missing = {partition.topic: partition for partition in expected if partition.topic not in found}
        for topic in found:
            self._missing.pop(topic, None)
        for topic, partition in missing.items():
            since_when = self._missing.setdefault(topic, self._now())
            if patient and self._now() - since_when < _GONE_S:
                raise TransientError(
                    f"The brokers do not have the topic {topic} at present.", partition
                )
        faults: dict[Partition, BrokerError] = {}
        for partition, incarnation in expected.items():
            now = found.get(partition.topic)
            if now is None:
                faults[partition] = gone(partition)
            elif now.fault is not None:
                faults[partition] = BrokerError(str(now.fault), partition)
            elif _differs(incarnation, now.incarnation):
                faults[partition] = RecreatedError(partition, since)
        return {**faults, **self._cut(expected.keys() - faults.keys(), found, read)}

    def _cut(
        self,
        partitions: Iterable[Partition],
        found: Mapping[str, TopicNow],
        read: Mapping[Partition, ReadUpTo],
    ) -> Mapping[Partition, BrokerError]:
        """The faults of logs that have another leader epoch than when they were read."""
        now: dict[Partition, int] = {}
        for partition in partitions:
            epoch = found[partition.topic].epochs.get(partition.number)
            if epoch is not None:
                now[partition] = epoch
        doubts = {
            partition: Doubt(read[partition], epoch, found[partition.topic].leader(partition.number))
            for partition, epoch in now.items()
            if partition in read and epoch != self._confirmed.get(partition)
        }
        faults = self._topics.cut(doubts)
        self._confirmed.update({p: epoch for p, epoch in now.items() if p not in faults})
        return faults


def _differs(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def expected(claims: Iterable[Claim]) -> dict[Partition, str | None]:
    """The incarnation that each claim is about."""
    return {claim.partition: claim.state.incarnation for claim in claims}

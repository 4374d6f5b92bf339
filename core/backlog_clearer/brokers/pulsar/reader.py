"""One partition that a lane reads: which entries are counted, and which are acknowledged.

An entry is acknowledged once all of its messages are counted, so that the counts of acknowledged
messages are also right where the broker keeps no index within a batch. Exclusive and Failover acknowledge
cumulatively, one command a settle; Shared and Key_Shared entry by entry, many in one command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from backlog_clearer.brokers.pulsar.acknowledgements import Acknowledgements
from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.brokers import EntryConsumer
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.gaps import FreshFigures, GapWatch
from backlog_clearer.brokers.pulsar.options import COMPETING, PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Layout, Place, parse_place
from backlog_clearer.brokers.pulsar.wire import CUMULATIVE, INDIVIDUAL, EntryHead
from backlog_clearer.model import Advance, Claim, Partition, Settled

_SILENT_S = 1.0  # silence after which only the broker's figures can show whether anything is left
_ACKS = 1000  # entries in one acknowledgement


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Settings that all lanes of a source share."""

    options: PulsarOptions
    access: Access
    run_id: str
    kind: SubscriptionType
    topics: Mapping[Partition, str]
    layouts: Mapping[Partition, Layout]  # as surveyed; without the admin API: empty
    origins: Mapping[Partition, Origins]  # the same
    answer_s: float  # silence after which a connection counts as dead
    permits: int  # messages that the broker may send to one consumer in advance
    acknowledgements: Acknowledgements
    admin: Callable[[], Admin] | None  # opens a session; None: there is no admin API
    missing: set[Partition]  # whose subscription the run may create, and the admin API did not

    @property
    def competing(self) -> bool:
        """Whether consumers share a partition's messages."""
        return self.kind in COMPETING


class ClaimReader:
    """One partition that a lane reads."""

    def __init__(
        self,
        claim: Claim,
        settings: LaneSettings,
        consumer: EntryConsumer,
        figures: FreshFigures | None,
    ) -> None:
        """`figures`: None without the admin API."""
        self.partition = claim.partition
        self.consumer = consumer
        self.settings = settings
        self.competing = settings.competing
        self.target = None if claim.target is None else parse_place(claim.target)
        self.layout = settings.layouts.get(claim.partition)
        stored = claim.resume if claim.resume is not None else claim.state.position
        self.at = Place(-1, -1) if stored is None else parse_place(stored)  # the last entry counted
        if self.layout:
            self.at = max(self.at, self.layout.mark_delete)
        self.resumed = claim.resume is not None and not self.competing
        self.settled = self.at  # in order: acknowledged up to here
        self.active_at = time.monotonic()
        self.gap = GapWatch(self.layout, figures, self.active_at)
        self.doubted = False
        self.reached = False
        self.taken: list[int] | None = None  # messages and bytes of this read; None: none came
        self.spent = 0  # permits used up and not renewed yet
        self.pending = 0  # messages of the last entry that are not counted yet
        self.counted = 0  # messages of entries that are not acknowledged yet, without…
        self.partly = 0  # …those counted of the pending one
        self.ready: Place | None = None  # in order: up to where everything is counted
        self.runs: list[Place] = []  # competing: entries to acknowledge…
        self.sizes: list[int] = []  # …and the messages counted of each

    def give(self, permits: int) -> None:
        """Let the broker send this many messages more."""
        self.consumer.give(permits)

    def give_again(self) -> None:
        """Renew permits once half of them are used up."""
        if self.spent >= self.settings.permits // 2 and not self.reached:
            self.give(self.spent)
            self.spent = 0

    def acknowledge_again(self) -> None:
        """Repeat an earlier lane's acknowledgement, which the broker may have lost with the connection."""
        if self.resumed and self.at.entry >= 0:
            self.consumer.acknowledge(CUMULATIVE, [self.at])

    def take(self, entry: EntryHead, limit: int | None) -> int:
        """Count an entry, or `limit` of its messages; returns how many are new and before the target."""
        self.active_at, self.doubted = time.monotonic(), False
        self.spent += entry.permits
        at = Place(entry.ledger, entry.entry)
        beyond = self.target is not None and at > self.target
        if self.competing:
            if beyond:
                return 0
            if self._acknowledged(at):  # acknowledged again, not counted
                self._owe(at, 0)
                self._note(0, 0)
                return 0
        elif at <= self.at or not self._follows(
            at
        ):  # delivered again, or before others that are missing
            return 0
        elif beyond:
            if self.target is not None and self.at < self.target:  # no earlier entry can follow
                self.at = self.target
                self._note(0, 0)
            return 0
        self.at = at
        self.pending = entry.messages
        return self.count_pending(limit, entry.size)

    def _follows(self, at: Place) -> bool:
        """Whether an entry may be counted, because none before it is missing."""
        last, gap = self.at, self.gap
        if at.ledger == last.ledger and at.entry == last.entry + 1:
            if gap.open:
                gap.close()
            return True
        if gap.passes(last, at, self.target, self.active_at):
            self.layout = gap.layout
            if gap.gone:
                self.settings.acknowledgements.lose(self.partition, gap.gone)
                gap.gone = 0
            return True
        if gap.wanted:
            self.consumer.request_again()
        return False

    def request_missing(self) -> None:
        """Request entries again that are missing, where the broker has fallen silent."""
        if self.gap.overdue(self.active_at, time.monotonic()):
            self.consumer.request_again()

    def _acknowledged(self, at: Place) -> bool:
        """Whether an entry was acknowledged before: by this run, or when it was surveyed.

        Such entries are delivered: Pulsar 3.0 delivers to a shared subscription's next consumer what the
        last one had acknowledged just before it disconnected.
        """
        if self.layout and self.layout.acknowledged(at):
            return True
        return self.settings.acknowledgements.includes(self.partition, at)

    def count_pending(self, limit: int | None, size: int = 0) -> int:
        """Count the pending messages of the last entry, at most `limit`; returns how many."""
        count = self.pending if limit is None else min(self.pending, limit)
        self.pending -= count
        self.partly += count
        if not self.pending:
            self.counted += self.partly
            if self.competing:
                self._owe(self.at, self.partly)
            else:
                self.ready = self.at
            self.partly = 0
        self._note(count, size)
        return count

    def _owe(self, at: Place, messages: int) -> None:
        """Note an entry that the next settle has to acknowledge, and the messages counted of it."""
        self.runs.append(at)
        self.sizes.append(messages)

    def _note(self, messages: int, size: int) -> None:
        if self.taken is None:
            self.taken = [0, 0]
        self.taken[0] += messages
        self.taken[1] += size

    def advance(self) -> Advance | None:
        """What was counted since the last call; None: nothing new."""
        if self.taken is None:
            return None
        (messages, size), self.taken = self.taken, None
        left = self.left()
        self.reached = left == 0 and self.target is not None
        return Advance(self.partition, messages, left, size)

    def silence(self) -> Advance | None:
        """Report once that the rest is unknown: entries that are left may never be delivered."""
        if self.doubted or time.monotonic() - self.active_at < _SILENT_S:
            return None
        self.doubted = True
        return Advance(self.partition, 0, None)

    def left(self) -> int | None:
        """Entries up to the target that are not read yet, by the ledgers; None: unknown."""
        if self.competing:
            return None
        if self.target is not None and self.at >= self.target and not self.pending:
            return 0
        if self.layout is None or self.at.ledger < 0:
            return None
        target = self.layout.end if self.target is None else self.target
        left = replace(self.layout, mark_delete=self.at).left(target)
        if self.target is not None and not left:
            return 1 if self.pending else 0
        return left

    @property
    def owes_target(self) -> bool:
        """Whether the target was reached, and is not acknowledged yet."""
        return self.reached and self.target is not None and self.settled < self.target

    @property
    def waits_for_settle(self) -> bool:
        """Whether there may be something to acknowledge."""
        return bool(self.runs) or self.ready is not None or self.reached

    def settle(self) -> Settled | None:
        """Acknowledge the complete entries; None: there is nothing to acknowledge."""
        return self._settle_competing() if self.competing else self._settle_in_order()

    def _settle_in_order(self) -> Settled | None:
        at = self.ready
        if (
            self.reached and self.target is not None
        ):  # entries before it may be ones that are not delivered
            at = self.target
        if at is None or at <= self.settled:
            return None
        self._send(CUMULATIVE, [at])
        self.settled, self.ready = at, None
        messages = self._take_counted()
        self.settings.acknowledgements.reach(self.partition, at, messages)
        return Settled(self.partition, messages, str(at))

    def _settle_competing(self) -> Settled | None:
        if not self.runs:
            return None
        for start in range(0, len(self.runs), _ACKS):
            self._send(INDIVIDUAL, self.runs[start : start + _ACKS])
        self.settings.acknowledgements.add(self.partition, self.runs, self.sizes)
        self.runs, self.sizes = [], []
        return Settled(self.partition, self._take_counted(), None)

    def _send(self, kind: int, places: Sequence[Place]) -> None:
        try:
            self.consumer.acknowledge(kind, places)
        except Exception:
            self.settings.acknowledgements.unsure.add(self.partition)
            raise

    def _take_counted(self) -> int:
        settled, self.counted = self.counted, 0
        return settled

"""How far a lane has read, and which of it is not committed yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from backlog_clearer.brokers.kafka.figures import OffsetFigures, cut_off, meddled, offset_of
from backlog_clearer.brokers.kafka.incarnations import Incarnations, Pending, expected
from backlog_clearer.brokers.kafka.leader_epochs import ReadUpTo
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled

AGAIN_S = 3.0  # how long the offsets are asked for after a commit without an answer


class StoredOffsets(Protocol):
    """Reads and writes a group's offsets (`positions.GroupOffsets`)."""

    def committed(
        self, partitions: Iterable[Partition], timeout_s: float | None = None
    ) -> OffsetFigures:
        """What the group has committed now; raises if the request failed as a whole."""

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Write offsets; by partition, why it was refused, or None."""


def start_offset(claim: Claim) -> int:
    """Where reading a claim starts: resume or the committed offset, but not before the log start."""
    start = offset_of(claim.state.start) or 0
    position = offset_of(claim.state.position if claim.resume is None else claim.resume)
    return start if position is None else max(position, start)


def target_offset(claim: Claim) -> int | None:
    """Where reading a claim ends; None: it follows the log end."""
    return offset_of(claim.target)


def skip_target(claim: Claim, now: int | None, end: int, *, lower: bool) -> int | str:
    """The offset at which a skip of a claim leaves its partition, or why it is refused.

    `now`: the committed offset (None: nothing is stored); `end`: of the log at present. An offset that is
    further already stays, unless it lies beyond the end and is to be lowered.
    """
    target = target_offset(claim)
    if target is None:
        return f"The target {claim.target!r} is not an offset."
    if target > end:
        return str(cut_off(claim.partition, target))
    before = offset_of(claim.state.position)
    if lower and before is not None and before > end:
        return end if now is not None and now > end else target
    return meddled(claim.partition, before, now) or max(target if now is None else now, target)


class LaneOffsets:
    """Offsets and counts of one lane's claims; used only by that lane's thread."""

    def __init__(self, claims: Sequence[Claim], logs: Incarnations) -> None:
        """Targets that are reached already are reported by the first `ready`."""
        self.at = {
            claim.partition: logs.beyond.get(claim.partition, start_offset(claim)) for claim in claims
        }
        self.targets = {claim.partition: target_offset(claim) for claim in claims}
        self.open: set[Partition] = set()  # still to be read
        self._logs = logs
        self._incarnations = expected(claims)
        self._read = {p: logs.read[p] for p in self.at if p in logs.read}
        self._lowered = {partition for partition in self.at if partition in logs.beyond}
        self._counted: Counter[Partition] = Counter()
        self._from = dict(self.at)  # the offset after which the messages counted lie
        self._perhaps: set[Partition] = set()  # this lane's commits that were perhaps written
        self._moved: set[Partition] = set(self._lowered)
        self._ready: list[Advance] = []
        for partition, offset in self.at.items():
            target, owed = self.targets[partition], logs.owed.get(partition, 0)
            if target is not None and offset >= target:
                self._ready.append(Advance(partition, owed, 0))
                self._note_move(partition)
                continue
            self.open.add(partition)
            if owed:
                left = None if target is None else target - offset
                self._ready.append(Advance(partition, owed, left))

    def ready(self) -> Sequence[Advance]:
        """What is known before anything is read: targets reached, and messages acknowledged; once."""
        ready, self._ready = self._ready, []
        return ready

    def epoch(self, partition: Partition) -> int:
        """The leader epoch of the batch before the present position; -1: not known (KIP-320)."""
        read = self._read.get(partition)
        return -1 if read is None or read.offset != self.at[partition] else read.epoch

    def forget_epoch(self, partition: Partition) -> None:
        """The log starts beyond what was read: its leader may not have that epoch any more."""
        self._read.pop(partition, None)

    def reach(
        self,
        partition: Partition,
        offset: int,
        messages: int,
        *,
        end: int | None,
        size: int = 0,
        read: ReadUpTo | None = None,
    ) -> Advance:
        """Note that everything before `offset` was read, `messages` of it by this read.

        `end` is the log's end, for a claim without target; `size` the bytes received for it; `read` the
        last batch's offset and leader epoch, where it has one.
        """
        target = self.targets[partition]
        if target is not None and offset >= target:
            offset = target
            self.open.discard(partition)
        self._counted[partition] += messages
        if read is not None:
            self._read[partition] = ReadUpTo(min(read.offset, offset), read.epoch)
        if offset > self.at[partition]:
            self.at[partition] = offset
            self._note_move(partition)
        stop = end if target is None else target
        # An end before the position is an old figure: then the rest is unknown, not 0.
        left = None if stop is None or stop < offset else stop - offset
        return Advance(partition, messages, left, size)

    def _note_move(self, partition: Partition) -> None:
        """Remember to commit, unless the committed offset is there or further already."""
        stored = self._logs.committed.get(partition)
        if stored is None or self.at[partition] > stored:
            self._moved.add(partition)

    def drop(self, partition: Partition) -> None:
        """Neither read nor commit any more of a partition: its log is not what was read."""
        self.open.discard(partition)
        self._moved.discard(partition)

    def settle(self, stored_offsets: StoredOffsets) -> Sequence[Settled]:
        """Commit the positions reached, all in one request, and never lower one.

        Another run on the same group may have committed more meanwhile: then its offset stays, and
        what it acknowledged is not counted here. An offset that vanished or was moved back, and a log
        that is not the claimed one any more or was cut off below the position, is that partition's
        error. Raises like `StoredOffsets`, and, when the others are committed, the `TransientError` of a
        partition that cannot be committed now; messages acknowledged by then are reported by a later call,
        or by the next lane.
        """
        owed = [p for p in self.at if p in self._logs.owed]
        if not self._moved and not owed:
            return ()
        stored, unknown = stored_offsets.committed(self._moved)
        for partition in self._moved - unknown.keys():
            again = self._logs.written(partition, stored.get(partition))
            if again is not None and partition in self._perhaps:  # an earlier lane's is read again
                self._counted[partition] += again.messages
                self._from[partition] = again.start
            self._perhaps.discard(partition)
        failures = self._failures(stored, unknown)
        passing = [each for each in failures.values() if isinstance(each, TransientError)]
        sound = [p for p in self._moved if p not in failures]
        outcomes = {p: self._outcome(p, stored.get(p)) for p in sound}
        refused = self._commit(stored_offsets, stored, outcomes)
        if passing:
            self._report_later({p: out for p, out in outcomes.items() if refused.get(p) is None})
            raise passing[0]
        errors = {**{p: str(each) for p, each in failures.items()}, **refused}
        settled = []
        for partition in {*self._moved, *owed}:
            late = self._logs.owed.pop(partition, 0)
            if (error := errors.get(partition)) is not None:
                settled.append(Settled(partition, late, None, error))
            elif partition in outcomes:
                settled.append(self._settled(partition, outcomes[partition], late))
            else:
                settled.append(Settled(partition, late, self._logs.committed.get(partition)))
        self._moved.clear()
        return settled

    def _failures(
        self, stored: Mapping[Partition, int], unknown: Mapping[Partition, BrokerError]
    ) -> dict[Partition, BrokerError]:
        """Why partitions must not be committed, or not now."""
        if not self._moved:
            return {}
        # The logs last: as near to the commit as can be.
        faults = self._logs.faults(
            {p: self._incarnations[p] for p in self._moved},
            patient=True,
            read={p: self._read[p] for p in self._moved if p in self._read},
        )
        failures = {**unknown, **faults}
        for partition in self._moved - failures.keys() - self._lowered:
            set_back = self._logs.set_back(partition, stored.get(partition))
            if set_back is not None:
                failures[partition] = set_back
        return failures

    def _commit(
        self,
        stored_offsets: StoredOffsets,
        stored: Mapping[Partition, int],
        outcomes: Mapping[Partition, Pending],
    ) -> Mapping[Partition, str | None]:
        """Commit what moves a partition; by partition, why it was refused, or None.

        Where the answer is lost, the offsets are asked for once more.
        """
        wanted = {p: self.at[p] for p in outcomes if self._moves(p, stored)}
        try:
            return stored_offsets.commit(wanted)
        except BrokerError:
            with suppress(BrokerError):
                found, _ = stored_offsets.committed(wanted, AGAIN_S)
                if all(found.get(p) == offset for p, offset in wanted.items()):
                    return {}
            self._report_later(outcomes)
            raise

    def _report_later(self, outcomes: Mapping[Partition, Pending]) -> None:
        """Keep the messages of commits that were perhaps written; see `Incarnations.written`."""
        self._logs.pending.update(outcomes)
        self._perhaps.update(outcomes)
        for partition, outcome in outcomes.items():
            self._counted.pop(partition, None)
            self._from[partition] = outcome.offset

    def _moves(self, partition: Partition, stored: Mapping[Partition, int]) -> bool:
        """Whether a commit moves a partition forward, or to the end from beyond it."""
        now, at = stored.get(partition, -1), self.at[partition]
        return now < at or (now > at and partition in self._lowered)

    def _outcome(self, partition: Partition, now: int | None) -> Pending:
        """What a commit acknowledges of a partition whose committed offset is `now`."""
        offset, count = self.at[partition], self._counted.get(partition, 0)
        start = self._from[partition]
        others = now is not None and now > start and not self._logs.was_late(partition, start, now)
        if now is not None and others and partition not in self._lowered:
            count = min(count, max(0, offset - now))
            offset = max(offset, now)
            start = now
        return Pending(start, offset, count, self._read.get(partition))

    def _settled(self, partition: Partition, outcome: Pending, late: int) -> Settled:
        """A partition that is committed; `late`: messages of commits that were not reported then."""
        if partition in self._lowered:
            self._lowered.discard(partition)
            self._logs.beyond.pop(partition, None)
        self._counted.pop(partition, None)
        self._from[partition] = outcome.offset
        self._logs.settled(partition, outcome.offset, outcome.messages, outcome.read)
        return Settled(partition, outcome.messages + late, outcome.offset)

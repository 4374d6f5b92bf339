"""How far a lane has read, and which of it is not committed yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from backlog_clearer.brokers.kafka.figures import Figures, cut_off, meddled, offset_of
from backlog_clearer.brokers.kafka.incarnations import Incarnations, expected
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Advance, Claim, Partition, Settled


class StoredOffsets(Protocol):
    """Reads and writes a group's offsets (`positions.GroupOffsets`)."""

    def committed(self, partitions: Iterable[Partition]) -> Figures:
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
        self._lowered = {partition for partition in self.at if partition in logs.beyond}
        self._counted: Counter[Partition] = Counter()
        self._moved: set[Partition] = set(self._lowered)
        self._ready: list[Advance] = []
        for partition, offset in self.at.items():
            target = self.targets[partition]
            if target is not None and offset >= target:
                self._ready.append(Advance(partition, 0, 0))
                self._note_move(partition)
            else:
                self.open.add(partition)

    def ready(self) -> Sequence[Advance]:
        """Targets that were reached before anything was read; once."""
        ready, self._ready = self._ready, []
        return ready

    def reach(
        self, partition: Partition, offset: int, messages: int, *, end: int | None, size: int = 0
    ) -> Advance:
        """Note that everything before `offset` was read, `messages` of it by this read.

        `end` is the log's end, for a claim without target; `size` the bytes received for it.
        """
        target = self.targets[partition]
        if target is not None and offset >= target:
            offset = target
            self.open.discard(partition)
        self._counted[partition] += messages
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
        that is not the claimed one any more, is that partition's error. Raises like `StoredOffsets`, and
        the `TransientError` of a partition whose committed offset is not known now.
        """
        if not self._moved:
            return ()
        stored, unknown = stored_offsets.committed(self._moved)
        # The incarnation last: as near to the commit as can be.
        faults = self._logs.faults({p: self._incarnations[p] for p in self._moved}, patient=True)
        failures = {**unknown, **faults}
        for partition in self._moved - failures.keys() - self._lowered:
            set_back = self._logs.set_back(partition, stored.get(partition))
            if set_back is not None:
                failures[partition] = set_back
        for failure in failures.values():
            if isinstance(failure, TransientError):
                raise failure
        errors: dict[Partition, str | None] = {p: str(failure) for p, failure in failures.items()}
        sound = [p for p in self._moved if errors.get(p) is None]
        errors.update(stored_offsets.commit({p: self.at[p] for p in sound if self._moves(p, stored)}))
        settled = [self._settled(p, stored.get(p), errors.get(p)) for p in self._moved]
        self._moved.clear()
        return settled

    def _moves(self, partition: Partition, stored: Mapping[Partition, int]) -> bool:
        """Whether a commit moves a partition forward, or to the end from beyond it."""
        now, at = stored.get(partition, -1), self.at[partition]
        return now < at or (now > at and partition in self._lowered)

    def _settled(self, partition: Partition, now: int | None, error: str | None) -> Settled:
        """The outcome of a partition whose committed offset was `now` before the commit."""
        if error is not None:
            return Settled(partition, 0, None, error)
        offset, count = self.at[partition], self._counted.pop(partition, 0)
        if partition in self._lowered:
            self._lowered.discard(partition)
            self._logs.beyond.pop(partition, None)
        else:
            known = self._logs.committed.get(partition)
            if now is not None and (known is None or now > known):  # overtaken
                count = min(count, max(0, offset - now))
                offset = max(offset, now)
        self._logs.committed[partition] = offset
        return Settled(partition, count, offset)

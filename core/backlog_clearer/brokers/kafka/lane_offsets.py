"""How far a lane has read, and which of it is not committed yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from backlog_clearer.brokers.kafka.figures import Figures
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
    start = claim.state.start if isinstance(claim.state.start, int) else 0
    position = claim.resume if claim.resume is not None else claim.state.position
    return max(position, start) if isinstance(position, int) else start


def target_offset(claim: Claim) -> int | None:
    """Where reading a claim ends; None: it follows the log end."""
    return claim.target if isinstance(claim.target, int) else None


class LaneOffsets:
    """Offsets and counts of one lane's claims; used only by that lane's thread."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        """Targets that are reached already are reported by the first `ready`."""
        self.at = {claim.partition: start_offset(claim) for claim in claims}
        self.targets = {claim.partition: target_offset(claim) for claim in claims}
        self.open: set[Partition] = set()  # still to be read
        self._known = {  # the committed offsets, as far as this lane has seen them
            claim.partition: claim.state.position if claim.resume is None else claim.resume
            for claim in claims
        }
        self._counted: Counter[Partition] = Counter()
        self._moved: set[Partition] = set()
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
        stored = self._known[partition]
        if not isinstance(stored, int) or self.at[partition] > stored:
            self._moved.add(partition)

    def settle(self, stored_offsets: StoredOffsets) -> Sequence[Settled]:
        """Commit the positions reached, all in one request, and never lower one.

        Another run on the same group may have committed more meanwhile: then its offset stays, and
        what it acknowledged is not counted here. Raises like `StoredOffsets`, and the `TransientError`
        of a partition whose committed offset is not known now.
        """
        if not self._moved:
            return ()
        stored, unknown = stored_offsets.committed(self._moved)
        for failure in unknown.values():
            if isinstance(failure, TransientError):
                raise failure
        offsets = {
            p: self.at[p] for p in self._moved if p not in unknown and stored.get(p, -1) < self.at[p]
        }
        errors = {
            **stored_offsets.commit(offsets),
            **{partition: str(failure) for partition, failure in unknown.items()},
        }
        settled = []
        for partition in self._moved:
            offset, now = self.at[partition], stored.get(partition)
            error = errors.get(partition)
            if error is not None:
                settled.append(Settled(partition, 0, None, error))
                continue
            known = self._known[partition]
            count = self._counted.pop(partition, 0)
            if now is not None and (not isinstance(known, int) or now > known):  # overtaken
                count = min(count, max(0, offset - now))
                offset = max(offset, now)
            self._known[partition] = offset
            settled.append(Settled(partition, count, offset))
        self._moved.clear()
        return settled

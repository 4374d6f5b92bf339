"""Writing the stored offsets of one consumer or group on Iggy, in the log that they were surveyed in."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.connection import IggyRequest, Reply
from backlog_clearer.brokers.iggy.errors import ContentionError, is_not_owned, is_offset_not_found
from backlog_clearer.brokers.iggy.logs import TopicLogs
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.positions import LogChange, LogFacts, beyond_end, change
from backlog_clearer.brokers.iggy.wire import StoredOffset
from backlog_clearer.errors import BrokerError, RecreatedError, TransientError
from backlog_clearer.model import Partition

_LOG = logging.getLogger("backlog_clearer")
# Slices of a run are a group's members in turn, each for as long as one call writes. A call that finds
# another member waits, up to a total that keeps within the exchange that `backlog_clearer.source` allows.
_TURNS_S = 6.0
_FIRST_TURN_S, _LAST_TURN_S = 0.01, 0.1  # between two looks, at most; growing


MOST_HOLES = 100_000
"""Gaps between messages of a topic that are kept: a server leaves one where it crashed."""


class LogGuard:
    """What was surveyed of each partition, and what this run has stored since: shared by its lanes.

    It refuses every log that is not the surveyed one any more, and every stored offset that another consumer
    removed or set back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[Partition, LogFacts] = {}
        self._positions: dict[Partition, int | None] = {}  # surveyed or stored: it may not go back
        self._cuts: dict[Partition, int] = {}  # earlier ends that were reported
        self._holes: dict[Partition, dict[int, int]] = {}
        self._holes_left = MOST_HOLES
        self._sent: dict[
            Partition, set[int]
        ] = {}  # offsets sent to be stored, whose answer may be lost

    def survey(self, partition: Partition, facts: LogFacts, position: int | None) -> None:
        """Keep what a survey found."""
        with self._lock:
            self._logs[partition] = facts
            self._positions[partition] = position

    def surveyed(self) -> dict[Partition, LogFacts]:
        """What the last survey found."""
        with self._lock:
            return dict(self._logs)

    def sending(self, partition: Partition, offset: int) -> None:
        """Remember an offset before it is sent: it is this run's, even if no answer arrives."""
        self._sent.setdefault(partition, set()).add(offset)

    def kept(self, partition: Partition, offset: int) -> None:
        """The offset was stored and read back."""
        self._positions[partition] = offset
        self._sent[partition] = {offset}

    def forget(self, partition: Partition) -> None:
        """The stored offset was changed on purpose, in whatever direction."""
        self._positions.pop(partition, None)

    def hole(self, partition: Partition, begin: int, end: int) -> None:
        """No message has an offset from `begin` up to, and without, `end`.

        Raises `BrokerError` where there are more of them than any topic has.
        """
        if begin >= end:
            return
        holes = self._holes.setdefault(partition, {})
        with self._lock:
            self._holes_left -= begin not in holes
            if self._holes_left < 0:
                raise BrokerError(
                    f"{partition}: more than {MOST_HOLES:,} gaps were found between messages of this topic, and"
                    " a server leaves one only where it crashed. Check what answers at this address.",
                    partition,
                )
            holes[begin] = end

    def skipped(self, partition: Partition, first: int, end: int) -> int:
        """How many offsets between two are known to have no message."""
        holes = self._holes.get(partition, {})
        return sum(max(0, min(after, end) - max(begin, first)) for begin, after in holes.items())

    def is_own(self, partition: Partition, offset: int) -> bool:
        """Whether this run sent that offset."""
        return offset in self._sent.get(partition, ())

    def problem(
        self,
        partition: Partition,
        now: LogFacts,
        stored: StoredOffset | None,
        incarnation: str | None = None,
    ) -> BrokerError | None:
        """Why nothing may be written to this partition; None: it may.

        `incarnation` is the claimed or recorded one, if the partition was not surveyed by this process.
        """
        before = self._logs.get(partition)
        wanted = incarnation or (before.incarnation if before else None)
        if wanted is not None and wanted != now.incarnation:
            return RecreatedError(partition)
        happened = change(before, now) if before else LogChange.NONE
        if happened is LogChange.PURGED:
            return BrokerError(
                f"{partition} was purged since the survey: nothing in it was changed, since its offsets begin"
                " at 0 again. Run this command again to clear what is there now.",
                partition,
            )
        position = self._positions.get(partition)
        if position is None or happened is LogChange.CUT:
            return None
        if stored is None:
            return BrokerError(
                f"{partition}: the stored offset {position} was removed meanwhile, by a purge or by another"
                " client: nothing was stored since.",
                partition,
            )
        if stored.offset < position and not self.is_own(partition, stored.offset):
            return BrokerError(
                f"{partition}: the stored offset was {position} and is {stored.offset} now, so another"
                " client set it back: nothing was stored since.",
                partition,
            )
        return None

    def is_cut(self, partition: Partition, now: LogFacts) -> bool:
        """Whether the log ends earlier than surveyed, and is the same otherwise; reported once."""
        before = self._logs.get(partition)
        if before is None or change(before, now) is not LogChange.CUT:
            return False
        end = now.extent.end
        if self._cuts.get(partition) != end:
            self._cuts[partition] = end
            _LOG.warning(
                "%s ends at offset %d now, and ended at %d: the server lost its last messages. What is left is"
                " cleared.",
                partition,
                end,
                before.extent.end,
            )
        return True


class OffsetWriter:
    """Stores and deletes offsets.

    The server accepts a group's offsets only from the member that owns the partition. So this joins the
    group while it writes: the server assigns the partitions that no other member owns at once. Lanes that
    write at the same time share one membership.
    """

    def __init__(
        self, client: IggyCluster, options: IggyOptions, logs: TopicLogs, guard: LogGuard
    ) -> None:
        self._client = client
        self._logs = logs
        self._guard = guard
        self._grouped = options.group_id is not None
        self._begun = 0.0  # when the present `writing` began, by time.monotonic()
        self._turn_s = _FIRST_TURN_S
        self.forced = False  # a survey saw consumers: their members do not leave soon

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which offsets can be written, by one thread at a time. Raises `BrokerError`."""
        with self._client.lock:
            self._begun = time.monotonic()
            self._turn_s = _FIRST_TURN_S
            if self._grouped:
                self._join()
            try:
                yield
            finally:
                if self._grouped:
                    self._leave()

    def _membership(self) -> bytes:
        return self._logs.place + self._logs.consumer.wire

    def _join(self) -> None:
        """Become a member, once no other slice is one: two at a time would get a part of the partitions each.

        Where consumers are attached on purpose, the partitions that they leave can still be written.
        """
        while not self.forced and self._logs.members() and self._wait():
            pass
        self._client.join(self._membership())

    def _leave(self) -> None:
        with suppress(BrokerError):  # a membership also ends with its connection
            self._client.leave(self._membership())

    def _wait(self) -> bool:
        """Wait for another member to leave, longer each time; False: the time for it is over."""
        left = self._client.waits.left_s(self._begun, _TURNS_S)
        if left <= 0:
            return False
        time.sleep(min(left, random.uniform(0, self._turn_s)))  # noqa: S311 not a secret
        self._turn_s = min(_LAST_TURN_S, 2 * self._turn_s)
        return True

    def _write(self, operation: int, payload: bytes, partition: Partition) -> StoredOffset | None:
        """Send a write inside `writing`; returns what is stored then.

        Only the answer that another member owns the partition is followed by another turn.
        """
        about = wire.of_partition(self._logs.who, partition.number)
        while True:
            try:
                return self._client.write(operation, payload, about, partition)
            except BrokerError as error:
                if not self._grouped or not is_not_owned(error):
                    raise
            if self.forced:
                raise BrokerError(
                    f"{self._client.where(partition)}: another member of the group owns this partition, and the"
                    " server accepts its offset only from that member: stop the group's consumers.",
                    partition,
                )
            self._leave()
            if not self._wait():
                raise ContentionError(
                    f"{self._client.where(partition)}: another member of the group, such as another slice"
                    " of this run, owns this partition; its offset was not stored. Stop the group's consumers.",
                    partition,
                )
            self._join()

    def store(self, partition: Partition, offset: int) -> None:
        """Store an offset, never a lower one than is stored, and read it back; raises `BrokerError`."""
        self._guard.sending(partition, offset)
        payload = wire.store_offset(self._logs.who, partition.number, offset)
        found = self._write(wire.STORE_OFFSET, payload, partition)
        problem = beyond_end(found) if found is not None else None
        if problem:  # the next lane reports it for good, unless it was a damaged answer
            raise TransientError(f"{self._client.where(partition)}: {problem}", partition)
        if found is None or found.offset < offset:
            raise TransientError(
                f"{self._client.where(partition)}: offset {offset} was stored, but"
                f" {None if found is None else found.offset} is read back.",
                partition,
            )
        self._guard.kept(partition, offset)

    def store_many(self, offsets: Mapping[Partition, int]) -> dict[Partition, BrokerError | None]:
        """Like `store` for many partitions, whose requests are under way at once; None: it is stored.

        The server acknowledges each; they are not read back, which the verification does. Raises
        `TransientError` where the connection breaks.
        """
        done: dict[Partition, BrokerError | None] = dict.fromkeys(offsets)
        stored = self._at_once(offsets, read_back=False)
        for partition in offsets.keys() - stored:  # one at a time shows why it was refused
            try:
                self.store(partition, offsets[partition])
            except BrokerError as error:
                done[partition] = error
        return done

    def store_checked(self, offsets: Mapping[Partition, int]) -> dict[Partition, BrokerError]:
        """Like `store` for many partitions at once; returns why some were refused for good.

        Raises `TransientError`.
        """
        failed: dict[Partition, BrokerError] = {}
        stored = self._at_once(offsets, read_back=True)
        for partition in offsets.keys() - stored:
            try:
                self.store(partition, offsets[partition])
            except TransientError:
                raise
            except BrokerError as error:
                failed[partition] = error
        return failed

    def _at_once(self, offsets: Mapping[Partition, int], *, read_back: bool) -> set[Partition]:
        """Store offsets, all requests at once; those of which it is certain that they are stored."""
        if self._client.clustered:  # each partition may have another leader
            return set()
        who = self._logs.who
        asked = []
        for partition, offset in offsets.items():
            self._guard.sending(partition, offset)
            payload = wire.store_offset(who, partition.number, offset)
            asked.append(IggyRequest(partition, 0, payload, operation=wire.STORE_OFFSET))
        sent = len(asked)
        if read_back:
            asked += [self._logs.offset_request(partition) for partition in offsets]
        replies = self._client.answers(asked)
        done = {
            partition
            for partition, reply in zip(offsets, replies, strict=False)
            if isinstance(reply, Reply) and _is_done(reply)
        }
        for partition, reply in zip(offsets, replies[sent:], strict=False):
            found = self._logs.stored_in(partition, reply)
            if not isinstance(found, StoredOffset) or not (
                offsets[partition] <= found.offset <= found.current
            ):
                done.discard(partition)
        for partition in done:
            self._guard.kept(partition, offsets[partition])
        return done

    def restore(self, partition: Partition, offset: int | None) -> None:
        """Set the stored offset, in whatever direction (None: delete it). Raises `BrokerError`."""
        self._guard.forget(partition)
        if offset is not None:
            payload = wire.store_offset(self._logs.who, partition.number, offset)
            self._write(wire.STORE_OFFSET, payload, partition)
            return
        try:
            payload = wire.delete_offset(self._logs.who, partition.number)
            self._write(wire.DELETE_OFFSET, payload, partition)
        except BrokerError as error:
            if not is_offset_not_found(error):
                raise


def _is_done(reply: Reply) -> bool:
    """Whether a write was carried out."""
    with suppress(wire.ReplyError):
        return wire.result(reply.body) == 0
    return False

"""Positions on Iggy: what a partition retains, and the stored offsets of one consumer or group."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import SdkClient, ident
from backlog_clearer.brokers.iggy.errors import is_invalid_offset, is_not_owned, is_offset_not_found
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.wire import MAX_OFFSET, StoredOffset
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Outcome, Partition, Position

NOTHING = -1  # the position before the first message
# Another slice of the run may be a group's member for a moment. To write, a call joins anew a few times;
# these bounds keep it within the exchange that `backlog_clearer.source` allows.
_TURNS = 8  # for one partition
_TURNS_S = 5.0  # for all partitions of one call
_TURN_S = 0.2  # between two turns, at most


def as_offset(position: Position) -> int:
    """A position as an offset; raises `BrokerError` for another system's."""
    if isinstance(position, int):
        return position
    raise BrokerError(f"{position!r} is not an offset of Iggy.")


def as_offset_or_none(position: Position | None) -> int | None:
    """A position as an offset, or None. Raises like `as_offset`."""
    return None if position is None else as_offset(position)


def beyond_end(stored: StoredOffset, current: int = 0) -> str | None:
    """Why a stored offset cannot be used: it lies beyond the partition's end; None: it does not.

    `current` is another figure of that end, possibly a later one.
    """
    end = max(stored.current, current)
    if stored.offset <= end:
        return None
    return (
        f"The stored offset {stored.offset} lies beyond the partition's end, {end}: the topic was purged or"
        " created again, and consumers get no message up to that offset. This partition is left as it is;"
        " delete the stored offset with Iggy's own client, then try again."
    )


@dataclass(frozen=True, slots=True)
class LogExtent:
    """The messages that a partition retains, by checked figures: see `checked_extent`."""

    current: int  # offset of the last message ever stored; 0 also where there was none
    messages: int  # retained
    size: int  # bytes of those

    @property
    def first(self) -> int:
        """Offset of the first message retained, or of the next one if there is none."""
        # A server that is being written to reads its counters one by one: the count may be ahead.
        return max(0, self.end + 1 - self.messages)

    @property
    def end(self) -> int:
        """Offset of the last message retained; -1: an empty partition may never have had any."""
        return self.current if self.messages or self.current else NOTHING

    def left(self, stored: int | None, target: int | None = None) -> int | None:
        """Retained messages after a stored offset, up to a target (None: the end), inclusive.

        None where the partition ends before either of them: it is not the log that they are from.
        """
        if (stored or 0) > self.current or (target or 0) > self.current:
            return None
        last = self.end if target is None else min(target, self.end)
        begin = self.first if stored is None else max(self.first, stored + 1)
        return max(0, last + 1 - begin) if self.messages else 0


def checked_extent(partition: Partition, current: int, messages: int, size: int) -> LogExtent:
    """The extent by the server's figures; raises `TransientError` for impossible ones."""
    if not (
        all(0 <= figure <= MAX_OFFSET for figure in (current, messages, size))
        and bool(messages) == bool(size)
    ):
        raise TransientError(
            f"{partition}: the server's figures are impossible: {messages} messages of {size} bytes, the"
            f" last at offset {current}.",
            partition,
        )
    return LogExtent(current, messages, size)


class Offsets:
    """The stored offsets of the consumer or group.

    The server accepts a group's offsets only from the member that owns the partition. So this joins the
    group while it writes: the server assigns the partitions that no other member owns at once.
    """

    def __init__(self, client: SdkClient, options: IggyOptions) -> None:
        self._client = client
        kind = wire.GROUP if options.group_id is not None else wire.CONSUMER
        self._who = wire.subject(kind, options.consumer, options.stream_id, options.topic_id)
        self._turns_until = 0.0  # of the present `writing`, by time.monotonic()
        self._group: tuple[int | str, int | str, int | str] | None = None
        if options.group_id is not None:
            self._group = ident(options.stream_id), ident(options.topic_id), ident(options.group_id)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which a group's offsets can be written, by one thread at a time.

        Raises `BrokerError`.
        """
        if self._group is None:
            yield
            return
        with self._client.lock:
            self._turns_until = time.monotonic() + _TURNS_S
            self._join()
            try:
                yield
            finally:
                self._leave()

    def _join(self) -> None:
        group = self._group
        if group is not None:
            self._client.call(lambda iggy: iggy.join_consumer_group(*group))

    def _leave(self) -> None:
        group = self._group
        if group is not None:
            with suppress(BrokerError):  # a membership also ends with its connection
                self._client.call(lambda iggy: iggy.leave_consumer_group(*group))

    def get(self, partition: Partition) -> StoredOffset | None:
        """The stored offset; None: there is none. Raises `BrokerError`, `TransientError`."""
        try:
            reply = self._client.request(
                wire.GET_OFFSET, wire.get_offset(self._who, partition.number), partition
            )
            found = wire.stored(reply)
        except wire.ReplyError as error:
            raise self._unusable(partition, str(error)) from None
        except BrokerError as error:
            if is_offset_not_found(error):
                return None
            raise
        if found is not None and found.partition != partition.number:
            raise self._unusable(partition, f"the answer is about partition {found.partition}")
        return found

    def usable(self, partition: Partition) -> int | None:
        """Like `get`, but raises `BrokerError` for an offset beyond the partition's end."""
        found = self.get(partition)
        problem = beyond_end(found) if found is not None else None
        if problem:
            raise BrokerError(f"{self._client.address}, {partition}: {problem}", partition)
        return None if found is None else found.offset

    def _unusable(self, partition: Partition, reason: str) -> TransientError:
        return TransientError(f"{self._client.address}, {partition}: {reason}.", partition)

    def _write(self, code: int, payload: bytes, partition: Partition) -> None:
        """Send a write; for a group only inside `writing`.

        Only the answer that another member owns the partition is followed by another turn: an error or
        a lost connection is raised at once.
        """
        turn = 1
        while True:
            try:
                self._client.request(code, payload, partition)
            except BrokerError as error:
                if self._group is None or not is_not_owned(error):
                    raise
                if turn == _TURNS or time.monotonic() > self._turns_until:
                    raise BrokerError(
                        f"{self._client.address}, {partition}: another member of the group owns this"
                        " partition, and the server accepts its offset only from that member: stop the"
                        " group's consumers.",
                        partition,
                    ) from None
            else:
                return
            turn += 1
            self._leave()
            time.sleep(random.uniform(0, _TURN_S))  # noqa: S311 not a secret
            self._join()

    def _put(self, partition: Partition, offset: int) -> None:
        payload = wire.store_offset(self._who, partition.number, offset)
        self._write(wire.STORE_OFFSET, payload, partition)

    def store(self, partition: Partition, offset: int) -> None:
        """Store an offset and read it back; raises `BrokerError`."""
        self._put(partition, offset)
        now = self.usable(partition)
        if now is None or now < offset:
            raise TransientError(
                f"{self._client.address}, {partition}: offset {offset} was stored, but {now} is read"
                " back.",
                partition,
            )

    def delete(self, partition: Partition) -> None:
        """Delete the stored offset, if there is one. Raises `BrokerError`."""
        try:
            payload = wire.delete_offset(self._who, partition.number)
            self._write(wire.DELETE_OFFSET, payload, partition)
        except BrokerError as error:
            if not is_offset_not_found(error):
                raise

    def moved(self, partition: Partition, offset: int | None, *, forward: bool) -> Outcome:
        """Set the stored offset (None: delete it), never to a lower one if `forward`; never raises."""
        try:
            if forward:
                now = self.usable(partition)
                if offset is not None and offset > (NOTHING if now is None else now):
                    self.store(partition, offset)
            elif offset is None:
                self.delete(partition)
            else:
                self._put(partition, offset)
        except BrokerError as error:
            reason = str(error)
            if is_invalid_offset(error):
                reason = f"Offset {offset} lies beyond the partition's end: the topic was purged."
            return Outcome(partition, None, reason)
        return Outcome(partition, offset)

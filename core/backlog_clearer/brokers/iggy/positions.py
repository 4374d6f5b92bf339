"""The stored offsets of one consumer or group: read, stored and read back, deleted."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.client import (
    INVALID_OFFSET,
    NOT_OWNED,
    OFFSET_NOT_FOUND,
    Client,
    ident,
)
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Outcome, Partition, Position

NOTHING = -1  # the position before the first message
_TURNS = 8  # to become a group's only member, where another part of the same run is one for a moment
_TURN_S = 0.2  # between two of them, at most


def required(position: Position) -> int:
    """A position as an offset; raises `BrokerError` for another system's."""
    if isinstance(position, int):
        return position
    raise BrokerError(f"{position!r} is no offset of Iggy.")


def number(position: Position | None) -> int | None:
    """A position as an offset, or None."""
    return None if position is None else required(position)


class Offsets:
    """The stored offsets of the consumer or group.

    The server takes a group's offsets only from the member that owns the partition: this becomes one
    for the moment of writing, which the server grants at once for all partitions that no other owns.
    """

    def __init__(self, client: Client, options: IggyOptions) -> None:
        self._client = client
        kind = wire.GROUP if options.group_id is not None else wire.CONSUMER
        self._who = wire.subject(kind, options.consumer, options.stream_id, options.topic_id)
        self._group = None
        if options.group_id is not None:
            self._group = ident(options.stream_id), ident(options.topic_id), ident(options.group_id)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While a group's offsets are written, one thread at a time. Raises `BrokerError`."""
        if self._group is None:
            yield
            return
        with self._client.lock:
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
            with suppress(BrokerError):  # with its connection a membership ends, too
                self._client.call(lambda iggy: iggy.leave_consumer_group(*group))

    def get(self, partition: Partition) -> int | None:
        """The stored offset; None: there is none. Raises `BrokerError`."""
        try:
            reply = self._client.request(
                wire.GET_OFFSET, wire.get_offset(self._who, partition.number), partition
            )
            return wire.stored(reply)
        except wire.ReplyError as error:
            raise BrokerError(f"{self._client.address}, {partition}: {error}.", partition) from None
        except BrokerError as error:
            if OFFSET_NOT_FOUND in str(error):
                return None
            raise

    def _request(self, code: int, payload: bytes, partition: Partition) -> None:
        """Write; of a group inside `writing` alone."""
        for turn in range(_TURNS):
            try:
                self._client.request(code, payload, partition)
            except BrokerError as error:
                if self._group is None or not any(text in str(error) for text in NOT_OWNED):
                    raise
                if turn == _TURNS - 1:
                    raise BrokerError(
                        f"{self._client.address}, {partition}: another member of the group owns this"
                        " partition, and the server takes its offset from that one alone: stop the"
                        " group's consumers.",
                        partition,
                    ) from None
            else:
                return
            self._leave()
            time.sleep(random.uniform(0, _TURN_S))  # noqa: S311 no secret
            self._join()

    def _put(self, partition: Partition, offset: int) -> None:
        payload = wire.store_offset(self._who, partition.number, offset)
        self._request(wire.STORE_OFFSET, payload, partition)

    def store(self, partition: Partition, offset: int) -> None:
        """Store an offset and read it back; raises `BrokerError`."""
        self._put(partition, offset)
        now = self.get(partition)
        if now is None or now < offset:
            raise TransientError(
                f"{self._client.address}, {partition}: offset {offset} was stored, but {now} is read"
                " back.",
                partition,
            )

    def delete(self, partition: Partition) -> None:
        """Forget the stored offset; it may be forgotten already. Raises `BrokerError`."""
        try:
            payload = wire.delete_offset(self._who, partition.number)
            self._request(wire.DELETE_OFFSET, payload, partition)
        except BrokerError as error:
            if OFFSET_NOT_FOUND not in str(error):
                raise

    def moved(self, partition: Partition, offset: int | None, *, forward: bool) -> Outcome:
        """Put the stored offset to a place (None: nowhere); `forward`: never back."""
        try:
            if forward:
                now = self.get(partition)
                if offset is not None and offset > (NOTHING if now is None else now):
                    self.store(partition, offset)
            elif offset is None:
                self.delete(partition)
            else:
                self._put(partition, offset)
        except BrokerError as error:
            reason = str(error)
            if INVALID_OFFSET in reason:
                reason = f"Offset {offset} lies beyond the partition's end: the topic was purged."
            return Outcome(partition, None, reason)
        return Outcome(partition, offset)

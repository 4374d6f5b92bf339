"""The stored offsets of one consumer or group: read, stored and read back, deleted."""

from __future__ import annotations

from core.brokers import iggy_wire as wire
from core.brokers.iggy_client import INVALID_OFFSET, OFFSET_NOT_FOUND, Client
from core.errors import BrokerError, TransientError
from core.model import Outcome, Partition, Position
from core.options.iggy import IggyOptions

NOTHING = -1  # the position before the first message


def required(position: Position) -> int:
    """A position as an offset; raises `BrokerError` for another system's."""
    if isinstance(position, int):
        return position
    raise BrokerError(f"{position!r} is no offset of Iggy.")


def number(position: Position | None) -> int | None:
    """A position as an offset, or None."""
    return None if position is None else required(position)


class Offsets:
    """The stored offsets of the consumer or group, over one connection."""

    def __init__(self, client: Client, options: IggyOptions) -> None:
        self._client = client
        kind = wire.GROUP if options.group_id is not None else wire.CONSUMER
        self._who = wire.subject(kind, options.consumer, options.stream_id, options.topic_id)

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

    def _write(self, partition: Partition, offset: int) -> None:
        self._client.request(
            wire.STORE_OFFSET, wire.store_offset(self._who, partition.number, offset), partition
        )

    def store(self, partition: Partition, offset: int) -> None:
        """Store an offset and read it back; raises `BrokerError`."""
        self._write(partition, offset)
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
            self._client.request(
                wire.DELETE_OFFSET, wire.delete_offset(self._who, partition.number), partition
            )
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
                self._write(partition, offset)
        except BrokerError as error:
            reason = str(error)
            if INVALID_OFFSET in reason:
                reason = f"Offset {offset} lies beyond the partition's end: the topic was purged."
            return Outcome(partition, None, reason)
        return Outcome(partition, offset)

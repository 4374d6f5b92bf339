"""Azure Event Hubs: where a lane stores how far its claims were read."""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.brokers.eventhubs.blobs import Held
from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Claim, Partition, Position, Settled


class Ledger:
    """The checkpoint blobs of a lane's claims; without a checkpoint store, messages are only counted.

    Belongs to one thread. `folder` is where new checkpoint blobs go.
    """

    def __init__(self, checkpoints: Checkpoints | None, claims: Sequence[Claim], folder: str) -> None:
        self._checkpoints = checkpoints
        self._held: dict[Partition, Held] = {}
        if checkpoints is not None:
            self._held = {claim.partition: Held(claim, checkpoints.path, folder) for claim in claims}

    @property
    def stores(self) -> bool:
        """Whether there is a checkpoint store."""
        return self._checkpoints is not None

    def settled(self, partition: Partition, messages: int, position: Position) -> Settled:
        """Store how far a partition was read.

        Counts nothing if another client stored a position that is as far. A refusal for good is the
        partition's error. Raises `TransientError` if another attempt may succeed.
        """
        if self._checkpoints is None:
            return Settled(partition, messages, position)
        try:
            stored = self._checkpoints.advance(self._held[partition], position)
        except TransientError:
            raise
        except ClearerError as error:
            return Settled(partition, 0, None, str(error))
        return Settled(partition, messages if stored == position else 0, stored)

    def close(self) -> None:
        """Close the connection."""
        if self._checkpoints is not None:
            self._checkpoints.close()

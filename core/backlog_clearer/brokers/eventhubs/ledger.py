"""Azure Event Hubs: where a lane stores how far its claims were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backlog_clearer.brokers.eventhubs.admin import HubWatch
from backlog_clearer.brokers.eventhubs.blobs import Held
from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import sequence_number
from backlog_clearer.brokers.shared.sent import SentPositions
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Claim, Partition, Position, Settled


class Ledger:
    """The checkpoint blobs of a lane's claims; without a checkpoint store, messages are only counted.

    Belongs to one thread. `folder` is where new checkpoint blobs go. Nothing is written for an Event Hub
    of another incarnation than the claims'.
    """

    def __init__(
        self,
        options: EventHubsOptions,
        checkpoints: Checkpoints | None,
        claims: Sequence[Claim],
        folder: str,
        sent: SentPositions,
    ) -> None:
        self._checkpoints = checkpoints
        self._sent = sent
        self._watch = HubWatch(options)
        self._incarnations = {claim.partition: claim.state.incarnation for claim in claims}
        self._held: dict[Partition, Held] = {}
        if checkpoints is not None:
            self._held = {claim.partition: Held(claim, checkpoints.path, folder) for claim in claims}

    @property
    def stores(self) -> bool:
        """Whether there is a checkpoint store."""
        return self._checkpoints is not None

    def check(self) -> None:
        """Raise `RecreatedError` if the Event Hub is not the claimed one; `BrokerError` if it is gone."""
        for error in self._watch.others(self._incarnations).values():
            raise error

    def settle(self, reached: Mapping[Partition, tuple[int, Position]]) -> list[Settled]:
        """Store how far each partition was read: by partition, messages and position.

        Counts no messages if another client stored a position that is as far. A refusal for good is the
        partition's error. Raises `TransientError` if another attempt may succeed.
        """
        if self._checkpoints is None:
            return [Settled(key, messages, position) for key, (messages, position) in reached.items()]
        others = self._watch.others({key: self._incarnations[key] for key in reached})
        done = [
            Settled(partition, 0, None, str(others[partition]))
            if partition in others
            else self._settled(self._checkpoints, partition, messages, position)
            for partition, (messages, position) in reached.items()
        ]
        for settled in done:  # now that all of them can be reported
            at = sequence_number(settled.position)
            if at is not None:
                self._sent.reported(settled.partition, at, settled.messages)
        return done

    def _settled(
        self, checkpoints: Checkpoints, partition: Partition, messages: int, position: Position
    ) -> Settled:
        at = sequence_number(position)
        if at is not None:
            self._sent.sending(partition, at, messages)
        try:
            stored = checkpoints.advance(self._held[partition], position)
        except TransientError:
            raise
        except ClearerError as error:
            return Settled(partition, 0, None, str(error))
        now = sequence_number(stored)
        if stored == position or (now is not None and self._sent.is_own(partition, now)):
            return Settled(partition, messages, position)
        return Settled(partition, 0, stored)

    def close(self) -> None:
        """Close the connections."""
        self._watch.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

"""Positions that lanes sent to be stored and no settle has reported yet, because an answer was lost."""

from __future__ import annotations

from collections.abc import Mapping

from backlog_clearer.model import Partition


class SentPositions:
    """Positions by their numbers, with the messages of each since the last position reported.

    After a lost answer, the next lane reads again from the last position reported, so that all counts of a
    partition begin there. A partition belongs to one lane at a time.
    """

    def __init__(self) -> None:
        self._sent: dict[Partition, dict[int, int]] = {}

    def sending(self, partition: Partition, at: int, messages: int) -> None:
        """Note a position before it is sent."""
        sent = self._sent.setdefault(partition, {})
        sent[at] = max(messages, sent.get(at, 0))

    def reported(self, partition: Partition, at: int, messages: int) -> None:
        """Note that a settle reports so many messages up to a position."""
        later = {
            place: max(0, n - messages)
            for place, n in self._sent.get(partition, {}).items()
            if place > at
        }
        if later:
            self._sent[partition] = later
        else:
            self._sent.pop(partition, None)

    def is_own(self, partition: Partition, at: int) -> bool:
        """Whether a position was sent and not reported."""
        return at in self._sent.get(partition, ())

    def unreported(self, stored: Mapping[Partition, int | None]) -> dict[Partition, int | None]:
        """How many messages the positions stored now acknowledge; see `source.Accountable`."""
        found: dict[Partition, int | None] = {}
        for partition, sent in self._sent.items():
            now = stored.get(partition)
            if now in sent:
                found[partition] = sent[now]
            elif partition in stored and (now is None or now < min(sent)):
                found[partition] = 0
            else:
                found[partition] = None
        return found

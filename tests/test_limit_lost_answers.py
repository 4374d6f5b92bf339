"""--max-messages where acknowledgements have no answer: never more than the limit is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.engine import worker
from backlog_clearer.engine.drain import Drain, drain
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Claim, Partition, Position, Settled, StopReason, Traits
from backlog_clearer.options.run import RunOptions

EACH, LIMIT = 400, 500
RUN = RunOptions(stop_when_empty=True, max_messages=LIMIT, max_seconds=60, quiet_seconds=60)


class LossyLane(MemoryLane):
    """A lane some of whose acknowledgements have no answer, whether they were carried out or not."""

    def __init__(self, source: LossySource, claims: Sequence[Claim]) -> None:
        self._lossy = source
        super().__init__(source, claims)
        if source.traits.repeats:
            self._at.update(source.reported)

    def settle(self) -> Sequence[Settled]:
        """Acknowledge or not, and lose the answer."""
        if self._unsettled and self._lossy.loses():
            if self._lossy.carried_out:
                super().settle()
            error = TransientError("no answer")
            error.unsent = self._lossy.unsent
            raise error
        done = super().settle()
        if self._lossy.traits.repeats:  # what was stored before without an answer is counted now
            done = [self._lossy.counted(each.partition, self._at[each.partition]) for each in done]
        return done


class LossySource(MemorySource):
    """A broker that loses the first answers.

    Whether a new lane returns such messages again is `repeats`; where not, the broker skips what it has stored.
    """

    def __init__(self, *, repeats: bool, carried_out: bool, lost: int, unsent: bool = False) -> None:
        broker = MemoryBroker()
        broker.create("t", 3)
        for number in range(3):
            broker.produce("t", number, EACH)
        super().__init__(broker, "t", "g", batch_size=50)
        self.carried_out, self.unsent = carried_out, unsent
        self.reported = {Partition("t", number): 0 for number in range(3)}
        self._repeats = repeats
        self._lost = lost
        self._losing = threading.Lock()

    @property
    def traits(self) -> Traits:
        """Settled after every read, so that answers are lost long before the limit."""
        return replace(super().traits, repeats=self._repeats, settle_interval_s=0.0)

    def loses(self) -> bool:
        """Whether this answer is lost."""
        with self._losing:
            self._lost -= 1
            return self._lost >= 0

    def counted(self, partition: Partition, at: Position) -> Settled:
        """All messages up to a position that no settle has reported."""
        before, self.reported[partition] = self.reported[partition], int(str(at))
        return Settled(partition, self.reported[partition] - before, at)

    def open_lane(self, claims: Sequence[Claim]) -> MemoryLane:
        """See `LossyLane`."""
        return LossyLane(self, claims)


def limited(source: LossySource, workers: int) -> tuple[Drain, int, int]:
    """A drain up to the limit, the messages that it counted, and those acknowledged at the broker."""
    claims = [Claim(state, None, state.end) for state in source.survey().partitions]
    done = drain(source, claims, RUN.model_copy(update={"workers": workers}))
    counted = sum(item.messages for item in done.partitions.values())
    stored = sum(source.broker.position("g", claim.partition) or 0 for claim in claims)
    return done, counted, stored


@pytest.fixture(autouse=True)
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other workers read while one waits for its next attempt."""
    monkeypatch.setattr(worker, "BACKOFF_FIRST_S", 0.3)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("carried_out", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize("repeats", [True, False], ids=["read again", "gone"])
def test_lost_answers_do_not_raise_the_limit(repeats: bool, carried_out: bool, workers: int) -> None:
    """Messages whose acknowledgement had no answer are not replaced by as many others."""
    source = LossySource(repeats=repeats, carried_out=carried_out, lost=3)
    done, counted, stored = limited(source, workers)
    assert done.reason is StopReason.LIMIT
    assert counted <= stored <= LIMIT


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("carried_out", [True, False], ids=["carried out", "not carried out"])
def test_messages_that_are_read_again_count_once(carried_out: bool, workers: int) -> None:
    """Lost answers do not lower the limit where a new lane returns the same messages."""
    source = LossySource(repeats=True, carried_out=carried_out, lost=3)
    assert limited(source, workers)[1:] == (LIMIT, LIMIT)


def test_a_settle_that_sent_nothing_costs_nothing_of_the_limit() -> None:
    """Messages that certainly stayed in the backlog may be replaced by others."""
    source = LossySource(repeats=False, carried_out=False, lost=3, unsent=True)
    assert limited(source, 3)[1:] == (LIMIT, LIMIT)

"""A target that an earlier attempt froze is taken up only where the log still has all that lay before it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Mode, Partition, Recorded, Survey
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run import retry
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult, Verdict

PARTS = [Partition("t", 0), Partition("t", 1)]


class Led(MemorySource):
    """Logs whose leaders have an epoch; those in `cut` lost messages before that epoch."""

    def __init__(
        self, broker: MemoryBroker, epoch: int, faults: Mapping[Partition, BrokerError]
    ) -> None:
        super().__init__(broker, "t", "g")
        self.epoch, self.faults = epoch, faults
        self.asked: list[Recorded] = []

    def survey(self) -> Survey:
        """With the leader epoch of each log."""
        found = super().survey()
        return replace(
            found, partitions=tuple(replace(state, epoch=self.epoch) for state in found.partitions)
        )

    def lost(self, frozen: Sequence[Recorded]) -> Mapping[Partition, BrokerError]:
        """What the test decides."""
        self.asked += frozen
        return self.faults


class Attempts:
    """Attempts of one run, on logs of 100 messages each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.broker.create("t", 2, size=10)
        for part in PARTS:
            self.broker.produce("t", part.number, 100)
        self.asked: list[Recorded] = []

    def clear(
        self, epoch: int, faults: Mapping[Partition, BrokerError] | None = None, **run: object
    ) -> RunResult:
        """One attempt, while the leaders have this epoch."""
        values = {"stop_when_empty": True, "receipt_dir": str(self.folder), "workers": 1, **run}
        options = RunOptions.model_validate(values)
        with closing(Led(self.broker, epoch, faults or {})) as source:
            job = Job("memory", SystemOptions(), options, "attempts")
            result = clear_source(source, job, Callbacks(), Halt())
            self.asked = source.asked
        return result

    def stored(self) -> list[int | None]:
        """The position of each partition."""
        return [self.broker.position("g", part) for part in PARTS]


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    """A run whose first attempt froze its targets in epoch 3, and cleared nothing."""
    found = Attempts(tmp_path)
    found.clear(3, max_seconds=0.000001)
    return found


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_a_log_that_lost_messages_before_its_target_is_left_alone(
    attempts: Attempts, mode: Mode
) -> None:
    """Its row has the reason, the other partition is cleared, and the run is not."""
    before = attempts.stored()
    result = attempts.clear(4, {PARTS[0]: BrokerError("it was cut off")}, mode=mode)
    assert attempts.asked == [
        Recorded(p, 100, r.incarnation, epoch=3) for p, r in zip(PARTS, attempts.asked, strict=True)
    ]
    assert (attempts.stored(), result.verdict) == ([before[0], 100], Verdict.NOT_CLEARED)
    assert [row.error for row in result.partitions] == ["it was cut off", None]


def test_targets_of_the_same_epoch_need_no_question(attempts: Attempts) -> None:
    """Where no other copy led meanwhile, the leaders are not asked, and all is cleared."""
    assert attempts.clear(3).cleared
    assert (attempts.asked, attempts.stored()) == ([], [100, 100])


def test_a_third_attempt_asks_with_the_epoch_of_the_first(attempts: Attempts) -> None:
    """The receipt of an attempt in between keeps the epoch in which the target was frozen."""
    attempts.clear(4, max_seconds=0.000001)
    for path in sorted(attempts.folder.rglob("whole-0001-*.json")):
        path.unlink()
    attempts.clear(4)
    assert [item.epoch for item in attempts.asked] == [3, 3]


def test_a_receipt_without_epochs_is_taken_up_as_before(attempts: Attempts) -> None:
    """A receipt of an older version has no epochs: nothing is asked, and all is cleared."""
    for path in attempts.folder.rglob("whole-*.json"):
        receipt = json.loads(path.read_text())
        del receipt["checksum"]
        for entry in receipt["partitions"]:
            del entry["epoch"]
        path.write_text(json.dumps(receipt))
    assert attempts.clear(4).cleared
    assert (attempts.asked, attempts.stored()) == ([], [100, 100])


def test_a_leader_that_does_not_answer_leaves_its_partition(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked a few times; then its partition has the error, and the other one is cleared."""
    monkeypatch.setattr(retry, "_WAIT_S", 0.001)
    result = attempts.clear(4, {PARTS[1]: TransientError("no leader")})
    assert len(attempts.asked) > len(PARTS)
    assert (attempts.stored()[0], result.verdict) == (100, Verdict.NOT_CLEARED)
    assert [row.error for row in result.partitions] == [None, "no leader"]

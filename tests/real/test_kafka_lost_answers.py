"""Answers that never arrive, on three real brokers: no figure is made up, and no success is claimed.

Clients reach node 2 through a relay, which loses chosen requests of the program under test.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Mode
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.testing.servers.kafka_judge import Judge, shorten_time_outs, unique
from tests.real.conftest import Three
from tests.real.kafka_relay import FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH

PARTITIONS, EACH, BEFORE = 6, 200, 10


class Spread:
    """A topic whose partitions lie on all three nodes, a group, and the relay before node 2."""

    def __init__(self, three: Three, folder: Path) -> None:
        self.relay = three.relay
        self.judge = Judge(three.cluster.bootstrap())
        self.topic = self.judge.create(unique("spread"), PARTITIONS, copies=1)
        self.group = self.judge.group_coordinated_by_other_than(2)
        for number in range(PARTITIONS):
            self.judge.produce(self.topic, number, EACH)
        self.judge.commit(self.topic, self.group, dict.fromkeys(range(PARTITIONS), BEFORE))
        leaders = self.judge.leaders(self.topic)
        self.behind = {number for number, leader in leaders.items() if leader == 2}
        self.options = KafkaOptions(
            bootstrap_servers=self.judge.bootstrap_servers, topic=self.topic, group_id=self.group
        )
        self.folder = folder
        self.run_id = unique("run")

    def clear(
        self, mode: Mode = Mode.CONSUME, callbacks: Callbacks | None = None, *, retries: int = 2
    ) -> RunResult | None:
        """Clear in this process, as one more attempt of the same run; None: refused at the survey."""
        run = RunOptions(
            mode=mode,
            stop_when_empty=True,
            receipt_dir=str(self.folder),
            max_retries=retries,
            stall_seconds=5 * retries,
        )
        try:
            return clear(Job("kafka", self.options, run, self.run_id), callbacks)
        except BrokerError:
            return None

    def status(self) -> RunResult:
        """The backlog now."""
        return status(Job("kafka", self.options, RunOptions()))

    def committed(self) -> dict[int, int | None]:
        """The group's offsets, as a plain client reads them."""
        return self.judge.committed(self.topic, self.group)


@pytest.fixture
def spread(three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spread]:
    """A separate topic, a relay that passes everything until the test changes it, short time-outs."""
    shorten_time_outs(monkeypatch)
    three.relay.heal()
    yield Spread(three, tmp_path)
    three.relay.heal()


ALL = dict.fromkeys(range(PARTITIONS), EACH)


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_partitions_whose_end_is_not_known_are_named_and_the_rest_is_cleared(
    spread: Spread, mode: Mode
) -> None:
    """Lost ListOffsets answers become errors of their partitions; the same run clears all later."""
    assert 0 < len(spread.behind) < PARTITIONS
    spread.relay.loses = lambda key, _: key == LIST_OFFSETS
    first = spread.clear(mode)
    assert spread.relay.lost
    assert first is not None
    assert (first.cleared, first.verified) == (False, None)
    assert {row.partition for row in first.partitions if row.error} == spread.behind
    assert all(
        (row.backlog, row.target, row.remaining) == (None, None, None)
        for row in first.partitions
        if row.partition in spread.behind
    )
    assert spread.committed() == {n: BEFORE if n in spread.behind else EACH for n in range(PARTITIONS)}
    seen = spread.status()
    assert exit_code(seen) == 1
    assert {row.partition for row in seen.partitions if row.error} == spread.behind
    spread.relay.heal()
    last = spread.clear(mode, retries=12)
    assert last is not None
    assert (last.cleared, last.verified, spread.committed()) == (True, True, ALL)


@pytest.mark.parametrize("key", [FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_one_lost_request_never_makes_a_false_success(spread: Spread, key: int, before: int) -> None:
    """Whichever request is lost, "cleared" and "verified" are only reported once they are true."""
    spread.relay.loses = lambda asked, earlier: (asked, earlier) == (key, before)
    result = spread.clear()
    if result is not None and (result.cleared or result.verified):
        assert spread.committed() == ALL
    spread.relay.heal()
    again = spread.clear(retries=12)  # on a busy machine, too
    assert again is not None
    assert (again.cleared, spread.committed()) == (True, ALL)


@pytest.mark.parametrize("mode", list(Mode), ids=str)
@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_a_broker_that_dies_early_never_makes_a_false_success(
    spread: Spread, mode: Mode, after_s: float
) -> None:
    """Whenever a broker becomes unreachable, nothing is reported as cleared that is not."""
    timer = threading.Timer(after_s, spread.relay.cut)
    timer.start()
    result = spread.clear(mode)
    timer.join()
    if result is not None and (result.cleared or result.verified):
        assert spread.committed() == ALL
    elif result is not None and not result.error:
        named = {row.partition for row in result.partitions if row.error}
        assert {number for number, offset in spread.committed().items() if offset != EACH} <= named
    spread.relay.heal()
    assert spread.clear(mode, retries=12) is not None
    assert spread.committed() == ALL

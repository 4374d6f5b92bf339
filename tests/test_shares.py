"""Slices that share a partition: which one they get, when they end, and which of them proves the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.model import Mode, Partition, StopReason
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions, Slice
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.shares import is_share

PARTITIONS = [Partition("t", number) for number in range(3)]


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 12])
def test_every_slice_has_a_partition_and_every_partition_a_slice(total: int) -> None:
    """Slices beyond the partitions share them evenly; up to that many, each has separate partitions."""
    shares = [
        RunOptions(slice=Slice(index=index, total=total)).choose(PARTITIONS, competing=True)
        for index in range(total)
    ]
    assert all(shares)
    assert {one for share in shares for one in share} == set(PARTITIONS)
    if total <= len(PARTITIONS):
        assert sum(map(len, shares)) == len(PARTITIONS)
    else:
        counts = [shares.count([one]) for one in PARTITIONS]
        assert max(counts) - min(counts) <= 1


def filled() -> tuple[MemoryBroker, MemorySource]:
    """One partition of 600 messages whose consumers compete."""
    broker = MemoryBroker()
    broker.create("t", 1)
    broker.produce("t", 0, 600)
    return broker, MemorySource(broker, "t", "g", competing=True)


def share(source: MemorySource, tmp_path: Path, index: int, **changes: Any) -> RunResult:
    """One of four shares."""
    values: dict[str, Any] = {
        "stop_when_empty": True, "quiet_seconds": 0.5, "receipt_dir": str(tmp_path),
        "slice": Slice(index=index, total=4), **changes,
    }  # fmt: skip
    job = Job("memory", SystemOptions(), RunOptions(**values), "r")
    return clear_source(source, job, Callbacks(), Halt())


def test_a_share_ends_once_nothing_comes(tmp_path: Path) -> None:
    """A share is not kept by the figures of what others hold; what is left is not a separate failure."""
    broker, source = filled()
    first = share(source, tmp_path, 1, max_messages=200)
    assert (first.stop_reason, first.totals.messages) == (StopReason.LIMIT, 200)
    broker.produce("t", 0, 50)
    second = share(source, tmp_path, 2)
    assert (second.stop_reason, second.totals.messages) == (StopReason.QUIET, 400)
    assert second.verdict is Verdict.CLEARED
    assert second.partitions[0].target == first.partitions[0].target == 600


def test_what_other_shares_hold_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker reports messages that are left, a share that got no more is unproven."""
    _, source = filled()
    ask = source.remaining
    monkeypatch.setattr(
        source, "remaining", lambda targets: [item._replace(left=9) for item in ask(targets)]
    )
    done = share(source, tmp_path, 1)
    assert (done.verdict, done.verified, done.totals.remaining) == (Verdict.UNPROVEN, None, 9)
    assert done.provable is False


def test_only_slices_beyond_the_partitions_are_shares() -> None:
    """One slice of one partition, a skip, and slices of a source that does not compete are not shares."""
    _, source = filled()
    seen = source.survey()
    four = RunOptions(slice=Slice(index=0, total=4))
    assert is_share(seen, source.traits, four)
    assert not is_share(seen, source.traits, RunOptions(slice=Slice(index=0, total=1)))
    assert not is_share(seen, source.traits, RunOptions())
    assert not is_share(seen, source.traits, four.model_copy(update={"mode": Mode.SKIP}))
    broker = MemoryBroker()
    broker.create("t", 1)
    plain = MemorySource(broker, "t", "g")
    assert not is_share(plain.survey(), plain.traits, four)

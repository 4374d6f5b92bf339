"""Event Hubs: bounds on events with known times, and readers that ages must not displace."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.model import Mode
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.eventhubs import offset_of
from tests.brokers.test_eventhubs import EventHubsBench, bench, server

__all__ = ["bench", "server"]

BOUND = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
BOUND_MS = 1_767_323_045_678


def dated(bench: EventHubsBench, number: int, *times: int) -> None:
    """One event for each time, in milliseconds after the bound."""
    log = bench.log.partitions[number]
    for after in times:
        bench.produce(number, 1)
        log.times[-1] = (log.end - 1, BOUND_MS + after)


def stored(bench: EventHubsBench) -> tuple[str, str]:
    """Offset and sequence number of partition 0's checkpoint."""
    metadata = bench.checkpoints()[0]
    return metadata["offset"], metadata["sequencenumber"]


def job(
    bench: EventHubsBench, tmp_path: Path, options: dict[str, Any] | None = None, **run: Any
) -> Job:
    """A run on the bench's Event Hub."""
    return Job("eventhubs", bench.options_of(**(options or {})), bench.options(tmp_path, **run))


@pytest.mark.parametrize("mode", list(Mode))
def test_the_boundary_is_exact_to_the_millisecond(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """Events a millisecond before the bound are acknowledged, those at the bound stay, in each partition."""
    dated(bench, 0, -2, -1, 0, 1)
    dated(bench, 1, 0, 5)  # nothing is older
    dated(bench, 2, -3)  # nothing is younger
    result = clear(job(bench, tmp_path, mode=mode, until=BOUND))
    assert result.cleared
    assert bench.left() == {0: 2, 1: 2, 2: 0}
    assert stored(bench) == (offset_of(1), "1")
    assert result.totals.backlog == 3
    assert result.totals.oldest == BOUND - timedelta(milliseconds=3)
    assert any("Orders" in note and "is retained any more" in note for note in result.notes)


def test_a_checkpoint_behind_the_bound_is_left_alone(bench: EventHubsBench, tmp_path: Path) -> None:
    """A checkpoint that is past the bound is not set back."""
    dated(bench, 0, -2, -1, 0, 1)
    bench.advance(0, 3)
    for mode in Mode:
        assert clear(job(bench, tmp_path, mode=mode, until=BOUND)).cleared
        assert stored(bench) == (offset_of(2), "2")


def test_ages_displace_no_reader(bench: EventHubsBench, tmp_path: Path) -> None:
    """With --owner-level a status still asks without one, so that it ends no reader."""
    dated(bench, 0, -2, -1)
    found = status(job(bench, tmp_path, {"owner_level": 7}))
    assert found.totals.oldest == BOUND - timedelta(milliseconds=2)
    assert {level for *_, level in bench.server.attached} == {None}

"""An Event Hub that was deleted and created again: its checkpoints stay as they are, at every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.eventhubs.positions import incarnation_of, parse_hub
from backlog_clearer.brokers.eventhubs.source import EventHubsSource, open_source
from backlog_clearer.errors import BrokerError, RecreatedError
from backlog_clearer.model import Claim, Mode, Recorded
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.receipt import load, original_positions
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_checkpoints import put, stored, undo
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of

pytestmark = pytest.mark.timeout(300)

AGAIN = "was deleted and created again"


def half_consumed(bench: EventHubsBench) -> dict[str, dict[str, str]]:
    """100 events in each partition, and checkpoints at 39; returns all blobs."""
    fill(bench, 100)
    for number in range(bench.partitions):
        put(bench, bench.checkpoint(number), 39)
    return stored(bench)


def anew(bench: EventHubsBench) -> None:
    """Create the Event Hub again, filled past every old position; the blobs stay."""
    bench.log = bench.server.recreate(bench.hub)
    fill(bench, 500)


def gone(bench: EventHubsBench) -> None:
    """Delete the Event Hub."""
    bench.server.recreate(bench.hub)
    del bench.server.hubs[bench.hub]


def source_of(bench: EventHubsBench, tmp_path: Path, **run: Any) -> EventHubsSource:
    """The adapter."""
    return open_source(bench.options_of(), run_options(tmp_path, **run), "run")


@pytest.mark.parametrize("mode", list(Mode))
def test_a_run_that_was_confirmed_after_it_writes_nothing(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """While the question is open the Event Hub is made anew: no checkpoint moves, each row has the reason."""
    before = half_consumed(bench)

    def harm(_: object) -> bool:
        anew(bench)
        return True

    result = clear(bench, run_options(tmp_path, mode=mode), Callbacks(confirm=harm))
    assert (result.cleared, result.totals.messages) == (False, 0)
    assert all(AGAIN in (item.error or "") for item in result.partitions)
    assert stored(bench) == before


@pytest.mark.parametrize("harm", [anew, gone])
def test_a_lane_that_reads_settles_nothing_after_it(
    bench: EventHubsBench, tmp_path: Path, harm: Callable[[EventHubsBench], None]
) -> None:
    """What was read of the old Event Hub is not stored for the new one, and no lane opens on it again."""
    half_consumed(bench)
    with closing(source_of(bench, tmp_path)) as source:
        claims = [Claim(state, None, state.end) for state in source.survey().partitions]
        lane = source.open_lane(claims)
        assert sum(item.messages for item in lane.read(0.5, 30)) == 30
        (moved,) = lane.settle()
        between = stored(bench)
        assert between[bench.checkpoint(moved.partition.number)]["sequencenumber"] == "69"
        assert sum(item.messages for item in lane.read(0.5, 30)) > 0
        harm(bench)
        assert all(item.error and not item.messages for item in lane.settle())
        lane.close()
        resumed = [replace(claim, resume=moved.position) for claim in claims[:1]]
        with pytest.raises(BrokerError if harm is gone else RecreatedError):
            source.open_lane(resumed)
    assert stored(bench) == between


@pytest.mark.parametrize("harm", [anew, gone])
def test_skip_and_restore_write_nothing_after_it(
    bench: EventHubsBench, tmp_path: Path, harm: Callable[[EventHubsBench], None]
) -> None:
    """Each partition has its error, and every blob is as it was."""
    before = half_consumed(bench)
    with closing(source_of(bench, tmp_path, mode=Mode.SKIP)) as source:
        states = source.survey().partitions
        harm(bench)
        skipped = source.skip([Claim(state, None, state.end) for state in states])
        restored = source.restore([Recorded(s.partition, None, s.incarnation) for s in states])
    assert all(item.error for item in [*skipped, *restored])
    assert len(skipped) == len(restored) == 3
    assert stored(bench) == before


def test_a_receipt_of_the_old_one_restores_nothing(bench: EventHubsBench, tmp_path: Path) -> None:
    """The undo of a run names the reason, and leaves the checkpoints of the new Event Hub."""
    half_consumed(bench)
    result = clear(bench, run_options(tmp_path))
    assert result.cleared
    anew(bench)
    before = stored(bench)
    back = undo(bench, tmp_path, result)
    assert not back.cleared
    assert all(AGAIN in (item.error or "") for item in back.partitions)
    assert stored(bench) == before
    (first, *_) = original_positions([load(result.receipt)])
    assert f"/{bench.hub} created ".lower() in (first.incarnation or "")


def test_figures_at_verification_are_those_of_the_new_one(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """What is left is reported under the incarnation that answered, which is not the surveyed one."""
    half_consumed(bench)
    with closing(source_of(bench, tmp_path)) as source:
        states = {state.partition: state for state in source.survey().partitions}
        same = source.remaining({key: state.end for key, state in states.items()})
        anew(bench)
        found = source.remaining({key: state.end for key, state in states.items()})
    assert {item.incarnation for item in same} == {s.incarnation for s in states.values()}
    assert not {item.incarnation for item in found} & {s.incarnation for s in states.values()}


def test_checkpoints_older_than_the_event_hub_are_a_note(bench: EventHubsBench, tmp_path: Path) -> None:
    """Checkpoints that were written before the Event Hub was created are counted in a note."""
    half_consumed(bench)
    text = "3 checkpoints older than the Event Hub"
    assert not any(text in note for note in survey_of(bench.options_of(), tmp_path).notes)
    bench.log.created_ms = int(time.time() * 1000) + 3_600_000
    assert any(text in note for note in survey_of(bench.options_of(), tmp_path).notes)


@pytest.mark.parametrize("created", [None, 0])
def test_a_service_that_reports_no_time_has_no_incarnation(created: int | None) -> None:
    """Without a time of creation nothing distinguishes two Event Hubs of one name."""
    hub = parse_hub({b"partition_ids": [b"0", b"1"], b"created_at": created})
    assert (hub.numbers, hub.created_ms) == ([0, 1], None)
    assert incarnation_of("Ns", "Orders", hub.created_ms) is None


@pytest.mark.parametrize("created", [-1, "1700000000000", True, 1.5, b"1"])
def test_an_impossible_time_of_creation_is_refused(created: Any) -> None:
    """A time of another type, or before 1970, is an answer that cannot be used."""
    with pytest.raises(ValueError, match="created_at"):
        parse_hub({b"partition_ids": [b"0"], b"created_at": created})


def test_an_incarnation_does_not_depend_on_the_spelling() -> None:
    """Namespace and Event Hub are the same in any case."""
    assert incarnation_of("NS.example", "Orders", 5) == incarnation_of("ns.example", "orders", 5)

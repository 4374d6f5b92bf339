"""One partition's trouble is its own: in survey, status, skip and consume."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventHubConsumerClient

from backlog_clearer.brokers.eventhubs.positions import start_after
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.model import Claim, Mode
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.report import Verdict
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.eventhubs import EventHubsServer, offset_of
from backlog_clearer.testing.support import wait_until
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_checkpoints import put, stored
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of

pytestmark = pytest.mark.timeout(300)


class WideBench(EventHubsBench):
    """An Event Hub of 64 partitions."""

    partitions = 64


@pytest.fixture
def wide(server: EventHubsServer, storage: Azurite) -> WideBench:
    """An Event Hub of 64 partitions, with 100 events each."""
    made = WideBench(server, storage)
    fill(made, 100)
    return made


@contextmanager
def exclusive(bench: EventHubsBench, number: int) -> Iterator[None]:
    """A plain consumer of the SDK that reads one partition with owner level 3."""
    client = EventHubConsumerClient.from_connection_string(
        bench.server.connection_string(), "$Default", eventhub_name=bench.hub, retry_total=0
    )
    reader = threading.Thread(
        target=lambda: client.receive(
            lambda *_: None, partition_id=str(number), owner_level=3, starting_position="@latest"
        ),
        daemon=True,
    )
    reader.start()
    try:
        wait_until(lambda: (str(number), 3) in bench.server.readers(), "the exclusive reader")
        yield
    finally:
        client.close()
        reader.join(30)


def test_an_exclusive_reader_of_one_partition_of_64_costs_only_that(
    wide: WideBench, tmp_path: Path
) -> None:
    """Status names it, a run without --force is refused, and with it the other 63 are cleared."""
    with exclusive(wide, 45):
        found = survey_of(wide.options_of(), tmp_path)
        assert found.live == (f"a consumer that holds {wide.hub}[45]",)
        assert [state.backlog for state in found.partitions] == [100] * 64
        assert all(state.error is None for state in found.partitions)
        with pytest.raises(RefusedError, match=r"\[45\]"):
            clear(wide, run_options(tmp_path))
        result = clear(wide, run_options(tmp_path, force=True))
    assert result.verdict is Verdict.NOT_CLEARED
    assert result.totals.messages == 6300
    assert {number: left for number, left in wide.left().items() if left} == {45: 100}
    assert [item.partition for item in result.partitions if item.error] == [45]
    assert "--owner-level" in (result.partitions[45].error or "")


def test_an_exclusive_reader_of_one_partition_does_not_hold_a_skip(
    wide: WideBench, tmp_path: Path
) -> None:
    """A skip needs no reader: with --force all 64 checkpoints are written, and a note names the reader."""
    with exclusive(wide, 45):
        result = clear(wide, run_options(tmp_path, mode=Mode.SKIP, force=True))
    assert result.cleared
    assert set(wide.left().values()) == {0}
    assert any("overwrite" in note for note in result.notes)


def test_a_reader_that_comes_during_the_run_costs_only_its_partition(
    wide: WideBench, tmp_path: Path
) -> None:
    """An exclusive reader that attaches after the survey ends its partition; 63 are cleared."""
    held = exclusive(wide, 7)

    def attach(_: object) -> bool:
        held.__enter__()
        return True

    try:
        result = clear(wide, run_options(tmp_path), Callbacks(confirm=attach))
    finally:
        held.__exit__(None, None, None)
    assert result.totals.messages == 6300
    assert [item.partition for item in result.partitions if item.error] == [7]
    assert {number for number, left in wide.left().items() if left} == {7}


def test_a_probe_that_fails_does_not_hold_the_survey(bench: EventHubsBench, tmp_path: Path) -> None:
    """A refusal of another kind is a note of its partition; status, skip and consume go their way."""
    fill(bench, 100)
    quota = (b"amqp:not-allowed", "This link is not allowed now.")
    bench.server.faults.attach.append(quota)
    found = survey_of(bench.options_of(), tmp_path)
    assert [state.backlog for state in found.partitions] == [100, 100, 100]
    assert found.live == ()
    (note,) = [note for note in found.notes if "is not known" in note]
    assert f"{bench.hub}[" in note
    for mode in Mode:
        bench.server.faults.attach.append(quota)
        assert clear(bench, run_options(tmp_path / mode, mode=mode)).cleared
        fill(bench, 100)


def test_a_missing_group_is_refused_with_many_partitions(wide: WideBench, tmp_path: Path) -> None:
    """The probes of all partitions fail for a group that does not exist: that is wrong use."""
    with pytest.raises(UsageError, match="'billin'"):
        survey_of(wide.options_of(consumer_group="billin"), tmp_path)


def test_a_refused_offset_is_replaced_by_its_sequence_number(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """An offset of another region on one partition: it resumes by sequence number, and all are cleared."""
    fill(bench, 100)
    for number in range(3):
        put(bench, bench.checkpoint(number), 39)
    bench.server.faults.refused_offsets.add(1)
    result = clear(bench, run_options(tmp_path, workers=1))
    assert (result.cleared, result.totals.messages) == (True, 180)
    assert result.totals.retries == 1
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_all_refused_offsets_are_replaced(wide: WideBench, tmp_path: Path) -> None:
    """More refusals than --max-retries are not a failure: each partition resumes by its number once."""
    for number in range(64):
        put(wide, wide.checkpoint(number), 39)
        wide.server.faults.refused_offsets.add(number)
    result = clear(wide, run_options(tmp_path, max_retries=2, workers=2))
    assert (result.cleared, result.totals.messages) == (True, 64 * 60)
    assert set(wide.left().values()) == {0}


def test_a_refused_offset_without_a_number_costs_only_its_partition(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Where nothing but the offset is stored, that partition keeps its checkpoint; the others are cleared."""
    fill(bench, 100)
    old = {"offset": offset_of(39), "sequencenumber": ""}
    bench.container.upload_blob(bench.checkpoint(1), b"", metadata=old)
    bench.server.faults.refused_offsets.add(1)
    result = clear(bench, run_options(tmp_path))
    assert result.verdict is Verdict.NOT_CLEARED
    assert [bool(item.error) for item in result.partitions] == [False, True, False]
    assert "before geo-replication" in (result.partitions[1].error or "")
    assert stored(bench)[bench.checkpoint(1)] == old
    assert result.totals.messages == 200


def test_a_selector_is_by_number_only_where_asked() -> None:
    """Processors start by offset; a number is used where there is no offset, or where that was refused."""
    both: Any = {"offset": "640", "sequence_number": 10}
    assert start_after(both).selector == "amqp.annotation.x-opt-offset > '640'"
    assert start_after(both, by_number=True).selector == "amqp.annotation.x-opt-sequence-number > '10'"
    only: Any = {"offset": "640", "sequence_number": None}
    assert start_after(only, by_number=True) == start_after(only)
    assert start_after(only).selector == "amqp.annotation.x-opt-offset > '640'"


def test_one_partition_without_figures_does_not_end_status(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A management answer that cannot be used is that partition's error in status."""
    fill(bench, 100)
    bench.server.faults.garbled[1] = {"last_enqueued_sequence_number": None}
    with closing(open_source(bench.options_of(), run_options(tmp_path), "run")) as source:
        states = source.survey().partitions
    assert [state.backlog for state in states] == [100, None, 100]
    assert [state.passing for state in states] == [False, True, False]


def test_an_idle_connection_is_not_a_dead_one(bench: EventHubsBench, tmp_path: Path) -> None:
    """Where no event comes, the service's heartbeats keep a lane that follows alive."""
    fill(bench, 10)
    run = run_options(tmp_path, follow=True, stop_when_empty=False, stall_seconds=3)
    assert run.answer_seconds < 1.5
    with closing(open_source(bench.options_of(), run, "run")) as source:
        claims = [Claim(state, None, None) for state in source.survey().partitions]
        with closing(source.open_lane(claims)) as lane:
            until = time.monotonic() + 4
            got = 0
            while time.monotonic() < until:
                got += sum(item.messages for item in lane.read(0.25, None))
            bench.produce(0, 5)
            got += sum(item.messages for item in lane.read(0.25, None))
    assert got == 35

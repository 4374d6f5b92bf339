"""Impossible figures are an error of their partition or unknown, never a count."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobClient

from backlog_clearer.brokers.eventhubs.blobs import Held
from backlog_clearer.brokers.eventhubs.checkpoints import Checkpoints
from backlog_clearer.brokers.eventhubs.positions import (
    PartitionProperties,
    anomaly,
    backlog,
    checked_position,
    event_number,
    events_behind,
    left_up_to,
    parse_checkpoint,
    parse_hub,
    parse_lease,
    parse_properties,
    position_from,
    start_after,
)
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import TransientError, UsageError
from backlog_clearer.model import Claim, Mode, Partition, PartitionState, Position, Recorded
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.eventhubs import EventLog, offset_of
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of

pytestmark = pytest.mark.timeout(300)

ANSWER: dict[bytes, Any] = {
    b"partition": b"1",
    b"begin_sequence_number": 10,
    b"last_enqueued_sequence_number": 99,
    b"last_enqueued_offset": b"640",
    b"is_partition_empty": False,
}
HUNDRED = PartitionProperties(begin=10, last=99, offset="640", empty=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, HUNDRED),
        ({b"begin_sequence_number": 99}, HUNDRED._replace(begin=99)),
        # everything has expired: whatever the service reports as the first, none is retained
        ({b"is_partition_empty": True}, HUNDRED._replace(begin=100, empty=True)),
        (
            {
                b"begin_sequence_number": 0,
                b"last_enqueued_sequence_number": -1,
                b"last_enqueued_offset": b"-1",
                b"is_partition_empty": True,
            },
            PartitionProperties(0, -1, "-1", empty=True),
        ),
        (  # with geo-replication, before the first event and after some
            {
                b"begin_sequence_number": -1,
                b"last_enqueued_sequence_number": -1,
                b"last_enqueued_offset": b"2:-1:-1",
                b"is_partition_empty": True,
            },
            PartitionProperties(0, -1, "2:-1:-1", empty=True),
        ),
        ({b"last_enqueued_offset": b"2:640:99"}, HUNDRED._replace(offset="2:640:99")),
    ],
)
def test_possible_properties_are_read(changes: dict[bytes, Any], expected: PartitionProperties) -> None:
    """A partition with events, an expired one and one that never had any are read as they are."""
    assert parse_properties({**ANSWER, **changes}, 1) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {b"begin_sequence_number": None},
        {b"begin_sequence_number": -1001},
        {b"begin_sequence_number": -1},  # and the partition is not empty
        {b"begin_sequence_number": 100},  # after the last
        {b"begin_sequence_number": "10"},
        {b"last_enqueued_sequence_number": None},
        {b"last_enqueued_sequence_number": -1001},
        {b"last_enqueued_sequence_number": -1},
        {b"last_enqueued_sequence_number": True},
        {b"last_enqueued_offset": None},
        {b"last_enqueued_offset": b""},
        {b"last_enqueued_offset": b"-1"},  # before the first event, after 100 of them
        {b"last_enqueued_offset": b"2:-1:-1"},
        {b"is_partition_empty": None},
        {b"is_partition_empty": 0},
        {b"partition": b"2"},  # an answer about another partition
    ],
)
def test_impossible_properties_are_refused(changes: dict[bytes, Any]) -> None:
    """A figure that is missing, of another type, negative or contradictory is an error."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_properties({**ANSWER, **changes}, 1)


@pytest.mark.parametrize("answer", [None, b"", [], {}])
def test_an_answer_without_figures_is_refused(answer: object) -> None:
    """An empty answer is an error, for a partition and for the Event Hub."""
    with pytest.raises(ValueError, match="no properties|last_enqueued"):
        parse_properties(answer, 1)
    with pytest.raises(ValueError, match="names no partition"):
        parse_hub(answer)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"offset": "640", "sequencenumber": "10"}, ("640", 10)),
        ({"offset": "", "sequencenumber": "0"}, (None, 0)),
        ({"offset": "no offset", "sequencenumber": "7"}, (None, 7)),
        ({"offset": "640", "sequencenumber": None}, ("640", None)),
        ({"offset": "-1", "sequencenumber": "-1"}, ("-1", -1)),  # before the first event
        ({"offset": "640", "sequencenumber": "-9223372036854775808"}, ("640", None)),  # a placeholder
        ({}, None),
        ({"offset": None, "sequencenumber": ""}, None),
        ({"offset": "640", "sequencenumber": "1_0"}, None),
        ({"offset": "640", "sequencenumber": "ten"}, None),
        ({"offset": "", "sequencenumber": "-1001"}, None),
    ],
)
def test_checkpoints_are_read_or_refused(
    metadata: dict[str, str | None], expected: tuple[str | None, int | None] | None
) -> None:
    """A checkpoint's metadata is its position; metadata that is not one is an error, never "none"."""
    if expected is None:
        with pytest.raises(ValueError, match="sequence number"):
            parse_checkpoint(metadata)
    else:
        assert parse_checkpoint(metadata) == {"offset": expected[0], "sequence_number": expected[1]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"Offset": "640"',
        b'{"Offset": "640"}',
        b'{"Offset": "640", "SequenceNumber": "10"}',
        b'{"Offset": "640", "SequenceNumber": -1001}',
    ],
)
def test_leases_that_cannot_be_read_are_refused(content: bytes) -> None:
    """A lease that is cut, of another form, or without its number is an error."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_lease(content)


def test_a_lease_without_an_offset_is_no_position() -> None:
    """The Functions extension writes a lease before the first event: that is not a fault."""
    assert parse_lease(b'{"Offset": null, "SequenceNumber": 0}') is None


@pytest.mark.parametrize(
    "position",
    [
        5,
        "640",
        {},
        {"offset": None, "sequence_number": None},
        {"offset": 640, "sequence_number": None},
        {"offset": "", "sequence_number": None},
        {"offset": None, "sequence_number": "5"},
        {"offset": "640", "sequence_number": -1001},
    ],
)
def test_other_positions_are_refused(position: Any) -> None:
    """A position of another system, or one that names no event, is never sent or written."""
    with pytest.raises(UsageError, match="not a position of Event Hubs"):
        checked_position(position)
    with pytest.raises(UsageError, match="not a position of Event Hubs"):
        start_after(position)


def _at(number: int | None) -> Position | None:
    return None if number is None else {"offset": "640", "sequence_number": number}


@pytest.mark.parametrize(
    ("position", "target", "reason"),
    [
        (None, None, None),
        (99, 99, None),
        (9, 99, None),
        (100, None, "beyond the last event"),
        (99, 100, "before the target"),
        (None, 5000, "before the target"),
    ],
)
def test_an_end_before_what_is_stored_is_reported(
    position: int | None, target: int | None, reason: str | None
) -> None:
    """A position or a target beyond the last event is an anomaly, not "nothing left"."""
    found = anomaly(HUNDRED, _at(position), target)
    assert (reason is None and found is None) or (reason is not None and reason in (found or ""))


@pytest.mark.parametrize(
    ("position", "target", "left"),
    [(None, 99, 90), (9, 99, 90), (5, 99, 90), (98, 99, 1), (99, 99, 0), (99, 50, 0), (None, 9, 0)],
)
def test_what_is_left_counts_retained_events(position: int | None, target: int, left: int) -> None:
    """Events from the first retained one up to the target are left, unless the position is after them."""
    assert left_up_to(HUNDRED, _at(position), target) == left


def test_a_position_without_a_number_leaves_the_backlog_unknown() -> None:
    """Only where nothing is retained is it known that nothing is left."""
    position = {"offset": "640", "sequence_number": None}
    assert backlog(HUNDRED, position) is None
    assert backlog(HUNDRED._replace(begin=100, empty=True), position) == 0


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {b"x-opt-sequence-number": -1, b"x-opt-offset": b"64"},
        {b"x-opt-sequence-number": b"5", b"x-opt-offset": b"64"},
        {b"x-opt-sequence-number": 5},
        {b"x-opt-sequence-number": 5, b"x-opt-offset": b""},
    ],
)
def test_events_without_annotations_are_refused(annotations: dict[bytes, int | bytes]) -> None:
    """An event whose number or offset is missing gives no position."""
    with pytest.raises(ValueError, match="an event has"):
        position_from(annotations)


@pytest.mark.parametrize(
    ("end", "left"), [(9, 4), (5, 0), (4, None), (-1, None), (b"9", None), (None, None)]
)
def test_an_impossible_end_is_unknown(end: Any, left: int | None) -> None:
    """The end that comes with an event counts only if it is not before that event."""
    found = {b"x-opt-sequence-number": 5, b"last_enqueued_sequence_number": end}
    assert event_number(found) == 5
    assert events_behind({key: value for key, value in found.items() if value is not None}) == left


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "changes",
    [
        {"last_enqueued_sequence_number": -1001},
        {"last_enqueued_sequence_number": None},
        {"begin_sequence_number": 5000},
        {"is_partition_empty": None},
        {"last_enqueued_offset": "-1"},
    ],
)
def test_a_garbled_partition_is_not_cleared_and_the_others_are(
    bench: EventHubsBench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    changes: dict[str, Any],
) -> None:
    """Impossible figures of one partition are its error; the run is not "cleared", the others are."""
    monkeypatch.setattr("backlog_clearer.run.retry.ATTEMPTS", 1)
    fill(bench, 100)
    bench.server.faults.garbled[1] = changes
    result = clear(bench, run_options(tmp_path, mode=mode))
    assert not result.cleared
    assert [bool(item.error) for item in result.partitions] == [False, True, False]
    assert "cannot be used" in (result.partitions[1].error or "")
    assert bench.left() == {0: 0, 1: 100, 2: 0}


def test_figures_that_are_garbled_only_at_the_end_prove_nothing(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Verification with impossible figures is not a proof, even though everything was read."""
    fill(bench, 100)

    def harm(_: object) -> bool:
        bench.server.faults.garbled[2] = {"last_enqueued_sequence_number": -1}
        return True

    result = clear(bench, run_options(tmp_path), Callbacks(confirm=harm))
    assert not result.cleared
    assert result.verified is not True
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_an_event_hub_created_again_during_the_run_is_not_verified(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """An empty Event Hub in place of the surveyed one has no backlog, which proves nothing."""
    fill(bench, 100)

    def harm(_: object) -> bool:
        bench.log.partitions[:] = [EventLog() for _ in bench.log.partitions]
        return True

    result = clear(bench, run_options(tmp_path, mode=Mode.SKIP), Callbacks(confirm=harm))
    assert not result.cleared
    assert result.verified is not True
    assert all("created again" in (item.error or "") for item in result.partitions)


def _upload(bench: EventHubsBench, number: int, metadata: dict[str, str]) -> str:
    name = f"{bench.server.namespace}/{bench.hub}/$Default/checkpoint/{number}".lower()
    bench.container.upload_blob(name, b"", metadata=metadata, overwrite=True)
    return name


@pytest.mark.parametrize("mode", list(Mode))
def test_a_checkpoint_that_cannot_be_read_is_left_as_it_is(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """An unreadable checkpoint is not "none": it is neither written over nor deleted, by undo either."""
    fill(bench, 100)
    strange = {"offset": "640", "sequencenumber": "many"}
    _upload(bench, 0, strange)
    state = survey_of(bench.options_of(), tmp_path).partitions[0]
    assert (state.position, state.backlog) == (None, None)
    assert "cannot be read" in (state.error or "")
    assert "cannot be read" in (state.undo or "")
    result = clear(bench, run_options(tmp_path, mode=mode))
    assert not result.cleared
    assert bench.checkpoints()[0] == strange
    with closing(open_source(bench.options_of(), run_options(tmp_path), "back")) as source:
        recorded = [Recorded(item.id, None) for item in result.partitions]
        outcomes = {item.partition.number: item.error for item in source.restore(recorded)}
    assert "left as it is" in (outcomes[0] or "")
    assert (outcomes[1], outcomes[2]) == (None, None)
    assert bench.checkpoints() == {0: strange}


def test_a_checkpoint_that_became_unreadable_is_not_skipped_over(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Skipping reads the checkpoints again, and an unreadable one is its partition's error."""
    fill(bench, 100)
    strange = {"offset": "640", "sequencenumber": "many"}
    with closing(
        open_source(bench.options_of(), run_options(tmp_path, mode=Mode.SKIP), "run")
    ) as source:
        states = source.survey().partitions
        _upload(bench, 1, strange)
        outcomes = source.skip([Claim(state, None, state.end) for state in states])
    assert [bool(item.error) for item in outcomes] == [False, True, False]
    assert bench.checkpoints()[1] == strange


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"Offset": "64',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"Offset": "64", "SequenceNumber": "many"}',
    ],
    ids=["empty", "cut", "not text", "deep", "not a number"],
)
def test_a_malformed_lease_is_a_note_of_its_partition(
    bench: EventHubsBench, tmp_path: Path, content: bytes
) -> None:
    """Functions ignore a malformed lease: so does the backlog, with a note, and the partition is cleared."""
    fill(bench, 100)
    bench.container.upload_blob(f"{bench.server.namespace}/{bench.hub}/$Default/2", content)
    options = bench.options_of(checkpoint_format="functions")
    found = survey_of(options, tmp_path)
    assert [state.backlog for state in found.partitions] == [100, 100, 100]
    assert all(state.error is None for state in found.partitions)
    (note,) = [note for note in found.notes if "lease blob" in note]
    assert note.startswith(f"{bench.hub}[2]: ")
    assert clear(bench, run_options(tmp_path, new=True), checkpoint_format="functions").cleared
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_a_checkpoint_without_a_number_is_read_over_amqp(bench: EventHubsBench, tmp_path: Path) -> None:
    """The Kafka endpoint would start at the first event retained: it is refused, and AMQP starts right."""
    fill(bench, 100)
    _upload(bench, 0, {"offset": offset_of(39), "sequencenumber": ""})
    with pytest.raises(UsageError, match="1 checkpoint without a sequence number.*--reader amqp"):
        survey_of(bench.options_of(reader="kafka"), tmp_path)
    result = clear(bench, run_options(tmp_path))
    assert any("Reading over AMQP: 1 checkpoint" in note for note in result.notes)
    assert result.totals.messages == 260
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_a_checkpoint_written_at_the_same_moment_is_not_overwritten(
    bench: EventHubsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading a checkpoint and writing it, another client's write wins; the error is transient."""
    options = bench.options_of()
    near: Position = {"offset": offset_of(40), "sequence_number": 40}
    state = PartitionState(Partition(bench.hub, 0), None, None, None, None)
    with closing(Checkpoints(options, "run")) as checkpoints:
        held = Held(Claim(state, None, None), checkpoints.path, checkpoints.path.lower())
        assert checkpoints.advance(held, near) == near
        read = BlobClient.get_blob_properties

        def read_then_overtaken(blob: BlobClient) -> Any:
            found = read(blob)
            bench.advance(0, 91)
            return found

        monkeypatch.setattr(BlobClient, "get_blob_properties", read_then_overtaken)
        with pytest.raises(TransientError, match="same moment"):
            checkpoints.advance(held, {"offset": offset_of(60), "sequence_number": 60})
        monkeypatch.undo()
        stored = checkpoints.advance(held, {"offset": offset_of(60), "sequence_number": 60})
    assert stored == {"offset": offset_of(90), "sequence_number": 90}
    assert bench.checkpoints()[0] == {"offset": offset_of(90), "sequencenumber": "90"}


@pytest.mark.parametrize("retries", [0, 5])
def test_checkpoints_whose_answers_are_lost_are_counted_once(
    bench: EventHubsBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """Two writes succeed and their answers are lost: the checkpoints decide, in the next lane or at the end."""
    fill(bench, 100)
    write, lost = Checkpoints.advance, [1, 1]

    def losing(self: Checkpoints, held: Held, position: Position) -> Position:
        stored = write(self, held, position)
        if lost:
            lost.pop()
            raise TransientError("no answer")
        return stored

    monkeypatch.setattr(Checkpoints, "advance", losing)
    result = clear(bench, run_options(tmp_path, workers=1, max_retries=retries))
    assert result.totals.messages == 300 - sum(bench.left().values())
    assert not result.totals.at_least
    assert result.totals.messages >= 100

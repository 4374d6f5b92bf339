"""What Iggy's adapter may change: the log that was surveyed, under whatever name, and nothing else.

On the in-repo wire server, or on a real one: IGGY_ADDRESS=HOST:PORT (user iggy, its password in
IGGY_PASSWORD).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apache_iggy import SendMessage

from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.model import Mode
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from tests.brokers.iggy_bench import GROUP, IggyBench, job, opened, undo


@pytest.fixture
def bench() -> Iterator[IggyBench]:
    """A topic with a group."""
    with opened() as found:
        yield found


def errors(result: RunResult) -> dict[int, str]:
    """The errors of a result's rows, by partition id."""
    return {row.partition: row.error for row in result.partitions if row.error}


def answering(act: Callable[[], object]) -> Callbacks:
    """Something happens while the question is open on the terminal; then it is answered with yes."""

    def confirm(_: object) -> bool:
        act()
        return True

    return Callbacks(confirm=confirm)


@pytest.mark.parametrize("mode", [Mode.CONSUME, Mode.SKIP])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "never-stored"])
def test_a_topic_purged_and_refilled_before_the_answer_is_left_alone(
    bench: IggyBench, tmp_path: Path, mode: Mode, stored: bool
) -> None:
    """New messages in a purged topic are not acknowledged, although as many as before are there."""
    bench.produce(0, 100)
    if stored:
        clear(job(bench, tmp_path))
        bench.produce(0, 100)

    def purge() -> None:
        bench.plain.run("purge_topic", bench.stream, bench.topic)
        bench.produce(0, 300)

    result = clear(job(bench, tmp_path, mode=mode), answering(purge))
    assert not result.cleared
    assert "purge" in errors(result)[bench.numbers[0]]
    assert bench.stored()[0] is None
    assert bench.left()[0] == 300


def test_a_purged_and_refilled_topic_is_not_restored(bench: IggyBench, tmp_path: Path) -> None:
    """After a purge no old offset is stored, although the new messages reach that far."""
    bench.produce(0, 50)
    clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.produce(0, 50)
    done = clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.plain.run("purge_topic", bench.stream, bench.topic)
    bench.produce(0, 300)
    back = undo(bench, tmp_path, done)
    assert back.verified is not True
    assert "purged" in errors(back)[bench.numbers[0]]
    assert bench.stored()[0] is None


def test_a_stored_offset_that_was_set_back_before_the_answer_ends_its_partition(
    bench: IggyBench, tmp_path: Path
) -> None:
    """What another client set back meanwhile stays; the other partitions are cleared."""
    bench.produce(0, 100)
    bench.produce(1, 100)
    bench.advance(0, 60)
    result = clear(job(bench, tmp_path, mode=Mode.SKIP), answering(lambda: bench.advance(0, 20)))
    assert "set it back" in errors(result)[bench.numbers[0]]
    assert bench.stored() == {0: 19, 1: 99, 2: None}


def test_an_undo_works_by_other_names_for_the_same_topic(bench: IggyBench, tmp_path: Path) -> None:
    """A receipt of names is restored by numbers, and through another name of the host; and the reverse."""
    ids = {
        "stream_id": str(bench.plain.run("get_stream", bench.stream).id),
        "topic_id": str(bench.details().id),
        "group_id": str(bench.plain.run("get_consumer_group", bench.stream, bench.topic, GROUP).id),
    }
    bench.produce(0, 10)
    clear(job(bench, tmp_path))
    bench.produce(0, 10)
    done = clear(job(bench, tmp_path))
    assert undo(bench, tmp_path, done, {**ids, "host": "localhost"}).verified
    assert bench.stored()[0] == 9
    done = clear(job(bench, tmp_path, ids))
    assert bench.stored()[0] == 19
    assert undo(bench, tmp_path, done).verified
    assert bench.stored()[0] == 9


def test_a_receipt_by_a_number_is_refused_where_another_stream_has_it(
    bench: IggyBench, tmp_path: Path
) -> None:
    """After a stream's id went to another stream, nothing of that one is changed."""
    number = bench.plain.run("get_stream", bench.stream).id
    bench.produce(0, 10)
    clear(job(bench, tmp_path))
    bench.produce(0, 10)
    done = clear(job(bench, tmp_path, {"stream_id": str(number)}))
    bench.plain.run("delete_stream", bench.stream)
    bench.stream += "-other"
    bench.plain.run("create_stream", bench.stream)
    assert bench.plain.run("get_stream", bench.stream).id == number
    bench.create_topic(bench.stream, bench.topic)
    bench.plain.run("create_consumer_group", bench.stream, bench.topic, GROUP)
    bench.produce(0, 100)
    clear(job(bench, tmp_path))
    with pytest.raises(RefusedError, match=r"stream .*; nothing was changed"):
        undo(bench, tmp_path, done, {"stream_id": str(number)})
    assert bench.stored()[0] == 99


def test_a_name_that_is_a_number_is_found_unless_it_may_be_an_id(
    bench: IggyBench, tmp_path: Path
) -> None:
    """A number is the name of a stream where none has that id; where both exist, both are named."""
    taken = bench.plain.run("get_stream", bench.stream).id
    number = str(3_000_000_000 + taken)
    ids = {}
    for name in (number, str(taken)):
        bench.plain.run("create_stream", name)
        streams = bench.plain.run("get_streams")
        ids[name] = next(item.id for item in streams if item.name == name)
    # The SDK takes a number for an id, so it creates and fills by id.
    bench.create_topic(ids[number], "2026", 1)
    topic = bench.plain.run("get_topics", ids[number])[0].id
    bench.plain.run("create_consumer_group", ids[number], topic, "7")
    bench.plain.run("send_messages", ids[number], topic, 0, [SendMessage(b"x")] * 5)
    asked = {"stream_id": number, "topic_id": "2026", "group_id": "7"}
    result = clear(job(bench, tmp_path, asked))
    assert (result.verified, result.totals.messages) == (True, 5)
    again = status(job(bench, tmp_path, {**asked, "stream_id": str(ids[number])}))
    assert again.subscription == f"group 7 on {number}/2026"
    assert again.totals.backlog == 0
    with pytest.raises(UsageError, match=f"id, named '{bench.stream}', or .* has id {ids[str(taken)]}"):
        status(job(bench, tmp_path, {"stream_id": str(taken)}))


def test_every_there_is_no_lists_what_exists(bench: IggyBench, tmp_path: Path) -> None:
    """An error about a stream, topic or group names those that exist, also without a similar one."""
    for field, known in (("topic_id", bench.topic), ("group_id", GROUP), ("stream_id", bench.stream)):
        with pytest.raises(UsageError, match=f"There is no .*xyzzy.* Existing: .*{known}"):
            status(job(bench, tmp_path, {field: "xyzzy"}))


def test_a_similar_group_with_a_position_makes_a_new_name_doubtful(
    bench: IggyBench, tmp_path: Path
) -> None:
    """A group that has stored nothing is not cleared where a similar one has a position, except with --new."""
    bench.plain.run("create_consumer_group", bench.stream, bench.topic, f"{GROUP}s")
    bench.produce(0, 10)
    clear(job(bench, tmp_path))
    bench.produce(0, 5)
    other = {"group_id": f"{GROUP}s"}
    with pytest.raises(RefusedError, match=f"'{GROUP}' has a position there.*--new"):
        clear(job(bench, tmp_path, other))
    assert any("5 messages" in note for note in status(job(bench, tmp_path, other)).notes)
    assert clear(job(bench, tmp_path, other, new=True)).verified
    assert bench.stored()[0] == 9

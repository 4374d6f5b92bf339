"""Iggy's adapter through the contract suite, with Iggy's own client beside it.

On the in-repo wire server, or on a real one: IGGY_ADDRESS=HOST:PORT (user iggy, its password in
IGGY_PASSWORD).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backlog_clearer.brokers.iggy import client, connection, lane
from backlog_clearer.brokers.iggy.positions import LogExtent
from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.model import Mode
from backlog_clearer.run.clear import clear
from backlog_clearer.run.status import status
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.iggy import USER
from backlog_clearer.testing.support import Stopwatch, free_port
from tests.brokers.iggy_bench import GROUP, IggyBench, job, opened, undo
from tests.command import cleaner

TIMEOUT_S = 3.0  # of requests that are not answered, instead of 10


@pytest.fixture(autouse=True)
def short_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are not answered cost less time."""
    for module in (client, connection, lane):
        monkeypatch.setattr(module, "TIMEOUT_S", TIMEOUT_S)


@pytest.fixture
def bench() -> Iterator[IggyBench]:
    """A topic with a group."""
    with opened() as found:
        yield found


class TestGroup(Contract):
    """A consumer group's offsets."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A topic with a group."""
        with opened() as found:
            yield found


class TestConsumer(Contract):
    """A single consumer's offsets."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A topic, and a consumer that has stored nothing."""
        with opened(group=False) as found:
            yield found


@pytest.mark.parametrize("mode", [Mode.CONSUME, Mode.SKIP])
def test_both_modes_store_the_offset_of_the_last_message(
    bench: IggyBench, tmp_path: Path, mode: Mode
) -> None:
    """Both modes store the offset of the last message, and nothing in an empty partition."""
    bench.produce(0, 1500)
    bench.produce(2, 1)
    result = clear(job(bench, tmp_path, mode=mode))
    assert (result.verified, result.totals.backlog) == (True, 1501)
    assert bench.stored() == {0: 1499, 1: None, 2: 0}


def test_undo_stores_the_old_offset_or_deletes_the_new_one(bench: IggyBench, tmp_path: Path) -> None:
    """A restore puts back an old offset, and deletes one that had not existed."""
    bench.produce(0, 10)
    bench.produce(1, 10)
    clear(job(bench, tmp_path, partitions=(bench.numbers[0],)))
    bench.produce(0, 5)
    done = clear(job(bench, tmp_path, mode=Mode.SKIP))
    assert bench.stored() == {0: 14, 1: 9, 2: None}
    assert undo(bench, tmp_path, done).verified
    assert bench.stored() == {0: 9, 1: None, 2: None}


def test_partition_ids_that_do_not_exist_are_refused(bench: IggyBench, tmp_path: Path) -> None:
    """Ids that the topic does not have are refused with those it has, before anything changes."""
    bench.produce(0, 10)
    wrong = bench.numbers[-1] + 1
    known = ", ".join(map(str, bench.numbers))
    with pytest.raises(UsageError, match=f"no partition {wrong}; .* are {known}"):
        clear(job(bench, tmp_path, {"partition_ids": f"{bench.numbers[0]},{wrong}"}))
    assert bench.stored() == dict.fromkeys(range(3))
    result = clear(job(bench, tmp_path, {"partition_ids": str(bench.numbers[0])}))
    assert [row.partition for row in result.partitions] == [bench.numbers[0]]


def test_live_group_is_refused_unless_forced(bench: IggyBench, tmp_path: Path) -> None:
    """A group with members is refused; if forced, the partitions that no member keeps are cleared."""
    bench.produce(0, 10)
    bench.produce(2, 10)
    with bench.attach():
        with pytest.raises(RefusedError, match="member"):
            clear(job(bench, tmp_path))
        assert bench.stored() == dict.fromkeys(range(3))
        forced = clear(job(bench, tmp_path, force=True, mode=Mode.SKIP))
        # The member keeps the first partitions, and loses the last one to a member that joins.
        assert bench.stored() == {0: None, 1: None, 2: 9}
    errors = {row.partition: row.error for row in forced.partitions}
    assert "another member" in str(errors[bench.numbers[0]])
    assert errors[bench.numbers[2]] is None
    assert clear(job(bench, tmp_path)).verified
    assert bench.stored()[0] == 9


def test_members_that_change_between_looks_are_not_live(
    bench: IggyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a member at each look is live: a group that is never empty for other reasons is not refused."""
    bench.produce(0, 10)
    with ExitStack() as members:
        members.enter_context(bench.attach())

        def turn(_seconds: float) -> None:
            with ExitStack() as before:
                before.push(members.pop_all())
                members.enter_context(bench.attach())

        monkeypatch.setattr("backlog_clearer.brokers.iggy.source.time", SimpleNamespace(sleep=turn))
        with closing(bench.source(bench.options(tmp_path))) as source:
            assert source.survey().live == ()
            group = bench.plain.run("get_consumer_group", bench.stream, bench.topic, GROUP)
            assert group.members_count == 1


@pytest.mark.parametrize("field", ["stream_id", "topic_id", "group_id"])
def test_a_mistyped_name_is_refused_with_a_suggestion(
    bench: IggyBench, tmp_path: Path, field: str
) -> None:
    """A stream, topic or group that does not exist is named, with the similar name that does."""
    name = {"stream_id": bench.stream, "topic_id": bench.topic, "group_id": GROUP}[field]
    with pytest.raises(UsageError, match=f"{name}x.*Did you mean '{name}'"):
        status(job(bench, tmp_path, {field: f"{name}x"}))


def test_numbers_are_accepted_instead_of_names(bench: IggyBench, tmp_path: Path) -> None:
    """Streams, topics and groups may be named by their numbers."""
    bench.produce(1, 20)
    ids = {
        "stream_id": str(bench.plain.run("get_stream", bench.stream).id),
        "topic_id": str(bench.details().id),
        "group_id": str(bench.plain.run("get_consumer_group", bench.stream, bench.topic, GROUP).id),
    }
    assert clear(job(bench, tmp_path, ids)).verified
    assert bench.stored()[1] == 19


def test_purged_topic_cannot_be_undone(bench: IggyBench, tmp_path: Path) -> None:
    """After a purge the old offset lies beyond the end: the restore reports that, and stores nothing."""
    bench.produce(0, 50)
    clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.produce(0, 50)
    done = clear(job(bench, tmp_path, mode=Mode.SKIP))
    bench.plain.run("purge_topic", bench.stream, bench.topic)
    back = undo(bench, tmp_path, done)
    assert back.verified is not True
    assert any("purged" in (row.error or "") for row in back.partitions)
    assert bench.left()[0] == 0


def test_the_command_line_clears_and_shows_no_password(bench: IggyBench, tmp_path: Path) -> None:
    """The command as a user types it clears a consumer's backlog, and shows no password."""
    bench.produce(0, 3000)
    host, _, port = bench.address.partition(":")
    ids = ",".join(map(str, bench.numbers))
    ran = cleaner(
        "iggy", "--host", host, "--port", port, "--stream-id", bench.stream, "--topic-id", bench.topic,
        "--group-id", GROUP, "--partition-ids", ids, "--workers", "8", "--batch-size", "500",
        "--username", USER, "--password", "${env:SECRET}", "--stop-when-empty",
        "--receipt-dir", str(tmp_path), env={"SECRET": bench.password},
    )  # fmt: skip
    assert (ran.code, ran.result["totals"]["messages"]) == (0, 3000), ran.stderr
    assert bench.stored()[0] == 2999
    shown = ran.stdout + ran.stderr + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert bench.password == USER or bench.password not in shown


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ({"password": "wrong"}, "--password"),
        ({"username": None, "password": None}, "--username"),
        ({"username": None, "password": None, "token": "iggypat-wrong"}, "--token"),
    ],
)
def test_a_wrong_login_is_reported_quickly(
    bench: IggyBench, tmp_path: Path, login: dict[str, Any], hint: str
) -> None:
    """A wrong password, none, or a wrong token: the error names the option, within seconds, and no secret."""
    with Stopwatch() as watch, pytest.raises(BrokerError, match=hint) as raised:
        status(job(bench, tmp_path, login))
    assert watch.seconds < 15
    assert "wrong" not in str(raised.value)


def test_a_closed_port_is_reported_quickly(bench: IggyBench, tmp_path: Path) -> None:
    """An address where nothing listens is reported within seconds."""
    port = free_port()
    with Stopwatch() as watch, pytest.raises(BrokerError, match=f"{port}.*--port"):
        status(job(bench, tmp_path, {"host": "127.0.0.1", "port": port}))
    assert watch.seconds < 15


@pytest.mark.parametrize(
    ("extent", "stored", "target", "left"),
    [
        (LogExtent(0, 0, 0), None, None, 0),  # never had a message
        (LogExtent(0, 1, 9), None, None, 1),
        (LogExtent(0, 1, 9), 0, None, 0),
        (LogExtent(99, 100, 9), 49, None, 50),
        (LogExtent(99, 100, 9), 49, 59, 10),
        (LogExtent(99, 30, 9), None, None, 30),  # retention deleted the first ones
        (LogExtent(99, 30, 9), 49, None, 30),
        (LogExtent(99, 30, 9), 49, 59, 0),  # all up to the target is deleted
        (LogExtent(99, 0, 0), 49, None, 0),  # everything is deleted
        (LogExtent(9, 11, 9), None, None, 10),  # a count that is ahead of the offset
        (LogExtent(9, 10, 9), 49, 99, None),  # purged, and filled again
        (LogExtent(9, 10, 9), 4, 99, None),
    ],
)
def test_left_counts_retained_messages_up_to_the_target(
    extent: LogExtent, stored: int | None, target: int | None, left: int | None
) -> None:
    """What is left are retained messages after the stored offset; unknown where the log ends too early."""
    assert extent.left(stored, target) == left

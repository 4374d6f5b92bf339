"""Iggy's figures: a failed, missing or impossible one is never a number, and never "nothing to do"."""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backlog_clearer.brokers.iggy import connection, offsets, wire
from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.poll_wire import PollWalk, polled
from backlog_clearer.brokers.iggy.positions import beyond_end, checked_extent
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Mode, Partition
from backlog_clearer.run.clear import clear
from backlog_clearer.run.status import status
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.testing.servers.iggy import PASSWORD, IggyServer
from backlog_clearer.testing.servers.iggy_model import (
    PartitionLog,
    batch_head,
    topic_details,
    topic_head,
)
from tests.brokers.iggy_bench import GROUP, IggyBench, job

UNSET = 2**64 - 1
UNROUTED = 0xFFFFFFFF
PARTITION_BYTES = 40  # of one partition in a topic's description
PATIENT_S = 300.0  # for an answer, where a busy machine must not have a request repeated
ORDERS = Partition("shop/orders", 3)


@pytest.fixture
def server() -> Iterator[IggyServer]:
    """A wire server for each test: faults must not leak."""
    with IggyServer() as running:
        yield running


@pytest.fixture
def bench(server: IggyServer) -> Iterator[IggyBench]:
    """A topic with a group."""
    with closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD)) as found:
        yield found


def log_of(server: IggyServer, bench: IggyBench, number: int) -> PartitionLog:
    """A partition of the bench's topic, on the server."""
    return server.streams[bench.stream].topics[bench.topic].logs[bench.numbers[number]]


def described(server: IggyServer, bench: IggyBench, at: int, value: int) -> bytes:
    """The topic's description, with one figure (u64, by its place) of the first partition replaced."""
    topic = server.streams[bench.stream].topics[bench.topic]
    body = bytearray(topic_details(topic))
    struct.pack_into("<Q", body, len(topic_head(topic)) + at, value)
    return bytes(body)


@pytest.mark.parametrize(
    "figures",
    [(UNSET, 1, 9), (9, UNSET, 9), (9, 10, UNSET), (-1, 1, 9), (9, -1, 9), (9, 0, 900), (9, 10, 0)],
)
def test_impossible_figures_are_that_partitions_transient_error(figures: tuple[int, int, int]) -> None:
    """Unset, negative and contradictory figures raise, and name the partition."""
    with pytest.raises(TransientError, match="impossible") as raised:
        checked_extent(ORDERS, *figures)
    assert raised.value.partition == ORDERS


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        struct.pack("<IQI", 3, 99, 50),  # the messages are missing
        struct.pack("<IQI", 3, UNSET, 0),
        struct.pack("<IQI", 3, 99, 51) + batch_head(3, 0, 51, 0) + bytes(28),  # more than asked for
        struct.pack("<IQI", 3, 99, 50) + batch_head(3, 100, 50, 0) + bytes(28),  # beyond the end
        struct.pack("<IQI", 3, 99, 50) + batch_head(3, UNSET, 50, 0) + bytes(28),
    ],
)
def test_a_poll_with_impossible_figures_is_refused(reply: bytes) -> None:
    """A poll's head that is cut, or whose offsets cannot be, is an error of the reply."""
    with pytest.raises(wire.ReplyError):
        polled(reply, 50)


def test_a_reply_of_endless_batches_is_refused_while_it_arrives() -> None:
    """Batches with a hole before each are read up to the messages that were asked for, and no further."""
    head = struct.pack("<IQI", 3, UNSET // 2, 50)
    batches = [batch_head(3, 2 * number, 1, 48) + bytes(48) for number in range(500)]
    reply = bytearray(head + b"".join(batches))
    walk, one = PollWalk(50), len(batches[0])
    for end in range(len(head), len(head) + 51 * one, one):
        walk.feed(reply, 0, end)
    with pytest.raises(wire.ReplyError, match="more than these"):
        walk.feed(reply, 0, len(head) + 51 * one)


def test_more_gaps_than_a_topic_can_have_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of gaps is bounded over a whole run, however many a server invents; known ones are free."""
    monkeypatch.setattr(offsets, "MOST_HOLES", 5)
    guard = offsets.LogGuard()
    for _ in range(2):
        for number in range(5):
            guard.hole(ORDERS, 10 * number, 10 * number + 4)
    assert guard.skipped(ORDERS, 0, 100) == 20
    with pytest.raises(BrokerError, match="more than 5 gaps"):
        guard.hole(Partition("shop/orders", 4), 0, 1)


@pytest.mark.parametrize(
    "reply",
    [bytes(19), struct.pack("<IQQ", UNROUTED, 0, 0), struct.pack("<IQQ", 3, 99, UNSET)],
)
def test_a_stored_offset_with_impossible_figures_is_refused(reply: bytes) -> None:
    """A stored offset's reply that is cut, unrouted or unset is an error, not offset 0."""
    with pytest.raises(wire.ReplyError):
        wire.stored(reply)


def test_only_a_stored_offset_beyond_the_end_is_a_problem() -> None:
    """An offset at the end is fine, also by a later figure of that end; one beyond it is reported."""
    assert beyond_end(wire.StoredOffset(3, 9, 9)) is None
    assert beyond_end(wire.StoredOffset(3, 9, 10), current=10) is None
    assert "10 lies beyond the partition's end, 9" in str(beyond_end(wire.StoredOffset(3, 9, 10)))


@pytest.mark.parametrize("at", [16, 24, 32])  # its current offset, size, messages
def test_a_partition_with_impossible_figures_is_not_cleared(
    server: IggyServer, bench: IggyBench, tmp_path: Path, at: int
) -> None:
    """Its row has the error, nothing is stored in it, and the other partitions are cleared."""
    bench.produce(0, 10)
    bench.produce(1, 10)
    server.answers[300] = deque([described(server, bench, at, UNSET)] * 50)
    result = clear(job(bench, tmp_path))
    assert result.cleared is False
    assert "impossible" in str(result.partitions[0].error)
    assert [row.error is None for row in result.partitions[1:]] == [True, True]
    assert bench.stored() == {0: None, 1: 9, 2: None}


@pytest.mark.parametrize("at", [16, 24, 32])
def test_an_impossible_figure_that_passes_costs_a_second_survey(
    server: IggyServer, bench: IggyBench, tmp_path: Path, at: int
) -> None:
    """The survey is repeated, and the backlog is that of the second answer."""
    bench.produce(0, 10)
    server.answers[300] = deque([described(server, bench, at, UNSET)])
    server.requests.clear()
    result = status(job(bench, tmp_path))
    assert (exit_code(result), result.totals.backlog) == (0, 10)
    assert server.requests.count(300) == 2


def test_a_description_without_all_partitions_is_not_used(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """Where the server describes fewer partitions than the topic has, it is asked again."""
    bench.produce(2, 10)
    topic = server.streams[bench.stream].topics[bench.topic]
    server.answers[300] = deque([topic_details(topic)[:-PARTITION_BYTES]])
    server.requests.clear()
    assert status(job(bench, tmp_path)).totals.backlog == 10
    assert server.requests.count(300) == 2


@pytest.mark.parametrize("body", [struct.pack("<IQQ", UNROUTED, 0, 0), struct.pack("<IQQ", 7, 9, 9)])
def test_a_stored_offset_of_no_or_another_partition_is_asked_for_again(
    server: IggyServer, bench: IggyBench, tmp_path: Path, body: bytes
) -> None:
    """Such an answer is neither offset 0 nor "nothing stored": the backlog is that of the next answer."""
    bench.produce(0, 10)
    log_of(server, bench, 0).offsets[2, GROUP] = 3
    server.answers[120] = deque([body])
    row = status(job(bench, tmp_path)).partitions[0]
    assert (row.before, row.backlog, row.error) == (3, 6, None)


def test_a_stored_offset_beyond_the_end_is_reported_and_kept(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """It is not "nothing to do": the run is not cleared, the row has the reason, the offset stays."""
    bench.produce(0, 10)
    bench.produce(1, 10)
    log_of(server, bench, 0).offsets[2, GROUP] = 500
    assert "500 lies beyond" in str(status(job(bench, tmp_path)).partitions[0].error)
    for mode in ("consume", "skip"):
        result = clear(job(bench, tmp_path, mode=mode))
        assert (result.cleared, result.partitions[0].verified) == (False, None)
        assert "500 lies beyond" in str(result.partitions[0].error)
    assert bench.stored() == {0: 500, 1: 9, 2: None}


def test_a_target_beyond_the_end_is_not_proven_empty(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A topic that ends before the target was purged: what is left is unknown, with that reason."""
    bench.produce(0, 10)
    log_of(server, bench, 0).offsets[2, GROUP] = 4
    with closing(bench.source(bench.options(tmp_path))) as source:
        partition = source.survey().partitions[0].partition
        (left,) = source.remaining({partition: 99})
    assert (left.position, left.left) == (4, None)
    assert "before the target 99" in str(left.error)


@pytest.mark.parametrize("first", [2**40, UNSET, 3])
def test_a_poll_from_an_impossible_offset_clears_nothing(
    server: IggyServer, bench: IggyBench, tmp_path: Path, first: int
) -> None:
    """A reply whose messages begin beyond the end, or end before the request, costs a retry only."""
    bench.produce(0, 100)
    number = bench.numbers[0]
    log_of(server, bench, 0).offsets[2, GROUP] = 49
    body = struct.pack("<IQI", number, 99, 20) + batch_head(number, first, 20, 0) + bytes(20 * 148)
    server.answers[100] = deque([body])
    result = clear(job(bench, tmp_path, workers=1, ages=False))  # or that poll would get the reply
    assert (result.verified, result.totals.messages, result.totals.retries) == (True, 50, 1)
    assert server.stored[0] == (number, 99)


def test_a_skip_asks_about_each_partition_six_times(
    server: IggyServer, bench: IggyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First message and stored offset at the survey and before the change, the store, and the check."""
    monkeypatch.setattr(connection, "TIMEOUT_S", PATIENT_S)
    monkeypatch.setattr(IggyCluster.opened, "__defaults__", (PATIENT_S,))
    for number in range(bench.partitions):
        bench.produce(number, 5)
    before = len(server.requests)
    result = clear(job(bench, tmp_path, mode=Mode.SKIP))
    assert result.verified
    assert all(row.oldest is not None for row in result.partitions), "known from the first message"
    asked = Counter(server.requests[before:])
    about_partitions = {kind: asked[kind] // bench.partitions for kind in (100, 1100, 120, 161)}
    assert about_partitions == {100: 0, 1100: 2, 120: 3, 161: 1}

"""Offsets with gaps, messages of different sizes and lost answers on Iggy, on the in-repo wire server.

The server that could be built and run here (0.9.0-edge.5) leaves no gaps, and answers are lost there by
chance only.
"""

from __future__ import annotations

import re
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backlog_clearer.brokers.iggy.errors import tls_problem
from backlog_clearer.brokers.iggy.poll_wire import PollWalk, polled
from backlog_clearer.brokers.iggy.positions import LogChange, LogExtent, LogFacts, change
from backlog_clearer.brokers.iggy.wire import ReplyError
from backlog_clearer.errors import TransientError, UsageError
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.iggy import PASSWORD, IggyServer
from backlog_clearer.testing.servers.iggy_model import PartitionLog, batch_head, frames
from tests.brokers.iggy_bench import GROUP, IggyBench, Plain, job


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


def log_of(server: IggyServer, bench: IggyBench) -> PartitionLog:
    """The first partition, on the server."""
    return server.streams[bench.stream].topics[bench.topic].logs[bench.numbers[0]]


@pytest.mark.parametrize("stored", [None, 299, 999])
@pytest.mark.parametrize("more", [0, 500], ids=["nothing-after", "more-after"])
def test_a_backlog_with_a_gap_is_counted_message_by_message(
    server: IggyServer, bench: IggyBench, tmp_path: Path, stored: int | None, more: int
) -> None:
    """After a crash, offsets 1000 to 5999 have no message: only messages are counted, and all are."""
    bench.produce(0, 1000)
    log = log_of(server, bench)
    log.crash(0, 5000)
    bench.produce(0, more)
    if stored is not None:
        log.offsets[2, GROUP] = stored
    behind = 1000 - (0 if stored is None else stored + 1) + more
    surveyed = status(job(bench, tmp_path))
    assert surveyed.totals.backlog is not None
    assert behind <= surveyed.totals.backlog <= 1000 + more
    assert (surveyed.totals.backlog == 0) == (behind == 0)
    result = clear(job(bench, tmp_path, batch_size=300))
    assert (result.verified, result.totals.messages) == (True, behind)
    assert bench.stored()[0] == 5999 + more


def test_messages_after_a_gap_that_were_not_read_are_not_acknowledged(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """Empty answers where the figures show more messages are failures to read, not the end of a gap."""
    bench.produce(0, 1000)
    log_of(server, bench).crash(0, 5000)
    bench.produce(0, 500)
    empty = (bench.numbers[0]).to_bytes(4, "little") + (6499).to_bytes(8, "little") + bytes(4)
    server.answers[100] = deque([empty] * 1000)
    result = clear(job(bench, tmp_path, max_retries=1, stall_seconds=3))
    assert (result.cleared, result.totals.messages) == (False, 0)
    assert bench.stored()[0] is None


def test_a_target_in_a_gap_acknowledges_nothing_that_came_later(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """The frozen target is the end before messages came in behind a gap: those stay."""
    bench.produce(0, 1000)
    log_of(server, bench).crash(100, 5000)

    def more(_: object) -> bool:
        bench.produce(0, 50)
        return True

    result = clear(job(bench, tmp_path), Callbacks(confirm=more))
    assert (result.verified, result.totals.backlog, result.totals.messages) == (True, 900, 900)
    assert (bench.stored()[0], bench.left()[0]) == (5999, 50)


def test_replies_that_are_too_large_are_asked_for_in_halves(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """A poll whose reply breaks its connection is repeated with half as many messages, until it fits."""
    bench.produce(0, 4000)
    log_of(server, bench).size = 1000
    server.frame_bytes = 300_000
    result = clear(job(bench, tmp_path, batch_size=4000, workers=1, max_retries=6))
    assert (result.verified, result.totals.messages) == (True, 4000)
    assert result.totals.retries == 4


def test_each_partition_is_polled_by_its_own_average_size(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """One partition of large messages does not make polls of another one small, nor its own too large."""
    bench.produce(0, 10)
    bench.produce(1, 40_000)
    log_of(server, bench).size = 8 * 1024 * 1024
    server.requests.clear()
    result = clear(job(bench, tmp_path, batch_size=20_000, workers=1))
    assert (result.verified, result.totals.messages, result.totals.retries) == (True, 40_010, 0)
    assert server.requests.count(100) < 12


@pytest.mark.parametrize("whose", ["group", "consumer"])
def test_a_store_whose_answer_was_lost_counts_once(
    server: IggyServer, tmp_path: Path, whose: str
) -> None:
    """Messages of a store that was carried out, and not answered, are this run's: all count, once."""
    with closing(
        IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD, group=whose == "group")
    ) as bench:
        for number in range(3):
            bench.produce(number, 2000)
        server.lost_answers = deque([161] * 3)
        result = clear(job(bench, tmp_path, batch_size=100, workers=1))
        assert (result.verified, result.totals.messages) == (True, 6000)
        assert not server.lost_answers
        assert bench.stored() == dict.fromkeys(range(3), 1999)


def test_another_version_of_the_library_is_refused_with_both_named(
    bench: IggyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that the adapter was not run with is refused at start, with the one to install."""
    monkeypatch.setattr("backlog_clearer.brokers.iggy.errors.version", lambda _name: "0.9.1")
    with pytest.raises(UsageError, match=r"0\.9\.1 is installed.* works with 0\.9\.0.*0\.11\.0"):
        status(job(bench, tmp_path))


def test_a_login_that_fails_opens_no_connection_of_the_library(
    server: IggyServer, bench: IggyBench, tmp_path: Path
) -> None:
    """The library, whose process may abort after a failed login, is not asked to log in with it."""
    bench.plain.close()  # its heartbeats would be counted, too
    try:
        server.requests.clear()
        assert "--password" in str(status_error(bench, tmp_path))
        assert server.requests == [1]
    finally:
        bench.plain = Plain(bench.address, bench.password)


def status_error(bench: IggyBench, tmp_path: Path) -> Exception:
    """The error of a status with a wrong password."""
    with pytest.raises(Exception, match="refused the login") as raised:
        status(job(bench, tmp_path, {"password": "wrong"}))
    return raised.value


@pytest.mark.parametrize(
    ("code", "text", "cause"),
    [
        (10, "certificate has expired", "has expired"),
        (9, "certificate is not yet valid", "clocks"),
        (20, "unable to get local issuer certificate", "authority is not known.*--tls-ca-file"),
        (18, "self-signed certificate", "authority is not known.*--tls-ca-file"),
        (62, "Hostname mismatch, certificate is not valid for 'x'.", "another name.*--tls-domain"),
        (23, "certificate revoked", "revoked"),
    ],
)
def test_a_certificate_that_does_not_verify_is_named_by_its_cause(
    code: int, text: str, cause: str
) -> None:
    """Each cause has a separate sentence, with what to do; none of them is tried again."""
    error = ssl.SSLCertVerificationError(1, text)
    error.verify_code, error.verify_message = code, text
    made = tls_problem(error, "broker:8090")
    assert re.search(f"broker:8090 has a certificate that does not verify: .*{cause}", str(made))
    assert not isinstance(made, TransientError)


def reply(batches: list[tuple[int, int]], current: int, size: int = 100) -> bytes:
    """A poll's reply with batches of (first offset, messages)."""
    body = b"".join(
        batch_head(3, base, count, len(frames(count, size))) + frames(count, size)
        for base, count in batches
    )
    head = (3).to_bytes(4, "little") + current.to_bytes(8, "little")
    return head + sum(count for _, count in batches).to_bytes(4, "little") + body


BATCHES = [(10, 3), (13, 1), (100, 50), (150, 2)]


@pytest.mark.parametrize("chunk", [1, 7, 100, 284, 300, 4096, 10**6])
def test_a_reply_is_read_the_same_in_pieces_of_any_size(chunk: int) -> None:
    """However a reply is cut into pieces, and whatever is skipped, the result is that of the whole."""
    whole = reply(BATCHES, 151)
    walk, held, at = PollWalk(100), bytearray(), 0
    while at < len(whole):
        piece = whole[at : at + chunk]
        at += len(piece)
        held += piece
        walk.feed(held, at - len(held), at)
        rest = max(0, at - walk.at)
        held = held[len(held) - rest :]
    assert walk.end(len(whole)) == polled(whole, 100)


def test_a_reply_shows_its_last_offset_and_holes() -> None:
    """The last offset is in the headers, and offsets without messages between batches are listed."""
    found = polled(reply(BATCHES, 151), 100)
    assert (found.messages, found.first, found.last, found.holes) == (56, 10, 151, ((14, 100),))
    assert polled(reply(BATCHES, 151), 100, limit=120).messages == 4 + 21


@pytest.mark.parametrize(
    "batches", [[(10, 3), (12, 1)], [(10, 3), (5, 1)], [(2**63, 1)]], ids=["overlap", "back", "beyond"]
)
def test_batches_out_of_order_are_refused(batches: list[tuple[int, int]]) -> None:
    """Offsets that overlap, go back or cannot be are an error of the reply."""
    with pytest.raises(ReplyError):
        polled(reply(batches, 2**62), 100)


def facts(
    begin: int | None, current: int, messages: int, mark: int = 1, log: str = "1@5/0@5"
) -> LogFacts:
    """A partition's facts."""
    size = messages * 100
    return LogFacts(
        log, LogExtent(current, messages, size, begin), None if begin is None else (mark, mark)
    )


@pytest.mark.parametrize(
    ("before", "now", "happened"),
    [
        (facts(0, 99, 100), facts(0, 199, 200), LogChange.NONE),
        (facts(0, 99, 100), facts(50, 99, 50, mark=2), LogChange.NONE),  # retention
        (facts(0, 99, 100), facts(None, 99, 0), LogChange.NONE),  # retention, of all
        (facts(None, 0, 0), facts(0, 9, 10), LogChange.NONE),
        (facts(0, 99, 100), facts(0, 299, 300, log="1@6/0@6"), LogChange.CREATED_AGAIN),
        (facts(0, 99, 100), facts(0, 299, 300, mark=2), LogChange.PURGED),
        (facts(50, 99, 50), facts(0, 299, 300, mark=2), LogChange.PURGED),
        (facts(50, 99, 50), facts(None, 0, 0), LogChange.PURGED),
        (facts(0, 99, 100), facts(0, 79, 80), LogChange.CUT),
    ],
)
def test_what_happened_to_a_log_follows_from_its_first_message_and_its_end(
    before: LogFacts, now: LogFacts, happened: LogChange
) -> None:
    """Growth, retention, a purge, a lost tail and a new log are distinguished."""
    assert change(before, now) is happened

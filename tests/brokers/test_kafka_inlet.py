"""Receiving from a socket: what is dropped is counted, and no announced size takes memory or time."""

from __future__ import annotations

import itertools
import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kafka.protocol.metadata import MetadataRequest, MetadataResponse

from backlog_clearer.brokers.kafka.batch_wire import CorruptBatchError
from backlog_clearer.brokers.kafka.connection import Connection
from backlog_clearer.brokers.kafka.fetch_size import LARGEST, SMALLEST, next_fetch_bytes
from backlog_clearer.brokers.kafka.fetch_wire import Wanted, fetch_request
from backlog_clearer.brokers.kafka.inlet import Inlet, window
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings, socket_settings
from backlog_clearer.brokers.shared.sockets import DROP
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Partition
from backlog_clearer.testing.support import Stopwatch
from tests.brokers.kafka_bytes import Batch, Row, encode, encode_response, walk_batches

VERSION = 11
PARTITION = Partition("orders", 3)
WANTED = {PARTITION: (0, None)}

Script = Callable[[socket.socket, int], None]
"""Answers a request that has this correlation id."""


def frame(correlation: int, body: bytes) -> bytes:
    """An answer as it is on the wire."""
    return struct.pack(">ii", len(body) + 4, correlation) + body


def _request(peer: socket.socket) -> int:
    """Receive one request; returns its correlation id."""
    size = struct.unpack(">i", peer.recv(4, socket.MSG_WAITALL))[0]
    return int(struct.unpack_from(">hhi", peer.recv(size, socket.MSG_WAITALL))[2])


def _serve(listener: socket.socket, script: Script) -> None:
    try:
        peer, _ = listener.accept()
        with peer:
            kinds = struct.pack(">hhh", 1, 4, 11) + struct.pack(">hhh", 3, 0, 8)
            peer.sendall(frame(_request(peer), struct.pack(">hi", 0, 2) + kinds))
            while True:
                script(peer, _request(peer))
    except (OSError, struct.error):
        return


def settings(timeout_ms: int = 10_000) -> SocketSettings:
    """The connection's settings, with a time-out."""
    options = KafkaOptions(
        bootstrap_servers=["h:1"],
        topic=["t"],
        group_id="g",
        settings={"socket.timeout.ms": str(timeout_ms)},
    )
    return socket_settings(options)


@contextmanager
def connected(script: Script, timeout_ms: int = 10_000) -> Iterator[Connection]:
    """A connection to a peer that answers by a script."""
    options = KafkaOptions(bootstrap_servers=["h:1"], topic=["t"], group_id="g")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, script), daemon=True)
        thread.start()
        made = Connection("127.0.0.1", listener.getsockname()[1], options, settings(timeout_ms))
        try:
            yield made
        finally:
            made.close()
            thread.join(10)


def ask(connection: Connection) -> Inlet:
    """Send a Fetch; the inlet of its answer."""
    request = fetch_request(
        [Wanted(PARTITION, 0)], version=VERSION, max_bytes=1000, max_wait_ms=1, rack=""
    )
    connection.send_fetch(request, VERSION)
    inlet = Inlet(connection)
    inlet.expect(VERSION, WANTED)
    return inlet


def receive_all(inlet: Inlet, *, patient: bool = True) -> None:
    """Receive until the answer has ended."""
    into, until = window(1), time.monotonic() + 60
    while inlet.expecting:
        inlet.receive(into, None, time.monotonic() + 1, patient=patient)
        assert time.monotonic() < until


def mixed_batches(seed: int) -> list[Batch]:
    """Batches of a few bytes and of hundreds of kilobytes, in runs and alternating."""
    chance, at, batches = random.Random(seed), 0, []  # noqa: S311 not a secret
    for _ in range(chance.randint(1, 12)):
        sizes = chance.choice([(9,), (40_000,), (300_000,), (33_000, 20), (700, 32_768, 900_000)])
        for size in itertools.islice(itertools.cycle(sizes), chance.randint(1, 6)):
            span = chance.randint(1, 40)
            batches.append(Batch(at, span, frozenset(range(at, at + span)), body=size))
            at += span
    return batches


@pytest.fixture(params=["dropped in the kernel", "through the window"])
def drops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to let go of records; the second is the one of TLS and of other platforms."""
    if request.param == "through the window":
        monkeypatch.setattr("backlog_clearer.brokers.kafka.connection.DROP", 0)
        return False
    if not DROP:
        pytest.skip("only Linux drops received bytes without copying them")
    return True


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("patient", [True, False])
def test_every_mixture_of_sizes_is_counted_as_in_one_piece(
    drops: bool, patient: bool, seed: int
) -> None:
    """Small and large batches, dropped or received, give what a walk over all the bytes gives."""
    records = encode(mixed_batches(seed))
    whole = walk_batches(records, 0, len(records), position=0)
    rows = [Row(PARTITION.topic, PARTITION.number, 0, 2, records)]

    def script(peer: socket.socket, correlation: int) -> None:
        answer = frame(correlation, encode_response(rows, VERSION))
        chance = random.Random(seed)  # noqa: S311 not a secret
        at = 0
        while at < len(answer):
            size = chance.choice([1, 50, 5_000, 400_000])
            peer.sendall(answer[at : at + size])
            at += size

    with connected(script) as connection:
        assert connection.drops == drops
        inlet = ask(connection)
        receive_all(inlet, patient=patient)
        assert inlet.answer is not None
        (found,) = inlet.answer.found
        assert (found.walk.position, found.walk.records, found.walk.batches) == (
            whole.next_offset,
            whole.records,
            whole.batches,
        )
        assert found.walk.left == 0


def test_budgets_stop_and_continue_within_one_answer(drops: bool) -> None:
    """Each budget is counted to the record, the answer is not asked for again, and all of it is counted."""
    del drops
    batches = mixed_batches(5)
    rows = [Row(PARTITION.topic, PARTITION.number, 0, 0, encode(batches))]
    requests: list[int] = []

    def script(peer: socket.socket, correlation: int) -> None:
        requests.append(correlation)
        peer.sendall(frame(correlation, encode_response(rows, VERSION)))

    with connected(script) as connection:
        inlet, into, counted = ask(connection), window(1), 0
        while inlet.expecting:
            answer = None
            while answer is None:  # the peer has not answered yet
                answer = inlet.receive(into, 17, time.monotonic() + 5, patient=True)
            records = answer.found[0].walk.records if answer.found else 0
            assert records - counted == 17 or not inlet.ready
            assert records - counted <= 17
            counted = records
        assert counted == sum(batch.span for batch in batches)
    assert len(requests) == 1


def test_an_answer_that_comes_slowly_is_reported_in_parts(drops: bool) -> None:
    """A read ends when its time is over, with the batches whose headers are there, and continues later."""
    del drops
    batches = [Batch(at, 10, frozenset(range(at, at + 10)), body=100_000) for at in range(0, 40, 10)]
    rows = [Row(PARTITION.topic, PARTITION.number, 0, 0, encode(batches))]
    go_on = threading.Event()

    def script(peer: socket.socket, correlation: int) -> None:
        answer = frame(correlation, encode_response(rows, VERSION))
        peer.sendall(answer[:250_000])
        go_on.wait(30)
        peer.sendall(answer[250_000:])

    with connected(script) as connection:
        inlet, into = ask(connection), window(1)
        begun = time.monotonic()
        while not inlet.answer or not inlet.answer.found or inlet.answer.found[0].walk.records < 30:
            inlet.receive(into, None, time.monotonic() + 0.05, patient=True)
            assert time.monotonic() - begun < 30
        assert inlet.expecting
        assert inlet.answer.found[0].walk.position == 30
        go_on.set()
        receive_all(inlet)
        assert inlet.answer.found[0].walk.position == 40


@pytest.mark.parametrize("size", [600 * 1024 * 1024, 2**31 - 1, -1])
def test_an_announced_size_that_cannot_be_is_an_error_at_once(size: int) -> None:
    """A length prefix beyond every valid answer raises with the address and the figure."""

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(struct.pack(">ii", size, correlation))

    with connected(script) as connection:
        inlet = ask(connection)
        with pytest.raises(
            TransientError, match=rf"{connection.name} announced an answer of {size - 4}"
        ):
            receive_all(inlet)


def test_an_announced_size_takes_no_memory(drops: bool) -> None:
    """Fields that announce 500 MB of records make the reader allocate nothing for them."""
    del drops

    def script(peer: socket.socket, correlation: int) -> None:
        announced = 500 * 1024 * 1024
        body = encode_response([Row(PARTITION.topic, PARTITION.number, 0, 0, b"")], VERSION)
        body = body[:-4] + struct.pack(">i", announced)
        batch = struct.pack(">qi", 0, announced - 12) + Batch(0, 1, frozenset({0})).encode()[12:]
        peer.sendall(struct.pack(">ii", len(body) + announced + 4, correlation) + body + batch)
        peer.shutdown(socket.SHUT_WR)

    with connected(script) as connection:
        inlet = ask(connection)
        tracemalloc.start()
        try:
            with pytest.raises(TransientError, match="closed it"):
                receive_all(inlet)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1_000_000


def test_an_answer_that_is_kept_grows_with_what_arrives() -> None:
    """A length prefix of 30 MB in an answer about metadata takes no memory before its bytes are there."""

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(struct.pack(">ii", 30 * 1024 * 1024, correlation) + b"\0" * 1000)
        peer.shutdown(socket.SHUT_WR)

    with connected(script) as connection:
        tracemalloc.start()
        try:
            asked = MetadataRequest(version=4, topics=[])
            with pytest.raises(TransientError, match="closed it"):
                connection.call(asked, MetadataResponse, 4, most=32 * 1024 * 1024)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1_000_000


def test_an_answer_has_a_deadline_as_a_whole() -> None:
    """A peer that sends a byte now and then is given up on after the time-out, not after its last byte."""
    stop = threading.Event()

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(struct.pack(">ii", 1_000, correlation))
        while not stop.wait(0.05):
            peer.sendall(b"\0")

    with connected(script, timeout_ms=1000) as connection:
        with Stopwatch() as watch, pytest.raises(TransientError, match="no whole answer within 1 s"):
            connection.call(MetadataRequest(version=4, topics=[]), MetadataResponse, 4)
        assert watch.seconds < 10
        stop.set()


def test_a_fetch_that_drips_is_given_up_on() -> None:
    """An answer that never ends is late after three time-outs; waiting for the caller is not counted."""
    stop = threading.Event()

    def script(peer: socket.socket, correlation: int) -> None:
        records = encode(mixed_batches(5))
        body = encode_response([Row(PARTITION.topic, PARTITION.number, 0, 0, records)], VERSION)
        peer.sendall(frame(correlation, body)[: -len(records) + 70])
        while not stop.wait(0.05):
            peer.sendall(b"\0")

    with connected(script, timeout_ms=1000) as connection:
        inlet, into, begun = ask(connection), window(1), time.monotonic()
        inlet.receive(into, 1, begun + 0.1, patient=True)
        while not inlet.ready:
            inlet.receive(into, 1, time.monotonic() + 0.1, patient=True)
        assert inlet.late(2.9) is None
        inlet.receive(into, 1, time.monotonic() + 0.1, patient=True)
        assert inlet.late(2.9) is None, "the budget ended the wait before"
        inlet.receive(into, None, time.monotonic() + 0.1, patient=True)
        assert "no whole answer within 3 s" in str(inlet.late(0.2))
        stop.set()


def test_an_answer_to_another_request_is_refused() -> None:
    """Another correlation id raises: what follows would be read as something it is not."""

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(frame(correlation + 1, b"\0" * 8))

    with connected(script) as connection:
        inlet = ask(connection)
        with pytest.raises(TransientError, match="an answer to another request"):
            receive_all(inlet)


@pytest.mark.parametrize("more", [0, 30])
def test_a_broker_that_closes_behind_a_batch_is_an_error(drops: bool, more: int) -> None:
    """A connection that ends where the next header would begin, or within it, is reported as closed."""
    batches = [Batch(at, 1, frozenset([at]), body=100_000) for at in range(8)]
    records = encode(batches)
    answer = encode_response([Row(PARTITION.topic, PARTITION.number, 0, 2, records)], VERSION)
    sent = answer.index(records) + len(encode(batches[:6])) + more

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(frame(correlation, answer)[: 8 + sent])
        peer.shutdown(socket.SHUT_WR)

    with connected(script) as connection:
        inlet = ask(connection)
        with pytest.raises(TransientError, match="the broker closed it"):
            receive_all(inlet)
        assert inlet.answer is not None
        if drops:  # else what arrived in the last window is not walked
            assert inlet.answer.found[0].walk.records == 6


def test_an_answer_without_fields_is_refused() -> None:
    """An empty answer raises; asking again at once would never end."""

    def script(peer: socket.socket, correlation: int) -> None:
        peer.sendall(frame(correlation, b""))

    with connected(script) as connection:
        inlet = ask(connection)
        with pytest.raises(CorruptBatchError, match="a Fetch response of 0 bytes"):
            receive_all(inlet)


def test_the_fetch_size_follows_the_link() -> None:
    """It grows in steps to its largest where answers come fast, and falls to what takes a second where not."""
    size = SMALLEST
    sizes = [size]
    for _ in range(3):
        size = next_fetch_bytes(size, size, 0.001)
        sizes.append(size)
    assert sizes == [SMALLEST, 8 * SMALLEST, LARGEST, LARGEST]
    assert next_fetch_bytes(LARGEST, LARGEST, 4.0) == LARGEST // 4
    assert next_fetch_bytes(SMALLEST, SMALLEST, 60.0) == SMALLEST
    assert next_fetch_bytes(LARGEST, 1000, 5.0) == LARGEST, "a small answer does not measure the link"

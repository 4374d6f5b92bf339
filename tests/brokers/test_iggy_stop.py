"""A stop of a run on Iggy takes less than 5 s, whatever the server does; on the in-repo wire server."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from backlog_clearer.brokers.iggy.errors import SilentError, StoppedError
from backlog_clearer.brokers.iggy.waits import Waits
from backlog_clearer.engine.drain import Halt, Snapshot
from backlog_clearer.model import Mode, StopReason
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.servers.iggy import PASSWORD, IggyServer
from backlog_clearer.testing.support import Stopwatch
from tests.brokers.iggy_bench import IggyBench, job

STOP_S = 5.0
EACH = 2000


@pytest.mark.parametrize(
    ("group", "silent_s"), [(True, 0.0), (False, 1.5)], ids=["at-once", "while-it-acknowledges"]
)
def test_a_stop_is_short_while_the_server_is_silent(
    tmp_path: Path, group: bool, silent_s: float
) -> None:
    """A run whose connections pass nothing ends in time, and counts no message that is not acknowledged."""
    with (
        IggyServer() as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD, group=group)) as bench,
        Relay("127.0.0.1", server.port) as relay,
        ExitStack() as stack,
    ):
        for number in range(3):
            bench.produce(number, EACH)
        halt, stalled = Halt(), threading.Event()
        watches: list[Stopwatch] = []

        def signal() -> None:
            watches.append(stack.enter_context(Stopwatch()))
            halt.signal()

        def stall(now: Snapshot) -> None:
            if now.messages and not stalled.is_set():
                stalled.set()
                relay.stall()
                threading.Timer(silent_s, signal).start()

        wanted = job(bench, tmp_path, {"port": relay.port}, max_rate="500/s", workers=3)
        result = clear(wanted, Callbacks(progress=stall), halt)
        assert watches[0].seconds < STOP_S
        assert (result.stop_reason, result.cleared) == (StopReason.SIGNAL, False)
        moved = 3 * EACH - sum(bench.left().values())
        counted = result.totals.messages
        assert counted == moved or (result.totals.at_least and counted < moved)


def test_a_skip_that_is_told_to_stop_moves_all_partitions_of_a_server_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter waits end no request that is answered."""
    monkeypatch.setattr(IggyBench, "partitions", 40)
    halt = Halt()
    halt.signal()
    with (
        IggyServer() as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD)) as bench,
    ):
        for number in range(40):
            bench.produce(number, 2)
        result = clear(job(bench, tmp_path, mode=Mode.SKIP), halt=halt)
        assert result.verified
        assert bench.stored() == dict.fromkeys(range(40), 1)


class Clock:
    """A clock of waits that nothing answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def wait(self, waits: Waits, most_s: float = 10.0) -> type[Exception]:
        """Wait in steps until the time is over; the kind of error for that."""
        begun = self.now
        while (left_s := waits.left_s(begun, most_s)) > 0:
            self.now += min(left_s, 0.2)
        return type(waits.silent("broker:8090", begun))


@pytest.mark.parametrize("lanes", [1, 3, 64])
@pytest.mark.parametrize("before_s", [0.0, 3.0])
def test_however_many_answers_are_missing_a_stop_is_short(
    monkeypatch: pytest.MonkeyPatch, lanes: int, before_s: float
) -> None:
    """After a stop, the waits of all lanes and of two verifications add up to 4 s, wherever one began."""
    clock, waits = Clock(monkeypatch), Waits()
    waits.interrupt_by(lambda: clock.now >= 100.0 + before_s)
    assert clock.wait(waits) is StoppedError
    for _ in range(lanes - 1):
        assert clock.wait(waits) is StoppedError
    for _ in range(2):
        waits.verify()
        clock.wait(waits)
    assert clock.now - 100.0 - before_s < 4.0 + 0.05 * lanes


def test_without_a_stop_an_answer_has_all_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a stop do not apply before it, however long a run lasts."""
    clock, waits = Clock(monkeypatch), Waits()
    for _ in range(3):
        begun = clock.now
        waits.verify()
        assert clock.wait(waits) is SilentError
        assert clock.now - begun == pytest.approx(10.0)

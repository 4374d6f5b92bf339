"""A real Pulsar that is killed, and a process that is stopped, in the middle of a drain.

The broker limits how fast it delivers (a dispatch rate), so that a drain lasts long enough to interrupt it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backlog_clearer.testing.servers.pulsar import running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import KEPT, SUBSCRIPTION, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.command import ended, started

KINDS = ("failover", "shared")
MESSAGES = 3000  # unbatched: the broker's rate is in messages, but applied to entries


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Plain clients of a broker that delivers 500 messages a second, and that may be killed."""
    with running_pulsar(tmp_path_factory.mktemp("slow")) as server:
        judge = Judge(server)
        judge.slow_down(KEPT, 500)
        yield judge
        judge.close()


class Slow:
    """A backlog that takes seconds to clear, and the command that clears it."""

    def __init__(self, judge: Judge, kind: str, receipts: Path) -> None:
        self.judge = judge
        self.topic = judge.create(f"persistent://{KEPT}/{unique('slow')}")
        judge.produce(self.topic, MESSAGES)
        self.args = (
            "pulsar", "--service-url", judge.server.service_url, "--admin-url", judge.server.admin_url,
            "--topic", self.topic, "--subscription", SUBSCRIPTION, "--subscription-type", kind,
            "--workers", "2", "--stop-when-empty", "--receipt-dir", str(receipts), "--max-retries", "40",
            "--quiet-seconds", "200", "--stall-seconds", "200",  # a restart may be slow
        )  # fmt: skip

    def left(self) -> int:
        """Messages that the broker still has to deliver."""
        return self.judge.backlog(self.topic)

    def wait_for_the_middle(self, process: subprocess.Popen[str]) -> None:
        """Wait until something, and not everything, is acknowledged."""

        def begun() -> bool:
            assert process.poll() is None, process.communicate()
            return self.left() < MESSAGES

        wait_until(begun, "a first acknowledgement")
        assert self.left() > 0


@pytest.fixture(params=KINDS)
def backlog(slow: Judge, tmp_path: Path, request: pytest.FixtureRequest) -> Slow:
    """A separate topic and subscription on the slow broker, in order and competing."""
    return Slow(slow, request.param, tmp_path)


def test_sigterm_then_resume_adds_up(backlog: Slow) -> None:
    """SIGTERM acknowledges what was counted and exits 1; the next run counts exactly the rest."""
    with started(*backlog.args) as process:
        backlog.wait_for_the_middle(process)
        process.send_signal(signal.SIGTERM)
        first = ended(process)
    assert (first.code, first.result["stop_reason"]) == (1, "signal")
    assert first.result["totals"]["messages"] == MESSAGES - backlog.left()
    assert 0 < backlog.left() < MESSAGES
    with started(*backlog.args) as process:
        second = ended(process)
    assert (second.code, second.result["verified"]) == (0, True)
    assert backlog.left() == 0
    assert first.result["totals"]["messages"] + second.result["totals"]["messages"] == MESSAGES


def test_a_broker_may_restart_during_a_drain(slow: Judge, tmp_path: Path) -> None:
    """Acknowledgements that a killed broker lost are repeated, and their messages are counted once."""
    backlogs = [Slow(slow, kind, tmp_path) for kind in KINDS]
    with ExitStack() as stack:
        processes = [stack.enter_context(started(*each.args)) for each in backlogs]
        for each, process in zip(backlogs, processes, strict=True):
            each.wait_for_the_middle(process)
        assert all(each.left() > 0 for each in backlogs)
        slow.server.stop()
        slow.server.start()
        for each, process in zip(backlogs, processes, strict=True):
            ran = ended(process, 200)
            assert (ran.code, ran.result["verified"]) == (0, True), ran.stderr
            assert ran.result["totals"]["messages"] == MESSAGES
            assert each.left() == 0

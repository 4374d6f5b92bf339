"""Waiting for Monitoring's proof: in consume, skip and restore, within a deadline, and by a continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.engine.drain import Halt
from backlog_clearer.fanout.configuration import Config, Request, parse
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.fanout.slices import FollowUp, drain_slice
from backlog_clearer.options.base import build
from backlog_clearer.run import proof
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import Verdict
from backlog_clearer.run.restore import restore
from backlog_clearer.run.verdict import exit_code, sentence
from backlog_clearer.testing.servers.pubsub import COUNT, PubSubServer, Sub
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job as job_without_wait

__all__ = ["server"]

EARLY_S = -30.0  # a sample from before the last change proves nothing


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for figures five times a second."""
    monkeypatch.setattr(proof, "POLL_S", 0.2)


def job(bench: PubSubBench, tmp_path: Path, run: dict[str, Any] | None = None) -> Job:
    """A run that waits for proof as long as is usual."""
    return job_without_wait(bench, tmp_path, {"verify_seconds": None, **(run or {})})


def late(server: PubSubServer, answers: int) -> Callable[[], int]:
    """Let the first samples be too early to prove anything; returns how many were asked for."""
    server.truthful(EARLY_S)
    early = server.sample
    server.truthful()
    sound = server.sample
    asked = 0

    def sample(metric: str, sub: Sub) -> Any:
        nonlocal asked
        asked += metric == COUNT
        return (early if asked <= answers else sound)(metric, sub)

    server.sample = sample
    return lambda: asked


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_a_run_waits_for_a_sample_that_is_young_enough(
    server: PubSubServer, tmp_path: Path, mode: str
) -> None:
    """The first figures are too early: the run counts down until one proves the end, and is cleared."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 200)
    asked = late(server, 12)
    left: list[float] = []
    found = job(bench, tmp_path, {"mode": mode, "quiet_seconds": 1})
    result = clear(found, Callbacks(waiting=left.append))
    assert (result.verdict, bench.sub.unacked()) == (Verdict.CLEARED, 0)
    assert asked() > 12
    assert left == sorted(left, reverse=True)
    assert 0 < left[0] <= 300
    assert result.waited_seconds > 0
    assert result.seconds + result.waited_seconds < 30


def test_the_wait_is_no_part_of_the_rate(server: PubSubServer, tmp_path: Path) -> None:
    """Seconds and messages per second are those of the drain; the wait has a separate figure."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    server.publish(bench.sub, 200)
    result = clear(job(bench, tmp_path, {"quiet_seconds": 1, "verify_seconds": 4}))
    assert result.waited_seconds >= 4
    assert result.totals.messages_per_second == pytest.approx(200 / result.seconds, rel=0.01)


def test_a_wait_that_ends_without_proof_is_unproven(server: PubSubServer, tmp_path: Path) -> None:
    """After --verify-seconds the result is unproven, exit 4, and states how to prove it."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    server.publish(bench.sub, 50)
    result = clear(job(bench, tmp_path, {"quiet_seconds": 1, "verify_seconds": 1}))
    assert (result.verdict, exit_code(result), result.provable) == (Verdict.UNPROVEN, 4, False)
    assert "--verify-seconds" in sentence(result)
    assert bench.sub.unacked() == 0


def test_messages_that_are_left_end_the_wait(server: PubSubServer, tmp_path: Path) -> None:
    """A young sample that shows older messages is a result, too: not cleared, without the whole wait."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 50)
    server.truthful()
    server.abandon(bench.sub, 10, 600.0)
    for item in bench.sub.stored.values():
        item.published -= timedelta(seconds=10)
    result = clear(job(bench, tmp_path, {"quiet_seconds": 1, "stall_seconds": 2}))
    assert (result.verdict, result.totals.remaining) == (Verdict.NOT_CLEARED, 10)
    assert result.waited_seconds < 60


def test_an_interrupt_ends_only_the_wait(server: PubSubServer, tmp_path: Path) -> None:
    """Interrupted while it waits, a run is unproven: it was done."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    server.publish(bench.sub, 50)
    halt = Halt()
    waits = Callbacks(waiting=lambda _: halt.signal())
    result = clear(job(bench, tmp_path, {"quiet_seconds": 1}), waits, halt)
    assert (result.verdict, bench.sub.unacked()) == (Verdict.UNPROVEN, 0)
    assert result.waited_seconds < 60


def test_a_restore_waits_for_the_new_count(server: PubSubServer, tmp_path: Path) -> None:
    """The backlog after a restore is counted after it; the position itself cannot be read back: unproven."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 80)
    done = clear(job(bench, tmp_path, {"mode": "skip"}))
    asked = late(server, 4)
    receipt = load(str(done.receipt))
    back = restore(job(bench, tmp_path), original_positions([receipt]), receipt.identity)
    assert (back.verdict, back.totals.remaining, bench.sub.unacked()) == (Verdict.UNPROVEN, 80, 80)
    assert asked() > 4
    assert back.waited_seconds > 0


@pytest.mark.parametrize("figures", [False, True])
def test_without_figures_a_run_does_not_wait(
    server: PubSubServer, tmp_path: Path, *, figures: bool
) -> None:
    """Where Monitoring gives no count there is nothing to wait for, nor where a limit ended the run."""
    bench = PubSubBench(server, figures=figures)
    server.publish(bench.sub, 50)
    if figures:
        server.truthful(EARLY_S)
    limit = {"max_messages": 10} if figures else {}
    waits: list[float] = []
    found = job(bench, tmp_path, {"quiet_seconds": 1, **limit})
    result = clear(found, Callbacks(waiting=waits.append))
    assert waits == []
    assert result.verdict is (Verdict.NOT_CLEARED if figures else Verdict.UNPROVEN)


def config(bench: PubSubBench, tmp_path: Path, **changes: Any) -> Config:
    """The subscription as a configured backlog."""
    found = job(bench, tmp_path)
    backlog = {
        "system": "googlepubsub",
        "options": found.options.model_dump(exclude_none=True, exclude={"settings"}),
        **changes,
    }
    return parse({"receipts": str(tmp_path), "backlogs": {"bills": backlog}})


def test_a_function_hands_the_wait_to_a_continuation(server: PubSubServer, tmp_path: Path) -> None:
    """A deadline that leaves no time to wait: a continuation only verifies, and the run is cleared."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    server.publish(bench.sub, 50)
    found = config(bench, tmp_path)
    asked = build(Request, {"backlog": "bills", "run_id": "r"})
    # The quiet time is 15 s.
    first = drain_slice(found, asked, deadline_s=17.0)
    assert (first.follow_up, first.result.verdict) == (FollowUp.CONTINUE, Verdict.UNPROVEN)
    assert first.result.waited_seconds < 60  # without the deadline: 300
    assert first.following is not None
    assert (first.following.verify, first.following.run_id) == (True, "r")
    assert run_status(str(tmp_path), "r").verdict is Verdict.UNPROVEN
    server.truthful()
    streams = len(server.streams)
    second = drain_slice(found, first.following, deadline_s=17.0)
    assert (second.follow_up, second.result.verdict) == (FollowUp.CLEARED, Verdict.CLEARED)
    assert len(server.streams) == streams  # it read nothing
    assert run_status(str(tmp_path), "r").verdict is Verdict.CLEARED


def test_a_continuation_that_finds_messages_drains_again(server: PubSubServer, tmp_path: Path) -> None:
    """Messages that came back after the first invocation are read by the turn after the verification."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 50)
    server.truthful()
    found = config(bench, tmp_path)
    verify = build(Request, {"backlog": "bills", "run_id": "r", "verify": True})
    for item in bench.sub.stored.values():
        item.published -= timedelta(seconds=10)
    ran = drain_slice(found, verify, deadline_s=100.0)
    assert (ran.follow_up, bench.sub.unacked()) == (FollowUp.CONTINUE, 50)
    assert ran.following is not None
    assert ran.following == verify.model_copy(update={"verify": False, "requeued": 1})
    again = drain_slice(found, ran.following, deadline_s=100.0)
    assert (again.follow_up, bench.sub.unacked()) == (FollowUp.CLEARED, 0)


def test_no_turns_are_left_for_proof(server: PubSubServer, tmp_path: Path) -> None:
    """After max_requeues turns an unproven slice ends: no alert, no retry."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    server.publish(bench.sub, 50)
    asked = build(Request, {"backlog": "bills", "run_id": "r", "requeued": 10})
    ran = drain_slice(config(bench, tmp_path), asked, deadline_s=16.0)
    assert (ran.follow_up, ran.following, bench.sub.unacked()) == (FollowUp.UNPROVEN, None, 0)


def test_jobs_have_a_deadline_to_wait_until(server: PubSubServer, tmp_path: Path) -> None:
    """A job waits no longer than its platform lets it."""
    bench = PubSubBench(server, figures=False)
    server.truthful(EARLY_S)
    found = job(bench, tmp_path, {"quiet_seconds": 1})
    waits: list[float] = []
    result = clear(replace(found, deadline_s=3.0), Callbacks(waiting=waits.append))
    assert all(left < 3 for left in waits)
    assert result.provable

"""`--max-rate`: how it is written, the arithmetic of its limit, and a drain that keeps it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.allowance import allowance_of
from backlog_clearer.engine.drain import drain
from backlog_clearer.engine.pace import DEPTH_S, Bucket, MessageSize, Pace
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Claim, StopReason
from backlog_clearer.options.base import build
from backlog_clearer.options.rate import Rate, lower_rate, rate_of
from backlog_clearer.options.run import RunOptions, Slice
from backlog_clearer.run.plan import notes_for

TEN_S = 10.0


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50MB/s", Rate(50e6, of_bytes=True)),
        ("1.5 GB/s", Rate(1.5e9, of_bytes=True)),
        ("20MiB/s", Rate(20 * 1024 * 1024, of_bytes=True)),
        ("200k/s", Rate(200e3, of_bytes=False)),
        ("3/s", Rate(3, of_bytes=False)),
        ("1B/s", Rate(1, of_bytes=True)),
    ],
)
def test_a_rate_is_bytes_or_messages_a_second(text: str, rate: Rate) -> None:
    """Decimal and binary units of bytes, and numbers of messages, are read."""
    assert rate_of(text) == rate


@pytest.mark.parametrize("text", ["", "50", "50MB", "50mb/s", "2Mi/s", "-1k/s", "0/s", "0.5B/s", "x/s"])
def test_another_rate_is_wrong_use(text: str) -> None:
    """A rate without its unit, or below 1/s, is refused by the flag's name with examples."""
    with pytest.raises(UsageError, match=r"^--max-rate: .*(50MB/s|lowest)"):
        build(RunOptions, {"max_rate": text})


@pytest.mark.parametrize(
    ("asked", "most", "rate"),
    [(None, None, None), ("1k/s", None, "1k/s"), (None, "5/s", "5/s"), ("999/s", "1k/s", "999/s")],
)
def test_a_request_may_lower_the_rate(asked: str | None, most: str | None, rate: str | None) -> None:
    """The request's rate counts where it is not above the configured one."""
    assert lower_rate(asked, most) == rate


@pytest.mark.parametrize(("asked", "most"), [("1001/s", "1k/s"), ("1/s", "1MB/s")])
def test_a_request_cannot_raise_the_rate(asked: str, most: str) -> None:
    """A higher rate, or one in another unit, is refused with both."""
    with pytest.raises(ValueError, match=f"{asked}.*{most}"):
        lower_rate(asked, most)


def test_slices_share_a_rate_evenly() -> None:
    """A slice of eight has an eighth of the run's rate."""
    run = RunOptions(max_rate="80MB/s", slice=Slice(index=3, total=8))
    assert run.rate == Rate(10e6, of_bytes=True)
    assert RunOptions().rate is None


def test_lanes_ask_for_less_in_advance_where_the_rate_is_low() -> None:
    """All lanes together ask for at most a fifth of a second of the rate, each for at least a little."""
    run = RunOptions(max_rate="10k/s", workers=4)
    assert (run.ahead_messages(20_000), run.ahead_messages(100)) == (500, 100)
    assert run.ahead_bytes(1 << 30, 1) == 2_000_000
    assert RunOptions(max_rate="1/s").ahead_messages(20_000) == 2
    assert RunOptions().ahead_messages(20_000) == 20_000


def test_a_bucket_allows_its_rate_and_no_more() -> None:
    """Taken whenever possible, amounts over ten seconds are the rate within 5 %, after a pause, too."""
    for pause in (0.0, 60.0):
        bucket, now, taken = Bucket(1000.0, at=0.0), pause, 0.0
        while now < pause + TEN_S:
            taken += bucket.take(0.25, now)
            now += 0.003
        assert 0.97 * 1000 * TEN_S <= taken <= 1.05 * 1000 * TEN_S


def test_a_debt_is_paid_before_the_next_grant() -> None:
    """After a batch of ten seconds' worth, nothing is allowed for about ten seconds."""
    bucket = Bucket(1000.0, at=0.0)
    reserved = bucket.take(1.0, 1.0)
    assert reserved == pytest.approx(1000.0 * DEPTH_S)
    bucket.give_back(reserved - 10_000)
    assert bucket.take(1.0, 9.0) == 0.0
    assert bucket.wait_s(9.0) == pytest.approx(2.05 - DEPTH_S, abs=0.01)
    assert bucket.take(1.0, 11.1) > 0.0


def test_messages_of_a_rate_in_bytes_follow_their_size() -> None:
    """The number of messages for an amount of bytes is 1 first, then by the sizes seen lately."""
    size = MessageSize(window=10_000)
    assert size.fit(1e6) == 1
    size.add(10, 1000)
    assert size.fit(1000) == 10
    for _ in range(100):
        size.add(10, 10_000)
    assert size.fit(10_000) == 10


@pytest.mark.parametrize("of_bytes", [True, False])
def test_workers_share_one_rate(*, of_bytes: bool) -> None:
    """Four workers that read batches of 70 messages, whatever they were granted, keep the limit together."""
    at = 0.0
    pace = Pace(Rate(10_000, of_bytes=of_bytes), 4, lambda: at)
    done = 0
    while at < TEN_S:
        for _ in range(4):
            granted, reserved = pace.take()
            if granted:
                pace.used(reserved, 70, 1400)
                done += 1400 if of_bytes else 70
        at += 0.002
    assert 0.97 * 10_000 * TEN_S <= done <= 1.05 * 10_000 * TEN_S


def test_a_grant_is_the_least_of_both_limits() -> None:
    """--max-messages and --max-rate together allow what both allow."""
    assert allowance_of(RunOptions(), 4) is None
    both = allowance_of(RunOptions(max_messages=3, max_rate="1M/s"), 1)
    assert both is not None
    time.sleep(0.06)
    grant = both.take()
    assert not isinstance(grant, float)
    assert grant.messages == 3
    assert isinstance(both.take(), float)


def drained(messages: int, **changes: Any) -> tuple[float, int, StopReason]:
    """Seconds, messages and the reason of a drain of the reference broker."""
    broker = MemoryBroker()
    broker.create("t", 4)
    for number in range(4):
        broker.produce("t", number, messages // 4)
    source = MemorySource(broker, "t", "g")
    run = RunOptions(stop_when_empty=True, workers=4, **changes)
    claims = [Claim(state, None, state.end) for state in source.survey().partitions]
    done = drain(source, claims, run)
    return done.seconds, sum(item.messages for item in done.partitions.values()), done.reason


def test_a_drain_keeps_its_rate() -> None:
    """4,000 messages at 2,000/s take two seconds, and all of them are cleared."""
    seconds, messages, reason = drained(4000, max_rate="2k/s")
    assert (messages, reason) == (4000, StopReason.EMPTY)
    assert seconds >= 1.7


def test_waiting_for_the_rate_is_no_stall() -> None:
    """A rate at which single messages come later than --stall-seconds ends the drain at its target."""
    seconds, messages, reason = drained(4, max_rate="2/s", stall_seconds=0.2)
    assert (messages, reason) == (4, StopReason.EMPTY)
    assert seconds >= 1.0


def test_a_plan_names_the_rate(tmp_path: Path) -> None:
    """The plan has the rate, and how long the backlog takes at least where that is known."""
    broker = MemoryBroker()
    broker.create("t", 1)
    broker.produce("t", 0, 4000)
    survey = MemorySource(broker, "t", "g").survey()
    run = RunOptions(max_rate="2k/s", receipt_dir=str(tmp_path), slice=Slice(index=0, total=2))
    (note,) = (text for text in notes_for(survey, survey.partitions, run, []) if "--max-rate" in text)
    assert "slice 0/2 reads at most 1,000 messages/s, so that the backlog takes 4 s at least" in note

"""Progress on the command line: how fast it is now, what is left, and what is waited for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import progress
from backlog_clearer.cli.progress import progress_line, show_progress
from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.text import duration
from tests import memory_system
from tests.invoking import clear, stored, three_partitions


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def moment(seconds: float, messages: int, left: int | None, **more: float) -> Snapshot:
    """A drain of 10,000 messages."""
    retries = int(more.pop("retries", 0))
    return Snapshot(seconds, messages, 0, left, 10_000, retries, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (moment(5, 100, 9900), "5 s: 100 messages, 20/s, 9,900 left, ETA 8 min"),
        (moment(5, 100, 9900, retries=2), "5 s: 100 messages, 20/s, 9,900 left, ETA 8 min, 2 retries"),
        (moment(5, 0, 10_000, quiet_s=5.0), "ETA unknown, no message for 5 s"),
        (moment(5, 9, 9991, quiet_s=1.0), "ETA 93 min"),
        (moment(5, 9, None, throttled_s=4.0), "unknown left, ETA unknown, throttled for 4 s"),
        (moment(9, 10_000, 0), "0 left, ETA 0 s, waiting for the broker to confirm the end"),
        (
            moment(9, 5, 9995, troubled=True),
            "waiting for partitions with errors, which are tried again",
        ),
        (moment(9000, 9000, 1000), "2 h 30 min: 9,000 messages, 1/s, 1,000 left, ETA 17 min"),
    ],
)
def test_a_line_says_how_far_a_drain_is_and_what_it_waits_for(seen: Snapshot, expected: str) -> None:
    """Rate, left, ETA, retries and throttling are there where they are known, also at the end."""
    assert expected in progress_line(seen)


def test_rate_and_eta_are_those_of_the_last_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """A drain that was fast and is slow now shows its present rate, in one plain line every few seconds."""
    with show_progress(Console(stderr=True)) as observe:
        for tenth in range(601):
            second = tenth / 10
            read = int(min(second, 30) * 200 + max(0.0, second - 30) * 10)
            observe(moment(second, read, 10_000 - read))
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split(" s:")[0]) for line in lines] == list(range(5, 61, 5))
    assert "200/s" in lines[3]
    assert lines[-1] == "60 s: 6,300 messages, 10/s, 3,700 left, ETA 6 min"


def test_a_drain_that_lasts_waits_for_new_messages() -> None:
    """Without --stop-when-empty nothing is left for a while, and there is no ETA."""
    line = progress_line(moment(9, 10_000, 0), lasting=True)
    assert line == "9 s: 10,000 messages, 1,111/s, 0 left, waiting for new messages"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "2 h 0 min"), (11_100, "3 h 5 min")],
)
def test_a_time_has_at_most_two_units(seconds: float, text: str) -> None:
    """An ETA of hours is not spelled in seconds."""
    assert duration(seconds) == text


def test_a_run_without_a_terminal_prints_plain_lines(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a log each line of progress is whole, without codes for colours or cursor movements."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.1)
    memory_system.slow_down(monkeypatch, 0.05)
    done = clear("--stop-when-empty", "--batch-size", "100")
    lines = [line for line in done.stderr.splitlines() if re.match(r"\d+ s: ", line)]
    assert lines
    assert all(
        re.match(r"\d+ s: [\d,]+ messages?, [\d,]+/s, [\d,]+ left, ETA ", line) for line in lines
    )
    assert "\x1b" not in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_shows_one_line_of_progress(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """At a narrow terminal progress is one line that is not folded."""
    memory_system.slow_down(monkeypatch, 0.05)
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}
    done = clear("--stop-when-empty", "--batch-size", "100", env=env)
    lines = [line for line in re.split(r"[\r\n]", click.unstyle(done.stderr)) if "/s, " in line]
    assert lines
    assert max(len(re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", line)) for line in lines) <= columns
    assert stored(broker) == [1000, 1000, 1000]

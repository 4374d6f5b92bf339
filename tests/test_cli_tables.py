"""Tables on the command line: what matters first, whole in a pipe, and never folded at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import click
import pytest
from rich.console import Console

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import display
from backlog_clearer.cli.slice_tables import slices_table
from backlog_clearer.cli.tables import (
    ROWS,
    clipped,
    error_lines,
    outcome_table,
    plan_table,
    spelled,
)
from backlog_clearer.fanout.run_status import SliceStatus, State
from backlog_clearer.model import Mode, Partition
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.report import Action, PartitionResult, StoredPosition
from tests.invoking import call, on_memory

SNAPSHOT = "projects/a-long-project-name/snapshots/backlog-clearer-20261126T031500Z-1f2e3d4c"
NOW = datetime(2026, 11, 26, 3, 15, tzinfo=timezone.utc)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 60 partitions, number n with n messages, reachable as system `memory`."""
    with on_memory(monkeypatch, tmp_path) as made:
        made.create("orders", 60)
        for number in range(60):
            made.produce("orders", number, number)
        yield made


def row(number: int, backlog: int | None, error: str | None = None) -> PartitionResult:
    """A partition with this backlog."""
    return PartitionResult(
        topic="orders",
        partition=number,
        before=7,
        target=9,
        backlog=backlog,
        remaining=backlog,
        error=error,
    )


def plan_of(*rows: PartitionResult, action: Action = Action.CLEAR) -> Plan:
    """A plan with these rows."""
    return Plan(action, Mode.SKIP, "group g", "offsets", rows, (), "nothing", None, dry_run=False)


def test_the_largest_backlogs_come_first_and_the_rest_is_summed(broker: MemoryBroker) -> None:
    """60 partitions take 20 lines and one with the sum of the others, which is right."""
    done = call("status", "memory", "--topic", "orders", "--group-id", "billing")
    lines = done.stdout.splitlines()
    assert lines[2].split()[:4] == ["orders[59]", "none", "59", "59"]
    assert lines[2 + ROWS].split()[:5] == ["and", "40", "more", "partitions", "780"]
    assert lines[3 + ROWS] == "Backlog: 1,770 messages"
    assert not broker.positions


def test_partitions_with_errors_come_before_those_without_backlog() -> None:
    """The order is backlog, errors, unknown backlogs, and then those with nothing left."""
    plan = plan_of(row(0, 0), row(1, None), row(2, None, "gone"), row(3, 5), row(4, 50))
    names = [line.split()[0] for line in plan_table(plan, None)[1:]]
    assert names == ["orders[4]", "orders[3]", "orders[2]", "orders[1]", "orders[0]"]


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (1000, "1000"),
        ("123:45", "123:45"),
        ({"offset": 7, "leader_epoch": 3, "metadata": "x"}, "7"),
        ({"offset": "4294967296", "sequence_number": 12, "_layout": "legacy"}, "12"),
        ({"offset": "4294967296", "sequence_number": None}, "4294967296"),
        ({"snapshot": SNAPSHOT, "expires_by": "2026-12-03T03:15:00Z"}, SNAPSHOT.rsplit("/", 1)[1]),
        ({"snapshot": None}, "none"),
        ("2026-11-26T03:15:00Z", "2026-11-26T03:15:00Z"),
        ("2026-11-26T03:15:00.123456Z", "2026-11-26T03:15:00Z"),
        (None, "none"),
    ],
)
def test_a_position_has_one_short_form(position: StoredPosition, text: str) -> None:
    """Positions of every system are one word: what an operator compares, without what restores need."""
    assert spelled(position) == text


def test_none_means_that_nothing_is_stored() -> None:
    """A target that is not frozen is "end", a position that could not be read "unknown"."""
    unread = row(0, None, "not authorised").model_copy(update={"before": None})
    follow = row(1, 5).model_copy(update={"before": None, "target": None})
    clear, restore = (
        plan_table(plan_of(follow, unread, action=action), None)
        for action in (Action.CLEAR, Action.RESTORE)
    )
    assert [line.split() for line in clear[1:]] == [
        ["orders[1]", "none", "end", "5"],
        ["orders[0]", "unknown", "unchanged", "unknown"],
    ]
    assert restore[1].split() == ["orders[1]", "none", "none", "5"]


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("kind", ["plan", "outcome", "slices"])
def test_every_line_of_a_table_fits_a_narrow_terminal(width: int, kind: str) -> None:
    """At 60 and 80 columns each partition has one line, whose figures are whole."""
    long = PartitionResult(
        topic="persistent://a-long-tenant/a-long-namespace/a-topic-of-some-length",
        partition=117,
        before={"snapshot": SNAPSHOT},
        target="2026-11-26T03:15:00.123456Z",
        backlog=12_345_678,
        messages=12_345_678,
        remaining=12_345_678,
        error="a very long sentence " * 20,
    )
    if kind == "plan":
        lines = plan_table(plan_of(long, row(1, 4)), width)
    elif kind == "outcome":
        lines = outcome_table([long, row(1, 4)], width)
    else:
        state = SliceStatus(slice="slice-2-of-8", state=State.FAILED, invocations=12_345_678)
        lines = slices_table([state, state], width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "12,345,678" in lines[1]


@pytest.mark.parametrize("columns", ["20", "60", "80"])
def test_nothing_is_shortened_or_folded_without_a_terminal(broker: MemoryBroker, columns: str) -> None:
    """In a pipe and in cron's mail a line has the whole name, whatever COLUMNS is."""
    name = "orders-of-a-shop-with-a-very-long-name-that-no-terminal-of-eighty-columns-could-show-whole"
    broker.create(name, 1)
    done = call("status", "memory", "--topic", name, "--group-id", "g", env={"COLUMNS": columns})
    assert done.stdout.splitlines()[2].split() == [f"{name}[0]", "none", "0", "0"]


@pytest.mark.parametrize("columns", [60, 80])
def test_lines_fit_the_terminal(broker: MemoryBroker, columns: int) -> None:
    """At a terminal of 60 or 80 columns a long name is shortened, and the partition's number is kept."""
    broker.create("orders-" + "x" * 90, 1)
    broker.produce("orders-" + "x" * 90, 0, 7)
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}
    args = ("--topic", "orders-" + "x" * 90, "--group-id", "g")
    table = click.unstyle(call("status", "memory", *args, env=env).stdout).splitlines()[1:3]
    assert max(map(len, table)) <= columns
    assert table[1].split()[0].endswith("xxx[0]")
    assert table[1].split()[1:4] == ["none", "7", "7"]


def test_errors_are_whole_sentences_below_the_table(broker: MemoryBroker) -> None:
    """A partition's error is one line below the table, and codes of emojis in it stay text."""
    broker.refused[Partition("orders", 58)] = "amqp:link:stolen: another reader has [red]this[/red]"
    done = call("memory", "--topic", "orders", "--group-id", "billing", "--stop-when-empty")
    assert done.exit_code == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Error: orders[58]: "))
    assert "amqp:link:stolen: another reader has [red]this[/red]" in line
    assert broker.position("billing", Partition("orders", 59)) == 59


def test_equal_errors_are_one_line_and_many_are_counted() -> None:
    """Partitions with one error share a line; of many different errors ten are shown."""
    assert error_lines([("a", "gone"), ("b", None), ("c", "gone")]) == ["a, c: gone"]
    lines = error_lines([(number, f"error {number}") for number in range(12)])
    assert lines[-1] == "2 other errors; --output json has all of them"
    assert len(lines) == 11


def test_a_shortened_text_keeps_its_end() -> None:
    """The end of the names of partitions and snapshots distinguishes them, so more of it is kept."""
    assert clipped("persistent://public/default/orders[12]", 16) == "persi…orders[12]"
    assert clipped("orders[12]", 16) == "orders[12]"


def test_failed_slices_come_first_and_many_are_summed() -> None:
    """Of 100 slices the failed one is in the first line; 80 share the last one."""
    waiting = [
        SliceStatus(slice=f"slice-{index}-of-100", state=State.WAITING, invocations=0)
        for index in range(99)
    ]
    failed = SliceStatus(slice="slice-99-of-100", state=State.FAILED, invocations=3)
    lines = slices_table([*waiting, failed], None)
    assert lines[1].split() == ["slice-99-of-100", "failed", "3"]
    assert lines[-1].split() == ["and", "80", "more", "slices", "0"]


def test_a_console_prints_codes_of_emojis_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """The text ":link:" is a part of an AMQP error, not a picture."""
    console: Console = display.console_for()
    display.print_line(console, "amqp:link:stolen")
    assert capsys.readouterr().out == "amqp:link:stolen\n"

"""Backlogs that the configuration names, on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from tests.invoking import call, stored, three_partitions


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages; the configuration names it `shop` and `jump`."""
    options = {"topic": "orders", "group_id": "billing"}
    config = {
        "receipts": str(tmp_path / "kept"),
        "backlogs": {
            "shop": {"system": "memory", "options": options},
            "jump": {"system": "memory", "options": options, "mode": "skip"},
        },
    }
    monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", json.dumps(config))
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def test_the_status_of_a_named_backlog_is_shown(broker: MemoryBroker) -> None:
    """`status NAME` has the backlog's figures and changes nothing."""
    found = json.loads(call("status", "shop", "--output", "json").stdout)
    assert (found["action"], found["totals"]["backlog"]) == ("status", 3000)
    part = json.loads(call("status", "shop", "--slice", "0/3", "--output", "json").stdout)
    assert [row["partition"] for row in part["partitions"]] == [0]
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize("name", ["shop", "jump"])
def test_a_dry_run_of_a_named_backlog_changes_nothing(
    broker: MemoryBroker, tmp_path: Path, name: str
) -> None:
    """`run NAME --dry-run` shows the plan, needs no --yes, moves nothing and writes no receipt."""
    done = call("run", name, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "Backlog: 3,000 messages" in done.stdout
    assert not (tmp_path / "kept").exists()
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize("args", [["--slice", "2/3"], ["--slice", "2", "--total", "3"]])
def test_a_slice_of_a_named_backlog_is_cleared(broker: MemoryBroker, args: list[str]) -> None:
    """`--slice 2/3` clears the third partition only; as jobs write it, too."""
    done = call("run", "shop", *args)
    assert done.exit_code == 0, done.stderr
    assert stored(broker) == [None, None, 1000]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--slice", "3/3"], "from 0 to 2"),
        (["--slice", "2"], "INDEX/TOTAL"),
        (["--slice", "two"], "--slice"),
        (["--slice", "2/3/4"], "2/8"),
    ],
)
def test_a_wrong_slice_is_named(broker: MemoryBroker, args: list[str], hint: str) -> None:
    """A slice that does not exist, or is not INDEX/TOTAL, is wrong use, and nothing moves."""
    done = call("run", "shop", *args)
    assert done.exit_code == 2
    assert hint in done.stderr
    assert stored(broker) == [None, None, None]


def test_a_named_skip_needs_yes_without_a_terminal(broker: MemoryBroker, tmp_path: Path) -> None:
    """The configuration's mode decides: without --yes a skip is refused before anything is stored."""
    done = call("run", "jump")
    assert (done.exit_code, "needs --yes" in done.stderr) == (2, True)
    assert not (tmp_path / "kept").exists()
    assert stored(broker) == [None, None, None]
    assert call("run", "jump", "--yes").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_fields_for_platforms_are_not_in_the_help(broker: MemoryBroker) -> None:
    """What dispatchers and queues write into requests is not an option for people."""
    text = call("run", "--help").stdout
    assert all(name in text for name in ("--slice", "--dry-run", "--mode", "--yes"))
    assert not [name for name in ("--requeued", "--verify", "--total") if name in text]
    assert call("run", "shop", "--requeued", "3").exit_code == 2
    assert stored(broker) == [None, None, None]


def test_a_mistyped_name_is_answered_with_the_nearest_one(broker: MemoryBroker) -> None:
    """`status` suggests named backlogs and systems; a system's name is still a system."""
    assert "Did you mean 'shop'?" in call("status", "shpo").stderr
    assert "Did you mean 'kafka'?" in call("status", "kakfa").stderr
    assert "Did you mean 'shop'?" in call("run", "shpo").stderr
    assert "shop" in call("status", "--help").stdout
    assert stored(broker) == [None, None, None]


def test_a_faulty_configuration_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status NAME` with a configuration that is not valid names its faults."""
    monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", '{"backlogs": {"a": {"system": "kakfa"}}}')
    done = call("status", "a", "--output", "json")
    assert done.exit_code == 2
    assert "backlog 'a'" in json.loads(done.stdout)["error"]

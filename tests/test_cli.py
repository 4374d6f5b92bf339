"""The command line against the reference broker: it does what is asked for, and only that."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backlog_clearer import registry
from backlog_clearer.brokers.memory import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.model import Partition
from backlog_clearer.run.report import RunResult
from tests import memory_system

SECRET = "hunter2-do-not-print"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    monkeypatch.setitem(registry.SYSTEMS, "memory", memory_system.SYSTEM)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = memory_system.reset()
    made.create("orders", 3)
    for number in range(3):
        made.produce("orders", number, 1000)
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)


def call(*args: str, **settings: Any) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(commands.cli, args, **settings)


def clear(*args: str, **settings: Any) -> Result:
    """Run it on topic `orders`, group `billing`."""
    return call("memory", "--topic", "orders", "--group-id", "billing", *args, **settings)


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions on the broker."""
    return [broker.position("billing", Partition("orders", number)) for number in range(3)]


def test_clear_and_restore(broker: MemoryBroker) -> None:
    """A clear moves every position to the end, its receipt brings all of them back."""
    broker.positions["billing", Partition("orders", 1)] = 400
    done = clear("--stop-when-empty", "--output", "json")
    assert done.exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]
    result = RunResult.model_validate_json(done.stdout)
    assert result.totals.messages == 2600
    back = call("restore", str(result.receipt), "--yes")
    assert back.exit_code == 0, back.output
    assert stored(broker) == [None, 400, None]


def test_restore_dry_run_changes_nothing(broker: MemoryBroker) -> None:
    """A previewed restore leaves positions and receipts alone."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    receipts = sorted(Path("receipts").rglob("*.json"))
    assert call("restore", result["receipt"], "--dry-run").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]
    assert sorted(Path("receipts").rglob("*.json")) == receipts


def test_restore_of_a_whole_run(broker: MemoryBroker) -> None:
    """`restore --run` brings back what the slices of one run moved, from the oldest receipts."""
    first = json.loads(clear("--stop-when-empty", "--output", "json", "--slice", "0/2").stdout)
    assert stored(broker) == [1000, None, 1000]
    done = call("restore", "--run", first["run_id"], "--receipt-dir", "receipts", "--yes")
    assert done.exit_code == 0, done.output
    assert stored(broker) == [None, None, None]


def test_skip_needs_yes_without_a_terminal(broker: MemoryBroker) -> None:
    """A script must say --yes to skip; without it nothing moves and the exit code is 2."""
    assert clear("--mode", "skip").exit_code == 2
    assert stored(broker) == [None, None, None]
    assert clear("--mode", "skip", "--yes").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_partitions_and_ranges(broker: MemoryBroker) -> None:
    """--partitions clears these and no others."""
    assert clear("--stop-when-empty", "--partitions", "0,2").exit_code == 0
    assert stored(broker) == [1000, None, 1000]


def test_unknown_partition_is_refused(broker: MemoryBroker) -> None:
    """A partition that does not exist is named, with those that do, and nothing moves."""
    done = clear("--stop-when-empty", "--partitions", "0,7-8")
    assert done.exit_code == 2
    assert "7, 8" in done.stderr
    assert "0, 1, 2" in done.stderr
    assert stored(broker) == [None, None, None]


def test_limit_exits_one(broker: MemoryBroker) -> None:
    """A run that leaves backlog behind exits 1 and says how much, from the broker."""
    done = clear("--stop-when-empty", "--max-messages", "1500", "--output", "json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1
    assert sum(position or 0 for position in stored(broker)) == 1500
    assert (result["totals"]["remaining"], result["verified"], result["cleared"]) == (
        1500,
        False,
        False,
    )


def test_live_group_is_refused_unless_forced(broker: MemoryBroker) -> None:
    """Attached consumers are named and protected; --force goes on."""
    broker.members["billing"] = ("consumer-7 on host-1",)
    done = clear("--stop-when-empty")
    assert done.exit_code == 1
    assert "consumer-7" in done.stderr
    assert stored(broker) == [None, None, None]
    assert clear("--stop-when-empty", "--force").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_dry_run_shows_the_backlog_and_leaves_no_trace(broker: MemoryBroker) -> None:
    """--dry-run moves nothing and writes no receipt."""
    done = clear("--dry-run", "--output", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["totals"]["backlog"] == 3000
    assert stored(broker) == [None, None, None]
    assert not Path("receipts").exists()


def test_status_changes_nothing(broker: MemoryBroker) -> None:
    """`status` tells the backlog and moves nothing."""
    done = call("status", "memory", "--topic", "orders", "--group-id", "billing", "--output", "json")
    assert json.loads(done.stdout)["totals"]["backlog"] == 3000
    assert stored(broker) == [None, None, None]


def test_missing_topic_is_wrong_use(broker: MemoryBroker) -> None:
    """A topic that does not exist exits 2, as JSON too, and is not created."""
    done = call("memory", "--topic", "ordres", "--group-id", "billing", "--output", "json")
    assert done.exit_code == 2
    assert "ordres" in json.loads(done.stdout)["error"]
    assert not any(partition.topic == "ordres" for partition in broker.logs)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--tpoic", "orders"], "--topic"),
        (["--workers", "0", "--topic", "orders", "--group-id", "g"], "--workers"),
        (["--topic", "orders"], "--group-id is required"),
        (["--topic", "orders", "--group-id", "g", "--slice", "8/8"], "from 0"),
        (["--topic", "orders", "--group-id", "g", "--mode", "skip", "--follow"], "--follow"),
        (["--topic", "orders", "--group-id", "g", "-X", "novalue"], "KEY=VALUE"),
        (["--topic", "orders", "--group-id", "${env:NO_SUCH_VARIABLE}"], "NO_SUCH_VARIABLE"),
    ],
)
def test_wrong_use_says_what_to_do(broker: MemoryBroker, args: list[str], hint: str) -> None:
    """A wrong call exits 2, names the option at fault, and moves nothing."""
    done = call("memory", *args)
    assert done.exit_code == 2
    assert hint in done.stderr
    assert not broker.positions


def test_config_file_with_flags_above_it(broker: MemoryBroker, tmp_path: Path) -> None:
    """Options come from the file; a flag beats the file; dotted keys are client settings."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"topic": "elsewhere", "group-id": "billing", "stop_when_empty": True, "a.b": "c"})
    )
    assert call("memory", "--config-json", str(file), "--topic", "orders").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_unknown_key_in_the_file_is_refused_with_a_suggestion(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    """A mistyped key is refused, with the name that was meant."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"topic": "orders", "group_id": "billing", "stop_when_emtpy": True}))
    done = call("memory", "--config-json", str(file))
    assert done.exit_code == 2
    assert "'stop_when_empty'" in done.stderr
    assert not broker.positions


@pytest.mark.parametrize("output", ["text", "json"])
def test_secrets_are_never_shown(broker: MemoryBroker, output: str) -> None:
    """A secret, given by flag, setting or reference, is in no output and no receipt."""
    broker.refused[Partition("orders", 0)] = "not authorised"
    os.environ["CLEARER_TEST_SECRET"] = SECRET
    try:
        done = clear(
            "--stop-when-empty",
            "--password",
            "${env:CLEARER_TEST_SECRET}",
            "-X",
            f"sasl.password={SECRET}",
            "--output",
            output,
            "--log-level",
            "debug",
        )
    finally:
        del os.environ["CLEARER_TEST_SECRET"]
    assert stored(broker)[1:] == [1000, 1000]
    written = [path.read_text() for path in Path("receipts").rglob("*.json")]
    assert written
    assert all(SECRET not in text for text in (done.stdout, done.stderr, *written))


def test_receipt_that_cannot_be_written_stops_the_run(broker: MemoryBroker, tmp_path: Path) -> None:
    """Without a stored receipt nothing is changed."""
    (tmp_path / "file").write_text("in the way")
    done = clear("--stop-when-empty", "--receipt-dir", str(tmp_path / "file" / "below"))
    assert done.exit_code == 1
    assert "--receipt-dir" in done.stderr
    assert stored(broker) == [None, None, None]


def test_receipt_is_completed_with_the_result(broker: MemoryBroker) -> None:
    """The receipt ends as the audit record of what the broker confirmed."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    receipt = json.loads(Path(result["receipt"]).read_text())
    assert stored(broker) == [1000, 1000, 1000]
    assert receipt["result"]["verified"] is True
    assert [entry["position"] for entry in receipt["partitions"]] == [None, None, None]


def test_memory_url_receipts(broker: MemoryBroker) -> None:
    """Receipts go to any fsspec URL, and restore reads them from there."""
    result = json.loads(
        clear("--stop-when-empty", "--output", "json", "--receipt-dir", "memory://receipts").stdout
    )
    assert call("restore", result["receipt"], "--yes").exit_code == 0
    assert stored(broker) == [None, None, None]


def test_restore_refuses_another_subscription(broker: MemoryBroker) -> None:
    """A receipt is not applied to a group that it is not of."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    done = call("restore", result["receipt"], "--group-id", "shipping", "--yes")
    assert done.exit_code == 1
    assert "shipping" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize("args", [[], ["--help"], ["kafka", "--help"], ["restore", "--help"]])
def test_help_needs_no_broker_library(args: list[str]) -> None:
    """Help is shown for every command."""
    done = call(*args)
    assert "Usage" in done.output


def test_runs_is_a_hidden_alias_of_progress() -> None:
    """Scripts that call `runs` still work, while the help lists `run` and `progress` only."""
    commands_listed = {line.split()[0] for line in call("--help").stdout.splitlines() if line.strip()}
    assert {"run", "progress"} <= commands_listed
    assert "runs" not in commands_listed
    alias, command = (call(name, "no-such-run") for name in ("runs", "progress"))
    assert (alias.exit_code, alias.stderr) == (command.exit_code, command.stderr)
    assert alias.exit_code == 2
    assert "no-such-run" in alias.stderr


def test_every_option_of_the_published_example_exists() -> None:
    """The published Kafka command line is accepted as written (it then misses only its broker)."""
    text = call("kafka", "--help").output
    for name in ("bootstrap-servers", "topic", "group-id", "workers", "batch-size", "stop-when-empty"):
        assert f"--{name}" in text

"""The command line against the reference broker: it does what is asked for, and only that."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.cli.program import program
from backlog_clearer.cli.progress import Countdown, progress_line
from backlog_clearer.cli.session import Session
from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.model import Partition, Survey
from backlog_clearer.run.report import RunResult
from tests.invoking import call, clear, stored, three_partitions

SECRET = "hunter2-do-not-print"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def test_restore_puts_back_every_position_that_a_clear_moved(broker: MemoryBroker) -> None:
    """A clear moves every position to the end; its receipt restores all of them."""
    broker.positions["billing", Partition("orders", 1)] = 400
    done = clear("--stop-when-empty", "--output", "json")
    assert done.exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]
    result = RunResult.model_validate_json(done.stdout)
    assert result.totals.messages == 2600
    back = call("restore", str(result.receipt), "--yes")
    assert back.exit_code == 0, back.output
    assert stored(broker) == [None, 400, None]


def test_a_dry_run_of_a_restore_changes_nothing(broker: MemoryBroker) -> None:
    """`restore --dry-run` changes neither positions nor receipts."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    receipts = sorted(Path("receipts").rglob("*.json"))
    assert call("restore", result["receipt"], "--dry-run").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]
    assert sorted(Path("receipts").rglob("*.json")) == receipts


def test_restore_of_a_run_undoes_all_its_slices(broker: MemoryBroker) -> None:
    """`restore --run` restores the positions that the slices of one run moved."""
    first = json.loads(clear("--stop-when-empty", "--output", "json", "--slice", "0/2").stdout)
    assert stored(broker) == [1000, None, 1000]
    done = call("restore", "--run", first["run_id"], "--receipt-dir", "receipts", "--yes")
    assert done.exit_code == 0, done.output
    assert stored(broker) == [None, None, None]


def test_a_skip_without_a_terminal_needs_yes(broker: MemoryBroker) -> None:
    """A script has to use --yes to skip; without it nothing moves and the exit code is 2."""
    assert clear("--mode", "skip").exit_code == 2
    assert stored(broker) == [None, None, None]
    assert clear("--mode", "skip", "--yes").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_only_the_named_partitions_are_cleared(broker: MemoryBroker) -> None:
    """--partitions clears these partitions and no others."""
    assert clear("--stop-when-empty", "--partitions", "0,2").exit_code == 0
    assert stored(broker) == [1000, None, 1000]


def test_a_partition_that_does_not_exist_is_refused(broker: MemoryBroker) -> None:
    """A partition that does not exist is named beside the existing ones, and nothing moves."""
    done = clear("--stop-when-empty", "--partitions", "0,7-8")
    assert done.exit_code == 2
    assert "7, 8" in done.stderr
    assert "0, 1, 2" in done.stderr
    assert stored(broker) == [None, None, None]


def test_a_run_that_leaves_backlog_exits_1(broker: MemoryBroker) -> None:
    """A run that ends at a limit exits 1 and reports what is left, by the broker's figures."""
    done = clear("--stop-when-empty", "--max-messages", "1500", "--output", "json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1
    assert sum(position or 0 for position in stored(broker)) == 1500
    assert (result["totals"]["remaining"], result["verified"], result["verdict"]) == (
        1500,
        False,
        "not_cleared",
    )


def test_a_group_with_consumers_is_refused_unless_forced(broker: MemoryBroker) -> None:
    """Attached consumers are named and nothing moves; --force clears anyway."""
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
    """`status` shows the backlog and moves nothing."""
    done = call("status", "memory", "--topic", "orders", "--group-id", "billing", "--output", "json")
    assert json.loads(done.stdout)["totals"]["backlog"] == 3000
    assert stored(broker) == [None, None, None]


def test_a_missing_topic_exits_2_and_is_not_created(broker: MemoryBroker) -> None:
    """A topic that does not exist is an error, also in JSON, and is not created."""
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
def test_wrong_use_names_the_option_at_fault(broker: MemoryBroker, args: list[str], hint: str) -> None:
    """A wrong call exits 2, names the option at fault, and moves nothing."""
    done = call("memory", *args)
    assert done.exit_code == 2
    assert hint in done.stderr
    assert not broker.positions


def test_a_flag_overrides_the_file_of_options(broker: MemoryBroker, tmp_path: Path) -> None:
    """Options come from the file; a flag overrides it; dotted keys are client settings."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"topic": "elsewhere", "group-id": "billing", "stop_when_empty": True, "a.b": "c"})
    )
    assert call("memory", "--config-json", str(file), "--topic", "orders").exit_code == 0
    assert stored(broker) == [1000, 1000, 1000]


def test_an_unknown_key_in_the_file_is_refused_with_a_suggestion(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    """A mistyped key is an error that suggests the nearest option."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"topic": "orders", "group_id": "billing", "stop_when_emtpy": True}))
    done = call("memory", "--config-json", str(file))
    assert done.exit_code == 2
    assert "'stop_when_empty'" in done.stderr
    assert not broker.positions


@pytest.mark.parametrize("output", ["text", "json"])
def test_secrets_are_never_shown(broker: MemoryBroker, output: str) -> None:
    """A secret given by flag, setting or reference is in no output and no receipt."""
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


def test_a_receipt_that_cannot_be_written_stops_the_run(broker: MemoryBroker, tmp_path: Path) -> None:
    """Without a stored receipt nothing is changed."""
    (tmp_path / "file").write_text("in the way")
    done = clear("--stop-when-empty", "--receipt-dir", str(tmp_path / "file" / "below"))
    assert done.exit_code == 1
    assert "--receipt-dir" in done.stderr
    assert stored(broker) == [None, None, None]


def test_the_receipt_is_completed_with_the_result(broker: MemoryBroker) -> None:
    """After the run the receipt holds the earlier positions and the verified result."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    receipt = json.loads(Path(result["receipt"]).read_text())
    assert stored(broker) == [1000, 1000, 1000]
    assert receipt["result"]["verified"] is True
    assert [entry["position"] for entry in receipt["partitions"]] == [None, None, None]


def test_receipts_are_stored_at_and_read_from_a_url(broker: MemoryBroker, tmp_path: Path) -> None:
    """Receipts are written to a URL, and restore reads them from it."""
    place = f"file://{tmp_path}/kept"
    result = json.loads(clear("--stop-when-empty", "--output", "json", "--receipt-dir", place).stdout)
    assert result["receipt"].startswith(f"{place}/")
    assert call("restore", result["receipt"], "--yes").exit_code == 0
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("receipts/no-such.json",), "receipts/no-such.json cannot be read"),
        (("--run", "no-such-run", "--receipt-dir", "receipts"), "no receipt of a run 'no-such-run'"),
    ],
)
def test_a_restore_without_a_receipt_exits_2(
    broker: MemoryBroker, args: tuple[str, ...], hint: str
) -> None:
    """A missing receipt is an error, also in JSON, and nothing moves."""
    done = call("restore", *args, "--output", "json")
    assert done.exit_code == 2
    assert hint in json.loads(done.stdout)["error"]
    assert hint in done.stderr
    assert not broker.positions


def test_restore_refuses_a_receipt_of_another_group(broker: MemoryBroker) -> None:
    """A receipt is not applied to a group that it does not belong to."""
    result = json.loads(clear("--stop-when-empty", "--output", "json").stdout)
    done = call("restore", result["receipt"], "--group-id", "shipping", "--yes")
    assert done.exit_code == 1
    assert "shipping" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_before_anything_changes(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """At a terminal the plan is shown and "y" is needed; any other answer changes nothing."""
    monkeypatch.setattr(Session, "asks", True)
    done = clear("--mode", "skip", "--quiet", input=f"{answer}\n")
    assert "Plan: moves the position of 3 partitions" in done.stderr
    assert "Continue? [y/N]" in done.stderr
    moved = [1000] * 3 if answer == "y" else [None] * 3
    assert (stored(broker), done.exit_code) == (moved, 0 if answer == "y" else 1)


def test_an_interrupt_before_the_change_changes_nothing(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT during the survey exits 1 at once, and no position moves."""
    survey = MemorySource.survey

    def interrupted(source: MemorySource) -> Survey:
        signal.raise_signal(signal.SIGINT)
        return survey(source)

    monkeypatch.setattr(MemorySource, "survey", interrupted)
    done = clear("--stop-when-empty")
    assert done.exit_code == 1
    assert "Interrupted; nothing was changed." in done.stderr
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGINT, "SIGINT: acknowledging what was read; press Ctrl-C again to exit now."),
        (signal.SIGTERM, "SIGTERM: acknowledging what was read; send SIGTERM again to exit now."),
    ],
)
def test_an_interrupt_of_a_drain_acknowledges_what_was_read(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, text: str
) -> None:
    """A signal ends the drain with exit 1, and the broker has every message that the result counts."""
    read = MemoryLane.read
    reads = itertools.count()

    def interrupted(lane: MemoryLane, *args: Any) -> Any:
        if next(reads) == 2:
            os.kill(os.getpid(), number)
        time.sleep(0.05)
        return read(lane, *args)

    monkeypatch.setattr(MemoryLane, "read", interrupted)
    done = clear("--stop-when-empty", "--batch-size", "10", "--workers", "1", "--output", "json")
    assert text in done.stderr
    result = json.loads(done.stdout)
    assert (done.exit_code, result["stop_reason"]) == (1, "signal")
    assert 0 < result["totals"]["messages"] == sum(item or 0 for item in stored(broker)) < 3000


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        ("cleaner.py", "python cleaner.py"),
        ("./cleaner.py", "python ./cleaner.py"),
        ("/srv/my tools/cleaner.py", "python '/srv/my tools/cleaner.py'"),
        ("/usr/lib/python3/backlog_clearer/__main__.py", "python -m backlog_clearer"),
        ("/home/ops/.local/bin/backlog-clearer", "backlog-clearer"),
        ("backlog-clearer", "backlog-clearer"),
        ("/usr/lib/python3/pytest/__main__.py", "backlog-clearer"),
        ("-c", "backlog-clearer"),
        ("", "backlog-clearer"),
    ],
)
def test_printed_commands_start_with_the_program_as_invoked(argv0: str, expected: str) -> None:
    """The program's name depends only on the first argument of the process."""
    assert program(argv0) == expected


def test_the_printed_undo_command_undoes_the_run(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undo line is a command that can be run as printed, also for a path with a space."""
    monkeypatch.setattr("sys.argv", ["cleaner.py"])
    done = clear("--stop-when-empty", "--receipt-dir", "my receipts")
    assert "Cleared and verified: 3,000 messages" in done.stdout
    assert stored(broker) == [1000, 1000, 1000]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Undo: "))
    words = shlex.split(line.removeprefix("Undo: "))
    assert words[1:3] == [str(Path("cleaner.py").absolute()), "restore"]
    undone = call(*words[2:], "--yes")
    assert "Restored and verified: 3 of 3 partitions" in undone.stdout
    assert stored(broker) == [None, None, None]


def test_texts_spell_one_as_one(broker: MemoryBroker) -> None:
    """One message of one partition is "1 message" and "1 partition" in a result."""
    broker.positions["billing", Partition("orders", 0)] = 999
    done = clear("--stop-when-empty", "--partitions", "0")
    assert ": 1 message in " in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Undo: "))
    undone = call(*shlex.split(line)[2:], "--yes")
    assert "Restored and verified: 1 of 1 partition in " in undone.stdout
    assert "Backlog: 1 message" in undone.stdout.splitlines()
    assert stored(broker)[0] == 999


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Snapshot(5.0, 1200, 0, 300, 1500, 0), "5 s: 1,200 messages, 240/s, 300 left, ETA 1 s"),
        (Snapshot(5.0, 1, 0, None, None, 1), "5 s: 1 message, 0/s, unknown left, ETA unknown, 1 retry"),
        (Snapshot(0.0, 0, 0, 9, 9, 2), "0 s: 0 messages, 0/s, 9 left, ETA unknown, 2 retries"),
    ],
)
def test_a_line_of_progress_names_what_is_known(seen: Snapshot, expected: str) -> None:
    """Figures that the broker does not report are "unknown", and retries are shown if there are any."""
    assert progress_line(seen) == expected


@pytest.mark.parametrize(
    "args", [[], ["--help"], ["kafka", "--help"], ["restore", "--help"], ["progress", "--help"]]
)
def test_every_command_has_a_help_text(args: list[str]) -> None:
    """Help is shown for every command."""
    assert "Usage" in call(*args).output


def test_runs_is_a_hidden_alias_of_progress() -> None:
    """Scripts that call `runs` still work, while the help lists `run` and `progress` only."""
    commands_listed = {line.split()[0] for line in call("--help").stdout.splitlines() if line.strip()}
    assert {"run", "progress"} <= commands_listed
    assert "runs" not in commands_listed
    alias, command = (call(name, "no-such-run") for name in ("runs", "progress"))
    assert (alias.exit_code, alias.stderr) == (command.exit_code, command.stderr)
    assert alias.exit_code == 2
    assert "no-such-run" in alias.stderr


def test_the_options_of_the_published_kafka_command_exist() -> None:
    """Each option of the published Kafka command line is in the help text."""
    text = call("kafka", "--help").output
    for name in ("bootstrap-servers", "topic", "group-id", "workers", "batch-size", "stop-when-empty"):
        assert f"--{name}" in text


@pytest.mark.parametrize("flags", [(), ("--quiet",)])
def test_notes_that_arise_while_a_run_is_at_work_are_shown_once(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    """A partition that is added meanwhile is named with the result; notes of the plan are not repeated."""
    read = MemoryLane.read

    def growing(lane: MemoryLane, *args: Any) -> Any:
        if len(broker.logs) == 3:
            broker.add_partition("orders")
        return read(lane, *args)

    monkeypatch.setattr(MemoryLane, "read", growing)
    done = clear("--stop-when-empty", "--workers", "4", *flags)
    assert done.stdout.count("Note: 1 partition was added since the survey") == 1
    assert "added since" not in done.stderr
    workers = "Note: 4 workers for 3 partitions"
    assert (done.stderr.count(workers), done.stdout.count(workers)) == ((0, 1) if flags else (1, 0))


def test_a_wait_for_proof_counts_down(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line comes at once, and then one every 15 s with the time that is left."""
    count = Countdown(Console(stderr=True))
    for left in range(300, 260, -1):
        count(float(left))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("at most ")[1].split(" (")[0] for line in lines] == ["300 s", "285 s", "270 s"]

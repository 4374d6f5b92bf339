"""A wrong call on the command line: named in words, with harmless suggestions, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli.flags import options_of
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Survey
from backlog_clearer.options.base import RISKY, option_suggestion
from backlog_clearer.options.run import RunOptions
from tests.invoking import call, clear, stored, three_partitions

HARMLESS = {"ages", "dry_run", "follow", "stop_when_empty", "tls", "tls_validate_hostname"}
"""Switches that may be suggested."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["kakfa"], "kafka"),
        (["pulsra", "--topic", "t"], "pulsar"),
        (["status", "googlepubusb"], "googlepubsub"),
        (["restroe"], "restore"),
        (["progess"], "progress"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest_one(args: list[str], name: str) -> None:
    """Systems and commands are suggested, and the exit code is 2."""
    done = call(*args)
    assert done.exit_code == 2
    assert f"Did you mean '{name}'?" in done.stderr


def test_a_hidden_command_is_not_suggested() -> None:
    """The former name of `progress` is not brought back by a mistyped one."""
    assert "'runs'" not in call("rnus").stderr


@pytest.mark.parametrize("wrong", ["--workres", "--forec", "--fource", "--nwe", "--yse", "--worker"])
def test_no_suggestion_can_do_harm(broker: MemoryBroker, wrong: str) -> None:
    """A mistyped option is never answered with one that switches off a safeguard."""
    done = clear("--mode", "skip", wrong, "3")
    assert done.exit_code == 2
    assert f"No such option: {wrong}." in done.stderr
    assert not {"--force", "--new", "--yes"} & set(done.stderr.replace("'", " ").split())
    assert ("Did you mean '--workers'?" in done.stderr) is wrong.startswith("--worker"[:6])
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize("name", ["forse", "delete_gruop", "no_snapshto", "lower_to_ned", "nwe"])
def test_files_are_not_answered_with_a_harmful_option_either(name: str) -> None:
    """A mistyped key in a file of options gets no risky suggestion."""
    assert option_suggestion(name, [*RISKY, "topic"]) == ""


def test_each_switch_of_each_system_is_known_as_risky_or_harmless() -> None:
    """A new switch has to be put into one of the two lists."""
    models: list[type[BaseModel]] = [
        RunOptions,
        *(registry.options_model(name) for name in registry.names()),
    ]
    switches = {option.name for model in models for option in options_of(model) if option.is_flag}
    assert switches <= HARMLESS | RISKY
    assert not HARMLESS & RISKY


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the program itself fail; what a source raises is guarded, and tested elsewhere."""

    def chosen(*_: object) -> None:
        raise error

    monkeypatch.setattr("backlog_clearer.run.clear.chosen", chosen)


@pytest.mark.parametrize(
    ("args", "hint", "code"),
    [
        (["kakfa", "--output", "json"], "kafka", 2),
        (["--output=json", "kafka"], "--output", 2),
        (["memory", "--tpoic", "t", "--output", "json"], "--topic", 2),
        (["memory", "--topic", "t", "--output=json"], "--group-id is required", 2),
        (["memory", "--mode", "jump", "--output", "json"], "consume", 2),
        (["memory", "stray", "--output", "json"], "stray", 2),
        (["status", "memory", "--nope", "--output", "json"], "--nope", 2),
        (["restore", "--output", "json"], "Name a receipt", 2),
        (["restore", "no.json", "--output", "json"], "no.json", 2),
        (["restore", "--tpoic", "t", "no.json", "--output", "json"], "--tpoic", 2),
        (["run", "nothing", "--output", "json"], "BACKLOG_CLEARER_CONFIG", 2),
        (["run", "--output", "json"], "NAME", 2),
        (["progress", "no-such-run", "--output", "json"], "no-such-run", 2),
        (["memory", "--topic", "orders", "--group-id", "g", "--mode", "skip", "--output", "json"], "--yes", 2),
    ],
)  # fmt: skip
def test_each_failure_is_an_object_on_stdout(
    broker: MemoryBroker, args: list[str], hint: str, code: int
) -> None:
    """With --output json stdout is one object that has the error, whatever was wrong."""
    done = call(*args)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == code
    assert hint in found["error"]
    assert (found["schema"], found["verdict"]) == ("backlog-clearer/result/2", "not_cleared")
    assert found["kind"] == "UsageError"
    assert found["error"].splitlines()[0] in done.stderr
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize("output", ["text", "json"])
def test_the_last_output_option_counts_for_a_wrong_call_too(output: str) -> None:
    """A wrong call is answered in the format that a valid one would have."""
    done = call("kafka", "--nope", "--output", "json", "--output", output)
    assert done.stdout.startswith("{") is (output == "json")
    assert "No such option: --nope." in done.stderr


def test_a_fault_of_the_program_is_an_object_too(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nothing expects is named by its type in the object; its text may be anything."""
    _failing(monkeypatch, ZeroDivisionError("a secret"))
    done = clear("--output", "json")
    found = json.loads(done.stdout)
    assert "ZeroDivisionError" in found["error"]
    assert "a secret" not in done.stdout
    assert isinstance(done.exception, ZeroDivisionError)
    assert stored(broker) == [None, None, None]


def _refusals(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the first surveys fail as those of a new cluster do."""
    survey = MemorySource.survey
    left = iter(range(times))

    def shaky(source: MemorySource) -> Survey:
        if next(left, None) is not None:
            raise TransientError("failed at finding the group: NOT_COORDINATOR")
        return survey(source)

    monkeypatch.setattr(MemorySource, "survey", shaky)
    monkeypatch.setattr("backlog_clearer.run.retry._WAIT_S", 0.0)
    monkeypatch.setattr("backlog_clearer.run.retry._LASTING_S", 600.0)  # the machine may be busy


@pytest.mark.parametrize(("flags", "shown"), [((), True), (("--quiet",), False)])
def test_quiet_writes_nothing_to_stderr(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], shown: bool
) -> None:
    """With --quiet a run that had to retry for long, and has notes, writes only its result."""
    _refusals(monkeypatch, 3)
    done = clear("--stop-when-empty", "--workers", "9", *flags)
    assert ("Retrying the survey" in done.stderr) is shown
    assert (done.stderr != "") is shown
    assert "Cleared and verified" in done.stdout
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize(
    ("times", "level", "lines"),
    [(1, "warning", 0), (2, "warning", 0), (3, "warning", 1), (2, "info", 2)],
)
def test_a_refusal_that_passes_is_no_warning(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, times: int, level: str, lines: int
) -> None:
    """What a new cluster answers at first is not shown unless it lasts, or the log's level asks for it."""
    _refusals(monkeypatch, times)
    done = clear("--stop-when-empty", "--log-level", level)
    assert done.stderr.count("NOT_COORDINATOR") == lines
    assert stored(broker) == [1000, 1000, 1000]


def test_an_error_is_shown_although_the_call_is_quiet(broker: MemoryBroker) -> None:
    """--quiet hides no error."""
    broker.members["billing"] = ("consumer-7 on host-1",)
    done = clear("--quiet")
    assert done.exit_code == 1
    assert "consumer-7" in done.stderr
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize(
    "args",
    [
        ["--yes"], ["-y"], ["--force"], ["--workers", "4"], ["--stop-when-empty"], ["--dry-run"],
        ["--receipt-dir", "x"], ["--max-messages", "1"],
    ],
)  # fmt: skip
def test_status_refuses_options_that_mean_nothing_there(broker: MemoryBroker, args: list[str]) -> None:
    """Options on how to change a backlog are named as without a meaning, and are not in the help."""
    done = call("status", "memory", "--topic", "orders", "--group-id", "billing", *args)
    assert done.exit_code == 2
    name = args[0].replace("-y", "--yes") if args == ["-y"] else args[0]
    assert f"{name} has no meaning for status, which changes nothing." in done.stderr
    assert f"{name} " not in call("status", "memory", "--help").stdout
    assert stored(broker) == [None, None, None]


def test_status_takes_a_runs_file_of_options(broker: MemoryBroker) -> None:
    """One file of options serves clearing and looking at it."""
    options = {"topic": "orders", "group_id": "billing", "workers": 9, "stop_when_empty": True}
    Path("options.json").write_text(json.dumps(options))
    assert call("status", "memory", "--config-json", "options.json").exit_code == 0
    assert stored(broker) == [None, None, None]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--workers", "many"], "--workers must be a whole number."),
        (["--workers", "0"], "--workers must be at least 1."),
        (["--workers", "1.5"], "--workers must be a whole number."),
        (["--max-seconds", "0"], "--max-seconds must be greater than 0."),
        (["--max-seconds", "soon"], "--max-seconds must be a number."),
        (["--batch-size", "1000001"], "--batch-size must be at most 1000000."),
    ],
)
def test_a_wrong_value_is_answered_in_words(broker: MemoryBroker, args: list[str], text: str) -> None:
    """What a value must be is a sentence about the option, in no library's terms."""
    done = clear(*args)
    assert (done.exit_code, done.stderr) == (2, f"Error: {text}\n")
    assert stored(broker) == [None, None, None]


def test_a_wrong_value_in_a_file_is_answered_in_words(broker: MemoryBroker) -> None:
    """Values of another type, as JSON has them, are answered in the same words."""
    wrong = {"mode": "jump", "stop_when_empty": "maybe", "topic": 7, "workers": None, "slice": [1]}
    Path("options.json").write_text(json.dumps({"group_id": "g", **wrong}))
    done = call("memory", "--config-json", "options.json")
    assert done.exit_code == 2
    for text in (
        "--topic must be text.",
        "--mode must be 'consume' or 'skip'.",
        "--stop-when-empty must be true or false.",
        "--slice must be an object.",
    ):
        assert text in done.stderr
    assert "nput should" not in done.stderr
    assert stored(broker) == [None, None, None]

"""Paths that fail with a secret at hand: no output, error, log, receipt or result has it in any form."""

from __future__ import annotations

import itertools
import json
import signal
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import VARIABLE, load_config
from backlog_clearer.model import Partition
from functions.job import main as job
from tests import memory_system
from tests.secret_forms import leaks
from tests.secret_paths import (
    ANYWHERE,
    BROKEN,
    MISPLACED,
    SECRET,
    SYSTEMS,
    WRONG,
    configuration,
    places,
)

FLAGS = {"--group-id", "--topic", "--config-json"}  # those of `ANYWHERE` that not every system has


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Seen:
    """Everything that a call let out."""

    def __init__(self, code: object, *texts: str) -> None:
        self.code, self.text = code, "\n".join(texts)

    def check(self, *codes: int) -> str:
        """The text; fails where it has a secret, a traceback, or another exit code."""
        assert not leaks(self.text, SECRET), self.text
        assert "Traceback" not in self.text
        assert self.code in codes, self.text
        assert self.text.strip()
        return self.text


def command(caplog: pytest.LogCaptureFixture, *args: str) -> Seen:
    """The command line in this process; what the crash of a process would print, too."""
    done = CliRunner().invoke(commands.cli, args)
    crash = _crash(done.exception)
    return Seen(done.exit_code, done.stdout, done.stderr, crash, caplog.text, *_files())


def _crash(error: BaseException | None) -> str:
    if error is None or isinstance(error, SystemExit):
        return ""
    return "".join(traceback.format_exception(error))


def _files() -> list[str]:
    """All receipts."""
    return [path.read_text() for path in Path().rglob("*.json") if "input" not in path.name]


def contained(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, environ: Mapping[str, str], *args: str
) -> Seen:  # fmt: skip
    """The container job in this process."""
    try:
        code: Any = job.run(vars(job.arguments().parse_args(args)), environ, Halt())
    except SystemExit as ended:
        code = ended.code
    out = capsys.readouterr()
    return Seen(code, out.out, out.err, caplog.text, *_files())


@pytest.mark.parametrize("name", BROKEN)
def test_an_unreadable_configuration_is_not_shown(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A configuration that is not JSON, in the variable or in a file, is refused by its variable's name."""
    text = BROKEN[name]
    if "\0" not in text:  # no variable can have it
        monkeypatch.setenv(VARIABLE, text)
        for output in ("text", "json"):
            assert VARIABLE in command(caplog, "run", "orders", "--output", output).check(2)
    assert VARIABLE in contained(capsys, caplog, {VARIABLE: text}, "--backlog", "orders").check(2)
    Path("input.json").write_text(text)
    if not text.startswith("\ufeff{"):
        found = contained(capsys, caplog, {VARIABLE: "input.json"}, "--backlog", "orders")
        assert VARIABLE in found.check(2)


@pytest.mark.parametrize("name", WRONG)
def test_a_refused_configuration_is_not_shown(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is wrong is named; neither its value nor another secret of the configuration is shown."""
    text = json.dumps(WRONG[name])
    monkeypatch.setenv(VARIABLE, text)
    command(caplog, "run", "orders", "--output", "json").check(2)
    contained(capsys, caplog, {VARIABLE: text}, "--backlog", "orders").check(2)
    with pytest.raises(UsageError) as refused:  # as the functions do when they start
        load_config({VARIABLE: text})
    crash = "".join(traceback.format_exception(refused.value))
    assert not leaks(crash, SECRET), crash


@pytest.mark.parametrize("data", [b"\xff\xfe{\x00", SECRET.encode("utf-16"), b"\x80" + SECRET.encode()])
def test_files_that_are_not_utf_8_are_refused_without_their_content(
    data: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The configuration's file, the options' file, a referenced file and a receipt are refused."""
    Path("input.json").write_bytes(data)
    contained(capsys, caplog, {VARIABLE: "input.json"}, "--backlog", "orders").check(2)
    command(caplog, "kafka", "--config-json", "input.json").check(2)
    command(caplog, "kafka", *SYSTEMS["kafka"], "-X", "sasl.password=${file:./input.json}").check(2)
    command(caplog, "restore", "input.json").check(2)


def _misplaced() -> list[tuple[str, list[str]]]:
    found = [(system, args) for system, each in MISPLACED.items() for args in each]
    usable = [args for args in ANYWHERE if not FLAGS & set(args) or args[0] == "--config-json"]
    return [*found, *((system, args) for system in SYSTEMS for args in usable)]


@pytest.mark.parametrize(("system", "args"), _misplaced(), ids=str)
def test_a_secret_at_a_wrong_place_is_not_repeated(
    system: str, args: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A mistyped option, separator, reference, address or file that is or has a secret is not repeated."""
    if any("\0" in arg for arg in args):
        Path("input.json").write_text(json.dumps({args[0].lstrip("-"): args[1]}))
        args = ["--config-json", "input.json"]
    command(caplog, system, *SYSTEMS[system], "--dry-run", *args).check(2)
    command(caplog, "status", system, *SYSTEMS[system], *args).check(2)


@pytest.mark.parametrize(
    ("system", "args"),
    [(system, args) for system, each in MISPLACED.items() for args in each if len(args) == 2],
    ids=str,
)
def test_a_secret_at_a_wrong_place_of_a_configuration_is_not_repeated(
    system: str, args: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same in the options of a configured backlog, as functions and jobs have them."""
    options = {**_options(SYSTEMS[system]), **_options(args)}
    config = {"receipts": "r", "backlogs": {"orders": {"system": system, "options": options}}}
    contained(capsys, caplog, {VARIABLE: json.dumps(config)}, "--backlog", "orders").check(2)


def _options(args: list[str]) -> dict[str, Any]:
    """Arguments as a configuration has them: --topic t becomes "topic": "t", and -X a list of settings."""
    found: dict[str, Any] = {}
    for name, value in itertools.zip_longest(args, args[1:], fillvalue=""):
        if name == "-X":
            found.setdefault("settings", []).append(value)
        elif name.startswith("--"):
            found[name[2:].replace("-", "_")] = value
    return found


@pytest.mark.parametrize(
    "args", [args for args in ANYWHERE if FLAGS & set(args) and "\0" not in args[-1]], ids=str
)
def test_a_reference_whose_name_is_the_secret_is_not_repeated(
    args: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The option is named instead of the variable or the file."""
    command(caplog, "kafka", *SYSTEMS["kafka"], *args).check(2)


def test_a_name_that_is_the_secret_is_not_repeated(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's id, and the path in Google's variable for credentials, are shown only if they look like one."""
    command(caplog, "progress", SECRET).check(2)
    command(caplog, "restore", "--run", SECRET).check(2)
    for value in (SECRET, f"/none/{SECRET}", json.dumps({"private_key": SECRET})):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", value)
        command(caplog, "status", "googlepubsub", *SYSTEMS["googlepubsub"]).check(2)


@pytest.mark.parametrize("place", places())
def test_a_place_of_receipts_with_a_secret_is_not_repeated(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Clearing, restoring, an undo of a run and the progress of one refuse it, and name the option."""
    schemes = ["--receipt-schemes", "ftp,sftp,smb,webhdfs,hdfs"]
    kept = ["--receipt-dir", place, *schemes, "--output", "json"]
    assert "receipt" in command(caplog, "kafka", *SYSTEMS["kafka"], *kept).check(2)
    assert "receipt" in command(caplog, "progress", "run-1", *kept[:4]).check(2)
    assert "receipt" in command(caplog, "restore", "--run", "run-1", *kept).check(2)
    command(caplog, "restore", f"{place}/a.json", *schemes).check(2)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Topic `t` with 10 messages, as system `memory`."""
    monkeypatch.setitem(registry.SYSTEMS, "memory", memory_system.SYSTEM)
    made = memory_system.reset()
    made.create("t", 1)
    made.produce("t", 0, 10)
    return made


MEMORY = ("memory", "--topic", "t", "--group-id", "g", "--stop-when-empty", "--password", SECRET)


@pytest.mark.parametrize(
    ("moment", "form"),
    [
        *itertools.product(("read", "settle", "survey", "open"), ("plain", "url", "base64", "repr")),
        ("verify", "base64"),  # a run asks for its proof for a while
    ],
)
def test_a_library_that_repeats_a_secret_is_redacted(
    broker: MemoryBroker, moment: str, form: str, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever an error of a library has of a secret, at any moment of a run, no output or receipt has it."""
    memory_system.complain(monkeypatch, moment, memory_system.said(SECRET, form))
    for output in ("text", "json"):
        seen = command(
            caplog, *MEMORY, "--output", output, "--log-level", "debug", "--max-retries", "0"
        )
        assert "***" in seen.check(1, 4)
    assert broker.position("g", Partition("t", 0)) in (None, 10)


def test_a_run_that_clears_shows_no_secret(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """A run and its undo with a secret, at the most detailed log level, show it nowhere."""
    done = command(caplog, *MEMORY, "--output", "json", "--log-level", "debug")
    done.check(0)
    (receipt,) = Path("receipts").rglob("*.json")
    command(caplog, "restore", str(receipt), "--password", SECRET, "--yes").check(0)
    assert not broker.positions


@pytest.mark.parametrize(
    "args",
    [
        ["--backlog", "orders", f"--password={SECRET}"],
        ["--backlog", "orders", "--password", SECRET],
        ["--backlog", "orders", SECRET],
        ["--from-queue=" + SECRET],
        ["--backlog", "orders", "--slice", SECRET, "--total", "2"],
        ["--backlog", "orders", "--mode", SECRET],
        ["--backlog", "orders", "--max-seconds", SECRET],
    ],
    ids=str,
)
def test_a_secret_among_the_arguments_of_a_job_is_not_repeated(
    args: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown or mistyped argument of the container job is refused without its value."""
    text = json.dumps(configuration())
    contained(capsys, caplog, {VARIABLE: text}, *args).check(2)

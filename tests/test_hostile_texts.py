"""Texts, files and variables that are meant to do harm: shown as text, bounded, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE
from backlog_clearer.options import references
from backlog_clearer.redaction.redact import redacted, remember_environment
from backlog_clearer.text import spelled_out
from tests import memory_system
from tests.invoking import call, clear, stored, three_partitions
from tests.secret_paths import SYSTEMS

HOSTILE = "a\x1b[2Jb\x07c\u202ed\udcffe\x9bf"
STATUS = ("status", "memory", "--topic", "orders", "--group-id", "billing")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, in an empty folder."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def test_what_a_terminal_would_act_on_becomes_escapes() -> None:
    """Controls, changes of direction and bytes that are not UTF-8 are spelled; lines and letters stay."""
    assert spelled_out(HOSTILE) == r"a\x1b[2Jb\x07c\u202ed\udcffe\x9bf"
    assert spelled_out("one\n\ttwo äöü 日本") == "one\n\ttwo äöü 日本"
    assert str(BrokerError(HOSTILE)) == spelled_out(HOSTILE)


@pytest.mark.parametrize("moment", ["survey", "read", "settle", "verify"])
@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.usefixtures("broker")
def test_an_error_of_a_broker_cannot_act_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, moment: str, output: str
) -> None:
    """Escape sequences in what a broker sends are shown as text, in every output, log and receipt."""
    memory_system.complain(monkeypatch, moment, HOSTILE)
    done = clear("--stop-when-empty", "--max-retries", "0", "--verify-seconds", "0", "--output", output)
    assert done.exit_code in {1, 4}, done.output
    texts = [done.stdout, done.stderr, *(path.read_text() for path in Path("receipts").rglob("*.json"))]
    assert not [text for text in texts if any(each in text for each in "\x1b\x07\u202e\udcff\x9b")]
    assert r"\x1b" in done.stderr or r"\x1b" in done.stdout
    if output == "json":
        json.loads(done.stdout)


@pytest.mark.parametrize(
    "args",
    [
        ("--password", "${file:/dev/zero}"),
        ("--config-json", "/dev/zero"),
        ("--group-id", "${file:long}"),
    ],
)
def test_a_file_without_end_is_refused(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, args: tuple[str, str]
) -> None:
    """Devices and files that are too large for what they are to have are refused by their size."""
    monkeypatch.setattr(references, "MOST_BYTES", 1000)
    Path("long").write_text("x" * 1001)
    done = call(*STATUS, *args)
    assert (done.exit_code, "it has more than 1,000 bytes" in done.stderr) == (2, True), done.output
    assert stored(broker) == [None] * 3


def test_a_configuration_and_a_key_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the file of a login, and for the one that the configuration's variable names."""
    monkeypatch.setattr(references, "MOST_BYTES", 1000)
    args = ("googlepubsub", *SYSTEMS["googlepubsub"], "--credentials-file", "/dev/zero")
    done = call("status", *args)
    assert (done.exit_code, "cannot be read" in done.stderr) == (2, True), done.output
    monkeypatch.setenv(VARIABLE, "/dev/zero")
    done = call("run", "orders")
    assert (done.exit_code, "cannot be read" in done.stderr) == (2, True), done.output


@pytest.mark.parametrize(
    "args",
    [
        ("receipts", "list", "\udcff"),
        ("receipts", "show", "\udcff"),
        ("receipts", "prune", "\udcff", "--older-than", "1d", "--yes"),
        ("progress", "run-1", "--receipt-dir", "\udcff"),
        ("restore", "\udcff"),
        ("restore", "--run", "run-1", "--receipt-dir", "\udcff"),
    ],
)
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_place_that_is_not_text_is_refused(args: tuple[str, ...], output: str) -> None:
    """A path whose bytes are not UTF-8 is wrong use: no result could name it."""
    done = call(*args, "--output", output)
    assert (done.exit_code, "not UTF-8" in done.stderr) == (2, True), done.output


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--receipt-dir", "\udcff"),
        ("--receipt-dir", "x/" * 3000),
        ("--metrics-file", "x/" * 3000),
        ("--until", "9999-12-31T23:59:59-14:00"),
        ("--until", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_a_value_that_no_system_can_have_is_refused_before_a_run(
    broker: MemoryBroker, flag: str, value: str
) -> None:
    """Paths that are too long or no text, and times beyond the calendar, are named by their option."""
    done = clear("--stop-when-empty", "--output", "json", flag, value)
    assert (done.exit_code, flag in json.loads(done.stdout)["error"]) == (2, True), done.output
    assert len(done.output) < 2000
    assert stored(broker) == [None] * 3


@pytest.mark.parametrize("value", ["9" * 5000, "²", "-1", "0", "x"])
def test_the_size_of_the_terminal_may_be_anything(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """COLUMNS and LINES that are no sizes are not used."""
    monkeypatch.setenv("COLUMNS", value)
    monkeypatch.setenv("LINES", value)
    done = call(*STATUS)
    assert (done.exit_code, "3,000 messages" in done.stdout) == (0, True), done.output
    assert stored(broker) == [None] * 3


def test_a_secret_that_is_not_text_is_redacted() -> None:
    """A password of the environment whose bytes are not UTF-8 is known like any other."""
    remember_environment({"BROKER_PASSWORD": "s3cret\udcffvalue-of-a-test"})
    assert "s3cret" not in redacted("refused user:s3cret\udcffvalue-of-a-test")


@pytest.mark.parametrize("value", [HOSTILE, "x" * 100_000])
@pytest.mark.parametrize(
    "name",
    ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_EXPORTER_OTLP_COMPRESSION"],
)
def test_variables_of_metrics_cannot_end_or_flood_a_result(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whatever they have, the run is cleared, its JSON is whole, and a note is short."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv(name, value)
    done = clear("--stop-when-empty", "--output", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "cleared"
    assert len(done.output) < 20_000
    assert "\x1b" not in done.output
    assert stored(broker) == [1000] * 3


def test_bytes_come_from_pipes_too(tmp_path: Path) -> None:
    """A regular file of the largest size is read, and one more byte refuses it."""
    file = tmp_path / "x"
    file.write_bytes(b"a" * 10)
    assert references.read_text(str(file), "x") == "a" * 10
    with pytest.raises(UsageError, match="cannot be read"):
        references.read_text(str(tmp_path), "The folder")

"""What a user sees while a broker does not answer yet, and of credentials that cannot be used."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli import display, session
from backlog_clearer.model import Survey
from backlog_clearer.registry import options_model
from tests.invoking import call, clear, stored, three_partitions


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


@pytest.mark.parametrize("command", ["clear", "status", "restore"])
def test_a_slow_broker_is_named_while_it_does_not_answer(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """After a while the line is there, before the answer is."""
    receipt = json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"]
    survey, shown = MemorySource.survey, threading.Event()
    printed = display.print_line

    def noted(console: Console, text: str, style: str = "") -> None:
        printed(console, text, style)
        if text.startswith("Connecting to "):
            shown.set()

    def slow(source: MemorySource) -> Survey:
        assert shown.wait(30)
        return survey(source)

    monkeypatch.setattr(display, "print_line", noted)
    monkeypatch.setattr(session, "CONNECTING_S", 0.0)
    monkeypatch.setattr(MemorySource, "survey", slow)
    if command == "clear":
        done = clear("--stop-when-empty")
    elif command == "status":
        done = call("status", "memory", "--topic", "orders", "--group-id", "billing")
    else:
        done = call("restore", receipt, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[0] == "Connecting to memory …"
    assert stored(broker) == ([None] * 3 if command == "restore" else [1000] * 3)


def test_a_broker_that_answers_is_not_named(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is only for those who wait, and no run waits for it."""
    monkeypatch.setattr(session, "CONNECTING_S", 3600.0)
    assert "Connecting" not in clear("--stop-when-empty").stderr
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize(
    ("system", "values", "place"),
    [
        ("kafka", {"bootstrap_servers": "a:1,b:2", "topic": "t", "group_id": "g"}, "a:1,b:2"),
        ("iggy", {"stream_id": "s", "topic_id": "t", "host": "h"}, "h:8090"),
        (
            "pulsar",
            {"service_url": "pulsar://h:6650", "topic": "t", "subscription": "s"},
            "pulsar://h:6650",
        ),
        ("googlepubsub", {"project_id": "p", "subscription_id": "s"}, "Pub/Sub"),
    ],
)
def test_each_system_has_a_place(
    monkeypatch: pytest.MonkeyPatch, system: str, values: dict[str, str], place: str
) -> None:
    """What is connected to is the address that the user gave."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    assert system in registry.names()
    assert options_model(system).model_validate(values).place == place


def test_an_emulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an emulator the place is the emulator, and not the public service."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "localhost:8085")
    values = {"project_id": "p", "subscription_id": "s"}
    assert (
        options_model("googlepubsub").model_validate(values).place == "the emulator at localhost:8085"
    )


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is broken: it is not a JSON object"),
        ("[1]", "is broken: it is not a JSON object"),
        ('{"type": "service_account", "private_key": "x"', "is broken: it is not a JSON object"),
        ('{"kind": "x"}', "is of an unknown kind"),
        ('{"type": "client_secrets"}', "is of an unknown kind"),
        ('{"type": "service_account", "private_key": "hunter2-do-not-print"}', "no usable credentials"),
    ],
)
def test_credentials_that_cannot_be_used_are_named_as_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, hint: str
) -> None:
    """A missing, a broken and an unknown file differ in the error, which has nothing of the content."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("key.json").write_text(content)
    args = ("--project-id", "p", "--subscription-id", "s", "--credentials-file", "key.json")
    done = call("status", "googlepubsub", *args)
    assert done.exit_code == 2, done.output
    assert hint in done.stderr
    assert "key.json" in done.stderr
    assert "hunter2" not in done.stderr

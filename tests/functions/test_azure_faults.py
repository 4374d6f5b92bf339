"""The function app where a slice or its queue fails midway: the reference broker, a real Storage queue."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from azure.functions.queue import QueueMessage

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.errors import BrokerError
from backlog_clearer.fanout.run_status import State, run_status
from backlog_clearer.model import Partition, Survey
from backlog_clearer.registry import SYSTEMS
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.kafka_judge import unique
from backlog_clearer.testing.support import wait_until
from tests import memory_system
from tests.functions.azure_host import queues

EACH = 500
BODY = b'{"backlog": "orders", "run_id": "r-1"}'


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBroker]:
    """The reference broker as a registered system, with a backlog."""
    monkeypatch.setitem(SYSTEMS, "memory", memory_system.SYSTEM)
    broker = memory_system.reset()
    broker.create("t", 1)
    broker.produce("t", 0, EACH)
    yield broker
    memory_system.reset()


class Loaded:
    """The app as a module of this process, and its queue."""

    def __init__(self, storage: Azurite, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        name = unique("slices")
        self.queue, _ = queues(storage, name)
        self.receipts = str(folder)
        options = {"topic": "t", "group_id": "g"}
        slow = {"batch_size": 10, "workers": 1}
        value = {"orders": {"system": "memory", "options": options, **slow}}
        config = json.dumps({"receipts": self.receipts, "backlogs": value})
        monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", config)
        monkeypatch.setenv("BACKLOG_CLEARER_QUEUE", name)
        monkeypatch.setenv("BACKLOG_CLEARER_STORAGE", storage.connection_string)
        monkeypatch.setenv("BACKLOG_CLEARER_DEADLINE_S", "1")
        monkeypatch.delitem(sys.modules, "functions.azure.function_app", raising=False)
        app: func.FunctionApp = importlib.import_module("functions.azure.function_app").app
        self.functions: dict[str, Any] = {
            str(item.get_function_name()): item.get_user_function() for item in app.get_functions()
        }

    def drain(self, body: bytes = BODY) -> None:
        """One delivery of a message."""
        self.functions["drain"](QueueMessage(id="1", body=body))  # type: ignore[no-untyped-call] # half typed


@pytest.fixture
def loaded(
    broker: MemoryBroker,  # noqa: ARG001 # the configuration is checked against its system
    storage: Azurite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Loaded:
    """The app, loaded with a configuration of the reference broker."""
    return Loaded(storage, tmp_path, monkeypatch)


def position(broker: MemoryBroker) -> int:
    """The offsets of the group."""
    return broker.position("g", Partition("t", 0)) or 0


def test_a_slice_that_failed_is_delivered_again(broker: MemoryBroker, loaded: Loaded) -> None:
    """A broker that fails midway makes the function fail; the next delivery clears what is left."""
    broker.read_faults.append(BrokerError("the disk is full"))
    with pytest.raises(BrokerError, match="backlog-clearer: not cleared.*the disk is full"):
        loaded.drain()
    assert position(broker) < EACH
    assert run_status(loaded.receipts, "r-1").counts[State.NOT_CLEARED] == 1
    loaded.drain()
    assert position(broker) == EACH
    assert run_status(loaded.receipts, "r-1").cleared


def test_a_continuation_that_cannot_be_enqueued_is_not_lost(
    broker: MemoryBroker, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the queue refuses the continuation, the function fails, and its own message is delivered again."""
    with monkeypatch.context() as patched:
        memory_system.slow_down(patched, 0.05)
        loaded.queue.delete_queue()
        with pytest.raises(BrokerError, match="QueueNotFound"):
            loaded.drain()
        between = position(broker)
        assert 0 < between < EACH
        assert run_status(loaded.receipts, "r-1").counts[State.FAILED] == 1
        loaded.queue.create_queue()
        loaded.drain()
        assert len(loaded.queue.peek_messages(max_messages=5)) == 1
    loaded.drain()
    assert position(broker) == EACH
    assert run_status(loaded.receipts, "r-1").cleared


def dispatched(loaded: Loaded, body: bytes = b'{"backlog": "orders"}') -> tuple[int, dict[str, Any]]:
    """Answer of the dispatch function."""
    answer = loaded.functions["dispatch"](func.HttpRequest("POST", "/api/dispatch", body=body))
    return answer.status_code, json.loads(answer.get_body())


def test_a_dispatch_that_takes_too_long_answers_with_its_run(
    broker: MemoryBroker, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the platform cuts the answer, the caller gets the run's id; the dispatch continues by itself."""
    survey, answered = MemorySource.survey, threading.Event()

    def slow(source: MemorySource) -> Survey:
        assert answered.wait(60)
        return survey(source)

    monkeypatch.setattr(MemorySource, "survey", slow)
    monkeypatch.setattr(sys.modules["functions.azure.function_app"], "ANSWER_S", 0.05)
    status, answer = dispatched(loaded)
    assert (status, answer["verdict"]) == (503, "not_cleared")
    assert f"GET runs/{answer['run_id']}" in answer["error"]
    answered.set()
    wait_until(lambda: len(loaded.queue.peek_messages(max_messages=5)) == 1, "the slice is enqueued")
    assert Path(loaded.receipts, answer["run_id"], "dispatch.json").exists()
    assert position(broker) == 0


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_dispatch_that_fails_answers_with_its_run(
    broker: MemoryBroker, loaded: Loaded, given: str | None
) -> None:
    """A caller that gave no run id learns it with the error, and repeats the dispatch under it."""
    loaded.queue.delete_queue()
    asked = {"backlog": "orders", **({"run_id": given} if given else {})}
    status, answer = dispatched(loaded, json.dumps(asked).encode())
    assert (status, answer["run_id"] == given) == (503, given is not None)
    loaded.queue.create_queue()
    status, again = dispatched(loaded, json.dumps({**asked, "run_id": answer["run_id"]}).encode())
    assert (status, again["run_id"]) == (202, answer["run_id"])
    assert len(loaded.queue.peek_messages(max_messages=5)) == 1
    assert position(broker) == 0


def test_an_unreadable_run_is_not_reported_as_unknown(loaded: Loaded) -> None:
    """If a receipt cannot be read the answer is 503: 404 would mean that there is no such run."""
    loaded.drain()
    folder = Path(loaded.receipts, "r-1")
    (folder / "whole-00000000.json").write_text("{")
    statuses = [
        loaded.functions["runs"](
            func.HttpRequest("GET", "/api/runs", route_params={"run_id": name}, body=b"")
        ).status_code
        for name in ("r-1", "r-2")
    ]
    assert statuses == [503, 404]

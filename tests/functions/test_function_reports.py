"""The functions of both platforms send metrics and post results before they answer."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from tests import memory_system
from tests.functions.test_function_secrets import (
    PLATFORMS,
    Call,
    _elsewhere,
    azure,
    broker,
    google,
    loaded,
)
from tests.test_notify import Hook, hook

__all__ = ["_elsewhere", "broker", "hook"]

BODY = {"backlog": "orders", "run_id": "r-1", "slice": 0, "total": 1}


def calling(name: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The functions of a platform, whose configuration names a hook."""
    options = {"topic": "t", "group_id": "g"}
    entry = {"system": "memory", "options": options, "notify": "${env:HOOK_URL}"}
    monkeypatch.setenv("HOOK_URL", hook.url)
    config = json.dumps({"receipts": "receipts", "backlogs": {"orders": entry}})
    module = loaded(name, config, monkeypatch)
    if "gcp" in name:
        return partial(google, module)
    found = module.app.get_functions()
    return partial(azure, {str(each.get_function_name()): each.get_user_function() for each in found})


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_slice_is_posted_before_its_answer(
    broker: MemoryBroker, hook: Hook, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that cleared a slice has posted its result, once, and its receipt has no note."""
    calling(name, hook, monkeypatch)("drain", BODY)
    (post,) = hook.posts
    assert (post["verdict"], post["run_id"], post["slice"]) == ("cleared", "r-1", "0/1")
    assert broker.position("g", memory_system.PARTITION) == 10
    (receipt,) = Path("receipts").rglob("slice-*.json")
    assert json.loads(receipt.read_text())["result"] == post


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_hook_that_fails_changes_no_answer(
    broker: MemoryBroker, hook: Hook, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slice is cleared, and not delivered again; the receipt and the run's result have the note."""
    hook.answer = lambda: 404
    answer = calling(name, hook, monkeypatch)("drain", BODY)
    assert "HTTP 404" in answer or "gcp" not in name
    (receipt,) = Path("receipts").rglob("slice-*.json")
    (note,) = (note for note in json.loads(receipt.read_text())["result"]["notes"] if "posted" in note)
    assert "it answered HTTP 404" in note
    assert hook.url not in receipt.read_text()
    assert broker.position("g", memory_system.PARTITION) == 10


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_slice_that_fails_is_posted(
    broker: MemoryBroker, hook: Hook, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that does not answer: what the function answers is posted with its run and slice."""
    memory_system.complain(monkeypatch, "survey", "the broker is away")
    calling(name, hook, monkeypatch)("drain", BODY)
    (post,) = hook.posts
    assert (post["verdict"], post["run_id"], post["slice"]) == ("not_cleared", "r-1", "0/1")
    assert "the broker is away" in post["error"]
    assert broker.position("g", memory_system.PARTITION) is None


@pytest.mark.parametrize("name", PLATFORMS)
def test_metrics_are_sent_before_the_answer(
    broker: MemoryBroker, hook: Hook, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment names a collector, it has the slice's figures when the function returns."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    collector: Any = importlib.import_module("tests.test_metrics_otel").collector
    with collector() as (received, port):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        calling(name, hook, monkeypatch)("drain", BODY)
        (resource,) = received.exports[-1].resource_metrics
        values = {
            each.name: each.sum.data_points[0].as_int
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.HasField("sum")
        }
    assert values["backlog_clearer.messages"] == 10
    assert received.resource["service.instance.id"] == "r-1/0/1"
    assert broker.position("g", memory_system.PARTITION) == 10

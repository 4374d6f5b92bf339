"""The functions on failing paths with a secret: no answer, log, error, receipt or result has it in any form."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import azure.functions as func
import flask
import pytest
from azure.functions.queue import QueueMessage

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE
from backlog_clearer.registry import SYSTEMS
from tests import memory_system
from tests.hostile import BODIES
from tests.secret_forms import leaks
from tests.secret_paths import BROKEN, SECRET, WRONG

PLATFORMS = ("functions.gcp.main", "functions.azure.function_app")
STORAGE = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={'c2VjcmV0' * 4};QueueEndpoint=http://127.0.0.1:1/a;"
BODY = {"backlog": "orders", "run_id": "r-1"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "BACKLOG_CLEARER_TASKS_QUEUE": "projects/p/locations/l/queues/q",
        "BACKLOG_CLEARER_DRAIN_URL": "http://127.0.0.1:1",
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1",
        "BACKLOG_CLEARER_QUEUE": "q",
        "BACKLOG_CLEARER_STORAGE": STORAGE,
        "BACKLOG_CLEARER_SCHEDULED": "",
    }.items():
        monkeypatch.setenv(name, value)
    levels = {name: logging.getLogger(name).level for name in ("", "backlog_clearer")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def loaded(name: str, config: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of a platform's functions, loaded with this configuration."""
    if "\0" in config:
        Path("input.json").write_text(config)
        config = "input.json"
    monkeypatch.setenv(VARIABLE, config)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("path", [*BROKEN, *WRONG])
def test_functions_do_not_start_and_show_nothing_of_a_faulty_configuration(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading the function ends with an error; neither its text, its causes nor the log have the secret."""
    config = BROKEN[path] if path in BROKEN else json.dumps(WRONG[path])
    with pytest.raises(UsageError) as refused:
        loaded(name, config, monkeypatch)
    crash = "".join(traceback.format_exception(refused.value))
    assert not leaks(crash + caplog.text, SECRET), crash


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Topic `t` with 10 messages, as system `memory`."""
    monkeypatch.setitem(SYSTEMS, "memory", memory_system.SYSTEM)
    made = memory_system.reset()
    made.create("t", 1)
    made.produce("t", 0, 10)
    return made


CONFIG = json.dumps(
    {
        "receipts": "receipts",
        "backlogs": {
            "orders": {
                "system": "memory",
                "options": {"topic": "t", "group_id": "g", "password": SECRET},
            }
        },
    }
)


Call = Callable[[str, Any], str]
"""Calls a function by its name with a body; returns its answer, or the error that the host logs."""


def calling(name: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The functions of a platform, with a configuration that has the secret."""
    module = loaded(name, CONFIG, monkeypatch)
    if "gcp" in name:
        return partial(google, module)
    found = module.app.get_functions()
    return partial(azure, {str(each.get_function_name()): each.get_user_function() for each in found})


def encoded(body: Any) -> bytes:
    """A body as JSON; bytes are sent as they are."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def google(module: ModuleType, function: str, body: Any) -> str:
    """A call of a Cloud Function."""
    app = flask.Flask("functions")
    with app.test_request_context("/", method="POST", data=encoded(body)):
        text, status, _ = getattr(module, function)(flask.request)
    assert status >= 400 or "cleared" in text
    return str(text)


def azure(found: Mapping[str, Any], function: str, body: Any) -> str:
    """A call of a function of the function app; an error with its causes."""
    data = encoded(body)
    try:
        if function == "dispatch":
            request = func.HttpRequest("POST", "/api/dispatch", body=data)
            return str(found[function](request).get_body())
        message: Any = QueueMessage(id="1", body=data)  # type: ignore[no-untyped-call] # half typed
        return str(found[function](message))
    except ClearerError as error:
        return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("moment", ["read", "settle", "survey", "open", "crash"])
def test_a_library_that_repeats_a_secret_is_redacted_on_each_platform(
    broker: MemoryBroker, name: str, moment: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Dispatch and drain fail with it; answer, log, error, receipt, result and failure have no form of it."""
    call = calling(name, monkeypatch)
    said = [memory_system.said(SECRET, form) for form in ("plain", "url", "base64", "repr")]
    memory_system.complain(monkeypatch, moment, ", ".join(said))
    texts = [call("drain", BODY)]
    if moment in {"survey", "open"}:
        texts.append(call("dispatch", BODY))
    files = [path.read_text() for path in Path().rglob("*.json")]
    assert files
    text = "\n".join([*texts, caplog.text, *files])
    assert not leaks(text, SECRET), text
    assert "***" in text
    assert broker.position("g", memory_system.PARTITION) in {None, 10}


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize(
    "body", [{**BODY, "password": SECRET}, {**BODY, "mode": SECRET}, [SECRET], SECRET]
)
def test_a_secret_in_a_request_is_not_repeated(
    broker: MemoryBroker, name: str, body: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A request with an unknown field, a wrong value or another type is refused without its values."""
    call = calling(name, monkeypatch)
    text = "\n".join([call(function, body) for function in ("dispatch", "drain")] + [caplog.text])
    assert not leaks(text, SECRET), text
    assert not broker.positions


@pytest.mark.parametrize("name", PLATFORMS)
def test_each_handler_refuses_hostile_requests_in_a_short_sentence(
    broker: MemoryBroker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinity, NUL, a key twice, `true` as a number, a megabyte: one sentence, nothing stored or changed."""
    call = calling(name, monkeypatch)
    for case, body in BODIES.items():
        for function in ("dispatch", "drain"):
            text = call(function, body)
            error = text.strip().splitlines()[-1] if "Traceback" in text else text
            assert len(error) < 350, (case, error)
            assert "UsageError" in error, (case, error)
    assert not broker.positions
    assert not list(Path().rglob("*"))

"""Whatever a library raises, in any call of any adapter, users see one sentence with the address."""

from __future__ import annotations

import importlib
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker, MemoryClient
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.guard import guarded_source
from backlog_clearer.model import Claim, Partition, StopReason, Survey
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.source import Lane, Source
from tests import memory_system

STRANGE = [
    RuntimeError("strange"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "strange"),
    KeyError("strange"),
    struct.error("strange"),
    AttributeError("strange"),
    RecursionError("strange"),
    AssertionError(),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "kafka": {"bootstrap_servers": ("127.0.0.1:1",), "topic": ("t",), "group_id": "g"},
    "pulsar": {
        "service_url": "pulsar://127.0.0.1:1",
        "admin_url": "http://127.0.0.1:2",
        "topic": "t",
        "subscription": "s",
    },
    "iggy": {
        "host": "127.0.0.1", "port": 1, "stream_id": "s", "topic_id": "t", "group_id": "g",
        "username": "u", "password": "p",
    },
    "eventhubs": {
        "connection_string": "Endpoint=sb://127.0.0.1/;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0;"
        "UseDevelopmentEmulator=true",
        "eventhub_name": "h",
    },
    "googlepubsub": {"project_id": "p", "subscription_id": "s"},
}  # fmt: skip
LIBRARY = {
    "kafka": "confluent_kafka.admin:AdminClient.describe_topics",
    "googlepubsub": "google.pubsub_v1:SubscriberClient.get_subscription",
}
"""What an adapter calls first, where that is not a socket of Python."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Topic `t` with 100 messages, reachable as system `memory`."""
    monkeypatch.setitem(registry.SYSTEMS, "memory", memory_system.SYSTEM)
    made = memory_system.reset()
    made.create("t", 1)
    made.produce("t", 0, 100)
    return made


def opened() -> Source:
    """The source that a run would open."""
    options = memory_system.MemoryOptions(topic="t", group_id="g")
    return registry.open_source("memory", options, RunOptions(), "r")


def raising(failure: Exception) -> Any:
    """A call of a library that fails."""

    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    return fail


@pytest.mark.parametrize("failure", STRANGE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("call", ["survey", "open_lane", "read", "settle", "remaining"])
def test_what_a_library_raises_becomes_one_sentence(
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    failure: Exception,
) -> None:
    """The error names the place and the library's error; only debug logs have the traceback."""
    caplog.set_level(logging.DEBUG, logger="backlog_clearer")
    source = opened()
    (state,) = source.survey().partitions
    claims = [Claim(state, None, state.end)]
    lane = source.open_lane(claims)
    assert lane.read(0.1, None)
    calls: dict[str, Callable[[], object]] = {
        "survey": source.survey,
        "open_lane": lambda: source.open_lane(claims),
        "read": lambda: lane.read(0.1, None),
        "settle": lane.settle,
        "remaining": lambda: source.remaining({state.partition: state.end}),
    }
    monkeypatch.setattr(MemoryClient, "request", raising(failure))
    with pytest.raises(BrokerError, match=f"^memory failed at .*{type(failure).__name__}") as raised:
        calls[call]()
    assert "\n" not in str(raised.value)
    passes = isinstance(failure, UnicodeDecodeError | KeyError | struct.error)
    assert isinstance(raised.value, TransientError) == passes
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.DEBUG)
    assert all(record.levelno == logging.DEBUG for record in caplog.records)
    assert broker.position("g", Partition("t", 0)) is None


@pytest.mark.parametrize("failure", [RuntimeError("strange"), KeyError("strange")])
@pytest.mark.parametrize(
    "place", [(MemoryLane, "read"), (MemoryLane, "settle"), (MemorySource, "open_lane")]
)
def test_a_run_ends_with_the_sentence(
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: tuple[type, str],
    failure: Exception,
) -> None:
    """A lane whose library fails for good ends the run as failed, with the place, and nothing is lost."""
    monkeypatch.setattr(*place, raising(failure))
    run = RunOptions(stop_when_empty=True, max_retries=0, receipt_dir=str(tmp_path), new=True)
    options = memory_system.MemoryOptions(topic="t", group_id="g")
    result = clear(Job("memory", options, run))
    assert (result.stop_reason, result.cleared) == (StopReason.FAILED, False)
    assert (result.error or "").startswith("memory failed at ")
    assert broker.position("g", Partition("t", 0)) is None


def test_closing_never_fails(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source or a lane whose connection cannot be closed does not turn a result into an error."""
    monkeypatch.setattr(MemoryLane, "close", raising(RuntimeError("strange")))
    monkeypatch.setattr(MemorySource, "close", raising(RuntimeError("strange")))
    source = opened()
    (state,) = source.survey().partitions
    source.open_lane([Claim(state, None, state.end)]).close()
    source.close()
    assert broker.position("g", Partition("t", 0)) is None


class _Slotted:
    """A source of another package, whose objects take no further attributes."""

    __slots__ = ("inner",)

    def __init__(self, inner: MemorySource) -> None:
        self.inner = inner

    def survey(self) -> Survey:
        """As the inner one."""
        return self.inner.survey()

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """As the inner one."""
        return self.inner.open_lane(claims)

    def close(self) -> None:
        """As the inner one."""
        self.inner.close()


def test_an_adapter_with_slots_works(broker: MemoryBroker) -> None:
    """A class whose methods cannot be replaced keeps its own, and its runs are as before."""
    inner = MemorySource(broker, "t", "g")
    slotted: Any = _Slotted(inner)
    guarded = guarded_source(slotted, "elsewhere")
    assert [state.end for state in guarded.survey().partitions] == [
        state.end for state in inner.survey().partitions
    ]


@pytest.mark.parametrize("failure", STRANGE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_systems_survey_names_the_place(
    monkeypatch: pytest.MonkeyPatch, name: str, failure: Exception
) -> None:
    """A strange error of each system's library, or of the socket under it, is ours with the address."""
    pytest.importorskip({"iggy": "apache_iggy"}.get(name, "backlog_clearer"))
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    options: SystemOptions = registry.options_model(name)(**OPTIONS[name])
    with closing(registry.open_source(name, options, RunOptions(), "r")) as source:
        if name in LIBRARY:
            module, _, path = LIBRARY[name].partition(":")
            owner: Any = importlib.import_module(module)
            *parts, last = path.split(".")
            for part in parts:
                owner = getattr(owner, part)
            monkeypatch.setattr(owner, last, raising(failure))
        monkeypatch.setattr(socket, "create_connection", raising(failure))
        monkeypatch.setattr(socket.socket, "connect", raising(failure))
        with pytest.raises(ClearerError) as raised:
            source.survey()
        monkeypatch.undo()
    assert isinstance(raised.value, BrokerError)
    assert "127.0.0.1" in str(raised.value)
    assert "\n" not in str(raised.value)

"""Metrics by OpenTelemetry's standard environment variables, as a collector that is one receives them."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane
from backlog_clearer.engine.drain import Halt
from backlog_clearer.fanout.configuration import VARIABLE
from backlog_clearer.model import Partition
from backlog_clearer.redaction.redact import remember_environment
from backlog_clearer.testing.support import answering, wait_until
from functions.job import main as job
from tests import memory_system
from tests.invoking import call, clear, stored, three_partitions

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from backlog_clearer.run import otlp

DONE = ("--stop-when-empty", "--workers", "1", "--output", "json")
LABELS = {"system": "memory", "topic": "orders", "subscription": "billing"}
TOKEN = "s3cret-Token/of+a=collector"


@dataclass
class Received:
    """What a collector got, newest last, and how it answers."""

    exports: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[], int] = lambda: 200

    @property
    def resource(self) -> dict[str, str]:
        """The resource of the newest export."""
        (found,) = self.exports[-1].resource_metrics
        return {each.key: each.value.string_value for each in found.resource.attributes}

    @property
    def points(self) -> dict[tuple[str, str], float]:
        """The values of the newest export, by name and by the label that only this metric has."""
        return values(self.exports[-1])


def values(export: ExportMetricsServiceRequest) -> dict[tuple[str, str], float]:
    """The values of an export by name, without the prefix, and further label; their labels are checked."""
    found = {}
    for resource in export.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = metric.sum if metric.HasField("sum") else metric.gauge
                for point in data.data_points:
                    labels = {each.key: each.value.string_value for each in point.attributes}
                    assert {name: labels.pop(name) for name in LABELS} == LABELS
                    labels.pop("slice", None)
                    value = point.as_double if point.HasField("as_double") else point.as_int
                    found[metric.name.removeprefix("backlog_clearer."), "".join(labels.values())] = (
                        value
                    )
    return found


@contextmanager
def collector() -> Iterator[tuple[Received, int]]:
    """A collector that speaks OTLP over HTTP, and its port."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/metrics"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status = received.answer()
            received.headers.append(dict(self.headers))
            if status == 200:
                received.exports.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with answering(Handler) as port:
        yield received, port


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, in an empty folder."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """A collector that the environment names."""
    with collector() as (found, port):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        yield found


def test_a_run_of_the_command_line_is_sent(broker: MemoryBroker, received: Received) -> None:
    """The last export has messages, bytes, an empty backlog and the verdict, and names the run."""
    done = clear(*DONE)
    assert done.exit_code == 0, done.stderr
    points = received.points
    assert points["messages", ""] == 3000
    assert points["received", ""] == 300_000
    assert (points["retries", ""], points["failed_partitions", ""]) == (0, 0)
    assert (points["initial_backlog", "messages"], points["backlog", "messages"]) == (3000, 0)
    assert (points["verdict", "cleared"], points["verdict", "unproven"]) == (1, 0)
    assert points["stop_reason", "empty"] == 1
    assert received.resource["service.name"] == "backlog-clearer"
    assert received.resource["service.instance.id"] == json.loads(done.stdout)["run_id"]
    assert stored(broker) == [1000] * 3


def test_counters_and_gauges_are_of_their_kinds(broker: MemoryBroker, received: Received) -> None:
    """Messages are a monotonic sum with its unit, and the backlog is a gauge."""
    assert clear(*DONE).exit_code == 0
    (resource,) = received.exports[-1].resource_metrics
    metrics = {each.name: each for scope in resource.scope_metrics for each in scope.metrics}
    messages = metrics["backlog_clearer.messages"]
    assert (messages.sum.is_monotonic, messages.unit) == (True, "{message}")
    assert metrics["backlog_clearer.received"].unit == "By"
    assert metrics["backlog_clearer.backlog"].HasField("gauge")
    assert stored(broker) == [1000] * 3


def test_the_environment_names_service_attributes_and_headers(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS are what is sent."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-shift")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert clear(*DONE).exit_code == 0
    assert received.resource["service.name"] == "night-shift"
    assert received.resource["deployment.environment"] == "prod"
    assert received.headers[-1]["x-tenant"] == "shop"
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_METRICS_EXPORTER": "console"},
    ],
    ids=str,
)
def test_the_environment_switches_it_off(
    broker: MemoryBroker, received: Received, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, and nothing is noted, where the SDK is disabled or another exporter is named."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = clear(*DONE)
    assert (done.exit_code, json.loads(done.stdout)["notes"]) == (0, [])
    assert not received.headers
    assert stored(broker) == [1000] * 3


def test_a_protocol_that_is_not_spoken_is_a_warning(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_PROTOCOL=grpc sends nothing, states why, and does not hinder the run."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    done = clear(*DONE)
    assert done.exit_code == 0
    assert "the only protocol here" in done.stderr
    assert not received.headers
    assert stored(broker) == [1000] * 3


def test_a_missing_extra_is_a_warning(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the exporter the run is cleared, and the warning names the extra."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    monkeypatch.delitem(sys.modules, "backlog_clearer.run.otlp")
    done = clear(*DONE)
    assert done.exit_code == 0
    assert "[otel]'" in done.stderr
    assert not received.headers
    assert stored(broker) == [1000] * 3


def test_readings_are_sent_while_a_run_lasts(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_METRIC_EXPORT_INTERVAL holds: in the middle of the run its counts arrive, without a verdict."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    gate, read = threading.Event(), MemoryLane.read
    reads = iter(range(1_000_000))

    def gated(lane: MemoryLane, *args: Any) -> Any:
        if next(reads) == 5:
            gate.wait(60)
        return read(lane, *args)

    monkeypatch.setattr(MemoryLane, "read", gated)
    middle: dict[tuple[str, str], float] = {}

    def arrived() -> bool:
        if received.exports:
            middle.update(received.points)
        return 0 < middle.get(("messages", ""), 0) < 3000

    def watch() -> None:
        try:
            wait_until(arrived, "an export in the middle of a run")
        finally:
            gate.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = clear(*DONE, "--batch-size", "100")
    watcher.join()
    assert done.exit_code == 0, done.stderr
    assert middle["verdict", "cleared"] == 0
    assert received.points["messages", ""] == 3000
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize("fault", ["refused", "rejects", "stalls"])
def test_a_collector_that_fails_is_a_note(
    broker: MemoryBroker, received: Received, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused connections, errors and stalls end within seconds, with one note and exit 0; no traceback."""
    released = threading.Event()
    monkeypatch.setattr(otlp, "FLUSH_S", 0.5)
    if fault == "refused":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    elif fault == "rejects":
        received.answer = lambda: 400
    else:
        received.answer = lambda: 200 if released.wait(60) else 500
    begun = time.monotonic()
    done = clear(*DONE)
    took_s = time.monotonic() - begun
    released.set()
    assert done.exit_code == 0, done.stderr
    (note,) = json.loads(done.stdout)["notes"]
    assert "could not be sent to OpenTelemetry" in note
    assert took_s < 30  # not the minute for which the library would try
    assert "Traceback" not in done.stderr
    assert "Failed to export" not in done.stderr
    assert stored(broker) == [1000] * 3


def test_a_variable_that_the_library_refuses_is_a_note(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid time-out ends in a note, not in a crash of the run."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "-5")
    done = clear(*DONE)
    assert done.exit_code == 0, done.stderr
    assert [note for note in json.loads(done.stdout)["notes"] if "OpenTelemetry" in note]
    assert not received.exports
    assert stored(broker) == [1000] * 3


def test_headers_of_a_collector_are_redacted(
    broker: MemoryBroker, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token in OTEL_EXPORTER_OTLP_HEADERS, encoded or not, is in no output of a run that repeats it."""
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{TOKEN.replace('=', '%3D')}"
    )
    remember_environment(
        {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{TOKEN.replace('=', '%3D')}"}
    )
    memory_system.complain(monkeypatch, "read", memory_system.said(TOKEN, "url"))
    done = clear(*DONE, "--max-retries", "0")
    assert done.exit_code == 1
    assert TOKEN not in done.output
    assert "***" in done.output
    assert received.headers[-1]["authorization"].startswith("Bearer ")
    assert stored(broker) == [None] * 3


def test_a_status_is_sent(broker: MemoryBroker, received: Received) -> None:
    """`status` sends the backlog and how old it is, and no verdict."""
    assert call("status", "memory", "--topic", "orders", "--group-id", "billing").exit_code == 0
    points = received.points
    assert points["backlog", "messages"] == 3000
    assert 0 <= points["oldest_message.age", ""] < 3600
    assert not [name for name, _ in points if name in {"verdict", "messages"}]
    assert stored(broker) == [None] * 3


def test_a_slice_of_a_job_is_sent_before_its_answer(
    broker: MemoryBroker, received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job sends its figures, as a separate instance, before it prints the result."""
    entry = {"system": "memory", "options": {"topic": "orders", "group_id": "billing"}}
    environ = {VARIABLE: json.dumps({"receipts": "r", "backlogs": {"shop": entry}})}
    args = ["--backlog", "shop", "--slice", "1", "--total", "3", "--run-id", "run-1"]
    assert job.run(vars(job.arguments().parse_args(args)), environ, Halt()) == 0
    assert received.points["messages", ""] == 1000
    assert received.resource["service.instance.id"] == "run-1/1/3"
    assert json.loads(capsys.readouterr().out)["verdict"] == "cleared"
    assert stored(broker) == [None, 1000, None]


def test_several_groups_of_one_call_are_sent_each(broker: MemoryBroker, received: Received) -> None:
    """Each group is a separate instance, with its own messages, however many a call clears."""
    for name in ("a", "b"):
        broker.positions[name, Partition("orders", 0)] = 10
    done = call("memory", "--topic", "orders", "--group-id", "a,b", *DONE)
    assert done.exit_code == 0, done.stderr
    found = {}
    for export in received.exports:
        (resource,) = export.resource_metrics
        sums = {
            each.name: each.sum for each in resource.scope_metrics[0].metrics if each.HasField("sum")
        }
        (point,) = sums["backlog_clearer.messages"].data_points
        group = next(each.value.string_value for each in point.attributes if each.key == "subscription")
        found[group] = point.as_int
    assert found == {"a": 2990, "b": 2990}
    assert broker.position("b", Partition("orders", 1)) == 1000

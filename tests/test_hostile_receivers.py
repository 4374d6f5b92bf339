"""Receivers of results and metrics that answer without an end, or repeat what they are sent."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.run import post, retry
from backlog_clearer.testing.support import Stopwatch, answering, wait_until
from tests.invoking import clear, stored, three_partitions
from tests.secret_forms import leaks

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

from backlog_clearer.run import otlp

SECRET = "s3cret/Token+of=a~receiver"
LONG_S = 20.0
STEP_S = 0.05
ENOUGH_BYTES = 256 * 1024 * 1024  # of an answer without an end
SENT: list[int] = []
"""Bytes of each answer without an end that has ended."""


class _Receiver(BaseHTTPRequestHandler):
    """Answers as the path says; what it repeats has all of the request."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = f"{self.requestline} {dict(self.headers)}"
        encoded = base64.b64encode(said.encode()).decode()
        how = self.path.split("/")[1]
        begun = time.monotonic()
        with suppress(OSError):
            if how == "repeats":
                self.send_response(400, f"refused {said}")
                self.send_header("Location", f"http://127.0.0.1:1/{said}")
                self.end_headers()
                self.wfile.write(f"{said} {encoded}".encode() + body)
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if how == "header" else b"\r\n"))
            sent = 0
            try:
                while time.monotonic() - begun < LONG_S and sent < ENOUGH_BYTES:
                    sent += self.wfile.write(b"x" * 65536 if how == "endless" else b"x")
                    time.sleep(0 if how == "endless" else STEP_S)
            finally:
                SENT.append(sent)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A receiver for all tests."""
    with answering(_Receiver) as found:
        yield found


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages; receivers have little time."""
    monkeypatch.setattr(post, "ANSWER_S", 0.5)
    monkeypatch.setattr(otlp, "FLUSH_S", 0.5)
    monkeypatch.setattr(retry, "_WAIT_S", 0.001)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def check(broker: MemoryBroker, *args: str) -> list[str]:
    """The notes of a run that is cleared in time; nothing that left the process has the secret."""
    with Stopwatch() as watch:
        done = clear("--stop-when-empty", "--output", "json", "--log-level", "debug", *args)
    assert watch.seconds < LONG_S
    assert done.exit_code == 0, done.output
    texts = [done.output, *(path.read_text() for path in Path("receipts").rglob("*.json"))]
    assert not [found for text in texts if (found := leaks(text, SECRET))]
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "cleared"
    assert stored(broker) == [1000] * 3
    notes: list[str] = result["notes"]
    return [note for note in notes if "could not be" in note]


@pytest.mark.parametrize(("how", "fails"), [("endless", 0), ("header", 1), ("repeats", 1)])
def test_a_webhook_cannot_hold_up_fill_or_betray_a_run(
    broker: MemoryBroker, port: int, how: str, fails: int
) -> None:
    """The body of its answer is not read, its head has a deadline, and nothing it repeats is shown."""
    url = f"http://127.0.0.1:{port}/{how}/x"
    notes = check(broker, "--notify", url, "--notify-authorization", f"Bearer {SECRET}")
    assert len(notes) == fails


@pytest.mark.parametrize("how", ["endless", "header", "drip", "repeats"])
def test_a_collector_cannot_hold_up_fill_or_betray_a_run(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, port: int, how: str
) -> None:
    """Its answer has a size and a deadline, and nothing it repeats is shown."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}/{how}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET.replace('=', '%3D')}")
    SENT.clear()
    (note,) = check(broker)
    assert "could not be sent to OpenTelemetry" in note
    if how == "endless":
        wait_until(lambda: bool(SENT), "the end of the answer")
        assert max(SENT) < ENOUGH_BYTES / 2

"""Transactions on a real Pulsar, by its Java client: the Python one has none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backlog_clearer.testing.servers.pulsar import COORDINATES, VERSION, PulsarServer, quick_java
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION
from backlog_clearer.testing.support import maven_jars
from tests.real.java_program import running

SOURCE = Path(__file__).with_name("OpenTransaction.java")


class Transaction:
    """An open transaction, held by a separate process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def end(self, how: str) -> None:
        """End it by "commit" or "abort", and wait until the broker has done so."""
        output, _ = self._process.communicate(f"{how}\n", timeout=300)
        assert "ended" in output.splitlines(), output[-2000:]


@contextmanager
def transaction(server: PulsarServer, topic: str, does: str, count: int) -> Iterator[Transaction]:
    """An open transaction that did "send" messages, or "acknowledge" some of the subscription's."""
    jars = maven_jars(f"pulsar-{VERSION}", COORDINATES)
    arguments = (server.service_url, topic, SUBSCRIPTION, does, str(count))
    with running(SOURCE, jars, *arguments, until="open", java=quick_java(jars)) as process:
        yield Transaction(process)

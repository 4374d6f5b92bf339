"""Transactions on a real Pulsar, by its Java client: the Python one has none."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backlog_clearer.testing.servers.pulsar import COORDINATES, VERSION, PulsarServer
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION
from backlog_clearer.testing.support import cached, maven_jars, need

SOURCE = Path(__file__).with_name("OpenTransaction.java")


class Transaction:
    """An open transaction, held by a separate process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def end(self, how: str) -> None:
        """End it by "commit" or "abort", and wait until the broker has done so."""
        output, _ = self._process.communicate(f"{how}\n", timeout=60)
        assert "ended" in output.splitlines(), output[-2000:]


def _compiled(jars: Path) -> Path:
    """The folder with the program's classes; a source file would be compiled with each start."""
    need("javac")
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    with cached(f"open-transaction-{VERSION}-{version}") as (folder, complete):
        if not complete:
            command = ["javac", "-cp", f"{jars}/*", "-d", str(folder), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@contextmanager
def transaction(server: PulsarServer, topic: str, does: str, count: int) -> Iterator[Transaction]:
    """An open transaction that did "send" messages, or "acknowledge" some of the subscription's."""
    jars = maven_jars(f"pulsar-{VERSION}", COORDINATES)
    process = subprocess.Popen(
        ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
         "-cp", f"{_compiled(jars)}:{jars}/*", SOURCE.stem,
         server.service_url, topic, SUBSCRIPTION, does, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "open\n":
                break
        else:
            raise RuntimeError("".join(lines)[-2000:])
        yield Transaction(process)
    finally:
        process.kill()
        process.wait()

"""Ports that tests, benchmarks and the demonstration give their servers."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from backlog_clearer.testing import support

CHILD = """
from backlog_clearer.testing import support
support._PORTS = {ports}
print(support.free_port(), flush=True)
input()
"""


def unused() -> list[int]:
    """Two free ports from which no server of a test takes one."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(18_000, 20_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found[:2]


def test_no_port_is_given_to_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another process was given, and on which nothing listens yet, is not given again."""
    ports = unused()
    monkeypatch.setattr(support, "_PORTS", ports)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.format(ports=ports)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout
        taken = int(child.stdout.readline())
        assert {taken, support.free_port()} == set(ports)
        child.communicate("\n", timeout=300)

"""Instances of a deployed function: functions-framework processes, one request at a time each."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backlog_clearer.testing.support import Server, free_port

ROOT = Path(__file__).resolve().parents[4]
"""This repository, of which a deployment has the package and the functions."""

_MODULE_PATH = os.pathsep.join((str(ROOT / "core"), str(ROOT)))


class Service:
    """A function with a number of instances; a dead one is replaced, as the platform does."""

    def __init__(self, entry: str, env: Mapping[str, str], folder: Path, instances: int = 1) -> None:
        self.entry, self.folder = entry, folder
        self.env = {**os.environ, "PYTHONPATH": _MODULE_PATH, **env}
        self.servers: list[Server] = []
        self._free: queue.Queue[Server] = queue.Queue()
        for _ in range(instances):
            self._add()

    def _add(self) -> None:
        port = free_port()
        server = Server(
            [
                sys.executable, "-m", "functions_framework", "--target", self.entry,
                "--source", str(ROOT / "functions/gcp/main.py"), "--host", "127.0.0.1", "--port", str(port),
            ],
            port=port,
            log=self.folder / f"{self.entry}-{port}.log",
            cwd=ROOT,
            env=self.env,
        )  # fmt: skip
        server.start()
        self.servers.append(server)
        self._free.put(server)

    @contextmanager
    def instance(self) -> Iterator[Server]:
        """An instance that has nothing else to do meanwhile."""
        server = self._free.get()
        try:
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                self._free.put(server)
            else:
                self.servers.remove(server)
                self._add()

    @property
    def log(self) -> str:
        """All that the instances have logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{self.entry}-*.log")))

    def close(self) -> None:
        """End them all."""
        for server in self.servers:
            server.stop(signal.SIGKILL)

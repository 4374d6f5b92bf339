"""A separate real Iggy server, for tests that kill it: IGGY_SERVER=PATH of the program `iggy-server`.

No package registry has the program, so these tests are skipped where it is not given.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from typing_extensions import Self

from backlog_clearer.testing.support import free_port

PROGRAM = os.environ.get("IGGY_SERVER")
ROOT, ROOT_SECRET = "iggy", "root-of-tests"
_START_S = 120.0


class IggyProcess:
    """One node on one port of 127.0.0.1, with its data in a folder; it may be killed and started again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings` are more of the server's environment variables."""
        self._folder = folder
        self._settings = settings
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until connections are accepted."""
        assert PROGRAM is not None
        environ = {
            **os.environ,
            "IGGY_SYSTEM_PATH": str(self._folder / "data"),
            "IGGY_TCP_ADDRESS": self.address,
            "IGGY_HTTP_ENABLED": "false",
            "IGGY_QUIC_ENABLED": "false",
            "IGGY_WEBSOCKET_ENABLED": "false",
            "IGGY_ROOT_USERNAME": ROOT,
            "IGGY_ROOT_PASSWORD": ROOT_SECRET,
            "IGGY_SYSTEM_LOGGING_LEVEL": "warn",
            **self._settings,
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM], cwd=self._folder, env=environ, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the Iggy server does not start"
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Kill it, as a crash does: what it has not written is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

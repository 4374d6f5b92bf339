"""Google's own Pub/Sub test server (`cloud.google.com/go/pubsub/v2/pstest`), built once and cached."""

from __future__ import annotations

import hashlib
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backlog_clearer.testing.support import Server, cached, free_port, need, running

_SOURCES = Path(__file__).with_name("pubsub_emulator")


def _binary() -> Path:
    """The built server; fetched through the Go proxy and compiled unless it is in the cache."""
    need("go")
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    with cached(f"pubsub-emulator-{digest}") as (folder, complete):
        if not complete:
            subprocess.run(
                ["go", "build", "-o", str(folder / "emulator"), "."],
                cwd=_SOURCES,
                check=True,
                timeout=600,
            )
    return folder / "emulator"


class Emulator:
    """A running server: `address` is what PUBSUB_EMULATOR_HOST takes."""

    def __init__(self, port: int, http_port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._http = f"http://127.0.0.1:{http_port}"

    def left(self, topic: str) -> int:
        """Messages of a topic (full name) that its one subscription has not acknowledged."""
        with urllib.request.urlopen(f"{self._http}/left?topic={topic}", timeout=30) as answer:  # noqa: S310 a test's own server
            return int(answer.read())


@contextmanager
def emulator(folder: Path) -> Iterator[Emulator]:
    """A server that logs to `folder`."""
    binary = _binary()
    port, http_port = free_port(), free_port()
    server = Server(
        [str(binary), str(port), str(http_port)],
        port=http_port,  # which it opens last
        log=folder / "emulator.log",
    )
    with running(server):
        yield Emulator(port, http_port)

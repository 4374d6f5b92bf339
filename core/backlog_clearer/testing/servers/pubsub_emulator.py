"""Google's own Pub/Sub test server (`cloud.google.com/go/pubsub/v2/pstest`), built once and cached."""

from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

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

    def load(self, topic: str, count: int, size: int) -> None:
        """Give a large server messages of `size` bytes, all published now; what it had before is gone."""
        query = urlencode({"topic": topic, "count": count, "size": size})
        with urllib.request.urlopen(f"{self._http}/load?{query}", data=b"", timeout=60):  # noqa: S310 a test's own server
            pass

    def account(self) -> dict[str, Any]:
        """A large server's figures of everything that it was given; see large.go."""
        with urllib.request.urlopen(f"{self._http}/account", timeout=60) as answer:  # noqa: S310 a test's own server
            found: dict[str, Any] = json.load(answer)
        return found

    def left(self, topic: str) -> int:
        """Messages of a topic (full name) that its one subscription has not acknowledged."""
        with urllib.request.urlopen(f"{self._http}/left?topic={topic}", timeout=30) as answer:  # noqa: S310 a test's own server
            return int(answer.read())


@contextmanager
def emulator(folder: Path, rate: float | None = None) -> Iterator[Emulator]:
    """A server that logs to `folder`.

    With `rate`, the bytes a second of one stream (0: no limit), it is one for large backlogs.
    """
    binary = _binary()
    port, http_port = free_port(), free_port()
    server = Server(
        [str(binary), str(port), str(http_port), *([] if rate is None else [str(rate)])],
        port=http_port,  # which it opens last
        log=folder / "emulator.log",
    )
    with running(server):
        yield Emulator(port, http_port)

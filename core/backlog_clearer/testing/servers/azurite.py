"""Azurite, Microsoft's own Storage emulator, from npm: Blob and Queue services for a test session."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backlog_clearer.testing.support import (
    Server,
    cached,
    free_port,
    listens,
    make_certificates,
    need,
    running,
    wait_until,
)

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and key that Azurite documents and has built in."""


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running Azurite."""

    blob_port: int
    queue_port: int
    scheme: str = "http"

    @property
    def blob_url(self) -> str:
        """The account's Blob endpoint."""
        return f"{self.scheme}://127.0.0.1:{self.blob_port}/{ACCOUNT}"

    @property
    def queue_url(self) -> str:
        """The account's Queue endpoint."""
        return f"{self.scheme}://127.0.0.1:{self.queue_port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """A storage connection string for both services."""
        return (
            f"DefaultEndpointsProtocol={self.scheme};AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.blob_url};QueueEndpoint={self.queue_url}"
        )


def _installed() -> Path:
    """The main program of Azurite, downloaded from npm once and cached; skips without Node."""
    need("node", "npm")
    with cached(f"azurite-{VERSION}") as (folder, complete):
        if not complete:
            subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--silent", f"azurite@{VERSION}"],
                cwd=folder,
                check=True,
                timeout=600,
            )
    return folder / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"


@contextmanager
def azurite(folder: Path, *, tls: bool = False) -> Iterator[Azurite]:
    """Azurite for a `with` block, everything in memory; its log goes to `folder`.

    With `tls` it has a certificate of `folder/ca.pem` and takes tokens of an identity too, of which it
    checks all but the signature.
    """
    program = _installed()
    blob, queue, table = free_port(), free_port(), free_port()
    command = ["node", str(program), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command += ["--inMemoryPersistence", "--loose"]
    for service, port in (("blob", blob), ("queue", queue), ("table", table)):
        command += [f"--{service}Host", "127.0.0.1", f"--{service}Port", str(port)]
    if tls:
        make_certificates(folder)
        command += ["--oauth", "basic", "--cert", str(folder / "server.crt")]
        command += ["--key", str(folder / "server.key")]
    server = Server(command, port=blob, log=folder / "azurite.log", cwd=folder)
    with running(server):
        wait_until(lambda: listens(queue), "Azurite's Queue service")
        yield Azurite(blob, queue, "https" if tls else "http")

"""Ports, server processes, downloads and certificates for tests, benchmarks and the demonstration.

Needs no test framework: what cannot run here raises `UnavailableError`, and tests/conftest.py makes that
a skip, or a failure in CI.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn

from typing_extensions import Self

CACHE = Path(os.environ.get("BACKLOG_CLEARER_TEST_CACHE", "~/.cache/backlog-clearer")).expanduser()
"""Where downloads that every session needs are kept; safe to delete."""

_CHANCE = random.SystemRandom()  # tests may seed the usual one
_PORTS = range(20_000, 32_000)
_GIVEN: set[int] = set()


class UnavailableError(Exception):
    """Something that could be installed is missing on this machine; the text names it."""


def unavailable(reason: str) -> NoReturn:
    """Raise `UnavailableError`: `reason` names what is missing."""
    raise UnavailableError(reason)


def need(*programs: str) -> None:
    """Raise `UnavailableError` unless these programs are on the PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        unavailable(f"needs {' and '.join(missing)} on the PATH")


@functools.cache
def _ports() -> IO[bytes]:
    """The file in which each process locks the bytes of its ports, as long as it lives."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return (CACHE / "ports.lock").open("wb")


def free_port() -> int:
    """A free TCP port of 127.0.0.1 that no living process was given before, not even this one.

    Below 32768, where systems begin to take the ports of clients (Linux: ip_local_port_range), so that it
    stays free until a server starts on it, and while that server restarts.
    """
    while True:
        port = _CHANCE.choice(_PORTS)
        if port in _GIVEN:
            continue
        with socket.socket() as probe, suppress(OSError):
            fcntl.lockf(_ports(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def wait_until(ready: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Poll until `ready()`; raises `TimeoutError` that names `what`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)


def crowd() -> float:
    """How many threads want each processor of this machine, at least 1: for bounds on a process's time."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Stopwatch:
    """The seconds of a block, without those by which this machine was late: for bounds on a call's time.

    A thread sleeps for 50 ms again and again; what a sleep takes longer is lateness. At most half of the
    time counts as lateness, so that a call which hangs is found on any machine.
    """

    _TICK_S = 0.05

    def __init__(self) -> None:
        self._begun = self._ticked = time.monotonic()
        self._late_s = 0.0
        self._ended: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stopwatch", daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds from the block's start to its end, or to now, lateness left out."""
        now = time.monotonic() if self._ended is None else self._ended
        late = self._late_s + max(0.0, now - self._ticked - self._TICK_S)
        return now - self._begun - min(late, (now - self._begun) / 2)

    def _watch(self) -> None:
        while not self._stop.wait(self._TICK_S):
            now = time.monotonic()
            self._late_s += max(0.0, now - self._ticked - self._TICK_S)
            self._ticked = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.monotonic()
        self._stop.set()
        self._thread.join()


@contextmanager
def answering(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """The port of an HTTP server on 127.0.0.1 that runs for a `with` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def listens(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server process in a separate process group, with its log in a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 240.0,
    ) -> None:
        self.command = list(command)
        self.port = port
        self.log = log
        self.cwd = cwd
        self.env = dict(env) if env is not None else None
        self.start_timeout_s = start_timeout_s
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until the port accepts connections; raises with the log's tail."""
        with self.log.open("ab") as out:
            process = self.process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=self.cwd,
                env=self.env,
                start_new_session=True,
            )

        def up() -> bool:
            if process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.command[0]} exited with {process.returncode}:\n{tail}")
            return listens(self.port)

        wait_until(up, f"{self.command[0]} listening on port {self.port}", self.start_timeout_s)

    @property
    def url(self) -> str:
        """Its address for HTTP, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    def stop(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process group and wait for its end."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, sig)
        process.wait(30)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """A server that runs for a `with` block."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def cached(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of the download cache, under a lock: `(folder, whether it is complete already)`.

    Leaving the block without an exception marks it complete.
    """
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".complete"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, done.exists()
        done.touch()


_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>backlog-clearer</groupId><artifactId>{name}</artifactId><version>1</version>
<dependencies>{dependencies}</dependencies></project>"""

_DEPENDENCY = """<dependency><groupId>{0}</groupId><artifactId>{1}</artifactId>
<version>{2}</version>{3}</dependency>"""

_ALONE = """<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>
</exclusions>"""


def maven_jars(name: str, coordinates: Sequence[str], *, alone: bool = False) -> Path:
    """The folder with these artifacts ("group:artifact:version") and, unless `alone`, their dependencies.

    Downloaded from Maven Central once and cached. Raises `UnavailableError` without Java or Maven.
    """
    need("java", "mvn")
    with cached(name) as (folder, complete):
        if not complete:
            dependencies = "".join(
                _DEPENDENCY.format(*item.split(":"), _ALONE if alone else "") for item in coordinates
            )
            (folder / "pom.xml").write_text(_POM.format(name=name, dependencies=dependencies))
            subprocess.run(
                ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"],
                cwd=folder,
                check=True,
                timeout=900,
            )
    return folder / "lib"


def _openssl(folder: Path, command: str) -> None:
    subprocess.run(
        ["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=60
    )


def make_certificates(folder: Path) -> None:
    """An authority `ca.pem`, and `server.key` and `server.crt` of 127.0.0.1 and localhost that it signs.

    All have the extensions that Python 3.13 and later ask for (RFC 5280, `ssl.VERIFY_X509_STRICT`).
    """
    need("openssl")
    authority = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=test-ca -keyout ca.key"
    authority += " -addext keyUsage=critical,keyCertSign,cRLSign"
    _openssl(folder, f"{authority} -out ca.pem")
    make_certificate(folder, "server", "localhost")


def make_certificate(folder: Path, name: str, subject: str) -> None:
    """`name.key` and `name.crt` of a subject, signed by the authority that is in the folder."""
    (folder / "san.cnf").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
    )
    request = f"req -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {name}.key"
    _openssl(folder, f"{request} -out {name}.csr")
    signed = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30"
    _openssl(folder, f"{signed} -extfile san.cnf -out {name}.crt")

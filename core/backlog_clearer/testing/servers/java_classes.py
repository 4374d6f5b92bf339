"""Archives of a Java server's loaded classes (class data sharing): with one it starts in half of the time.

See `java -XX:ArchiveClassesAtExit` (JDK 13 and later).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from backlog_clearer.testing.support import Server, cached

_LOG = logging.getLogger(__name__)
_EXIT_S = 60.0  # for a server that was asked to end, and writes the archive


@functools.cache
def _version() -> str:
    """The JDK on the PATH, as it names itself."""
    return subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr


def archived(
    name: str, jars: Path, java: Sequence[str], trained: Callable[[Path, Sequence[str]], Server]
) -> list[str]:
    """The command `java` with an archive of the classes that a server loads from `jars`.

    `trained` starts that server in a folder, by a command. This is done once, and the archive is cached.
    Without an archive, the command is returned as it is.
    """
    what = f"{_version()} {' '.join(java)} {jars}"
    with cached(f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}") as (folder, complete):
        archive = folder / "classes.jsa"
        if not complete:
            try:
                with tempfile.TemporaryDirectory() as place:
                    _train(trained(Path(place), [*java, f"-XX:ArchiveClassesAtExit={archive}"]))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                _LOG.warning("%s starts without an archive of its classes: %s", name, error)
                archive.unlink(missing_ok=True)
    return [*java, f"-XX:SharedArchiveFile={archive}"] if archive.exists() else list(java)


def _train(server: Server) -> None:
    """End a server in an orderly way: only then does Java write the archive."""
    try:
        if server.process is not None:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(_EXIT_S)
    finally:
        server.stop()

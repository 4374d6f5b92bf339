"""Programs in Java that real servers' own client libraries need; each talks by its standard streams."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backlog_clearer.testing.support import cached, need

JAVA = ("java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def _compiled(source: Path, jars: Path) -> Path:
    """The folder with a program's classes; a source file would be compiled with each start."""
    need("javac")
    version = hashlib.sha256(source.read_bytes() + str(jars).encode()).hexdigest()[:12]
    with cached(f"{source.stem}-{version}") as (folder, complete):
        if not complete:
            command = ["javac", "-cp", f"{jars}/*", "-d", str(folder), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@contextmanager
def running(
    source: Path, jars: Path, *args: str, until: str, java: Sequence[str] = JAVA
) -> Iterator[subprocess.Popen[str]]:
    """A program that has printed the line `until`, for a `with` block; `RuntimeError` if it did not."""
    process = subprocess.Popen(
        # The jars first: only then does Java use an archive of their classes.
        [*java, "-cp", f"{jars}/*:{_compiled(source, jars)}", source.stem, *args],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == f"{until}\n":
                break
        else:
            raise RuntimeError("".join(lines)[-2000:])
        yield process
    finally:
        process.kill()
        process.wait()

"""JSON files on any file system that fsspec knows: written durably, read whole, listed.

On a local disk a file is written whole or not at all, and synced; object stores do the same.
Every function raises only `OSError`, `FileNotFoundError` where there is no file; callers add what the
file was for.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn every error of a file system's library into `OSError`: no login, an unknown scheme, a refusal."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{error}".strip() or type(error).__name__) from error


def _file_system(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path on it."""
    import fsspec.core  # noqa: PLC0415 # loaded by the first use only, so that `--help` is fast

    fs, where = fsspec.core.url_to_fs(path)
    return fs, where


def write(path: str, data: bytes) -> None:
    """Store a file, durably."""
    with _as_os_error():
        fs, where = _file_system(path)
        _write(fs, where, data)


def _write(fs: AbstractFileSystem, where: str, data: bytes) -> None:
    if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
        _write_locally(Path(where), data)
    else:
        fs.pipe_file(where, data)


def _write_locally(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str) -> bytes:
    """The content of a file."""
    with _as_os_error():
        fs, where = _file_system(path)
        data: bytes = fs.cat_file(where)
    return data


def read_all(paths: Sequence[str]) -> dict[str, bytes]:
    """The contents of files of one file system by path; at the same time where it can do that."""
    if not paths:
        return {}
    with _as_os_error():
        fs, _ = _file_system(paths[0])
        where = {path: fs._strip_protocol(path) for path in paths}  # noqa: SLF001 url_to_fs calls it, too
        found: dict[str, bytes] = fs.cat(list(where.values()))
        return {path: found[name] for path, name in where.items()}


def json_files(folder: str, *prefixes: str) -> list[str]:
    """Full paths of the JSON files in a folder whose names begin so; none where there is no folder."""
    with _as_os_error():
        fs, where = _file_system(folder)
        fs.invalidate_cache(where)  # other invocations write there too
        try:
            found = fs.ls(where, detail=False)
        except FileNotFoundError:
            return []
    return sorted(
        fs.unstrip_protocol(path)
        for path in found
        if path.endswith(".json") and posixpath.basename(path).startswith(prefixes)
    )

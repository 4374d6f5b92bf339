"""JSON files in a local folder or at an fsspec URL: written durably, read whole, listed.

On a local disk a file is written whole or not at all, synced, and readable by its owner only; no
symbolic link is followed to the file or its folder. Object stores write whole files, too. Every request
to a remote store ends within `DEADLINE_S`.

Every function raises only `OSError`, `FileNotFoundError` where there is no file; callers add what the
file was for. Which places are allowed is decided where options are read (`options.places`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backlog_clearer.deadline import within
from backlog_clearer.options.places import checked_place, scheme_of
from backlog_clearer.text import json_values

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_T = TypeVar("_T")

DEADLINE_S = 10.0
"""The longest that one request to a remote store may take, in seconds."""

LARGEST = 64 << 20
"""The largest file that is read, in bytes; receipts have a few hundred bytes a partition."""

MOST_VALUES = 4_000_000
"""More values than a receipt can have, with a few dozen for each of 100,000 partitions."""

_AT_ONCE = 64  # files of a remote store that are asked for with one deadline
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")
_S3 = {
    "config_kwargs": {
        "connect_timeout": 4,
        "read_timeout": 8,
        "retries": {"total_max_attempts": 2, "mode": "standard"},  # what fits into the deadline
    }
}
_STORAGE_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}
_LIBRARIES = ("gcsfs", "s3fs", "adlfs", "asyncio", "azure", "aiobotocore", "botocore", "google.auth")


def write(path: str, data: bytes) -> None:
    """Store a file, durably."""
    local = _local(path)
    if local is None:
        _at(path, lambda fs, where: fs.pipe_file(where, data))
    else:
        _write_locally(local, data)


def read(path: str) -> bytes:
    """The content of a file."""
    local = _local(path)
    if local is not None:
        return _read_locally(local)
    data: bytes = _at(path, _whole)
    return _checked(data)


def read_all(paths: Sequence[str]) -> dict[str, bytes]:
    """The contents of files of one folder by path; many at the same time where the store can do that."""
    found: dict[str, bytes] = {}
    for first in range(0, len(paths), _AT_ONCE):
        some = paths[first : first + _AT_ONCE]
        if _local(some[0]) is not None:
            found.update({path: read(path) for path in some})
        else:
            found.update(_at(some[0], lambda fs, _, some=some: _cat(fs, some)))  # type: ignore[misc]
    return found


def json_files(folder: str, *prefixes: str) -> list[str]:
    """Full paths of the JSON files in a folder whose names begin so; none where there is no folder."""
    local = _local(folder)
    try:
        names = _at(folder, _names) if local is None else [each.name for each in local.iterdir()]
    except FileNotFoundError:
        return []
    return [
        f"{folder.rstrip('/')}/{name}"
        for name in sorted(names)
        if name.startswith(prefixes) and _NAME.fullmatch(name)
    ]


def folders(place: str) -> list[str]:
    """Names of the folders in a folder, sorted; none where there is no folder."""
    local = _local(place)
    try:
        if local is not None:
            return sorted(
                each.name for each in local.iterdir() if each.is_dir() and not each.is_symlink()
            )
        return sorted(_at(place, _folder_names))
    except FileNotFoundError:
        return []


def remove(paths: Sequence[str]) -> None:
    """Remove files of one folder, and the folder if nothing else is in it; missing ones are not an error."""
    local = _local(paths[0]) if paths else None
    if local is None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _at(path, lambda fs, where: fs.rm_file(where))
        return
    with _folder(local.parent) as folder:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.rsplit("/", 1)[-1], dir_fd=folder)
        os.fsync(folder)
    with contextlib.suppress(OSError):
        local.parent.rmdir()


def _folder_names(fs: AbstractFileSystem, where: str) -> list[str]:
    found = fs.ls(where, detail=True)
    return [
        str(each["name"]).rstrip("/").rsplit("/", 1)[-1]
        for each in found
        if each["type"] == "directory"
    ]


def _names(fs: AbstractFileSystem, where: str) -> list[str]:
    return [str(name).rsplit("/", 1)[-1] for name in fs.ls(where, detail=False)]


def _cat(fs: AbstractFileSystem, paths: Sequence[str]) -> dict[str, bytes]:
    where = {path: fs._strip_protocol(path) for path in paths}  # noqa: SLF001 url_to_fs calls it, too
    for size in fs.sizes(list(where.values())):
        _check_size(size)
    found: dict[str, bytes] = fs.cat(list(where.values()))
    return {path: _checked(found[name]) for path, name in where.items()}


def _whole(fs: AbstractFileSystem, where: str) -> bytes:
    _check_size(fs.size(where))
    data: bytes = fs.cat_file(where)
    return data


# A local folder.


def _local(path: str) -> Path | None:
    """The local path of a place; None: it is a URL of a remote store. Raises `OSError` for other places."""
    scheme = scheme_of(path)
    try:
        checked_place(path, () if scheme is None else (scheme,))
    except ValueError as error:
        raise OSError(str(error)) from None
    if scheme is not None and scheme != "file":
        return None
    return Path(path if scheme is None else path.partition("://")[2]).expanduser()


def _make_folder(path: Path) -> None:
    """Create a folder, and those above it, for its owner only; existing ones stay as they are."""
    for each in (*reversed(path.parents), path):
        if not each.is_dir():
            with contextlib.suppress(FileExistsError):
                each.mkdir(mode=0o700)


def _write_locally(path: Path, data: bytes) -> None:
    """Write a draft that no other process can have made, and replace the file by it."""
    _make_folder(path.parent)
    draft = f".{path.name}.{secrets.token_hex(8)}.tmp"
    with _folder(path.parent) as folder:
        try:
            _write_draft(draft, folder, data)
            os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=folder)
            raise
        os.fsync(folder)


def _write_draft(name: str, folder: int, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """A descriptor of a folder that is not a symbolic link."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise OSError(errno.ELOOP, "its folder is a symbolic link") from None
        raise
    try:
        yield found
    finally:
        os.close(found)


def _read_locally(path: Path) -> bytes:
    # A named pipe would block without O_NONBLOCK.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        _check_size(found.st_size)
        return _checked(file.read())


def _check_size(size: int | None) -> None:
    if size is not None and size > LARGEST:
        raise OSError(errno.EFBIG, "it is larger than any receipt")


def _checked(data: bytes) -> bytes:
    """A file's content; raises `OSError` for JSON with so many values that they would fill the memory."""
    _check_size(len(data))
    if json_values(data) > MOST_VALUES:
        raise OSError(errno.EFBIG, "it has more values than any receipt")
    return data


# A remote store.


def _at(path: str, ask: Callable[[AbstractFileSystem, str], _T]) -> _T:
    """The answer of the file system at a URL, as it is asked about the path on it."""
    import fsspec  # noqa: PLC0415 # loaded by the first use only, so that `--help` is fast
    import fsspec.core  # noqa: PLC0415

    scheme = scheme_of(path) or "file"
    for name in _LIBRARIES:  # without a handler of the program's, their errors would go to stderr
        logging.getLogger(name).addHandler(_SILENT)
    with _as_os_error():
        fsspec.get_filesystem_class(
            scheme
        )  # importing its library may be slow, so that it has no deadline

    def answer() -> _T:
        fs, where = fsspec.core.url_to_fs(path, **_STORAGE_OPTIONS.get(scheme, {}))
        if scheme in _STORAGE_OPTIONS:
            fs.retries = 1  # botocore tries again
        fs.invalidate_cache()  # other invocations write there, too; adlfs caches even before its own writes
        return ask(fs, where)

    return _within(DEADLINE_S, answer)


_SILENT = logging.NullHandler()


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn every error of a file system's library into `OSError`: no login, an unknown scheme, a refusal."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        text = f"{error}".strip().splitlines()
        raise OSError(text[0][:500] if text else type(error).__name__) from error


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """What a function returns; raises `OSError` if it takes longer (it is then left running)."""

    def call() -> _T:
        with _as_os_error():
            return work()

    return within(seconds, call, late="the store did not answer")

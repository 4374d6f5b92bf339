"""The store of receipts: which places it takes, and how it writes and reads there."""

from __future__ import annotations

import errno
import os
import stat
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Mode
from backlog_clearer.options.base import build
from backlog_clearer.options.places import checked_place
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run import store
from backlog_clearer.run.receipt import Receipt, save
from backlog_clearer.run.report import Action
from backlog_clearer.testing.support import Stopwatch

PASSWORD = "hunter2-do-not-print"

REFUSED = [
    "",
    " ",
    "memory://receipts",
    "simplecache::memory://receipts",
    "simplecache::s3://bucket/x",
    "simplecache://receipts",
    "filecache::gs://bucket",
    "blockcache://x",
    "github://org:repo@main/x",
    "http://host/x",
    "https://host/x",
    "ftp://host/x",
    "sftp://host/x",
    "data://x",
    "reference://x",
    "zip://x::s3://bucket/a.zip",
    "generic://x",
    "dir::file:///tmp",
    "gs://",
    "s3://",
    "s3:///x",
    "az://",
    "abfs:///x",
    "s3:",
    "s3:/bucket/x",
    "gs:bucket",
    "file:receipts",
    "file://receipts",
    "s3://bucket/a::b",
    "s3://bucket/[a]",
    "gs://bucket/*",
    "az://container/x?sig=1",
    "s3://bucket/x\ny",
    "receipts\0x",
]


@pytest.mark.parametrize("place", REFUSED)
def test_places_where_no_receipt_could_be_found_again_are_refused(place: str) -> None:
    """Schemes that keep nothing, chain or execute, URLs without a bucket, and empty values are refused."""
    with pytest.raises(UsageError, match="--receipt-dir: "):
        build(RunOptions, {"receipt_dir": place})


@pytest.mark.parametrize(
    "place",
    [
        "receipts", "/var/lib/receipts", "~/receipts", "a[1]/b", "a::b", "x/s3:", "./s3:", "file:///tmp/x",
        "gs://bucket", "gcs://bucket/a", "s3://bucket/a/b", "S3://bucket", "az://container/x",
        "abfs://container@account.dfs.core.windows.net/x",
    ],
)  # fmt: skip
def test_paths_and_buckets_are_taken_as_they_are(place: str) -> None:
    """Local paths, and URLs of buckets, stay as the user wrote them."""
    assert build(RunOptions, {"receipt_dir": place}).receipt_dir == place


def test_an_option_names_further_schemes() -> None:
    """--receipt-schemes allows another store, but none that keeps nothing or executes."""
    run = build(RunOptions, {"receipt_dir": "sftp://user@host/x", "receipt_schemes": "hdfs,sftp"})
    assert run.receipt_dir == "sftp://user@host/x"
    for scheme in ("memory", "simplecache", "github", "wandb", "a b"):
        with pytest.raises(UsageError, match="--receipt-schemes: "):
            build(RunOptions, {"receipt_schemes": scheme})


@pytest.mark.parametrize(
    "place",
    [
        "s3://key:{}@bucket/x", "sftp://user:{}@host/x", "sftp://user:{}/y@host/x", "http://user:{}@host/x",
        "github://org:{}@main/x", "az://container/x?sig={}", "memory://{}", "simplecache::s3://k:{}@b/x",
        "gs://bucket/[{}]", "ftp://:{}@host",
    ],
)  # fmt: skip
def test_a_password_in_a_place_is_refused_and_not_repeated(place: str) -> None:
    """A URL with credentials is refused by a text that contains nothing of it, here and in the store."""
    url = place.format(PASSWORD)
    with pytest.raises(UsageError) as refused:
        build(RunOptions, {"receipt_dir": url, "receipt_schemes": "sftp,ftp"})
    assert PASSWORD not in str(refused.value)
    with pytest.raises(OSError, match=r".") as failed:
        store.write(f"{url}/r/a.json", b"{}")
    assert PASSWORD not in str(failed.value)


@pytest.mark.parametrize("name", ["plain", "a[1]", "b*?", "c::d", "with space", "s#x", "{y}"])
def test_files_are_found_again_whatever_a_folder_is_called(tmp_path: Path, name: str) -> None:
    """What was written can be read by its path, is listed, and is read with the others."""
    for folder in (f"{tmp_path}/{name}", f"file://{tmp_path}/{name}"):
        path = f"{folder}/r/whole-1.json"
        store.write(path, b"{}")
        assert store.read(path) == b"{}"
        assert store.json_files(f"{folder}/r", "whole-") == [path]
        assert store.read_all([path]) == {path: b"{}"}
    assert (tmp_path / name / "r" / "whole-1.json").read_bytes() == b"{}"


def test_files_and_new_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    """Under the most open umask, files get 0600 and folders 0700; a folder that existed keeps its mode."""
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        store.write(f"{tmp_path}/a/b/c.json", b"{}")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".", "a", "a/b", "a/b/c.json")]
    assert modes == [0o755, 0o700, 0o700, 0o600]


def test_no_write_follows_a_symbolic_link(tmp_path: Path) -> None:
    """Links in the place of the file or its draft are replaced or ignored; one in the folder's is refused."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "r"
    folder.mkdir()
    for name in ("a.json", "a.tmp", ".a.json.tmp"):
        (folder / name).symlink_to(victim)
    store.write(f"{folder}/a.json", b"{}")
    assert victim.read_text() == "precious"
    assert (folder / "a.json").read_bytes() == b"{}"
    assert not (folder / "a.json").is_symlink()
    (tmp_path / "linked").symlink_to(folder)
    with pytest.raises(OSError, match="symbolic link"):
        store.write(f"{tmp_path}/linked/b.json", b"{}")
    assert not (folder / "b.json").exists()


def test_a_failed_write_leaves_no_draft(tmp_path: Path) -> None:
    """Where the file cannot be replaced, the draft is removed."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        store.write(f"{tmp_path}/a.json", b"{}")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_stops_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the data cannot be synced, the error has the system's reason, and no file is left."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    path = f"{tmp_path}/r/whole-1.json"
    with pytest.raises(BrokerError, match=r"No space left on device\. Nothing was changed"):
        save(receipt(), path)
    assert list((tmp_path / "r").iterdir()) == []


@pytest.mark.parametrize("answer", [b"", b"{}"])
def test_a_receipt_that_is_not_read_back_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """A store that confirms a write and has another content afterwards is not trusted."""
    monkeypatch.setattr(store, "read", lambda _: answer)
    with pytest.raises(BrokerError, match="could not be found again"):
        save(receipt(), f"{tmp_path}/r/whole-1.json")


def test_a_receipt_that_is_not_listed_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt that an undo of the whole run would not find is not a receipt."""
    monkeypatch.setattr(store, "json_files", lambda *_: [])
    with pytest.raises(BrokerError, match="could not be found again"):
        save(receipt(), f"{tmp_path}/r/whole-1.json")


def receipt() -> Receipt:
    """A receipt of nothing."""
    return Receipt(
        version="1",
        run_id="r",
        system="memory",
        subscription="group g on topic t",
        identity={"topic": "t"},
        options={},
        action=Action.CLEAR,
        mode=Mode.CONSUME,
        slice=None,
        unit="messages",
        created_at=datetime(2026, 11, 26, tzinfo=timezone.utc),
        partitions=(),
    )


def test_only_plain_files_of_a_sane_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, a folder and a huge file are refused at once instead of blocking or filling memory."""
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="not a file"):
        store.read(f"{tmp_path}/pipe.json")
    with pytest.raises(OSError, match=r"not a file|directory"):
        store.read(str(tmp_path))
    monkeypatch.setattr(store, "LARGEST", 3)
    (tmp_path / "big.json").write_bytes(b"1234")
    with pytest.raises(OSError, match="larger"):
        store.read(f"{tmp_path}/big.json")
    monkeypatch.undo()
    (tmp_path / "many.json").write_bytes(b"[" + b"{}," * (store.MOST_VALUES // 2) + b"{}]")
    with pytest.raises(OSError, match="more values"):
        store.read(f"{tmp_path}/many.json")


def test_a_huge_object_of_a_store_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is larger than any receipt is refused by its size, alone and among others."""
    whole = fsspec.filesystem("memory")
    whole.pipe_file("gs://bucket/r/a.json", b"1234")
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda _: None)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **_: (whole, url))
    monkeypatch.setattr(store, "LARGEST", 3)
    monkeypatch.setattr(whole, "cat_file", lambda *_, **__: pytest.fail("the object was loaded"))
    with pytest.raises(OSError, match="larger"):
        store.read("gs://bucket/r/a.json")
    with pytest.raises(OSError, match="larger"):
        store.read_all(["gs://bucket/r/a.json"])


def test_an_unresponsive_store_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that never answers becomes an error after the deadline, whatever its library waits for."""
    pytest.importorskip("gcsfs", reason="needs the Python package 'gcsfs'")
    monkeypatch.setattr(store, "DEADLINE_S", 0.2)
    hanging = SimpleNamespace(pipe_file=lambda *_: time.sleep(5), invalidate_cache=lambda: None)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **_: (hanging, url))
    with Stopwatch() as watch, pytest.raises(TimeoutError, match="did not answer"):
        store.write("gs://bucket/r/a.json", b"{}")
    assert watch.seconds < 4


def test_a_place_is_checked_without_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking a place opens nothing, so that wrong use ends before any connection."""
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: pytest.fail("opened"))
    assert checked_place("gs://bucket/x") == "gs://bucket/x"

"""Receipts in a bucket: what runs store and read there, through the file systems users install."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import boto3
import fsspec
import gcsfs
import pytest
from moto.server import ThreadedMotoServer

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.fanout.run_status import note_failure, run_status
from backlog_clearer.run import store
from backlog_clearer.run.receipt import load_run, next_sequence
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import Server, free_port, running
from tests.brokers.kafka_embedded import embedded
from tests.command import cleaner
from tests.functions.deployed import Deployed
from tests.paths import MODULE_PATH

__all__ = ["embedded"]

BUCKET = "ops-receipts"


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The receipts' place in a bucket of a Cloud Storage emulator."""
    port = free_port()
    server = Server(
        [
            sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1",
            "--port", str(port), "--in-memory", "--default-bucket", BUCKET,
        ],
        port=port,
        log=tmp_path / "gcs.log",
    )  # fmt: skip
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    with running(server):
        yield f"gs://{BUCKET}/drains"
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_a_run_and_its_undo_by_receipts_in_a_bucket(embedded: Judge, gcs: str, tmp_path: Path) -> None:
    """Two slices keep their receipts in Cloud Storage; the run's status and the undo are read from there."""
    found = Deployed(embedded, tmp_path, partitions=4, each=300, receipts=gcs)
    embedded.commit(found.topic, found.group, dict.fromkeys(range(4), 7))
    env = {"BACKLOG_CLEARER_CONFIG": str(found.config)}
    for index in range(2):
        slice_ = ("--slice", str(index), "--total", "2", "--run-id", "r-1")
        ran = cleaner("run", "orders", *slice_, env=env)
        assert ran.code == 0, ran.stderr
    assert found.left() == 0
    account = run_status(gcs, "r-1")
    assert (account.cleared, account.gone) == (True, 4 * 293)
    undone = cleaner("restore", "--run", "r-1", "--receipt-dir", gcs, "--yes", env=env)
    assert undone.code == 0, undone.stderr
    assert embedded.committed(found.topic, found.group) == dict.fromkeys(range(4), 7)


def test_failures_are_stored_beside_the_receipts(gcs: str) -> None:
    """A failure is kept in the bucket, reported, not taken for a receipt, and removed with its run."""
    now = datetime.now(timezone.utc)
    note_failure(gcs, Request(backlog="orders", slice=0, total=2, run_id="r-2"), UsageError("no"), now)
    assert [item.error for item in run_status(gcs, "r-2").slices] == ["no", None]
    assert load_run(gcs, "r-2") == {}
    assert store.folders(gcs) == ["r-2"]
    store.remove(store.json_files(f"{gcs}/r-2", ""))
    assert store.folders(gcs) == []


def test_a_missing_bucket_stops_the_run(embedded: Judge, gcs: str, tmp_path: Path) -> None:
    """If the receipt cannot be stored, the error names its place, and nothing is changed."""
    del gcs
    found = Deployed(embedded, tmp_path, partitions=2, each=10, receipts="gs://no-such-bucket/x")
    ran = cleaner("run", "orders", env={"BACKLOG_CLEARER_CONFIG": str(found.config)})
    assert ran.code == 1
    assert "gs://no-such-bucket/x" in ran.result["error"]
    assert found.left() == 20


def test_every_error_of_a_file_system_is_an_oserror() -> None:
    """Every error of a file system's library becomes an OSError, and a message of this project."""
    place, request = "nonsense://bucket/x", Request(backlog="o", run_id="r")
    with pytest.raises(OSError, match="nonsense"):
        store.write(f"{place}/r/a.json", b"{}")
    with pytest.raises(BrokerError, match=place):
        note_failure(place, request, UsageError("x"), datetime.now(timezone.utc))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The receipts' place in a bucket of moto's S3."""
    pytest.importorskip("s3fs")
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield f"s3://{BUCKET}/drains"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_receipts_in_s3_are_numbered_and_found_again(s3: str) -> None:
    """What is written to S3 is read, listed and removed; a missing file and a missing bucket are errors."""
    assert next_sequence(s3, "r-3") == 1
    path = f"{s3}/r-3/whole-0001-0a1b2c3d.json"
    store.write(path, b"{}")
    assert store.read(path) == b"{}"
    assert store.json_files(f"{s3}/r-3", "whole-") == [path]
    assert store.read_all([path]) == {path: b"{}"}
    assert next_sequence(s3, "r-3") == 2
    assert store.folders(s3) == ["r-3"]
    store.remove([path, f"{s3}/r-3/none.json"])
    assert store.folders(s3) == []
    with pytest.raises(FileNotFoundError):
        store.read(f"{s3}/r-3/none.json")
    with pytest.raises(OSError, match="bucket does not exist"):
        store.write("s3://no-such-bucket/r/a.json", b"{}")


UNREACHABLE = {
    "gs://bucket/x": {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"},
    "s3://bucket/x": {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
    },
    "az://container/x": {
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        "AccountKey=Zm9v;BlobEndpoint=http://127.0.0.1:1/devstoreaccount1;",
    },
}  # fmt: skip

_TRY = """
import sys, time
from backlog_clearer.errors import ClearerError
from backlog_clearer.run import receipt, store
import fsspec
fsspec.get_filesystem_class(sys.argv[1].partition(":")[0])
store.DEADLINE_S = 2.0
begun = time.monotonic()
try:
    receipt.next_sequence(sys.argv[1], "r")
except ClearerError as error:
    print(error)
print(round(time.monotonic() - begun))
"""


@pytest.mark.parametrize("place", UNREACHABLE)
def test_an_unreachable_store_is_reported_soon_and_in_few_words(place: str) -> None:
    """The place and a reason, in time, and no traceback of the store's library."""
    pytest.importorskip({"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}[place.partition(":")[0]])
    env = {**os.environ, **UNREACHABLE[place], "PYTHONPATH": MODULE_PATH}
    env["PYTHONWARNINGS"] = "ignore::FutureWarning"  # Google's libraries will not support Python 3.10
    done = subprocess.run(
        [sys.executable, "-c", _TRY, place],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    error, seconds = done.stdout.splitlines()
    assert error.startswith(f"The receipts in {place}/r cannot be listed: ")
    assert "Nothing was changed" in error
    assert int(seconds) <= 2 + 3
    assert done.stderr == ""


def test_the_deadline_leaves_room_within_fifteen_seconds() -> None:
    """One request of a store that does not answer ends early enough for the whole command."""
    assert store.DEADLINE_S <= 10

"""Checkpoints that the checkpoint stores of the real Go and Java SDKs write and read, on Azurite."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backlog_clearer.errors import RefusedError
from backlog_clearer.model import Mode
from backlog_clearer.testing.servers.eventhubs import offset_of
from backlog_clearer.testing.support import cached, maven_jars, need
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_checkpoints import stored, undo
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of

JAVA_VERSION = "1.21.5"  # of azure-messaging-eventhubs-checkpointstore-blob
GO_MODULES = ("sdk/messaging/azeventhubs/v2@v2.0.2", "sdk/storage/azblob@v1.8.3")

_HERE = Path(__file__).parent

Sdk = Callable[..., list[str]]
"""Runs an SDK's checkpoint store on a bench's container; returns the lines that it prints."""


def _version(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def _java() -> list[str]:
    need("java", "javac")
    source = _HERE / "EventHubsCheckpoints.java"
    coordinates = [f"com.azure:azure-messaging-eventhubs-checkpointstore-blob:{JAVA_VERSION}"]
    jars = maven_jars(f"eventhubs-checkpointstore-{JAVA_VERSION}", coordinates)
    with cached(f"eventhubs-checkpoints-java-{_version(source)}") as (folder, complete):
        if not complete:
            command = ["javac", "-cp", f"{jars}/*", "-d", str(folder), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
            "-cp", f"{folder}:{jars}/*", source.stem]  # fmt: skip


def _go() -> list[str]:
    need("go")
    source = _HERE / "eventhubs_checkpoints.go"
    with cached(f"eventhubs-checkpoints-go-{_version(source)}") as (folder, complete):
        if not complete:
            shutil.copy(source, folder / "main.go")
            modules = [f"github.com/Azure/azure-sdk-for-go/{module}" for module in GO_MODULES]
            (folder / "go.mod").unlink(missing_ok=True)
            for command in (
                ["go", "mod", "init", "example.com/checkpoints"],
                ["go", "get", *modules],
                ["go", "build", "-o", "checkpoints", "."],
            ):
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    return [str(folder / "checkpoints")]


@pytest.fixture(params=[_java, _go], ids=["java", "go"])
def sdk(request: pytest.FixtureRequest, bench: EventHubsBench) -> Sdk:
    """The checkpoint store of one SDK."""
    program = request.param()
    where = [
        bench.storage.connection_string,
        bench.container.container_name,
        bench.server.namespace,
        bench.hub,
        "$Default",
    ]

    def call(*arguments: object) -> list[str]:
        command = [*program, *where, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr.replace(where[0], "…")[-2000:]
        return sorted(done.stdout.splitlines())

    return call


pytestmark = pytest.mark.timeout(900)  # the first run downloads and compiles


@pytest.mark.parametrize("mode", list(Mode))
def test_checkpoints_of_the_sdk_are_moved_for_its_processors_and_come_back(
    bench: EventHubsBench,
    sdk: Sdk,
    tmp_path: Path,
    mode: Mode,
) -> None:
    """The SDK's own store reads the end after a clear, and what it wrote itself after the undo."""
    fill(bench, 100)
    for number in range(2):
        sdk("write", number, 39 + number, offset_of(39 + number))
    written, before = sdk("list"), stored(bench)
    assert written == [f"{n} {39 + n} {offset_of(39 + n)}" for n in range(2)]
    assert [s.backlog for s in survey_of(bench.options_of(), tmp_path).partitions] == [60, 59, 100]
    result = clear(bench, run_options(tmp_path, mode=mode))
    assert (result.cleared, result.verified) == (True, True)
    assert sdk("list") == [f"{n} 99 {offset_of(99)}" for n in range(3)]
    assert undo(bench, tmp_path, result).cleared
    assert sdk("list") == written
    assert stored(bench) == before


def test_a_processor_of_the_sdk_is_live(
    bench: EventHubsBench,
    sdk: Sdk,
    tmp_path: Path,
) -> None:
    """A partition that the SDK's store has just claimed refuses the run by its owner."""
    fill(bench, 100)
    sdk("own")
    with pytest.raises(RefusedError, match=r"processor (java|go)-1 \(partitions 0;"):
        clear(bench, run_options(tmp_path))

"""The image, built from its Dockerfile, and run as the platforms run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from tests.brokers.kafka_embedded import embedded
from tests.command import Ran
from tests.functions.deployed import Deployed
from tests.functions.image_build import Image, built
from tests.functions.python312 import python312

__all__ = ["embedded"]

pytestmark = pytest.mark.timeout(900)  # the base is made once

PARTITIONS, EACH = 4, 500
MANY = 60_000  # messages a partition: seconds of work, one at a time
SLOW: dict[str, Any] = {"options": {"reader": "client"}, "batch_size": 1, "workers": 1}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image for Kafka."""
    with built(python312(), tmp_path_factory.mktemp("image")) as made:
        yield made


class Container:
    """A container that runs the job beside a configured backlog."""

    def __init__(self, image: Image, judge: Judge, folder: Path, **settings: Any) -> None:
        self.folder = folder / "mounted"
        self.folder.mkdir(mode=0o777)
        self.backlog = Deployed(judge, folder, partitions=PARTITIONS, receipts="/mnt", **settings)
        self._image = image

    @contextmanager
    def started(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """The job, running; killed if it outlives the block."""
        environ = {"BACKLOG_CLEARER_CONFIG": self.backlog.config.read_text()}
        command = self._image.command(self.folder, environ, "--backlog", "orders", *args)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def first_process(process: subprocess.Popen[str]) -> int:
    """The id of a container's process 1, as seen from outside."""
    assert process.stderr is not None
    text = ""
    while "}" not in text:
        text += process.stderr.readline()
    return int(json.loads(text)["child-pid"])


def ended(process: subprocess.Popen[str]) -> Ran:
    """Wait for a container's end."""
    stdout, stderr = process.communicate(timeout=120)
    return Ran(process.returncode, stdout, stderr)


def test_a_container_clears_without_rights(image: Image, embedded: Judge, tmp_path: Path) -> None:
    """As user 10001 on a read-only file system the image clears its backlog and stores a receipt."""
    assert (image.config["User"], image.config["WorkingDir"]) == ("10001", "/app")
    container = Container(image, embedded, tmp_path, each=EACH)
    with container.started() as process:
        ran = ended(process)
    assert (ran.code, container.backlog.left()) == (0, 0), ran.stderr
    assert ran.result["totals"]["messages"] == PARTITIONS * EACH
    receipt = Path(ran.result["receipt"]).relative_to("/mnt")
    stored = json.loads((container.folder / receipt).read_text())
    assert stored["run_id"] == ran.result["run_id"]


def test_a_stopped_container_settles_first(image: Image, embedded: Judge, tmp_path: Path) -> None:
    """SIGTERM to process 1, as platforms stop a container, ends it with an exact count, settled."""
    container = Container(image, embedded, tmp_path, each=MANY, **SLOW)
    with container.started() as process:
        inside = first_process(process)
        wait_until(lambda: container.backlog.left() < PARTITIONS * MANY, "a first commit")
        os.kill(inside, signal.SIGTERM)
        ran = ended(process)
    assert (ran.code, ran.result["stop_reason"]) == (1, "signal"), ran.stderr
    assert ran.result["totals"]["messages"] == PARTITIONS * MANY - container.backlog.left() > 0

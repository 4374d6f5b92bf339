"""A Kafka-compatible broker that pip installs, for the demonstration and for tests.

noida-db is one binary in a wheel for Linux, macOS and Windows; neither Java nor Docker is needed.
Of the brokers in wheels it is the most faithful one: it answers as Kafka does about offsets, groups,
members and deleted records. It ignores the byte limits of a fetch, so keep a partition's log under 64 MB.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typing_extensions import Self

_START_S = 120.0
_BINARY = "noida-db"


class EmbeddedKafka:
    """A broker on 127.0.0.1 with its data in a temporary folder, for a `with` block."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def bootstrap_servers(self) -> str:
        """HOST:PORT to connect to."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start and wait until it answers; raises `RuntimeError` with its log if it does not."""
        folder = self._folder = Path(tempfile.mkdtemp(prefix="embedded-kafka-"))
        binary = Path(str(files("noida_db").joinpath(_BINARY)))
        binary.chmod(0o755)  # a wheel may lose the bit
        self.port = _free_port()
        command = [str(binary), "start", "--data-dir", str(folder / "data"), "--only", "kafka"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--kafka-port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the demonstration, not its broker
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (folder / "log").read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"The embedded Kafka broker did not start:\n{text}")
        return self

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                time.sleep(0.02)
                return False
        try:
            AdminClient({"bootstrap.servers": self.bootstrap_servers}).list_topics(timeout=1)
        except KafkaException:
            return False
        return True

    def stop(self) -> None:
        """Stop the broker and delete its data; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic and wait until it is there."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)

    def produce(self, topic: str, count: int, *, size: int = 100, partition: int | None = None) -> None:
        """Publish `count` messages of `size` bytes, lz4, and wait until all are stored.

        Without a partition they are spread over all of them in turn.
        """
        produce(self.bootstrap_servers, topic, count, size=size, partition=partition)


def produce(
    bootstrap_servers: str,
    topic: str,
    count: int,
    *,
    size: int = 100,
    partition: int | None = None,
    compression: str = "lz4",
) -> None:
    """Publish `count` messages of `size` bytes to any Kafka, and wait until all are stored.

    Raises `RuntimeError` if any was not.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "compression.type": compression,
            "linger.ms": 20,
            "queue.buffering.max.messages": 500_000,
        }
    )
    partitions = len(producer.list_topics(topic, timeout=30).topics[topic].partitions)
    value = (b'{"order": 4711, "item": "clockwork", "amount": 3}' * (size // 49 + 1))[:size]
    for index in range(count):
        target = index % partitions if partition is None else partition
        while True:
            try:
                producer.produce(topic, value, partition=target)
                break
            except BufferError:  # the queue is full: let it go out
                producer.poll(0.1)
    unsent = producer.flush(60)
    if unsent:
        raise RuntimeError(f"{unsent} of {count} messages could not be published to {topic}.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

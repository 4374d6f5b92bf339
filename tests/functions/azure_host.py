"""What the Functions host does for the app, on a real Azurite: delivers messages, calls, fires the timer.

From its documentation (functions-bindings-storage-queue): a message is deleted after its function
returned, visible again after it raised, and on NAME-poison once it was tried five times. An instance runs
one at a time (`batchSize` 1).
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.storage.queue import QueueClient

from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.support import unavailable, wait_until
from tests.infra.packages import environment
from tests.paths import MODULE_PATH, ROOT

RUNTIME = "azure-functions-runtime==1.3.0"
MAX_DEQUEUES: int = json.loads((ROOT / "functions/azure/host.json").read_text())["extensions"][
    "queues"
]["maxDequeueCount"]


def python_of(kind: str) -> str:
    """The interpreter that runs workers of this kind; skips where `runtime` finds no Python 3.13."""
    if kind == "types":
        return sys.executable
    names = [sys.executable, shutil.which("python3.13"), shutil.which("python3.14")]
    names += map(str, Path("~/.pyenv/versions").expanduser().glob("3.1[3-9].*/bin/python"))
    check = "import sys; sys.exit(sys.version_info < (3, 13))"
    for name in filter(None, names):
        if subprocess.run([name, "-c", check], check=False, capture_output=True).returncode == 0:
            return _runtime_python(name)
    return unavailable("azure-functions-runtime needs Python 3.13 or later")


def _runtime_python(base: str) -> str:
    """The interpreter of a cached environment with Azure's worker runtime and this project's libraries."""
    needed = [RUNTIME, "azure-functions", "azure-storage-queue", "azure-identity", "adlfs"]
    for text in importlib.metadata.requires("backlog-clearer") or []:
        name, _, marker = text.partition(";")
        if not marker or 'extra == "kafka"' in marker.replace("'", '"'):
            needed.append(name.strip())
    return str(environment("azure-functions-runtime", *needed, base=base))


@dataclass
class Delivery:
    """One delivery of a message to `drain`, and what it answered."""

    body: Any
    answer: dict[str, Any]


class Worker:
    """One process that has the app loaded."""

    def __init__(self, kind: str, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        command = [python_of(kind), str(ROOT / "tests/functions/azure_worker.py"), kind]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True,
                env={**os.environ, "PYTHONPATH": MODULE_PATH, **env},
            )  # fmt: skip
        self._lock = threading.Lock()
        self.functions: list[dict[str, Any]] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(30)
            raise RuntimeError(self.log.read_text()[-5000:])
        return json.loads(line)

    def invoke(self, function: str, **call: Any) -> dict[str, Any]:
        """One invocation."""
        with self._lock:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"function": function, **call}) + "\n")
            self.process.stdin.flush()
            answer: dict[str, Any] = self._read()
            return answer

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@dataclass
class Host:
    """Workers, the queue and its poison queue."""

    workers: Sequence[Worker]
    queue: QueueClient
    poison: QueueClient
    deliveries: list[Delivery] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def log(self) -> str:
        """What the workers have logged."""
        return "".join(worker.log.read_text() for worker in self.workers)

    def http(
        self, function: str, body: Any = None, method: str = "POST", **params: str
    ) -> tuple[int, dict[str, Any]]:
        """An HTTP call: status and the JSON of the answer. Bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.workers[0].invoke(
            function, method=method, url=f"http://127.0.0.1/api/{function}", params=params,
            body=base64.b64encode(data).decode(),
        )  # fmt: skip
        assert "json" in " ".join(answer["headers"].values()), answer
        return answer["status"], json.loads(answer["body"])

    def account(self, run_id: str) -> dict[str, Any]:
        """The status route's answer for a run."""
        status, found = self.http("runs", method="GET", run_id=run_id)
        assert status == 200, found
        return found

    def fire(self, due: str, *, past_due: bool = False) -> dict[str, Any]:
        """Fire the timer for the moment that its monitor called the next one."""
        status = {"Last": "0001-01-01T00:00:00", "Next": due}
        return self.workers[0].invoke("scheduled", status=status, past_due=past_due)

    def waiting(self) -> list[dict[str, Any]]:
        """The requests that wait on the queue (the first 32), read by the storage library only."""
        found = self.queue.peek_messages(max_messages=32)
        return [json.loads(base64.b64decode(message.content)) for message in found]

    def idle(self) -> bool:
        """Whether nothing is on the queues, hidden or not."""
        return count(self.queue) == count(self.poison) == 0

    def settled(self) -> None:
        """Deliver until nothing is left."""
        self.stopped.clear()
        threads = [
            threading.Thread(target=self._deliver, args=(worker, self.queue, "drain"))
            for worker in self.workers
        ]
        threads.append(
            threading.Thread(target=self._deliver, args=(self.workers[0], self.poison, "poisoned"))
        )
        for thread in threads:
            thread.start()
        try:
            wait_until(self.idle, "empty queues", 120)
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _deliver(self, worker: Worker, queue: QueueClient, function: str) -> None:
        while not self.stopped.is_set():
            message = queue.receive_message(visibility_timeout=600)
            if message is None:
                self.stopped.wait(0.05)
                continue
            answer = self._invoke(worker, function, message.content)
            if not answer:
                queue.delete_message(message)
            elif (message.dequeue_count or 0) < MAX_DEQUEUES:
                queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)
            else:
                self.poison.send_message(message.content)
                queue.delete_message(message)

    def _invoke(self, worker: Worker, function: str, content: str) -> dict[str, Any]:
        answer = worker.invoke(function, body=content)
        if function == "drain":
            body: Any = base64.b64decode(content)
            with suppress(ValueError):
                body = json.loads(body)
            self.deliveries.append(Delivery(body, answer))
        return answer


def count(client: QueueClient) -> int | None:
    """How many messages there are, hidden ones too."""
    return client.get_queue_properties().approximate_message_count


def queues(storage: Azurite, name: str) -> tuple[QueueClient, QueueClient]:
    """A queue and its poison queue, made where they are missing, as plain clients."""
    found = []
    for each in (name, f"{name}-poison"):
        client = QueueClient.from_connection_string(storage.connection_string, each)
        with suppress(ResourceExistsError):
            client.create_queue()
        found.append(client)
    return found[0], found[1]


@contextmanager
def hosted(
    kind: str, storage: Azurite, name: str, env: Mapping[str, str], *, folder: Path, instances: int = 1
) -> Iterator[Host]:
    """The app with so many workers, for a `with` block."""
    environ = {
        "BACKLOG_CLEARER_QUEUE": name,
        "BACKLOG_CLEARER_STORAGE": storage.connection_string,
        **env,
    }
    workers: list[Worker] = []
    try:
        for number in range(instances):
            workers.append(Worker(kind, environ, folder / f"worker-{number}.log"))  # noqa: PERF401 # each is stopped, also where a later one fails
        yield Host(workers, *queues(storage, name))
    finally:
        for worker in workers:
            worker.stop()

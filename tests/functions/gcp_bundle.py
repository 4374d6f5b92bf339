"""The Cloud Functions as processes, called over HTTP, with a Cloud Tasks that calls them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests

from backlog_clearer.testing.servers.cloud_tasks import QUEUE, CloudTasks
from backlog_clearer.testing.servers.functions import Service
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from tests.functions.deployed import Deployed

DRAIN = "http://drain.functions/"
PARTITIONS, EACH = 6, 500


class Bundle(Deployed):
    """The two functions, and the queue between them."""

    def __init__(
        self, judge: Judge, folder: Path, tasks: CloudTasks, stack: ExitStack, **settings: Any
    ) -> None:
        environ: Mapping[str, str] = settings.pop("environ", {})
        instances: int = settings.pop("instances", 2)
        super().__init__(
            judge, folder,
            **{"partitions": PARTITIONS, "each": EACH, "messages_per_slice": EACH, **settings},
        )  # fmt: skip
        self.tasks = tasks
        env = {
            "BACKLOG_CLEARER_CONFIG": str(self.config),
            "BACKLOG_CLEARER_TASKS_QUEUE": QUEUE,
            "BACKLOG_CLEARER_DRAIN_URL": DRAIN,
            "BACKLOG_CLEARER_INVOKER": "invoker@shop.iam.example",
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{tasks.port}",
            **environ,
        }
        self.drain = Service("drain", env, folder, instances=instances)
        stack.callback(self.drain.close)
        self.dispatch = Service("dispatch", env, folder)
        stack.callback(self.dispatch.close)
        tasks.services[DRAIN] = self.drain

    def call(
        self, service: Service, body: Any, path: str = "", headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """POST a body, or GET where it is None."""
        with service.instance() as server:
            if body is None:
                return requests.get(server.url + path, timeout=60)
            return requests.post(server.url + path, json=body, headers=headers, timeout=60)

    def settled(self) -> None:
        """Wait until Cloud Tasks has nothing left to deliver."""
        wait_until(lambda: self.tasks.idle, "an empty queue", 120)

    def account(self, run_id: str) -> dict[str, Any]:
        """The status route's answer for a run."""
        found: dict[str, Any] = self.call(self.dispatch, None, f"runs/{run_id}").json()
        return found


@contextmanager
def deployed(
    judge: Judge, folder: Path, tasks: CloudTasks | None = None, **settings: Any
) -> Iterator[Bundle]:
    """The bundle on a separate backlog."""
    with ExitStack() as stack:
        running = stack.enter_context((tasks or CloudTasks()).running())
        yield Bundle(judge, folder, running, stack, **settings)

"""Cloud Tasks as far as this project uses it, over gRPC; it really calls the tasks' URLs.

Names are taken once, as in Cloud Tasks. Tasks are called in random order, some of them twice, at most so
many at a time, and again after any answer but 2xx: all that Cloud Tasks may do, done on purpose.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import requests
from google.cloud import tasks_v2

from backlog_clearer.testing.servers.functions import Service
from backlog_clearer.testing.support import Server

QUEUE = "projects/shop/locations/europe-west1/queues/drains"


@dataclass
class Call:
    """One delivery of a task, and how it was answered."""

    task: str
    body: dict[str, Any]
    headers: dict[str, str]
    server: Server | None = None  # the instance that got it
    status: int | None = None  # None: not answered yet, or the connection broke
    answer: dict[str, Any] | None = None


class CloudTasks:
    """The service; `calls` is what it has delivered."""

    def __init__(self, *, twice: int = 0, at_once: int = 8, attempts: int = 6, seed: int = 1) -> None:
        self.twice = twice  # how many tasks are delivered a second time
        self.attempts = attempts
        self.tasks: dict[str, tasks_v2.Task] = {}
        self.calls: list[Call] = []
        self.services: dict[str, Service] = {}  # by URL, as Cloud Run routes requests to instances
        self.refuse = 0  # how many creations fail, and with which code
        self.code = grpc.StatusCode.UNAVAILABLE
        self.lose = 0  # how many tasks are created and answered with that code
        self._random = random.Random(seed)  # noqa: S311 the order of deliveries need not be unpredictable
        self._waiting: queue.Queue[tasks_v2.Task | None] = queue.Queue()
        self._open = 0  # deliveries that are not over
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        handler = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=tasks_v2.CreateTaskRequest.deserialize,
            response_serializer=tasks_v2.Task.serialize,
        )
        service = "google.cloud.tasks.v2.CloudTasks"
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"CreateTask": handler})]
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(at_once)]

    @contextmanager
    def running(self) -> Iterator[CloudTasks]:
        """Serve for a `with` block."""
        self._server.start()
        for worker in self._workers:
            worker.start()
        try:
            yield self
        finally:
            for _ in self._workers:
                self._waiting.put(None)
            for worker in self._workers:
                worker.join(30)
            self._server.stop(None).wait()

    def _create(
        self, request: tasks_v2.CreateTaskRequest, context: grpc.ServicerContext
    ) -> tasks_v2.Task:
        task = request.task
        with self._lock:
            if self.refuse:
                self.refuse -= 1
                context.abort(self.code, "try again")
            if task.name in self.tasks:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "the task exists, or existed recently")
            self.tasks[task.name] = task
            deliveries = 2 if self.twice else 1
            self.twice -= deliveries - 1
            self._open += deliveries
            lost, self.lose = self.lose > 0, max(0, self.lose - 1)
        delay = self._random.random() / 2  # later tasks overtake earlier ones
        for _ in range(deliveries):
            threading.Timer(delay, self._waiting.put, [task]).start()
        if lost:
            context.abort(self.code, "the answer is lost")
        return task

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            http = task.http_request
            for attempt in range(self.attempts):
                call = Call(task.name, json.loads(http.body), dict(http.headers))
                self.calls.append(call)
                self._deliver(call, http, task.dispatch_deadline.total_seconds())
                if call.status is not None and 200 <= call.status < 300:
                    break
                time.sleep(0.1 * 2**attempt)
            with self._lock:
                self._open -= 1

    def _deliver(self, call: Call, http: tasks_v2.HttpRequest, deadline_s: float) -> None:
        with self.services[http.url].instance() as call.server:
            try:
                answer = requests.post(
                    call.server.url, data=http.body, headers=call.headers, timeout=deadline_s
                )
                call.status, call.answer = answer.status_code, answer.json()
            except requests.RequestException:
                pass  # the instance died: no answer

    @property
    def idle(self) -> bool:
        """Whether every delivery is over."""
        return self._open == 0

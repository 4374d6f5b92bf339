"""Slices as Cloud Tasks, each named after its run, slice and turn, so that none is enqueued twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from google.api_core.exceptions import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    GoogleAPICallError,
    InternalServerError,
    ResourceExhausted,
    RetryError,
    ServiceUnavailable,
)
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import Request

QUEUE = "BACKLOG_CLEARER_TASKS_QUEUE"
DRAIN_URL = "BACKLOG_CLEARER_DRAIN_URL"
INVOKER = "BACKLOG_CLEARER_INVOKER"
EMULATOR = "CLOUD_TASKS_EMULATOR_HOST"

_DISPATCH_DEADLINE_S = 1800  # the most that an HTTP task may have (cloud.google.com/tasks/docs, Task)
_AT_ONCE = 32  # requests under way: CreateTask takes one task a call
_TIMEOUT_S = 30.0
_PASSING = if_exception_type(
    ServiceUnavailable, DeadlineExceeded, ResourceExhausted, InternalServerError, Aborted
)
"""Safe to repeat, since a task that was created after all has the same name."""
_RETRY = Retry(_PASSING, initial=0.2, maximum=5.0, timeout=2 * _TIMEOUT_S)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Target(NamedTuple):
    """The queue of the slices, and the function that they call."""

    queue: str  # projects/P/locations/L/queues/Q
    url: str  # of the drain function
    invoker: str | None  # service account whose token the tasks carry; None: an emulator's need none


def target(environ: Mapping[str, str]) -> Target:
    """From the environment; raises `UsageError` that names everything missing."""
    needed = [QUEUE, DRAIN_URL] if EMULATOR in environ else [QUEUE, DRAIN_URL, INVOKER]
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise UsageError(f"Slices cannot be enqueued: {', '.join(missing)} not set.")
    return Target(environ[QUEUE], environ[DRAIN_URL], environ.get(INVOKER))


def task_name(queue: str, request: Request) -> str:
    """The task's name; the same request always has the same.

    It begins with a hash: names that follow each other slow a queue down (reference of CreateTask).
    """
    text = f"{request.run_id}-slice-{request.slice}-of-{request.total}-turn-{request.requeued}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{queue}/tasks/{digest}-{_NOT_IN_A_NAME.sub('_', text)}"


class Tasks:
    """A Cloud Tasks queue; connects when first used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._target = target(environ)
        self._emulator = environ.get(EMULATOR)
        self._client: tasks_v2.CloudTasksClient | None = None

    def put(self, requests: Sequence[Request]) -> None:
        """Enqueue them all; those that the queue has, or had within the last hour, are skipped.

        Raises `BrokerError` if any could not be enqueued; the others are.
        """
        client = self._connected()
        with ThreadPoolExecutor(min(_AT_ONCE, len(requests))) as pool:
            errors = [
                error for error in pool.map(lambda item: self._create(client, item), requests) if error
            ]
        if errors:
            raise BrokerError(
                f"{len(errors)} of {len(requests)} slices could not be enqueued in {self._target.queue}:"
                f" {errors[0]}"
            )

    def _connected(self) -> tasks_v2.CloudTasksClient:
        if self._client is None:
            try:
                if self._emulator:
                    channel = grpc.insecure_channel(self._emulator)
                    self._client = tasks_v2.CloudTasksClient(
                        transport=CloudTasksGrpcTransport(channel=channel)
                    )
                else:
                    self._client = tasks_v2.CloudTasksClient()
            except GoogleAuthError as error:
                raise BrokerError(f"Cloud Tasks cannot be reached: {error}") from error
        return self._client

    def _create(self, client: tasks_v2.CloudTasksClient, request: Request) -> str | None:
        call = tasks_v2.HttpRequest(
            http_method=tasks_v2.HttpMethod.POST,
            url=self._target.url,
            headers={"Content-Type": "application/json"},
            body=request.model_dump_json(exclude_defaults=True).encode(),
        )
        if self._target.invoker:
            call.oidc_token = tasks_v2.OidcToken(
                service_account_email=self._target.invoker, audience=self._target.url
            )
        task = tasks_v2.Task(
            name=task_name(self._target.queue, request),
            http_request=call,
            dispatch_deadline=Duration(seconds=_DISPATCH_DEADLINE_S),
        )
        try:
            client.create_task(parent=self._target.queue, task=task, retry=_RETRY, timeout=_TIMEOUT_S)
        except AlreadyExists:
            return None
        except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
            return str(error)
        return None

"""Slices on Cloud Tasks: what is repeated, by Google's own client on a server that speaks its protocol."""

from __future__ import annotations

import grpc
import pytest

from backlog_clearer.errors import BrokerError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.testing.servers.cloud_tasks import QUEUE, CloudTasks
from functions.gcp.tasks import Tasks

SLICES = [Request(backlog="orders", run_id="r-1", slice=index, total=4) for index in range(4)]
PASSING = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
]


def put(server: CloudTasks) -> None:
    """Enqueue the slices there; none is delivered."""
    environ = {
        "BACKLOG_CLEARER_TASKS_QUEUE": QUEUE,
        "BACKLOG_CLEARER_DRAIN_URL": "http://drain.functions/",
        "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{server.port}",
    }
    Tasks(environ).put(SLICES)


@pytest.mark.parametrize("code", PASSING, ids=lambda code: str(code.name))
def test_an_error_that_may_pass_is_repeated(code: grpc.StatusCode) -> None:
    """Refused and lost answers cost no slice, and create none twice: a task's name is taken once."""
    with CloudTasks(at_once=0).running() as server:
        server.code, server.refuse, server.lose = code, 2, 2
        put(server)
        assert len(server.tasks) == len(SLICES)
        assert (server.refuse, server.lose) == (0, 0)


def test_an_error_that_does_not_pass_is_reported() -> None:
    """A right that is missing is not asked for again: the others are enqueued, and the error is raised."""
    with CloudTasks(at_once=0).running() as server:
        server.code, server.refuse = grpc.StatusCode.PERMISSION_DENIED, 1
        with pytest.raises(BrokerError, match="1 of 4 slices"):
            put(server)
        assert len(server.tasks) == 3

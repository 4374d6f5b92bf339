"""The Cloud Functions as processes, called over HTTP, with a Cloud Tasks that calls them back."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.run.receipt import load_run, original_positions
from backlog_clearer.testing.servers.cloud_tasks import QUEUE, CloudTasks
from backlog_clearer.testing.servers.functions import Service
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from tests.brokers.kafka_embedded import embedded
from tests.command import cleaner
from tests.functions.gcp_bundle import DRAIN, EACH, PARTITIONS, Bundle, deployed

__all__ = ["embedded"]

TRACE = "105445aa7843bc8bf206b12000100000"


def test_dispatched_tasks_clear_everything(embedded: Judge, tmp_path: Path) -> None:
    """Slices enqueued by one request, delivered out of order and three of them twice, clear everything."""
    with deployed(embedded, tmp_path, CloudTasks(twice=3)) as bundle:
        answer = bundle.call(bundle.dispatch, {"backlog": "orders"})
        assert answer.status_code == 202, answer.text
        made = answer.json()
        assert (made["slices"], made["backlog"], len(bundle.tasks.tasks)) == (6, PARTITIONS * EACH, 6)
        bundle.settled()
        assert bundle.left() == 0
        assert len(bundle.tasks.calls) == 6 + 3
        assert {call.status for call in bundle.tasks.calls} == {200}
        account = bundle.account(made["run_id"])
        assert (account["verdict"], account["gone"]) == ("cleared", PARTITIONS * EACH)
    undone = cleaner("restore", "--run", made["run_id"], "--receipt-dir", bundle.receipts, "--yes")
    assert undone.code == 0, undone.stderr
    assert bundle.left() == PARTITIONS * EACH


def test_a_repeated_dispatch_adds_nothing(embedded: Judge, tmp_path: Path) -> None:
    """The same run id, and a scheduler's retry for the same time, enqueue no second task."""
    tasks = CloudTasks()
    tasks.refuse = 2  # and a queue that is away for a moment is asked again
    with deployed(embedded, tmp_path, tasks) as bundle:
        asked = {"backlog": "orders", "run_id": "r-1"}
        answers = [bundle.call(bundle.dispatch, asked) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert len(tasks.tasks) == 6
        headers = {"X-CloudScheduler-ScheduleTime": "2026-11-24T20:00:00Z"}
        for _ in range(2):
            answer = bundle.call(bundle.dispatch, {"backlog": "orders"}, headers=headers)
            assert answer.status_code == 202, answer.text
        bundle.settled()
        runs = {call.body["run_id"] for call in tasks.calls}
        assert runs == {"r-1", "2026-11-24T20-00-00Z-orders"}
        assert bundle.left() == 0


def test_a_deadline_is_continued_by_another_task(embedded: Judge, tmp_path: Path) -> None:
    """A slice that meets the deadline answers 200, is enqueued again, and all is cleared in the end."""
    environ = {"BACKLOG_CLEARER_DEADLINE_S": "0.2"}
    # One worker that asks for one message at a time does not read 120,000 of them in 0.2 s.
    slow: dict[str, Any] = {"options": {"reader": "client"}, "batch_size": 1, "workers": 1}
    slow |= {"each": 20_000, "max_slices": 1, "max_requeues": 1000}
    with deployed(embedded, tmp_path, environ=environ, **slow) as bundle:
        made = bundle.call(bundle.dispatch, {"backlog": "orders"}).json()
        bundle.settled()
        turns = sorted(call.body.get("requeued", 0) for call in bundle.tasks.calls)
        assert turns == list(range(len(turns)))
        assert len(turns) > 1
        assert bundle.left() == 0
        assert {call.status for call in bundle.tasks.calls} == {200}
        assert bundle.account(made["run_id"])["verdict"] == "cleared"


@pytest.mark.parametrize(
    ("body", "status", "hint"),
    [
        ({"backlog": "order"}, 400, "Did you mean 'orders'"),
        ({"backlog": "orders", "bootstrap_servers": "evil:9092"}, 400, "unknown option"),
        ({"backlog": "orders", "options": {"topic": "other"}}, 400, "unknown option"),
        ({"backlog": "orders", "max_messages": 11}, 400, "allows at most 10"),
        ({"backlog": "orders", "mode": "skip"}, 400, "may only be cleared by consume"),
        ({"backlog": "orders", "run_id": "../../x"}, 400, "not a valid run id"),
        (["orders"], 400, "JSON object"),
    ],
)
def test_a_callers_fault_is_answered_with_4xx(
    bundle: Bundle, body: object, status: int, hint: str
) -> None:
    """Addresses, unknown names, higher limits and nonsense: 4xx, a JSON error, nothing enqueued or read."""
    before = bundle.left()
    for service in (bundle.dispatch, bundle.drain):
        answer = bundle.call(service, body)
        assert answer.status_code == status, answer.text
        assert answer.json()["verdict"] == "not_cleared"
        assert hint in answer.json()["error"]
    assert not bundle.tasks.tasks
    assert bundle.left() == before


def test_a_refused_request_writes_nothing(bundle: Bundle) -> None:
    """A slice that a run does not have is answered with 400 and leaves the run's record as it was."""
    run = {"backlog": "orders", "run_id": "phantom"}
    bundle.call(bundle.drain, {**run, "slice": 1, "total": 2})
    paced = ("per_second", "eta_seconds")  # by the time at which they are asked for
    before = {**bundle.account("phantom"), **dict.fromkeys(paced)}
    answers = [
        bundle.call(bundle.drain, {**run, "slice": 9998, "total": 9999, "mode": "skip"}),
        bundle.call(bundle.drain, {**run, "slice": 0, "total": 2, "max_messages": 11}),
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert {**bundle.account("phantom"), **dict.fromkeys(paced)} == before


_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_WHOLE = b'{"backlog":"orders"}'


@pytest.mark.parametrize("entry", ["dispatch", "drain"])
@pytest.mark.parametrize(
    "broken",
    [
        _CHUNKED + b'5\r\n{"bac\r\nzz\r\n',
        _CHUNKED + b"-5\r\n" + _WHOLE,
        _CHUNKED + b"ffffffffffffffff\r\n" + _WHOLE,
        _CHUNKED + b"14\r\n" + _WHOLE,
        _CHUNKED + b"14\r\n" + _WHOLE + b"\r\n",
        b"Content-Length: 500\r\n\r\n" + _WHOLE,
        b"Content-Length: 20\r\n" + _CHUNKED + b"14\r\n" + _WHOLE + b"\r\n0\r\n\r\n",
        b"Content-Length: -5\r\n\r\n" + _WHOLE,
        b"Content-Encoding: gzip\r\nContent-Length: 40\r\n\r\n" + gzip.compress(_WHOLE),
    ],
    ids=[
        "no size", "negative size", "endless size", "cut in a chunk", "no last chunk", "too short",
        "two lengths", "negative length", "packed",
    ],
)  # fmt: skip
def test_an_incomplete_body_is_answered_with_400(bundle: Bundle, entry: str, broken: bytes) -> None:
    """A body that breaks off, has two lengths or is packed is a caller's fault; nothing is read or enqueued."""
    before = bundle.left()
    service = bundle.dispatch if entry == "dispatch" else bundle.drain
    with (
        service.instance() as server,
        socket.create_connection(("127.0.0.1", server.port)) as link,
    ):
        link.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + broken)
        link.shutdown(socket.SHUT_WR)
        link.settimeout(30)
        answer = link.recv(1000)
    assert answer.split(b" ")[1] == b"400", answer
    assert not bundle.tasks.tasks
    assert bundle.left() == before


def test_a_repeated_task_dispatches_the_same_run(embedded: Judge, tmp_path: Path) -> None:
    """Deliveries of one Cloud Tasks task are one run, whose limits hold once; another task is another."""
    with deployed(embedded, tmp_path) as found:
        name = {"X-CloudTasks-TaskName": "4711"}
        made = [
            found.call(found.dispatch, {"backlog": "orders"}, headers=name).json()["run_id"]
            for _ in range(2)
        ]
        found.settled()
        assert made[0] == made[1]
        assert "4711" in made[0]


@pytest.fixture(scope="module")
def bundle(embedded: Judge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A bundle whose backlog no test of it clears."""
    with deployed(embedded, tmp_path_factory.mktemp("gcp"), max_messages=10) as found:
        yield found


def test_other_methods_and_paths_are_refused(bundle: Bundle) -> None:
    """GET serves only runs, an unknown run is 404, and draining needs POST."""
    assert bundle.call(bundle.dispatch, None, "runs/r-none").status_code == 404
    assert bundle.call(bundle.dispatch, None, "secrets").status_code == 400
    assert bundle.call(bundle.drain, None).status_code == 400


def test_a_limit_ends_the_slice(bundle: Bundle) -> None:
    """A slice that reached max_messages answers 200, not cleared: another delivery would exceed it."""
    before = bundle.left()
    answer = bundle.call(bundle.drain, {"backlog": "orders", "run_id": "limited"})
    assert (answer.status_code, answer.json()["verdict"]) == (200, "not_cleared")
    assert bundle.left() == before - 10
    assert bundle.account("limited")["counts"]["not cleared"] == 1


def test_a_live_group_is_refused_and_reported(bundle: Bundle) -> None:
    """Attached consumers: 409 from both functions, nothing moved, and the run's slice is failed."""
    before = bundle.left()
    with bundle.judge.member(bundle.topic, bundle.group):
        refused = bundle.call(bundle.dispatch, {"backlog": "orders"})
        slice_ = {"backlog": "orders", "slice": 0, "total": 2, "run_id": "live"}
        drained = bundle.call(bundle.drain, slice_)
    assert (refused.status_code, drained.status_code) == (409, 409)
    assert "1 consumer attached" in refused.json()["error"]
    assert refused.json()["run_id"]  # under which the caller repeats the dispatch
    assert bundle.left() == before
    account = bundle.account("live")
    assert account["slices"][0]["state"] == "failed"


def test_logs_are_structured_for_cloud_logging(bundle: Bundle) -> None:
    """Each line is JSON with a severity, an alert's words where it failed, and the request's trace."""
    headers = {"X-Cloud-Trace-Context": f"{TRACE}/1;o=1"}
    bundle.call(bundle.drain, {"backlog": "no-such"}, headers=headers)

    def line() -> dict[str, Any] | None:
        found = [
            json.loads(text)
            for text in bundle.drain.log.splitlines()
            if '"no-such' in text or "no-such" in text
        ]
        return found[-1] if found else None

    wait_until(lambda: line() is not None, "a line in the log")
    entry = line()
    assert entry is not None
    assert (entry["severity"], entry["logging.googleapis.com/trace"]) == (
        "ERROR",
        f"projects/shop/traces/{TRACE}",
    )
    assert entry["message"].startswith("backlog-clearer: not cleared")


def test_a_faulty_configuration_does_not_come_up(embedded: Judge, tmp_path: Path) -> None:
    """A function whose configuration has faults ends at its start and names them all."""
    del embedded
    environ = {
        "BACKLOG_CLEARER_CONFIG": '{"backlogs": {"a": {"system": "kafak", "options": {}}, "b": {}}}',
        "BACKLOG_CLEARER_TASKS_QUEUE": QUEUE,
        "BACKLOG_CLEARER_DRAIN_URL": DRAIN,
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1",
    }
    with pytest.raises((RuntimeError, TimeoutError)):
        Service("drain", environ, tmp_path)
    log = next(tmp_path.glob("drain-*.log")).read_text()
    assert "backlog 'a'" in log
    assert "backlog 'b'" in log


def test_receipts_of_overlapping_invocations_restore_the_start(embedded: Judge, tmp_path: Path) -> None:
    """However invocations overlapped, a run is restored to the oldest receipt of each partition."""
    with deployed(embedded, tmp_path, CloudTasks(twice=6)) as bundle:
        embedded.commit(bundle.topic, bundle.group, dict.fromkeys(range(PARTITIONS), 40))
        made = bundle.call(bundle.dispatch, {"backlog": "orders"}).json()
        bundle.settled()
        assert bundle.left() == 0
        positions = original_positions(load_run(bundle.receipts, made["run_id"]).values())
        assert {item.position for item in positions} == {40}

"""The container job as processes that share a storage queue (Azurite), as Container Apps starts them."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.fanout.configuration import Request, load_config
from backlog_clearer.fanout.dispatch import Dispatch, dispatch
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.testing.servers.azurite import Azurite
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import wait_until
from functions.storage_queue import MAX_DEQUEUES, StorageQueue
from tests.brokers.kafka_embedded import embedded
from tests.command import Ran, ended, job_started
from tests.functions.azure_host import count, queues
from tests.functions.deployed import Deployed
from tests.functions.test_job import EACH, MANY, NOT_CLEARED, PARTITIONS, SLOW

__all__ = ["embedded"]


class Jobs(Deployed):
    """A backlog, a queue, and the image's command."""

    def __init__(self, judge: Judge, folder: Path, storage: Azurite, **settings: Any) -> None:
        super().__init__(
            judge, folder, partitions=PARTITIONS,
            **{"each": EACH, "messages_per_slice": EACH, **settings},
        )  # fmt: skip
        self.visibility_s = 60
        name = unique("slices")
        self.queue, self.poison = queues(storage, name)
        self.env = {
            "BACKLOG_CLEARER_QUEUE": name,
            "BACKLOG_CLEARER_STORAGE": storage.connection_string,
            "BACKLOG_CLEARER_CONFIG": str(self.config),
        }

    def dispatched(self) -> Dispatch:
        """Put the backlog's slices on the queue."""
        put = StorageQueue.from_environ(self.env).put
        return dispatch(load_config(self.env), Request(backlog="orders"), put)

    def start(self, *args: str, **env: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start a job that takes one message."""
        visibility = ("--visibility-s", str(self.visibility_s))
        return job_started(
            str(self.config), "--from-queue", *visibility, *args, env={**self.env, **env}
        )

    def run(self, *args: str, **env: str) -> Ran:
        """Run a job to its end."""
        with self.start(*args, **env) as process:
            return ended(process)

    def put(self, text: str) -> None:
        """Put a body on the queue."""
        self.queue.send_message(base64.b64encode(text.encode()).decode())

    def counts(self) -> tuple[int | None, int | None]:
        """Messages on the queue and on the poison queue, hidden ones too."""
        return count(self.queue), count(self.poison)


@pytest.fixture
def jobs(embedded: Judge, storage: Azurite, tmp_path: Path) -> Jobs:
    """A separate backlog, worth six slices."""
    return Jobs(embedded, tmp_path, storage)


def test_jobs_share_a_queue(jobs: Jobs) -> None:
    """Four processes at a time, each taking one message, clear all; the next reports an empty queue."""
    made = jobs.dispatched()
    done: list[Ran] = []
    for _ in range(2):
        with ExitStack() as stack:
            running = [stack.enter_context(jobs.start()) for _ in range(4)]
            done += [ended(each) for each in running]
    assert [each.code for each in done] == [0] * 8, [each.stderr for each in done]
    idle = [each for each in done if not each.stdout]
    assert len(idle) == 2
    assert all("There is no message on the queue" in each.stderr for each in idle)
    assert jobs.left() == 0
    assert jobs.counts() == (0, 0)
    account = run_status(jobs.receipts, made.run_id)
    assert (account.cleared, account.gone) == (True, PARTITIONS * EACH)


def test_a_killed_jobs_message_is_delivered_again(
    embedded: Judge, storage: Azurite, tmp_path: Path
) -> None:
    """While a job drains, others find nothing; after kill -9 its slice is taken again and cleared."""
    jobs = Jobs(embedded, tmp_path, storage, **{**SLOW, "max_slices": 1})
    jobs.visibility_s = 5
    made = jobs.dispatched()
    with jobs.start() as process:
        wait_until(lambda: jobs.left() < PARTITIONS * MANY, "a first commit")
        process.send_signal(signal.SIGSTOP)  # so that it is not done before it is killed
        assert jobs.queue.peek_messages() == []
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    left = jobs.left()
    assert left > 0, "the job was done before it was killed"
    wait_until(lambda: bool(jobs.queue.peek_messages()), "the message to be seen again")
    again = jobs.run()
    assert (again.code, again.result["totals"]["messages"]) == (0, left), again.stderr
    assert jobs.left() == 0
    assert jobs.counts() == (0, 0)
    account = run_status(jobs.receipts, made.run_id)
    assert (account.cleared, account.gone) == (True, PARTITIONS * MANY)
    assert account.slices[0].invocations == 2


def test_a_deadline_is_continued_by_another_message(
    embedded: Judge, storage: Azurite, tmp_path: Path
) -> None:
    """At its deadline a job deletes its message and enqueues the next: exit 0, until all is cleared."""
    jobs = Jobs(embedded, tmp_path, storage, **{**SLOW, "max_slices": 1})
    jobs.dispatched()
    first = jobs.run(BACKLOG_CLEARER_DEADLINE_S="0.2")
    assert (first.code, first.result["verdict"]) == (0, "not_cleared"), first.stderr
    assert NOT_CLEARED not in first.stderr
    waiting = jobs.queue.peek_messages(max_messages=5)
    assert [json.loads(base64.b64decode(item.content))["requeued"] for item in waiting] == [1]
    last = jobs.run()
    assert (last.code, last.result["verdict"]) == (0, "cleared")
    assert jobs.left() == 0
    assert jobs.counts() == (0, 0)


def test_a_job_that_lost_its_message_enqueues_nothing(
    embedded: Judge, storage: Azurite, tmp_path: Path
) -> None:
    """A job whose message was delivered again does not continue it: exit 1, nothing enqueued."""
    jobs = Jobs(embedded, tmp_path, storage, **{**SLOW, "max_slices": 1})
    jobs.dispatched()
    with jobs.start(BACKLOG_CLEARER_DEADLINE_S="0.2") as process:
        wait_until(lambda: not jobs.queue.peek_messages(), "the message to be taken")
        jobs.queue.clear_messages()
        ran = ended(process)
    assert (ran.code, ran.result["stop_reason"]) == (1, "deadline")
    assert jobs.counts() == (0, 0)


def test_a_message_is_left_where_another_attempt_may_help(jobs: Jobs) -> None:
    """Attached consumers: exit 1, and the same message is there at once; without them it is cleared."""
    jobs.visibility_s = 300  # scaling by the queue's length counts hidden messages, too
    jobs.put('{"backlog": "orders", "run_id": "r-1"}')
    with jobs.judge.member(jobs.topic, jobs.group):
        ran = jobs.run()
        assert (ran.code, ran.result["kind"]) == (1, "RefusedError")
    assert jobs.counts() == (1, 0)
    assert [item.dequeue_count for item in jobs.queue.peek_messages()] == [1]
    assert jobs.run().code == 0
    assert jobs.left() == 0
    assert jobs.counts() == (0, 0)


def test_a_job_that_is_stopped_leaves_its_message(
    embedded: Judge, storage: Azurite, tmp_path: Path
) -> None:
    """SIGTERM: read messages are acknowledged, exit 1, and the same message is there for the rest at once."""
    jobs = Jobs(embedded, tmp_path, storage, **{**SLOW, "max_slices": 1})
    jobs.visibility_s = 300
    jobs.dispatched()
    with jobs.start() as process:
        wait_until(lambda: jobs.left() < PARTITIONS * MANY, "a first commit")
        process.send_signal(signal.SIGTERM)
        ran = ended(process)
    assert (ran.code, ran.result["stop_reason"]) == (1, "signal")
    left = jobs.left()
    assert ran.result["totals"]["messages"] == PARTITIONS * MANY - left
    assert [item.dequeue_count for item in jobs.queue.peek_messages()] == [1]
    again = jobs.run()
    assert (again.code, again.result["totals"]["messages"]) == (0, left)
    assert jobs.left() == 0


def test_a_message_at_its_limit_is_settled(embedded: Judge, storage: Azurite, tmp_path: Path) -> None:
    """A slice that ends at max_messages exits with 3 and is not delivered again."""
    jobs = Jobs(embedded, tmp_path, storage, max_messages=700)
    jobs.put('{"backlog": "orders", "run_id": "r-1"}')
    ran = jobs.run()
    assert (ran.code, ran.result["stop_reason"]) == (3, "limit")
    assert ran.stderr.startswith(NOT_CLEARED)
    assert jobs.counts() == (0, 0)
    assert jobs.left() == PARTITIONS * EACH - 700


@pytest.mark.parametrize(
    "body", ["not JSON", '{"backlog": "orders", "brokers": "evil:9092"}', '{"backlog": "order"}', "[]"]
)
def test_a_body_that_is_not_a_request_is_poison(jobs: Jobs, body: str) -> None:
    """A body that no attempt can carry out goes to the poison queue at once: exit 2, nothing moved."""
    jobs.put(body)
    ran = jobs.run()
    assert (ran.code, ran.result["kind"]) == (2, "UsageError")
    assert ran.stderr.startswith(NOT_CLEARED)
    assert jobs.counts() == (0, 1)
    assert [base64.b64decode(item.content).decode() for item in jobs.poison.peek_messages()] == [body]
    assert jobs.left() == PARTITIONS * EACH


def test_a_message_tried_too_often_is_poison(jobs: Jobs) -> None:
    """A message taken for the sixth time goes to the poison queue unread; the run's slice is failed."""
    made = jobs.dispatched()
    jobs.queue.clear_messages()
    jobs.put(f'{{"backlog": "orders", "slice": 2, "total": 6, "run_id": "{made.run_id}"}}')
    for _ in range(MAX_DEQUEUES):
        assert jobs.queue.receive_message(visibility_timeout=1) is not None
        wait_until(lambda: bool(jobs.queue.peek_messages()), "the message to be seen again")
    ran = jobs.run()
    assert (ran.code, ran.result["verdict"]) == (3, "not_cleared")
    assert ran.stderr.startswith(NOT_CLEARED)
    assert jobs.counts() == (0, 1)
    assert jobs.left() == PARTITIONS * EACH
    assert run_status(jobs.receipts, made.run_id).slices[2].state == "failed"


def test_a_faulty_job_takes_no_message(jobs: Jobs) -> None:
    """Wrong settings or arguments end a job with 2 before it takes a message."""
    jobs.put('{"backlog": "orders"}')
    for ran in (
        jobs.run(BACKLOG_CLEARER_DEADLINE_S="soon"),
        jobs.run(BACKLOG_CLEARER_CONFIG="{}"),
        jobs.run("--backlog", "orders"),
        jobs.run(BACKLOG_CLEARER_QUEUE=""),
    ):
        assert (ran.code, ran.result["kind"]) == (2, "UsageError")
        assert ran.stderr.count(NOT_CLEARED) == 1
    assert [item.dequeue_count for item in jobs.queue.peek_messages()] == [0]
    assert jobs.left() == PARTITIONS * EACH

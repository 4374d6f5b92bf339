"""Many functions drain one Pub/Sub subscription, in slices that are shares of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from backlog_clearer.run.receipt import load_run, original_positions
from backlog_clearer.testing.servers.cloud_tasks import QUEUE, CloudTasks
from backlog_clearer.testing.servers.functions import Service
from backlog_clearer.testing.servers.pubsub import PubSubServer, Sub
from backlog_clearer.testing.support import wait_until
from tests.command import cleaner, ended, job_started
from tests.functions.gcp_bundle import DRAIN

SLICES, EACH, NEWER = 4, 1000, 30
LEASES_S = 0.1  # of the server, for each second of a lease: what a dead instance held comes back soon


class Shared:
    """The functions on one subscription of the test server."""

    def __init__(self, server: PubSubServer, folder: Path, stack: ExitStack) -> None:
        self.server, self.receipts = server, str(folder / "receipts")
        self.sub: Sub = server.create("billing")
        server.truthful()
        server.second_s = LEASES_S
        server.publish(self.sub, SLICES * EACH)
        options = {
            "project_id": "test",
            "subscription_id": "billing",
            "monitoring_endpoint": f"http://{server.address}",
        }
        backlog = {
            "system": "googlepubsub",
            "options": options,
            "messages_per_slice": EACH,
            "workers": 2,
        }
        config = folder / "config.json"
        config.write_text(json.dumps({"receipts": self.receipts, "backlogs": {"bills": backlog}}))
        self.tasks = stack.enter_context(CloudTasks(twice=1).running())
        self.environ = {"PUBSUB_EMULATOR_HOST": server.address}
        env = {
            "BACKLOG_CLEARER_CONFIG": str(config),
            "BACKLOG_CLEARER_TASKS_QUEUE": QUEUE,
            "BACKLOG_CLEARER_DRAIN_URL": DRAIN,
            "BACKLOG_CLEARER_DEADLINE_S": "60",
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{self.tasks.port}",
            **self.environ,
        }
        self.drain = Service("drain", env, folder, instances=3)
        stack.callback(self.drain.close)
        self.dispatch = Service("dispatch", env, folder)
        stack.callback(self.dispatch.close)
        self.tasks.services[DRAIN] = self.drain

    def ask(self, path: str = "", body: Any = None) -> Any:
        """The dispatcher's answer."""
        with self.dispatch.instance() as one:
            if body is None:
                return requests.get(one.url + path, timeout=60).json()
            return requests.post(one.url, json=body, timeout=60).json()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    """Three instances of `drain`, and a queue that delivers one task twice."""
    with ExitStack() as stack:
        yield Shared(stack.enter_context(PubSubServer()), tmp_path, stack)


def test_slices_share_a_subscription(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slices on three instances, one killed and one delivered twice, clear all of it in one run.

    Every message up to the dispatch's target is acknowledged, later ones stay; there is one snapshot, and the
    run's status is cleared because one slice proved the end.
    """
    acknowledged: list[str] = []
    begun = threading.Event()

    def note(ids: list[str]) -> None:
        acknowledged.extend(one.partition("-")[0] for one in ids)
        begun.set()
        threading.Event().wait(0.02)  # so that the kill comes before the end

    shared.server.before_acknowledge = note
    made = shared.ask(body={"backlog": "bills"})
    assert (made["slices"], made["partitions"], made["backlog"]) == (SLICES, 1, SLICES * EACH)
    assert begun.wait(60)
    busy = next(call for call in shared.tasks.calls if call.status is None and call.server)
    assert busy.server is not None
    busy.server.stop(signal.SIGKILL)
    time.sleep(
        2.0
    )  # ages are whole seconds: younger ones cannot be distinguished from messages before the target
    shared.server.publish(shared.sub, NEWER)
    wait_until(lambda: shared.tasks.idle, "an empty queue", 240)

    assert shared.sub.unacked() == NEWER
    assert set(acknowledged) == {f"m{number}" for number in range(SLICES * EACH)}
    account = shared.ask(f"runs/{made['run_id']}")
    assert (account["verdict"], account["total"], account["gone"]) == (
        "cleared",
        SLICES * EACH,
        SLICES * EACH,
    )
    assert len(account["slices"]) == SLICES
    assert len(account["partitions"]) == 1
    assert len(shared.server.snapshots) == 1
    receipts = load_run(shared.receipts, made["run_id"]).values()
    assert {item.partitions[0].target for item in receipts} == {made["targets"][0]["position"]}
    assert len(original_positions(receipts)) == 1

    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", shared.environ["PUBSUB_EMULATOR_HOST"])
    undone = cleaner("restore", "--run", made["run_id"], "--receipt-dir", shared.receipts, "--yes")
    assert undone.code == 4, undone.stderr  # Pub/Sub reports no position
    assert shared.sub.unacked() == SLICES * EACH + NEWER


def test_an_unproven_job_asks_for_neither_a_retry_nor_an_alert(tmp_path: Path) -> None:
    """Without figures the job exits with 0, its result is unproven, and no line begins like an alert's.

    The command line exits with 4 for the same, and its sentence states that.
    """
    with PubSubServer() as server:
        sub = server.create("billing")
        server.publish(sub, 200)
        reach = {
            "project_id": "test",
            "subscription_id": "billing",
            "monitoring_endpoint": f"http://{server.address}",
        }
        backlog = {"system": "googlepubsub", "options": reach, "workers": 1}
        config = tmp_path / "config.json"
        config.write_text(
            json.dumps({"receipts": str(tmp_path / "receipts"), "backlogs": {"bills": backlog}})
        )
        env = {"PUBSUB_EMULATOR_HOST": server.address}
        with job_started(str(config), "--backlog", "bills", env=env) as process:
            ran = ended(process)
        assert (ran.code, ran.result["verdict"]) == (0, "unproven")
        assert "backlog-clearer: unproven" in ran.stderr
        assert "backlog-clearer: not cleared" not in ran.stderr
        server.publish(sub, 10)
        flags = [part for key, value in reach.items() for part in (f"--{key.replace('_', '-')}", value)]
        args = ("googlepubsub", *flags, "--stop-when-empty", "--quiet-seconds", "1")
        shown = cleaner(*args, "--receipt-dir", str(tmp_path / "receipts"), env=env)
        assert (shown.code, shown.result["verdict"]) == (4, "unproven")
        assert sub.unacked() == 0

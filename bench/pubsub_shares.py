"""One Pub/Sub subscription drained by 1, 2, 4 and 8 functions at once, and by 8 of which one is killed.

Each invocation runs in a process of functions-framework, called by a queue that replaces Cloud Tasks.
The server is Google's test server (`pstest`), made quick enough for large backlogs. In the first part it
limits a stream to 10 MB/s, as the service does, and an invocation has one stream. In the second part, of
1,000,000 messages, one process is killed and one slice is delivered twice; then every message has to be
acknowledged once, the run's status has to be cleared, and one undo has to bring everything back.

    python -m bench.pubsub_shares [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from google.pubsub_v1 import PublisherClient, SubscriberClient

from backlog_clearer.testing.servers.cloud_tasks import QUEUE, CloudTasks
from backlog_clearer.testing.servers.functions import Service
from backlog_clearer.testing.servers.pubsub import COUNT, PubSubServer, Sub
from backlog_clearer.testing.servers.pubsub_emulator import Emulator, emulator
from backlog_clearer.testing.support import wait_until
from bench.processes import ended

SLICES = 8
STREAM_BYTES_S = 10e6
SIZE = 10_000  # of a message where the rate is limited, so that this machine is not the limit
TOPIC, NAME = "projects/test/topics/bench", "billing"
DRAIN = "http://drain.functions/"
LEASE_S = 10  # what a killed process held comes back after this time
_LATE = timedelta(seconds=61)  # figures are dated later than now, so that nothing is waited for


class Functions:
    """The functions on one subscription of a large server."""

    def __init__(
        self, server: Emulator, folder: Path, stack: ExitStack, slices: int, **options: Any
    ) -> None:
        self.server, self.slices, self.receipts = server, slices, str(folder / "receipts")
        self.tasks = stack.enter_context(CloudTasks(twice=options.pop("twice"), at_once=9).running())
        figures = stack.enter_context(PubSubServer())
        figures.create(NAME)
        figures.sample = self._sample
        self.now = figures.now
        self.loaded_at = self.now()
        reach = {
            "project_id": "test",
            "subscription_id": NAME,
            "monitoring_endpoint": f"http://{figures.address}",
            "stream_ack_deadline_seconds": LEASE_S,
            **options,
        }
        backlog = {
            "system": "googlepubsub",
            "options": reach,
            "workers": 1,
            "max_slices": slices,
            "messages_per_slice": 1,
        }
        self.environ = {"PUBSUB_EMULATOR_HOST": server.address}
        env = {
            "BACKLOG_CLEARER_CONFIG": json.dumps(
                {"receipts": self.receipts, "backlogs": {"bills": backlog}}
            ),
            "BACKLOG_CLEARER_TASKS_QUEUE": QUEUE,
            "BACKLOG_CLEARER_DRAIN_URL": DRAIN,
            "BACKLOG_CLEARER_DEADLINE_S": "600",
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{self.tasks.port}",
            **self.environ,
        }
        self.drain = Service("drain", env, folder, instances=slices)
        stack.callback(self.drain.close)
        self.dispatch = Service("dispatch", env, folder)
        stack.callback(self.dispatch.close)
        self.tasks.services[DRAIN] = self.drain

    def _sample(self, metric: str, _: Sub) -> tuple[int, datetime]:
        at, left = self.now() + _LATE, self.left
        if metric == COUNT:
            return left, at
        return int((at - self.loaded_at).total_seconds()) if left else 0, at

    def load(self, messages: int, size: int) -> None:
        """Publish messages."""
        self.loaded_at = self.now()
        self.server.load(TOPIC, messages, size)

    @property
    def left(self) -> int:
        """Messages that are not acknowledged."""
        return self.server.left(TOPIC)

    def ask(self, path: str = "", body: Mapping[str, str] | None = None) -> Any:
        """The dispatcher's answer."""
        with self.dispatch.instance() as one:
            if body is None:
                return requests.get(one.url + path, timeout=60).json()
            return requests.post(one.url, json=body, timeout=60).json()

    def kill_one(self) -> None:
        """Kill an instance that drains."""
        busy = next(call for call in self.tasks.calls if call.status is None and call.server)
        if busy.server is not None:
            busy.server.stop(signal.SIGKILL)

    def settled(self) -> None:
        """Wait until no slice is left to deliver."""
        wait_until(lambda: self.tasks.idle, "an empty queue", 900)


@contextmanager
def deployed(slices: int, rate: float, messages: int, size: int, **options: Any) -> Iterator[Functions]:
    """Functions in front of a subscription with these messages."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(emulator(folder, rate))
        os.environ["PUBSUB_EMULATOR_HOST"] = server.address
        PublisherClient().create_topic(name=TOPIC)
        subscription = {"name": f"projects/test/subscriptions/{NAME}", "topic": TOPIC}
        SubscriberClient().create_subscription(
            request={**subscription, "ack_deadline_seconds": LEASE_S}
        )
        made = Functions(server, folder, stack, slices, **{"twice": 0, **options})
        made.load(messages, size)
        yield made


def rates(messages: int) -> None:
    """A line for each number of invocations, from the first acknowledgement to the last."""
    print(f"{STREAM_BYTES_S / 1e6:.0f} MB/s a stream, one stream an invocation, {SIZE:,} B messages")
    alone = 0.0
    for slices in (1, 2, 4, SLICES):
        with deployed(slices, STREAM_BYTES_S, messages * slices, SIZE, no_snapshot=True) as functions:
            functions.ask(body={"backlog": "bills"})
            functions.settled()
            figures = functions.server.account()
        rate = figures["acknowledged_once"] / figures["seconds"]
        alone = alone or rate
        print(
            f"  {slices} invocations  {rate:8,.0f}/s  {rate * SIZE / 1e6:5.1f} MB/s"
            f"  {rate / alone:4.1f} times one",
            flush=True,
        )


def shares(messages: int) -> None:
    """Eight slices of a run, one of them killed and one delivered twice."""
    with deployed(SLICES, 0, messages, 100, twice=1) as functions:
        begun = time.monotonic()
        made = functions.ask(body={"backlog": "bills"})
        while functions.left > messages * 0.7:
            time.sleep(0.05)
        functions.kill_one()
        while functions.left:
            time.sleep(0.2)
        seconds = time.monotonic() - begun
        functions.settled()
        ended_s = time.monotonic() - begun
        figures = functions.server.account()
        status = functions.ask(f"runs/{made['run_id']}")
        answers = [call.answer for call in functions.tasks.calls if call.answer]
        undo = [sys.executable, "cleaner.py", "restore", "--run", made["run_id"]]
        env = {**os.environ, **functions.environ}
        # Pub/Sub reports no position, so that an undo is never proven: exit code 4.
        ended(*undo, "--receipt-dir", functions.receipts, "--yes", env=env, code=4)
        back = functions.left
    counted = sum(answer["totals"]["messages"] for answer in answers)
    if status["verdict"] != "cleared" or status["gone"] is None:
        raise SystemExit(f"the run does not hold together: {json.dumps(status)} {figures}")
    print(
        f"{messages:,} messages by {SLICES} slices on {SLICES} processes, one killed and one delivered"
        f" twice: acknowledged once {figures['acknowledged_once']:,}, otherwise {figures['others']:,},"
        f" after {seconds:.0f} s (the last slice ended after {ended_s:.0f} s);"
        f" {figures['delivered']:,} deliveries, {figures['late']:,} late acknowledgements;"
        f" {len(functions.tasks.calls)} invocations, {len(answers)} results with {counted:,} messages;"
        f" run {status['verdict']}, {status['gone']:,} gone; {figures['snapshots']} snapshot;"
        f" {back:,} back after the undo"
    )
    if (figures["acknowledged_once"], figures["others"]) != (messages, 0):
        raise SystemExit("messages were acknowledged otherwise than once")
    if (figures["snapshots"], back, status["gone"]) != (1, messages, messages):
        raise SystemExit("the run's undo does not hold together")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a fifth of the messages")
    scale = 5 if parser.parse_args().quick else 1
    rates(20_000 // scale)
    shares(1_000_000 // scale)


if __name__ == "__main__":
    main()

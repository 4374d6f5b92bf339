"""The state of a Pulsar broker, by its admin API and plain consumers.

Nothing here uses the adapter under test, except to open it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pulsar
import requests

from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.source import open_source
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.restore import restore
from backlog_clearer.run.status import status
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench
from backlog_clearer.testing.bench import Approach
from backlog_clearer.testing.servers.pulsar import PulsarServer, token
from backlog_clearer.testing.support import wait_until

KEPT = "public/kept"
"""A namespace that keeps acknowledged messages."""

SUBSCRIPTION = "billing"


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def produce(
    client: pulsar.Client,
    topic: str,
    count: int,
    *,
    size: int = 100,
    batch: int = 0,
    **settings: Any,
) -> None:
    """Publish to one topic and wait until all is stored; `batch` messages an entry, 0: unbatched."""
    producer = client.create_producer(
        topic,
        batching_enabled=batch > 0,
        batching_max_messages=batch or 1000,
        batching_max_publish_delay_ms=1000,
        block_if_queue_full=True,
        max_pending_messages=10_000,
        **settings,
    )
    try:
        for index in range(count):
            producer.send_async(bytes(size), None, partition_key=str(index % 97))
        producer.flush()
    finally:
        producer.close()


_CLOSED: list[pulsar.Consumer] = []
"""Closed consumers, kept since destroying one whose connection broke can abort the whole process.

See https://github.com/apache/pulsar-client-python/issues/103.
"""


def received(client: pulsar.Client, topic: str, kind: Any, *, wait_ms: int = 1500) -> int:
    """Messages that a plain consumer of the subscription gets; it acknowledges none of them."""
    consumer = client.subscribe(topic, SUBSCRIPTION, kind, receiver_queue_size=5000)
    _CLOSED.append(consumer)
    seen: set[bytes] = set()  # a message that is delivered twice is one
    try:
        while True:  # the first one takes longer on a machine with much to do
            wait = wait_ms if seen else max(wait_ms, 2000)
            seen.add(consumer.receive(wait).message_id().serialize())
    except pulsar.Timeout:
        return len(seen)
    finally:
        consumer.close()


class _Session(requests.Session):
    """Keeps its login when a broker redirects to another one, on another port."""

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        return False


class Judge:
    """One broker as plain clients see it."""

    def __init__(self, server: PulsarServer) -> None:
        self.server = server
        self.http = _Session()
        login: dict[str, Any] = {}
        if server.secure:
            self.http.headers["Authorization"] = f"Bearer {token()}"
            login["authentication"] = pulsar.AuthenticationToken(token())
        self.client = pulsar.Client(
            server.service_url,
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
            stats_interval_in_seconds=0,
            **login,
        )
        self.keep(KEPT)

    def admin(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Ask the admin API; raises for what it refuses."""
        url = f"{self.server.admin_url}/admin/v2/{path}"
        answer = self.http.request(method, url, json=body, params=query, timeout=30)
        if answer.status_code != requests.codes.conflict:
            answer.raise_for_status()
        return answer.json() if answer.content else None

    def keep(self, namespace: str) -> None:
        """Create a namespace that keeps acknowledged messages."""
        self.admin("PUT", f"namespaces/{namespace}", {})
        retention = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
        self.admin("POST", f"namespaces/{namespace}/retention", retention)

    def create(self, topic: str, partitions: int = 0) -> str:
        """Create a topic with the subscription, at its start; return the topic."""
        path = topic.replace("://", "/")
        if partitions:
            self.admin("PUT", f"{path}/partitions", partitions)
        else:
            self.admin("PUT", path)
        self.admin("PUT", f"{path}/subscription/{SUBSCRIPTION}")
        return topic

    def produce(self, topic: str, count: int, **settings: Any) -> None:
        """Publish to one topic; see `produce`."""
        produce(self.client, topic, count, **settings)

    def slow_down(self, namespace: str, messages: int) -> None:
        """Limit each subscription in a namespace to this many messages a second."""
        rate = {
            "dispatchThrottlingRateInMsg": messages,
            "dispatchThrottlingRateInByte": -1,
            "ratePeriodInSecond": 1,
        }
        path = f"namespaces/{namespace}/subscriptionDispatchRate"
        self.admin("POST", path, rate)
        wait_until(lambda: (self.admin("GET", path) or {}).items() >= rate.items(), "the rate")

    def limit_consumers(self, topic: str, count: int) -> None:
        """Let a topic's subscriptions have at most so many consumers, for each partition."""
        path = f"{topic.replace('://', '/')}/maxConsumersPerSubscription"
        self.admin("POST", path, count)
        wait_until(lambda: self.admin("GET", path) == count, "the topic's policy")

    def backlog(self, topic: str, subscription: str = SUBSCRIPTION) -> int:
        """Entries that the broker still has to deliver, by its precise figure."""
        return int(self.stats(topic, subscription)["msgBacklog"])

    def mark_delete(self, topic: str) -> str:
        """The subscription's mark-delete position."""
        return str(self.cursor(topic)["markDeletePosition"])

    def stats(self, topic: str, subscription: str = SUBSCRIPTION) -> Any:
        """All that the broker counts of one subscription of a topic."""
        path = f"{topic.replace('://', '/')}/stats"
        return self.admin("GET", path, getPreciseBacklog="true")["subscriptions"][subscription]

    def cursor(self, topic: str) -> Any:
        """The subscription's cursor, as the broker keeps it."""
        path = f"{topic.replace('://', '/')}/internalStats"
        return self.admin("GET", path)["cursors"][SUBSCRIPTION]

    def reload(self, topic: str) -> None:
        """Unload a topic: its consumers are disconnected, and it begins a new ledger."""
        self.admin("PUT", f"{topic.replace('://', '/')}/unload")

    def rewind(self, topic: str) -> None:
        """Move the subscription back to the topic's first message, where messages are kept."""
        path = f"{topic.replace('://', '/')}/subscription/{SUBSCRIPTION}/resetcursor"
        self.admin("POST", path, {"ledgerId": -1, "entryId": -1})

    def received(self, topic: str, kind: Any = pulsar.ConsumerType.Shared) -> int:
        """Messages that a plain consumer of the subscription gets; it acknowledges none of them."""
        return received(self.client, topic, kind)

    @contextmanager
    def attached(self, topic: str, kind: Any = pulsar.ConsumerType.Shared) -> Iterator[Any]:
        """An attached plain consumer, which receives only when it is asked to."""
        consumer = self.client.subscribe(topic, SUBSCRIPTION, kind, receiver_queue_size=1)
        try:
            yield consumer
        finally:
            consumer.close()

    def close(self) -> None:
        """Close the plain client."""
        self.client.close()


class Case:
    """One topic with its subscription, cleared in this process."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge = judge
        self.folder = folder
        self.topic = f"persistent://{KEPT}/{unique('log')}"
        self.changes: dict[str, Any] = {}

    def create(self, partitions: int = 0) -> str:
        """Create the topic and the subscription."""
        return self.judge.create(self.topic, partitions)

    def options(self, **changes: Any) -> PulsarOptions:
        """How to reach the subscription."""
        values = {
            "service_url": self.judge.server.service_url,
            "admin_url": self.judge.server.admin_url,
            "topic": self.topic,
            "subscription": SUBSCRIPTION,
            **self.changes,
            **changes,
        }
        return PulsarOptions(**values)

    def run(self, **run: Any) -> RunOptions:
        """Run options for tests."""
        return RunOptions(**{"stop_when_empty": True, "receipt_dir": str(self.folder), **run})

    def clear(self, callbacks: Callbacks | None = None, **run: Any) -> RunResult:
        """Clear the backlog."""
        return clear(Job("pulsar", self.options(), self.run(**run)), callbacks)

    def cleared(self, messages: int, **run: Any) -> None:
        """Clear it; assert that this many messages were counted, and that the broker has none left."""
        result = self.clear(**run)
        assert (result.totals.messages, result.verified) == (messages, True)
        assert self.judge.backlog(self.topic) == 0

    def status(self, **run: Any) -> RunResult:
        """Look at the backlog."""
        return status(Job("pulsar", self.options(), self.run(**run)))

    def restore(self, *runs: RunResult, **run: Any) -> RunResult:
        """Undo runs by their receipts."""
        receipts = [load(each.receipt) for each in runs if each.receipt]
        job = Job("pulsar", self.options(), self.run(**run))
        return restore(job, original_positions(receipts), receipts[0].identity)


class PulsarBench(Bench):
    """A separate topic on the real broker; unbatched, so that an entry is a message."""

    system = "pulsar"
    cuts_by_time = cuts_by_count = shows_age = True
    confirms = False  # the adapter counts what it sent
    notices_silence = True
    broken: int | None = None  # the partition whose topic is deleted
    missing_name = "no-such-subscription"
    changes: ClassVar[dict[str, Any]] = {}  # to the options

    def __init__(self, judge: Judge, kind: str, partitions: int = 3) -> None:
        self.judge = judge
        self.kind = kind
        self.damaged_answers = int(kind == "failover" and not self.changes)
        self.partitions = partitions
        self.topic = judge.create(f"persistent://{KEPT}/{unique('contract')}", partitions)
        self.endpoint = "127.0.0.1", judge.server.port

    def _open(self, run: RunOptions, subscription: str, **changes: Any) -> Source:
        values = {
            "service_url": self.judge.server.service_url,
            "admin_url": self.judge.server.admin_url,
            "topic": self.topic,
            "subscription": subscription,
            "subscription_type": self.kind,
            **self.changes,
            **changes,
        }
        return open_source(PulsarOptions(**values), run, "contract")

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return self._open(run, SUBSCRIPTION)

    def source_via(self, run: RunOptions, host: str, port: int) -> Source:
        return self._open(run, SUBSCRIPTION, service_url=f"pulsar://{host}:{port}")

    def approaches(self) -> Mapping[str, Approach]:
        if self.changes.get("admin_url") == "none":
            return super().approaches()
        return {
            **super().approaches(),
            "admin": Approach("127.0.0.1", self.judge.server.web, self.source_asking),
        }

    def source_asking(self, run: RunOptions, host: str, port: int) -> Source:
        """The adapter, with another address of the admin API."""
        return self._open(run, SUBSCRIPTION, admin_url=f"http://{host}:{port}")

    def readdressed(self, port: int) -> list[tuple[bytes, bytes]]:
        return [(b":%d" % self.judge.server.port, b":%d" % port)]  # in the answers to lookups

    def other_source(self, run: RunOptions) -> Source:
        for number in range(self.partitions):
            path = f"{self.topic}-partition-{number}".replace("://", "/")
            self.judge.admin("PUT", f"{path}/subscription/shipping")
        return self._open(run, "shipping")

    def abandon(self, count: int) -> None:
        kinds = {"failover": pulsar.ConsumerType.Failover, "shared": pulsar.ConsumerType.Shared}
        with closing(
            self.judge.client.subscribe(f"{self.topic}-partition-0", SUBSCRIPTION, kinds[self.kind])
        ) as consumer:
            for _ in range(count):
                consumer.receive(10_000)

    def advance(self, number: int, to: int) -> None:
        path = f"{self.topic}-partition-{number}".replace("://", "/")
        self.judge.admin("POST", f"{path}/subscription/{SUBSCRIPTION}/skip/{to}")

    def forget(self, number: int, to: int) -> None:
        path = f"{self.topic}-partition-{number}".replace("://", "/")
        (ledger,) = self.judge.admin("GET", f"{path}/internalStats")["ledgers"]
        first = {"ledgerId": ledger["ledgerId"], "entryId": to, "partitionIndex": number}
        self.judge.admin("POST", f"{path}/subscription/{SUBSCRIPTION}/resetcursor", first)

    def missing_source(self, run: RunOptions) -> Source:
        return self._open(run, self.missing_name)

    def produce(self, number: int, count: int) -> None:
        self.judge.produce(f"{self.topic}-partition-{number}", count)

    def recreate(self) -> None:
        path = self.topic.replace("://", "/")
        parts = [f"{self.topic}-partition-{number}" for number in range(self.partitions)]

        def deleted() -> bool:
            with suppress(requests.RequestException):  # a topic that closes cannot be deleted at once
                self.judge.admin("DELETE", f"{path}/partitions", force="true")
            names = self.judge.admin("GET", path.rpartition("/")[0])
            return not set(parts) & set(names)

        def created() -> bool:
            with suppress(requests.RequestException):
                self.judge.create(self.topic, self.partitions)
                at = (f"{part.replace('://', '/')}/subscriptions" for part in parts)
                return all(SUBSCRIPTION in self.judge.admin("GET", each) for each in at)
            return False

        wait_until(deleted, f"the end of {self.topic}")
        wait_until(created, f"{self.topic} again")

    @contextmanager
    def breaking(self, number: int) -> Iterator[Callable[[], None]]:
        path = f"{self.topic}-partition-{number}".replace("://", "/")

        def breaks() -> None:
            self.judge.admin("DELETE", path, force="true")
            self.broken = number

        yield breaks

    @contextmanager
    def limited_consumers(self) -> Iterator[str]:
        self.judge.limit_consumers(self.topic, 1)
        yield "max consumers limit"

    def add_partition(self) -> int:
        path = self.topic.replace("://", "/")
        self.judge.admin("POST", f"{path}/partitions", self.partitions + 1)
        return self.partitions

    def left(self) -> dict[int, int]:
        return {
            number: self.judge.backlog(f"{self.topic}-partition-{number}")
            for number in range(self.partitions)
            if number != self.broken
        }

    def exists(self, name: str) -> bool:
        path = f"{self.topic}-partition-0".replace("://", "/")
        return name in self.judge.admin("GET", f"{path}/subscriptions")

    def attach(self) -> Any:
        return self.judge.attached(self.topic)

"""Pub/Sub passes the contract on Google's own test server, as far as that server supports it.

It has no snapshots, no Monitoring, and a seek leaves messages that are younger than its time without
content, which ends its process at their next delivery (pstest/fake.go, `Seek`, pubsub/v2 2.8.1).
Where a stream ends, a message that it had just taken is not sent, and is delivered again at the end of its
lease (`stream.pull` there does not wait for `sendLoop`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google import pubsub_v1
from google.api_core.exceptions import NotFound

from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.brokers.googlepubsub.source import PubSubSource, open_source
from backlog_clearer.options.run import RunOptions
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.servers.pubsub_emulator import Emulator, emulator
from tests.invoking import call

_numbers = itertools.count()


class Clients(NamedTuple):
    """The emulator, and official clients of it."""

    server: Emulator
    publisher: pubsub_v1.PublisherClient
    subscriber: pubsub_v1.SubscriberClient


class EmulatorBench(Bench):
    """A separate subscription on the emulator, filled by the official publisher."""

    system = "googlepubsub"
    partitions = 1
    has_figures = False
    exact_restore = False  # no snapshots
    detects_live = False
    shows_position = False
    cuts_by_time = True
    survives_skip = False
    lease_s = 10.0  # the shortest that --stream-ack-deadline-seconds allows
    missing_name = "no-such-subscription"

    def __init__(self, clients: Clients, **settings: Any) -> None:
        self.server, self.publisher, self.subscriber = clients
        number = next(_numbers)
        self.topic = f"projects/test/topics/topic-{number}"
        self.subscription = f"projects/test/subscriptions/sub-{number}"
        self.publisher.create_topic(name=self.topic)
        self._made: list[str] = []
        self._create(self.subscription, **settings)

    def _create(self, name: str, **settings: Any) -> None:
        self.subscriber.create_subscription(request={"name": name, "topic": self.topic, **settings})
        self._made.append(name)

    def close(self) -> None:
        """Delete what it made: the server visits each message of a subscription every 10 ms."""
        for name in self._made:
            self.subscriber.delete_subscription(subscription=name)

    def source(self, run: RunOptions, run_id: str = "contract") -> PubSubSource:
        return self.open(self.subscription, run, run_id)

    def open(self, name: str, run: RunOptions, run_id: str = "contract") -> PubSubSource:
        """A source that takes no snapshot."""
        options = PubSubOptions(
            subscription_id=name,
            no_snapshot=True,
            stream_ack_deadline_seconds=int(self.lease_s),
        )
        return open_source(options, run, run_id)

    def other_source(self, run: RunOptions) -> PubSubSource:
        other = f"{self.subscription}-other"
        self._create(other)
        return self.open(other, run)

    def missing_source(self, run: RunOptions) -> PubSubSource:
        return self.open(f"projects/test/subscriptions/{self.missing_name}", run)

    def produce(self, number: int, count: int) -> None:
        messages = [pubsub_v1.types.PubsubMessage(data=b"x" * 10) for _ in range(count)]
        self.publisher.publish(request={"topic": self.topic, "messages": messages})

    def left(self) -> dict[int, int]:
        return {0: self.server.left(self.topic)}

    def exists(self, name: str) -> bool:
        try:
            self.subscriber.get_subscription(subscription=f"projects/test/subscriptions/{name}")
        except NotFound:
            return False
        return True


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """One emulator for the module, to which all clients of Pub/Sub connect."""
    with (
        emulator(tmp_path_factory.mktemp("emulator")) as server,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("PUBSUB_EMULATOR_HOST", server.address)
        with pubsub_v1.PublisherClient() as publisher, pubsub_v1.SubscriberClient() as subscriber:
            yield Clients(server, publisher, subscriber)


class TestEmulator(Contract):
    """Google's test server."""

    @pytest.fixture
    def bench(self, clients: Clients) -> Iterator[Bench]:
        """A fresh subscription."""
        with closing(EmulatorBench(clients)) as made:
            yield made


@pytest.fixture
def benches(clients: Clients) -> Iterator[list[EmulatorBench]]:
    """Two subscriptions, each with 20 messages."""
    with ExitStack() as stack:
        made = [stack.enter_context(closing(EmulatorBench(clients))) for _ in range(2)]
        for bench in made:
            bench.produce(0, 20)
        yield made


def cleared(folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Clear; the exit code and the JSON object."""
    done = call(
        "googlepubsub", *args, "--no-snapshot", "--stop-when-empty", "--quiet-seconds", "2", "--yes",
        "--output", "json", "--receipt-dir", str(folder),
    )  # fmt: skip
    return done.exit_code, json.loads(done.stdout)


def test_several_subscriptions_are_cleared_and_a_missing_one_is_not(
    benches: list[EmulatorBench], tmp_path: Path
) -> None:
    """Nothing is left of both; the missing one is a part with an error, and exit is 1."""
    names = [bench.subscription for bench in benches]
    code, value = cleared(
        tmp_path, "--subscription-id", ",".join((names[0], f"{names[0]}-missing", names[1]))
    )  # fmt: skip
    first, missing, last = value["parts"]
    assert (code, missing["kind"]) == (1, "UsageError")
    assert [part["result"]["verdict"] for part in (first, last)] == ["unproven"] * 2
    assert [bench.left() for bench in benches] == [{0: 0}, {0: 0}]


def test_all_subscriptions_that_match_are_cleared(benches: list[EmulatorBench], tmp_path: Path) -> None:
    """One with another name keeps its messages; without figures, exit is 4."""
    matching, other = benches
    short = matching.subscription.rpartition("/")[2]
    code, value = cleared(
        tmp_path, "--project-id", "test", "--all-subscriptions", "--matching", f"{short[:-1]}[{short[-1]}]"
    )  # fmt: skip
    assert (code, [part["name"] for part in value["parts"]]) == (4, [short])
    assert (matching.left(), other.left()) == ({0: 0}, {0: 20})

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
from pathlib import Path
from typing import Any

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

    def __init__(self, server: Emulator, **settings: Any) -> None:
        self.server = server
        number = next(_numbers)
        self.topic = f"projects/test/topics/topic-{number}"
        self.subscription = f"projects/test/subscriptions/sub-{number}"
        self.publisher = pubsub_v1.PublisherClient()
        self.subscriber = pubsub_v1.SubscriberClient()
        self.publisher.create_topic(name=self.topic)
        self.subscriber.create_subscription(
            request={"name": self.subscription, "topic": self.topic, **settings}
        )

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
        self.subscriber.create_subscription(request={"name": other, "topic": self.topic})
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One emulator for the module."""
    with emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


class TestEmulator(Contract):
    """Google's test server."""

    @pytest.fixture
    def bench(self, server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
        """A fresh subscription."""
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
        yield EmulatorBench(server)


def cleared(folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Clear; the exit code and the JSON object."""
    done = call(
        "googlepubsub", *args, "--no-snapshot", "--stop-when-empty", "--quiet-seconds", "2", "--yes",
        "--output", "json", "--receipt-dir", str(folder),
    )  # fmt: skip
    return done.exit_code, json.loads(done.stdout)


def test_several_subscriptions_are_cleared_and_a_missing_one_is_not(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is left of both; the missing one is a part with an error, and exit is 1."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
    benches = [EmulatorBench(server) for _ in range(2)]
    for bench in benches:
        bench.produce(0, 20)
    names = [bench.subscription for bench in benches]
    code, value = cleared(
        tmp_path, "--subscription-id", ",".join((names[0], f"{names[0]}-missing", names[1]))
    )  # fmt: skip
    first, missing, last = value["parts"]
    assert (code, missing["kind"]) == (1, "UsageError")
    assert [part["result"]["verdict"] for part in (first, last)] == ["unproven"] * 2
    assert [bench.left() for bench in benches] == [{0: 0}, {0: 0}]


def test_all_subscriptions_that_match_are_cleared(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One with another name keeps its messages; without figures, exit is 4."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
    matching, other = EmulatorBench(server), EmulatorBench(server)
    matching.produce(0, 20)
    other.produce(0, 20)
    short = matching.subscription.rpartition("/")[2]
    code, value = cleared(
        tmp_path, "--project-id", "test", "--all-subscriptions", "--matching", f"{short[:-1]}[{short[-1]}]"
    )  # fmt: skip
    assert (code, [part["name"] for part in value["parts"]]) == (4, [short])
    assert (matching.left(), other.left()) == ({0: 0}, {0: 20})

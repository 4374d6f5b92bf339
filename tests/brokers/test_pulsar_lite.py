"""Pulsar's adapter on the broker that pip installs, which has no admin API.

That broker has one partition a topic. Positions, backlog, attached consumers and whether a subscription
exists are unknown, and undo is impossible: the contract is tested as far as that allows, for a
subscription read in order, whose end is proved by the last message's identifier. The end of a competing
one cannot be proved here; the contract is tested for both on real Pulsar, in tests/real.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pulsar
import pytest
from pulsar_lite import __file__ as package

from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.client import ClientCluster
from backlog_clearer.brokers.pulsar.options import PulsarOptions, SubscriptionType
from backlog_clearer.brokers.pulsar.source import open_source
from backlog_clearer.brokers.pulsar.wire import EntryHead
from backlog_clearer.errors import TransientError
from backlog_clearer.model import Advance, Claim, Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.damage import AnswerFault, DamagingRelay
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, produce, received, unique
from backlog_clearer.testing.support import Server, free_port, running, wait_until

LIBRARY_ATTEMPTS = 20
"""Connections that the client library may try within the time that it is given for an answer."""
KINDS = {
    "exclusive": pulsar.ConsumerType.Exclusive,
    "failover": pulsar.ConsumerType.Failover,
    "shared": pulsar.ConsumerType.Shared,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the broker listens."""
    folder = tmp_path_factory.mktemp("lite")
    port = free_port()
    (folder / "pulsar-lite.toml").write_text("[metrics]\nenabled = false\n")
    binary = Path(package).parent / "bin" / "pulsar-lite"
    server = Server(
        [str(binary), "--addr", f"127.0.0.1:{port}", "--db-path", str(folder / "db")],
        port=port,
        log=folder / "lite.log",
        cwd=folder,
    )
    with running(server):
        yield f"pulsar://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[pulsar.Client]:
    """A plain client."""
    found = pulsar.Client(url, operation_timeout_seconds=10)
    yield found
    found.close()


class LiteBench(Bench):
    """A separate topic, with one subscription that exists."""

    system = "pulsar"
    partitions = 1
    exact_restore = False
    unit_is_messages = False  # there is no backlog figure
    detects_live = False
    shows_position = False
    confirms = False  # the adapter counts what it sent
    refuses_missing = False
    answers_empty = False
    missing_name = "no-such-subscription"

    def __init__(self, url: str, client: pulsar.Client, kind: str, reader: str = "entries") -> None:
        self.url, self.client, self.kind, self.reader = url, client, kind, reader
        self.attempts = LIBRARY_ATTEMPTS if reader == "client" else self.attempts
        self.damaged_answers = 0  # real Pulsar does this
        self.takes_garbled = reader != "client"
        self.topic = f"persistent://public/default/{unique('orders')}"
        client.subscribe(self.topic, SUBSCRIPTION, KINDS[kind]).close()
        self.port = int(url.rpartition(":")[2])
        self.endpoint = "127.0.0.1", self.port

    def options(self, tmp_path: Path, **changes: Any) -> RunOptions:
        """Options with reads so large that one FLOW covers a test's backlog.

        After a FLOW while it still sends, this server sends the same messages twice, to any client.
        """
        return super().options(tmp_path, **{"batch_size": 5000, **changes})

    def options_of(self, subscription: str, url: str | None = None) -> PulsarOptions:
        """How to reach a subscription, through another address if need be."""
        return PulsarOptions(
            service_url=url or self.url, topic=self.topic, subscription=subscription,
            subscription_type=self.kind, assume_exists=True, reader=self.reader,
        )  # fmt: skip

    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        return open_source(self.options_of(SUBSCRIPTION), run, run_id)

    def source_via(self, run: RunOptions, host: str, port: int) -> Source:
        return open_source(self.options_of(SUBSCRIPTION, f"pulsar://{host}:{port}"), run, "contract")

    def readdressed(self, port: int) -> list[tuple[bytes, bytes]]:
        return [(b":%d" % self.port, b":%d" % port)]  # in the answers to lookups

    def other_source(self, run: RunOptions) -> Source:
        self.client.subscribe(self.topic, "shipping", KINDS[self.kind]).close()
        return open_source(self.options_of("shipping"), run, "contract")

    def abandon(self, count: int) -> None:
        consumer = self.client.subscribe(self.topic, SUBSCRIPTION, KINDS[self.kind])
        for _ in range(count):
            consumer.receive(10_000)
        consumer.close()

    def missing_source(self, run: RunOptions) -> Source:
        return open_source(self.options_of(self.missing_name), run, "contract")

    def produce(self, number: int, count: int) -> None:
        produce(self.client, self.topic, count)

    def left(self) -> dict[int, int]:
        return {0: received(self.client, self.topic, KINDS[self.kind], wait_ms=700)}

    def exists(self, name: str) -> bool:
        raise NotImplementedError  # this broker has no admin API

    def attach(self) -> Any:
        raise NotImplementedError  # attached consumers are not reported


class TestFailover(Contract):
    """Acknowledging cumulatively."""

    @pytest.fixture
    def bench(self, url: str, client: pulsar.Client) -> Iterator[Bench]:
        """A separate topic."""
        yield LiteBench(url, client, "failover", self.reader)

    reader = "entries"

    def test_a_run_survives_a_cut(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not on this server: tests/real does it on a broker that answers acknowledgements."""
        pytest.skip("this server does not answer acknowledgements: a cut may lose some that were sent")


class TestClientReader(TestFailover):
    """The same with Pulsar's client library.

    Where two clients of it consume a topic at once, this server mixes their consumers up, since each client
    numbers them from 0: tests/real does those tests.
    """

    reader = "client"

    def test_other_slices_of_a_run_do_not_count_as_attached(self, bench: Bench, tmp_path: Path) -> None:
        """Not on this server."""
        pytest.skip("this server mixes up consumers of two clients")

    def test_a_damaged_answer_never_becomes_a_figure(  # type: ignore[override]
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Not on this server, since many clients ask at once."""
        pytest.skip("this server mixes up consumers of two clients")

    def test_every_call_ends_in_time_with_an_error_or_the_truth(  # type: ignore[override]
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Not on this server."""
        pytest.skip("this server mixes up consumers of two clients")


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("reader", ["entries", "client"])
def test_acknowledgements_that_were_lost_prove_nothing(
    url: str, client: pulsar.Client, tmp_path: Path, reader: str, later: int
) -> None:
    """Lost acknowledgements are repeated with an answer, or the result is unknown where messages came later."""
    bench = LiteBench(url, client, "failover", reader)
    bench.produce(0, 40)
    with Relay("127.0.0.1", bench.port) as relay:
        relay.replace += bench.readdressed(relay.port)
        with closing(bench.source_via(bench.options(tmp_path), "127.0.0.1", relay.port)) as source:
            (state,) = source.survey().partitions
            lane = source.open_lane([Claim(state, None, state.end)])
            read: list[Advance] = []

            def enough() -> bool:
                read.extend(lane.read(0.2, None))
                return sum(item.messages for item in read) == 40

            wait_until(enough, "40 messages")
            relay.swallow()
            assert sum(item.messages for item in lane.settle()) == 40
            wait_until(lambda: relay.swallowed > 0, "the acknowledgement")
            relay.heal()
            lane.close()
            bench.produce(0, later)
            (found,) = source.remaining({state.partition: state.end})
            assert (found.left, found.error) == (None if later else 0, None)
    assert bench.left() == {0: 41 if later else 0}


def test_an_answer_that_was_cut_is_not_an_empty_topic(url: str, client: pulsar.Client) -> None:
    """Where the connection breaks before the last entry is known, the client library's survey is an error."""
    bench = LiteBench(url, client, "failover", "client")
    bench.produce(0, 40)
    options = bench.options_of(SUBSCRIPTION)
    partition = Partition(bench.topic, 0)
    with DamagingRelay("127.0.0.1", bench.port) as relay:
        relay.replace += bench.readdressed(relay.port)
        through = options.model_copy(update={"service_url": f"pulsar://{relay.address}"})
        with closing(ClientCluster(through, access(through), "run", answer_s=None)) as cluster:
            consumer = cluster.subscribe(partition, bench.topic, SubscriptionType.FAILOVER)
            assert len(received_by(cluster)) == 40  # nothing else is on its way
            relay.arm(0, AnswerFault.CUT)
            with pytest.raises(TransientError, match="Disconnected"):
                cluster.last(consumer, partition)
    assert relay.damaged


def received_by(cluster: ClientCluster) -> list[EntryHead]:
    """40 entries."""
    found: list[EntryHead] = []

    def enough() -> bool:
        for feed in cluster.arrived(0.2):
            while head := feed.next():
                found.append(head)
        return len(found) >= 40

    wait_until(enough, "40 entries")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_cleared(url: str, client: pulsar.Client, tmp_path: Path, kind: str) -> None:
    """Batched messages of each type are cleared; what cannot be proved of shared ones is not verified."""
    bench = LiteBench(url, client, kind)
    produce(client, bench.topic, 3000, batch=100)
    run = bench.options(tmp_path)
    result = clear(Job("pulsar", bench.options_of(SUBSCRIPTION), run))
    proved = None if kind == "shared" else True
    assert bench.left() == {0: 0}
    assert (result.totals.messages, result.verified, result.cleared) == (3000, proved, bool(proved))

"""Pulsar's client library as a reader: when it is used, and how its messages become entries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pulsar
import pytest

from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.brokers import Brokers
from backlog_clearer.brokers.pulsar.client import ClientCluster, ClientFeed
from backlog_clearer.brokers.pulsar.cluster import Cluster
from backlog_clearer.brokers.pulsar.options import PulsarOptions, PulsarReader, SubscriptionType
from backlog_clearer.brokers.pulsar.readers import open_brokers, reader_notes
from backlog_clearer.errors import TransientError, UsageError
from backlog_clearer.model import Partition
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.pulsar_frames import CONNECT
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, produce, unique
from backlog_clearer.testing.support import Stopwatch, answering, need, wait_until
from tests.brokers.pulsar_relay import Relay
from tests.brokers.test_pulsar_lite import client, url
from tests.paths import ROOT

__all__ = ["client", "url"]  # fixtures

JAVA = "org.apache.pulsar.client.impl.auth."
ROLE_TOKEN = "v=Z1;d=provider;r=reader;k=0;s=s1gnature"


def athenz(zts: str = "http://127.0.0.1:1", key: str = "file:///no/s3cret") -> dict[str, str]:
    """A login with Athenz, as a client.conf has it."""
    names = {"tenantDomain": "tenant", "tenantService": "tool", "providerDomain": "provider"}
    params = {**names, "privateKey": key, "ztsUrl": zts}
    return {"auth_plugin": f"{JAVA}AuthenticationAthenz", "auth_params": json.dumps(params)}


ATHENZ = athenz()


def options(service: str = "pulsar://127.0.0.1:1", **changes: Any) -> PulsarOptions:
    """How to reach a topic without the admin API."""
    values = {"topic": "orders", "subscription": SUBSCRIPTION, "assume_exists": True, **changes}
    return build(PulsarOptions, {"service_url": service, **values})


def opened(found: PulsarOptions) -> Brokers:
    """What a lane opens."""
    return open_brokers(found, access(found), "run")


@pytest.mark.parametrize(
    ("changes", "reader", "kind"),
    [
        ({}, PulsarReader.ENTRIES, Cluster),
        ({"token": "t"}, PulsarReader.ENTRIES, Cluster),
        ({"auth_plugin": "token", "auth_params": "token:t"}, PulsarReader.ENTRIES, Cluster),
        (ATHENZ, PulsarReader.CLIENT, ClientCluster),
        ({"auth_plugin": sys.executable}, PulsarReader.CLIENT, ClientCluster),
        ({"reader": "client"}, PulsarReader.CLIENT, ClientCluster),
    ],
)
def test_auto_takes_the_client_library_where_only_it_can_log_in(
    changes: dict[str, str], reader: PulsarReader, kind: type
) -> None:
    """Our own reader is used unless a login, or the user, needs the library; a note gives the reason."""
    found = options(**changes)
    assert found.chosen_reader is reader
    with closing(opened(found)) as brokers:
        assert type(brokers) is kind
    notes = " ".join(reader_notes(found))
    assert ("client library" in notes) is (reader is PulsarReader.CLIENT)
    assert ("--auth-plugin" in notes) is ("auth_plugin" in changes and reader is PulsarReader.CLIENT)
    assert "s3cret" not in notes


def test_a_login_of_the_library_needs_its_reader() -> None:
    """Our own reader together with a login that it does not have is wrong use."""
    with pytest.raises(UsageError, match="only --reader client has"):
        options(**ATHENZ, reader="entries")


def test_a_plugin_is_not_taken_from_a_receipt() -> None:
    """A receipt keeps no plugin, which may be a library whose code runs, and names it as withheld."""
    found = options(**ATHENZ)
    assert "auth_plugin" not in found.public()
    assert {"auth_plugin", "auth_params"} <= set(found.withheld())


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, a run that needs it ends with the command that installs it."""
    monkeypatch.delitem(sys.modules, "backlog_clearer.brokers.pulsar.client")
    monkeypatch.setitem(sys.modules, "pulsar", None)
    with pytest.raises(UsageError, match="pip install pulsar-client"):
        opened(options(reader="client"))
    assert isinstance(opened(options()), Cluster)


def test_servers_that_do_not_answer_are_named_in_time() -> None:
    """Where neither Athenz nor the broker answers, the error names the broker, within the time of a call."""
    with (
        Stopwatch() as watch,
        closing(opened(options(**ATHENZ))) as brokers,
        pytest.raises(TransientError) as raised,
    ):
        brokers.partitions("persistent://public/default/orders")
    assert watch.seconds < 15
    assert "pulsar://127.0.0.1:1" in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("params", ["s3cret", '{"tenantDomain": "s3cret", "tenantService": "a"}'])
def test_incomplete_athenz_parameters_are_named(params: str) -> None:
    """Parameters that the library would not accept are wrong use, before anything is connected."""
    found = options(auth_plugin="athenz", auth_params=params)
    with closing(opened(found)) as brokers, pytest.raises(UsageError) as raised:
        brokers.partitions("persistent://public/default/orders")
    assert "providerDomain, privateKey, ztsUrl" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_plugin_that_is_not_one_is_a_refused_login() -> None:
    """A library that the client cannot load ends as a login that names --auth-plugin, and prints nothing."""
    program = (
        "import sys; from tests.brokers.test_pulsar_client import opened, options;"
        "opened(options(auth_plugin=sys.executable)).partitions('persistent://public/default/orders')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}/core:{ROOT}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "--auth-plugin" in ran.stderr.splitlines()[-1]


def test_athenz_logs_in_with_the_role_token_of_its_server(url: str, topic: str, tmp_path: Path) -> None:
    """The library gets a role token from the Athenz server, and presents it to the broker."""
    need("openssl")
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"token": ROLE_TOKEN, "expiryTime": int(time.time()) + 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with answering(Handler) as port, Relay(int(url.rpartition(":")[2])) as relay:
        login = athenz(f"http://127.0.0.1:{port}", key.as_uri())
        with closing(opened(options(relay.url, **login))) as brokers:
            brokers.subscribe(Partition(topic, 0), topic, SubscriptionType.FAILOVER)
        presented = [(body.get(5), body.get(3)) for body in relay.commands(CONNECT)]
    assert presented
    assert set(map(str, presented)) == {str(([b"athenz"], [ROLE_TOKEN.encode()]))}


@pytest.fixture
def topic(client: pulsar.Client) -> str:
    """A topic with the subscription, and nothing in it."""
    name = f"persistent://public/default/{unique('orders')}"
    client.subscribe(name, SUBSCRIPTION, pulsar.ConsumerType.Failover).close()
    return name


@pytest.fixture
def brokers(url: str) -> Iterator[Brokers]:
    """The library's reader, connected."""
    with closing(opened(options(url, reader="client"))) as found:
        yield found


def heads(brokers: Brokers, messages: int) -> list[tuple[int, int]]:
    """(entry, messages) of the entries that arrive, until there are so many messages."""
    found: list[tuple[int, int]] = []

    def enough() -> bool:
        for feed in brokers.arrived(0.2):
            while head := feed.next():
                found.append((head.entry, head.messages))
        return sum(count for _, count in found) >= messages

    wait_until(enough, "the messages")
    return found


@pytest.mark.parametrize("batch", [0, 7, 100])
def test_messages_of_a_batch_are_one_entry(
    brokers: Brokers, client: pulsar.Client, topic: str, batch: int
) -> None:
    """However the library hands over messages, each entry is passed on once, with all of its messages."""
    produce(client, topic, 2_000, batch=batch)  # half a queue: this server repeats itself after a FLOW
    brokers.subscribe(Partition(topic, 0), topic, SubscriptionType.FAILOVER)
    found = heads(brokers, 2_000)
    entries = [entry for entry, _ in found]
    assert entries == list(range(entries[0], entries[0] + len(found)))
    assert max(count for _, count in found) <= max(1, batch)
    assert sum(count for _, count in found) == 2_000


_PRODUCE_CHUNKS = """
import sys, pulsar
client = pulsar.Client(sys.argv[1])
client.subscribe(sys.argv[2], sys.argv[3], pulsar.ConsumerType.Failover).close()
producer = client.create_producer(sys.argv[2], chunking_enabled=True, batching_enabled=False)
for size in (10, 11_000_000, 10):
    producer.send(bytes(size))
client.close()
"""


def chunked_topic(url: str) -> str:
    """A topic with the subscription and three messages, the second in three chunks.

    The library sometimes waits without end for the answer to a chunk, which only a process can leave.
    """
    for _ in range(4):
        name = f"persistent://public/default/{unique('chunked')}"
        command = [sys.executable, "-c", _PRODUCE_CHUNKS, url, name, SUBSCRIPTION]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, check=True, timeout=30, capture_output=True)
            return name
    pytest.fail("the client library has sent no chunks in four processes")


@pytest.mark.timeout(600)
def test_no_other_thread_uses_a_consumer_while_its_client_is_closed(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks at the consumers' connections has ended before the library's client is closed."""
    order: list[str] = []
    looking = threading.Event()
    watching: list[threading.Thread] = []
    close, here = pulsar.Client.close, threading.current_thread()

    def look(_: ClientFeed) -> None:
        if threading.current_thread() is not here:
            watching.append(threading.current_thread())
            looking.set()
            time.sleep(0.5)
            order.append("looked")

    def closed(it: pulsar.Client) -> None:
        order.append("closed")
        close(it)

    monkeypatch.setattr(ClientFeed, "look", look)
    monkeypatch.setattr(pulsar.Client, "close", closed)
    brokers.subscribe(Partition("t", 0), unique("looked"), SubscriptionType.EXCLUSIVE)
    assert looking.wait(10)
    brokers.close()
    watching[0].join(10)
    assert not watching[0].is_alive()
    assert order[-2:] == ["looked", "closed"]


def test_chunks_are_passed_on_with_their_message(brokers: Brokers, url: str) -> None:
    """The entries of a message's chunks follow each other without a gap, and count as one message."""
    topic = chunked_topic(url)
    brokers.subscribe(Partition(topic, 0), topic, SubscriptionType.FAILOVER)
    found = heads(brokers, 3)
    first = found[0][0]
    assert found == [(first, 1), (first + 1, 0), (first + 2, 0), (first + 3, 1), (first + 4, 1)]

"""Pub/Sub passes the contract, with and without figures, with exactly-once and with ordering keys."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.brokers.googlepubsub.source import PubSubSource, open_source
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing import Bench, Contract
from backlog_clearer.testing.bench import Faults
from backlog_clearer.testing.servers.pubsub import PubSubServer, Sub, utc_now

_run_ids = itertools.count()
LEASE_S = 1.5  # of messages that a broken stream was about to deliver

_ENVIRONMENT = threading.Lock()


class PubSubBench(Bench):
    """A subscription on the test server."""

    system = "googlepubsub"
    partitions = 1
    detects_live = False
    shows_position = False
    cuts_by_time = True
    counts_parts = False
    missing_name = "no-such-subscription"

    def __init__(self, server: PubSubServer, *, figures: bool, keys: int = 0, **settings: Any) -> None:
        self.server = server
        self.endpoint = "127.0.0.1", server.port
        self.sub: Sub = server.create("billing", **settings)
        self.keys = keys
        self.backdated = False
        self.has_figures = figures
        self.damaged_answers = int(figures)
        self.lease_s = 0.0 if figures else LEASE_S  # with figures a run waits for all that is left
        if figures:
            server.truthful()

    def source(self, run: RunOptions, run_id: str = "") -> PubSubSource:
        return self.open("billing", run)

    def open(self, name: str, run: RunOptions, **options: Any) -> PubSubSource:
        """A source with a separate run id, since snapshots are named by it."""
        values = {
            "project_id": "test",
            "subscription_id": name,
            "monitoring_endpoint": f"http://{self.server.address}",
            **options,
        }
        return open_source(PubSubOptions(**values), run, f"run-{next(_run_ids)}")

    def source_via(self, run: RunOptions, host: str, port: int) -> PubSubSource:
        # The environment is one for all threads: another's address would lead to a relay that is gone later.
        with _ENVIRONMENT, patch.dict(os.environ, {"PUBSUB_EMULATOR_HOST": f"{host}:{port}"}):
            return self.open("billing", run, monitoring_endpoint=f"http://{host}:{port}")

    def other_source(self, run: RunOptions) -> PubSubSource:
        self.server.create("shipping")
        return self.open("shipping", run)

    def denied_source(self, run: RunOptions) -> PubSubSource:
        self.server.fail("GetSubscription", grpc.StatusCode.UNAUTHENTICATED)
        return self.source(run)

    def missing_source(self, run: RunOptions) -> PubSubSource:
        return self.open(self.missing_name, run)

    def produce(self, number: int, count: int) -> None:
        self.server.publish(self.sub, count, keys=self.keys)

    def between(self) -> datetime:
        """The first time seconds before the messages that follow: Monitoring's ages are whole seconds."""
        if self.backdated:
            return super().between()
        self.backdated = True
        for item in self.sub.stored.values():
            item.published -= timedelta(seconds=6)
        return utc_now() - timedelta(seconds=3)

    def abandon(self, count: int) -> None:
        self.server.abandon(self.sub, count, LEASE_S)

    def advance(self, number: int, to: int) -> None:
        self.server.acknowledge_first(self.sub, to)

    @contextmanager
    def faults(self) -> Iterator[tuple[Faults, Callable[[RunOptions], Source]]]:
        self.server.second_s = (
            LEASE_S / PubSubOptions.model_fields["stream_ack_deadline_seconds"].default
        )
        with super().faults() as found:
            yield found

    @contextmanager
    def refusing(self, number: int) -> Iterator[None]:
        self.server.denied.add("pubsub.subscriptions.consume")
        yield
        self.server.denied.clear()

    def left(self) -> dict[int, int]:
        return {0: self.sub.unacked()}

    def confirmed_late(self) -> int:
        return self.sub.late

    def exists(self, name: str) -> bool:
        return any(full.endswith(f"/{name}") for full in self.server.subs)

    def options(self, tmp_path: Path, **changes: Any) -> RunOptions:
        # Samples are never late here, and some cases have none that proves anything.
        values = {"quiet_seconds": self.quiet_s, "verify_seconds": 0, **changes}
        return super().options(tmp_path, **values)

    @property
    def quiet_s(self) -> float:
        """Silence that ends a run; with figures a run ends earlier, so that this may be long."""
        return 4.0 if self.has_figures else 2.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSubServer]:
    """A server that the client library uses as the emulator."""
    with PubSubServer() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        # Figures of the test server are never late, so that the broker may be asked soon.
        monkeypatch.setattr("backlog_clearer.engine.drain.PROBE_FIRST_S", 0.2)
        yield running


def test_sources_opened_at_the_same_time_have_their_own_addresses(
    server: PubSubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bench opens sources in several threads, and none of them with the address of another."""
    bench = PubSubBench(server, figures=True)
    run, opening = bench.options(tmp_path), bench.open

    def slowly(*args: Any, **options: Any) -> PubSubSource:
        time.sleep(0.02)  # the others begin meanwhile
        return opening(*args, **options)

    monkeypatch.setattr(bench, "open", slowly)

    def host(port: int) -> str:
        with closing(bench.source_via(run, "127.0.0.1", port)) as source:
            return str(source._client.transport.host)

    ports = range(1, 9)
    with ThreadPoolExecutor(len(ports)) as pool:
        assert list(pool.map(host, ports)) == [f"127.0.0.1:{port}" for port in ports]


class TestMonitored(Contract):
    """With figures from Cloud Monitoring; messages have ordering keys."""

    @pytest.fixture
    def bench(self, server: PubSubServer) -> Iterator[Bench]:
        """A subscription with ordering."""
        yield PubSubBench(server, figures=True, keys=60, enable_message_ordering=True)


class TestUnmonitored(Contract):
    """Without figures; delivery is exactly once."""

    @pytest.fixture
    def bench(self, server: PubSubServer) -> Iterator[Bench]:
        """A subscription with exactly-once delivery."""
        yield PubSubBench(server, figures=False, enable_exactly_once_delivery=True)

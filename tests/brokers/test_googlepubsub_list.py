"""`list googlepubsub`: the project's subscriptions, with counts and ages from a query of Monitoring each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from backlog_clearer.brokers.googlepubsub.list_options import PubSubListOptions
from backlog_clearer.brokers.googlepubsub.listing import list_pubsub
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Found
from backlog_clearer.testing.servers.pubsub import PubSubServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSubServer]:
    """Three subscriptions, one of which pushes."""
    with PubSubServer() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        running.publish(running.create("bills"), 30)
        running.create("done")
        running.create("pushed", push_config={"push_endpoint": "https://h/x?token=hunter2"})
        yield running


def shown(server: PubSubServer, **options: str) -> tuple[dict[str, Found], str]:
    """The subscriptions by name, and the notes."""
    values = {"project_id": "test", "monitoring_endpoint": f"http://{server.address}", **options}
    found = list_pubsub(PubSubListOptions.model_validate(values))
    return {item.name: item for item in found.found}, " ".join(found.notes)


def test_a_projects_subscriptions_are_listed_with_two_queries(server: PubSubServer) -> None:
    """Each has its count, age, kind and topic; Monitoring is asked twice, whatever their number is."""
    server.truthful()
    published = server.subs["projects/test/subscriptions/bills"].stored.values()
    first = min(item.published for item in published)
    found, _ = shown(server)
    assert {name: (item.backlog, item.kind) for name, item in found.items()} == {
        "bills": (30, "pull"),
        "done": (0, "pull"),
        "pushed": (0, "not pull"),
    }
    assert found["bills"].topics == ("projects/test/topics/orders",)
    assert found["bills"].members is None
    assert found["bills"].oldest is not None
    assert abs(found["bills"].oldest - first) <= timedelta(seconds=1)
    assert found["done"].oldest is None
    assert (server.count("ListTimeSeries"), server.count("ListSubscriptions")) == (2, 1)
    assert list(shown(server, matching="b*")[0]) == ["bills"]
    assert "hunter2" not in str(found)


def test_a_list_without_ages_asks_for_counts_only(server: PubSubServer) -> None:
    """With --no-ages there is one query, and ages are unknown."""
    server.truthful()
    found, _ = shown(server, ages="false")
    assert (found["bills"].backlog, found["bills"].oldest) == (30, None)
    assert server.count("ListTimeSeries") == 1


def test_without_figures_a_backlog_is_unknown(server: PubSubServer) -> None:
    """Subscriptions without a sample, and all of them where Monitoring is refused, are listed as unknown."""
    server.sample = lambda _metric, sub: (
        (5, server.now()) if sub.config.name.endswith("bills") else None
    )
    found, _ = shown(server)
    assert (found["bills"].backlog, found["done"].backlog) == (5, None)
    server.denied.add("monitoring.timeSeries.list")
    found, notes = shown(server)
    assert {item.backlog for item in found.values()} == {None}
    assert "monitoring.timeSeries.list" in notes


def test_a_refused_list_is_an_error(server: PubSubServer) -> None:
    """Without the permission to list, there is no empty list, and the error names the permission."""
    server.denied.add("pubsub.subscriptions.list")
    with pytest.raises(BrokerError, match="pubsub.subscriptions.list"):
        shown(server)

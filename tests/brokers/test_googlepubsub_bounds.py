"""Pub/Sub: which seeks to the past are refused, what is held beyond a bound, and the age of a backlog."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode, StopReason
from backlog_clearer.run.clear import clear
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.pubsub import PubSubServer, utc_now
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job

__all__ = ["server"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"retain_acked_messages": True}, "the subscription retains acknowledged messages"),
        ({"topic_message_retention_duration": timedelta(days=1)}, "the topic retains messages"),
    ],
)
def test_a_seek_that_would_bring_messages_back_is_refused(
    server: PubSubServer, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    """Where acknowledged messages are retained, skip with a bound is wrong use, and nothing is sought."""
    bench = PubSubBench(server, figures=True, **settings)
    bench.produce(0, 5)
    until = bench.between()
    with pytest.raises(UsageError, match=reason):
        clear(job(bench, tmp_path, {"mode": Mode.SKIP, "until": until}))
    assert not bench.sub.seeks
    assert bench.sub.unacked() == 5


def test_a_seek_without_known_settings_is_refused(server: PubSubServer, tmp_path: Path) -> None:
    """Where the settings may not be read, it is not known what a seek brings back: it is refused."""
    bench = PubSubBench(server, figures=True)
    bench.produce(0, 5)
    server.denied.add("pubsub.subscriptions.get")
    with pytest.raises(UsageError, match="is not known"):
        clear(job(bench, tmp_path, {"mode": Mode.SKIP, "until": bench.between()}))
    assert not bench.sub.seeks


def test_a_skip_seeks_once_to_the_bound(server: PubSubServer, tmp_path: Path) -> None:
    """Skip with a bound is one seek to exactly that time."""
    bench = PubSubBench(server, figures=True)
    bench.produce(0, 5)
    until = bench.between()
    bench.produce(0, 3)
    clear(job(bench, tmp_path, {"mode": Mode.SKIP, "until": until}))
    assert [seek.time for seek in bench.sub.seeks] == [until]
    assert bench.sub.unacked() == 3


def test_a_run_ends_although_held_messages_fill_its_streams(
    server: PubSubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where young messages fill a stream, the run ends, warns, acknowledges none of them, gives all back."""
    bench = PubSubBench(server, figures=False)
    until = utc_now() - timedelta(hours=1)
    bench.produce(0, 300)
    with caplog.at_level(logging.WARNING):
        run = {"until": until, "quiet_seconds": 1}
        result = clear(job(bench, tmp_path, run, max_outstanding_messages=100))
    assert result.stop_reason is StopReason.QUIET
    assert bench.sub.unacked() == 300
    assert not bench.sub.leased
    assert "Raise --max-outstanding-messages" in caplog.text


def test_the_age_is_monitorings(server: PubSubServer, tmp_path: Path) -> None:
    """Status has the time of the oldest message by Monitoring, to the second; unknown without it."""
    bench = PubSubBench(server, figures=True)
    bench.produce(0, 2)
    published = utc_now() - timedelta(minutes=30)
    next(iter(bench.sub.stored.values())).published = published
    found = status(job(bench, tmp_path)).totals.oldest
    assert found is not None
    assert abs(found - published) <= timedelta(seconds=1)
    assert status(job(bench, tmp_path, {"ages": False})).totals.oldest is None
    server.sample = lambda _metric, _sub: None
    assert status(job(bench, tmp_path)).totals.oldest is None

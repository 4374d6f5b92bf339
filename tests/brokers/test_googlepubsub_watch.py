"""Watching a Pub/Sub subscription, which has no positions, over one source."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from backlog_clearer.run.watch import Watched, watched_backlog
from backlog_clearer.testing.servers.pubsub import PubSubServer
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job

__all__ = ["server"]


def test_pubsub_shows_the_change_that_monitoring_shows(server: PubSubServer, tmp_path: Path) -> None:
    """Pub/Sub has no positions: arrival and drain are unknown, change and ETA are those of the counts."""
    bench = PubSubBench(server, figures=True)
    bench.produce(0, 100)
    times = iter((0.0, 10.0))
    with closing(Watched(job(bench, tmp_path), lambda: next(times))) as watched:
        watched.look()
        for key in list(bench.sub.stored)[:40]:
            del bench.sub.stored[key]
        found = watched_backlog(watched.look())
    assert (found.backlog, found.arrival_per_second, found.drain_per_second) == (60, None, None)
    assert (found.change_per_second, found.eta_seconds) == (-4.0, 15.0)
    assert bench.sub.unacked() == 60

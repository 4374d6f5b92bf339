"""Pub/Sub's figures: a missing, impossible or foreign one is unknown, never 0 and never a proof."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud.monitoring_v3 import types as monitoring
from google.pubsub_v1 import types as pubsub

from backlog_clearer.brokers.googlepubsub.monitoring import (
    COUNT,
    OLDEST,
    WINDOW,
    Figures,
    Sample,
    SeriesError,
    described,
    newest_sample,
    proven_left,
)
from backlog_clearer.brokers.googlepubsub.wire import Instant, split_at_target
from backlog_clearer.run.clear import clear
from backlog_clearer.testing.servers.pubsub import PubSubServer
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job

__all__ = ["server"]

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=timezone.utc)
TARGET = Instant(1_000_000, 500)


def ago(seconds: float) -> datetime:
    """A moment before NOW."""
    return NOW - timedelta(seconds=seconds)


def point(value: Any, at: datetime | None = NOW) -> Any:
    """A point of Monitoring; a value that is not an int is a double."""
    typed = {"int64_value" if isinstance(value, int) else "double_value": value}
    return monitoring.Point(
        interval=monitoring.TimeInterval(end_time=at) if at else None,
        value=monitoring.TypedValue(**typed) if value is not None else None,
    )


def series(*points: Any, project: str | None = "shop", name: str = "billing") -> Any:
    """A series of Monitoring, labelled unless `project` is None."""
    labels = {"project_id": project, "subscription_id": name} if project else {}
    return monitoring.TimeSeries(
        resource={"type": "pubsub_subscription", "labels": labels}, points=points
    )


def newest(*found: Any, metric: str = COUNT) -> Sample | None:
    """The last sample of subscription billing in project shop."""
    return newest_sample(metric, found, "shop", "billing", NOW)


@pytest.mark.parametrize(
    "points",
    [(), (point(-1),), (point(3.0),), (point(None),), (point(0, None),), (point(4), point(0, None))],
    ids=["none", "negative", "double", "no-value", "no-time", "one-without-a-time"],
)
def test_an_impossible_point_is_not_a_figure(points: Sequence[Any]) -> None:
    """A series without a point, or with a value or a time that cannot be, raises."""
    with pytest.raises(SeriesError):
        newest(series(*points))


@pytest.mark.parametrize(
    "other",
    [
        series(point(0), project="other"),
        series(point(0), name="orders"),
        series(point(0), project=None),
    ],
    ids=["project", "subscription", "unlabelled"],
)
def test_only_the_subscriptions_series_counts(other: Any) -> None:
    """A series of another project or subscription, or without labels, is not a figure of this one."""
    assert newest(other) is None
    assert newest(other, series(point(7))) == Sample(7, NOW)


def test_a_stale_sample_is_unknown() -> None:
    """A sample from before the window is not used, whatever the service returns."""
    assert newest(series(point(0, NOW - WINDOW - timedelta(seconds=1)))) is None
    assert newest(series(point(0, NOW - WINDOW))) == Sample(0, NOW - WINDOW)


def test_the_newest_point_counts_in_any_order() -> None:
    """The point with the latest time is taken, not the first."""
    assert newest(series(point(0, ago(120)), point(5, ago(60)))) == Sample(5, ago(60))


def test_several_series_are_taken_at_their_worst() -> None:
    """Counts add up, ages do not, and the earliest time is the sample's."""
    found = series(point(2, ago(60))), series(point(3, ago(30)))
    assert newest(*found) == Sample(5, ago(60))
    assert newest(*found, metric=OLDEST) == Sample(3, ago(60))
    with pytest.raises(SeriesError):
        newest(series(point(2)), series())


@pytest.mark.parametrize(
    ("figures", "target", "left"),
    [
        (Figures(), None, None),
        (Figures(problem="denied"), NOW, None),
        (Figures(Sample(0, ago(0))), ago(300), 0),
        (Figures(Sample(0, ago(61))), ago(300), None),  # may be from before the change
        (Figures(Sample(4, ago(0))), None, 4),
        (Figures(Sample(4, ago(0))), ago(300), None),  # their age is unknown
        (Figures(Sample(4, ago(0)), Sample(10, ago(0))), ago(300), 0),  # all are younger
        (Figures(Sample(4, ago(0)), Sample(310, ago(0))), ago(300), 4),
        (Figures(Sample(4, ago(0)), Sample(300, ago(0))), ago(300), None),  # within a second of it
        (Figures(Sample(4, ago(0)), Sample(10, ago(61))), ago(300), None),
    ],
)
def test_only_a_later_sample_proves_what_is_left(
    figures: Figures, target: datetime | None, left: int | None
) -> None:
    """A figure that is missing, too early or not precise enough leaves the rest unknown."""
    assert proven_left(figures, changed_at=ago(120), target=target) == left


def test_a_sample_from_the_future_is_described_as_such() -> None:
    """A clock difference is shown, not a negative age."""
    text = described(Figures(Sample(1, ago(-61))), NOW)
    assert "1 unacknowledged message at" in text
    assert "61 s after this machine's clock" in text


def test_figures_that_are_incomplete_or_foreign_prove_nothing(
    server: PubSubServer, tmp_path: Path
) -> None:
    """An answer that the service calls incomplete leaves the backlog unknown; foreign series do not."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 30)
    server.other_series = [series(point(1000), project="other"), series(point(1000), project=None)]
    with closing(bench.source(bench.options(tmp_path))) as source:
        assert source.survey().partitions[0].backlog == 30
        server.execution_errors = [{"code": 8, "message": "too many"}]
        survey = source.survey()
    assert survey.partitions[0].backlog is None
    assert any("incomplete" in note for note in survey.notes)


def test_figures_that_fail_for_now_are_an_error(server: PubSubServer, tmp_path: Path) -> None:
    """What is left carries the error of a request that may work later, and none where it is refused."""
    bench = PubSubBench(server, figures=True)
    with closing(bench.source(bench.options(tmp_path))) as source:
        (state,) = source.survey().partitions
        server.fail("ListTimeSeries", grpc.StatusCode.UNAVAILABLE)
        (failed,) = source.remaining({state.partition: state.end})
        server.denied.add("monitoring.timeSeries.list")
        (refused,) = source.remaining({state.partition: state.end})
    assert (failed.left, refused.left, refused.error) == (None, None, None)
    assert "UNAVAILABLE" in str(failed.error)


def test_a_negative_count_is_not_taken_for_cleared(server: PubSubServer, tmp_path: Path) -> None:
    """Where Monitoring counts fewer than no messages, a run clears and proves nothing by it."""
    bench = PubSubBench(server, figures=False)
    server.sample = lambda _metric, _sub: (-1, datetime.now(timezone.utc) + timedelta(seconds=61))
    server.publish(bench.sub, 40)
    result = clear(job(bench, tmp_path, {"quiet_seconds": 1}))
    assert (result.totals.backlog, result.totals.messages, bench.sub.unacked()) == (None, 40, 0)
    assert (result.verified, result.cleared) == (None, False)


def response(*times: tuple[int, int] | None) -> bytes:
    """A StreamingPullResponse with messages of these publish times; None: a message without one."""
    received = [
        pubsub.ReceivedMessage(
            ack_id=f"id-{index}",
            message=pubsub.PubsubMessage(
                publish_time=None if at is None else {"seconds": at[0], "nanos": at[1]}, data=b"x"
            ),
        )
        for index, at in enumerate(times)
    ]
    made = pubsub.StreamingPullResponse(received_messages=received)
    return bytes(pubsub.StreamingPullResponse.serialize(made))


@pytest.mark.parametrize(
    ("times", "before"),
    [
        ([(999_999, 0), (999_998, 0)], [0, 1]),
        ([(999_999, 0), None], [0]),
        ([None, (1_000_000, 499)], [1]),
        ([(1_000_000, 500), (1_000_001, 0)], []),
        ([(0, 5), (-5, 0)], []),
        ([None], []),
        ([], []),
    ],
)
def test_a_message_without_a_publish_time_is_not_acknowledged(
    times: Sequence[tuple[int, int] | None], before: list[int]
) -> None:
    """Only messages that are known to be from before the target are; the others are held."""
    acknowledged, held = split_at_target(response(*times), TARGET)
    assert acknowledged == [b"id-%d" % index for index in before]
    assert len(acknowledged) + len(held) == len(times)
    assert split_at_target(response(*times), None) == ([b"id-%d" % n for n in range(len(times))], [])

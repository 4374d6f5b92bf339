"""The backlog of a Pub/Sub subscription, as Cloud Monitoring last counted it.

Pub/Sub's own API has no count. Monitoring samples once a minute and shows a sample up to two minutes
later (https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub): so a figure is never
current, and only a sample from after a change proves anything about that change.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud import monitoring_v3
from google.cloud.monitoring_v3.services.metric_service.transports import (
    MetricServiceGrpcTransport,
)

from backlog_clearer.brokers.googlepubsub.channels import bounded
from backlog_clearer.brokers.googlepubsub.errors import Call, to_broker_error
from backlog_clearer.brokers.shared.pages import bounded_pages
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.text import counted

COUNT = "pubsub.googleapis.com/subscription/num_undelivered_messages"
OLDEST = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"  # seconds

PERIOD = timedelta(seconds=60)  # between samples: the count of one may be this much older
WINDOW = timedelta(minutes=10)  # older samples are not used
TIMEOUT_S = 5.0
_PLAIN = "http://"


class SeriesError(ValueError):
    """A series of Monitoring that holds no usable figure."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure of Monitoring, not negative, and the end of its sampling period."""

    value: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Figures:
    """The last samples of a subscription; None: unknown."""

    count: Sample | None = None  # undelivered or unacknowledged messages
    oldest: Sample | None = None  # age in seconds of the oldest of them
    problem: str | None = None  # why one of them is unknown
    passing: bool = False  # the problem may be over in a moment


def proven_left(figures: Figures, *, changed_at: datetime, target: datetime | None) -> int | None:
    """Messages left that were published before `target` (None: all messages); None: not proven.

    `changed_at` is when this run last changed anything: only a sample that is certainly later counts.
    While messages are still being published, the age of the oldest one shows whether it is younger than
    the target; if it is older, the result is the count, which includes younger messages.
    """
    count, oldest = figures.count, figures.oldest
    if count is None or count.at < changed_at + PERIOD:
        return None
    if count.value == 0 or target is None:
        return count.value
    if oldest is None or oldest.at < changed_at + PERIOD:
        return None
    published = oldest.at - timedelta(seconds=oldest.value)
    second = timedelta(seconds=1)  # ages are whole seconds
    if published - second > target:
        return 0
    return count.value if published + second <= target else None


def described(figures: Figures, now: datetime) -> str:
    """One sentence for the user: the count with its age and lag, or why there is none."""
    if figures.count is None:
        return (
            "The backlog is unknown: Pub/Sub has no count, and Cloud Monitoring gave none"
            f" ({figures.problem or 'no sample in the last 10 minutes'})."
        )
    age = (now - figures.count.at).total_seconds()
    ago = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s after this machine's clock"
    oldest = (
        f", the oldest {figures.oldest.value} s old" if figures.oldest and figures.count.value else ""
    )
    return (
        f"Cloud Monitoring counted {counted(figures.count.value, 'unacknowledged message')}{oldest} at"
        f" {figures.count.at:%H:%M:%SZ}, {ago}; it samples once a minute and shows a sample"
        " up to 2 minutes later, so this is an estimate, not a proof."
    )


def newest_sample(
    metric: str, series: Sequence[Any], project: str, subscription_id: str, now: datetime
) -> Sample | None:
    """The last sample of a subscription; None: there is none in `WINDOW`.

    Only series that are labelled with the project and the subscription count: a metrics scope may hold
    those of other projects. Of several the sum of counts is taken, or the highest age, and the earliest
    time. Raises `SeriesError` for a series without a point, and for a point without a time or with a
    value that is negative or not an integer.
    """
    own = [
        item
        for item in series
        if item.resource.labels.get("project_id") == project
        and item.resource.labels.get("subscription_id") == subscription_id
    ]
    samples = [_newest_point(metric, item) for item in own]
    if not samples:
        return None
    values = [sample.value for sample in samples]
    at = min(sample.at for sample in samples)
    if at < now - WINDOW:
        return None
    return Sample(sum(values) if metric == COUNT else max(values), at)


def _newest_point(metric: str, series: Any) -> Sample:
    points = list(series.points)
    ends = [point.interval.end_time for point in points]
    if not points or not all(ends):
        raise SeriesError(f"a series of {metric} has no point, or one without a time")
    at, value = max(zip(ends, (point.value for point in points), strict=True), key=lambda pair: pair[0])
    if "int64_value" not in value or value.int64_value < 0:
        raise SeriesError(f"a point of {metric} has no value that is a count")
    return Sample(value.int64_value, datetime.fromtimestamp(at.timestamp(), timezone.utc))


def _channel(*args: Any, options: Sequence[tuple[str, Any]], **rest: Any) -> grpc.Channel:
    return MetricServiceGrpcTransport.create_channel(*args, options=bounded(options), **rest)


class Monitoring:
    """A client of Cloud Monitoring for a project, and one subscription of it."""

    def __init__(
        self, project: str, subscription_id: str, *, credentials: Any, endpoint: str | None
    ) -> None:
        self._project = project
        self._subscription_id = subscription_id
        self.host = (endpoint or "monitoring.googleapis.com").removeprefix(_PLAIN)
        if endpoint and endpoint.startswith(_PLAIN):
            transport = MetricServiceGrpcTransport(
                channel=grpc.insecure_channel(self.host, options=bounded([]))
            )
            self._client = monitoring_v3.MetricServiceClient(transport=transport)
        else:
            self._client = monitoring_v3.MetricServiceClient(
                credentials=credentials,
                transport=functools.partial(MetricServiceGrpcTransport, channel=_channel),
                client_options={"api_endpoint": endpoint} if endpoint else None,
            )

    def figures(self, now: datetime) -> Figures:
        """The last samples before `now`; never raises: see `Figures.problem`."""
        count = None
        try:
            count = self._last(COUNT, now)
            oldest = self._last(OLDEST, now) if count and count.value else None
        except (BrokerError, SeriesError) as error:
            passing = isinstance(error, TransientError)
            return Figures(count, problem=str(error), passing=passing)
        return Figures(count, oldest)

    def samples(self, metric: str, names: Sequence[str], now: datetime) -> dict[str, Sample | None]:
        """The last samples of a metric of several subscriptions of the project, in one query.

        Raises `BrokerError` and `SeriesError`.
        """
        series = self._series(metric, now, every=True)
        by_name: dict[str, list[Any]] = {}
        for item in series:
            by_name.setdefault(item.resource.labels.get("subscription_id") or "", []).append(item)
        return {
            name: newest_sample(metric, by_name.get(name, ()), self._project, name, now)
            for name in names
        }

    def _last(self, metric: str, now: datetime) -> Sample | None:
        series = self._series(metric, now)
        sample = newest_sample(metric, series, self._project, self._subscription_id, now)
        if sample is None and self._project.isdecimal():
            raise SeriesError(
                "its series are labelled with the project's id: give that, not the number"
            )
        return sample

    def _series(self, metric: str, now: datetime, *, every: bool = False) -> list[Any]:
        """The series of a metric, of one subscription or of `every` one of the project."""
        own = "" if every else f' AND resource.labels.subscription_id = "{self._subscription_id}"'
        request = monitoring_v3.ListTimeSeriesRequest(
            name=f"projects/{self._project}",
            filter=(
                f'metric.type = "{metric}" AND resource.type = "pubsub_subscription"'
                f' AND resource.labels.project_id = "{self._project}"{own}'
            ),
            interval=monitoring_v3.TimeInterval(start_time=now - WINDOW, end_time=now),
            view=monitoring_v3.ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        try:
            pages = self._client.list_time_series(request, timeout=TIMEOUT_S, retry=None).pages
            answers = list(bounded_pages(pages, f"The answer of {self.host}"))
        except (GoogleAPICallError, GoogleAuthError) as error:
            call = Call(
                "the figures",
                f"projects/{self._project}",
                "monitoring.timeSeries.list",
                self.host,
            )
            raise to_broker_error(error, call) from None
        if any(page.execution_errors for page in answers):
            raise SeriesError("Monitoring reports that its answer is incomplete")
        return [item for page in answers for item in page.time_series]

    def close(self) -> None:
        """Close the channel."""
        transport: Any = self._client.transport
        transport.close()

"""The backlog of a Pub/Sub subscription, as Cloud Monitoring last counted it.

Pub/Sub's own API has no count. Monitoring samples once a minute and shows a sample up to two
minutes later (https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub): so a figure is
never current, and it proves something about a moment only once a later sample is there.
"""

from __future__ import annotations

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

from backlog_clearer.brokers.googlepubsub.errors import Call, to_broker_error
from backlog_clearer.errors import BrokerError

COUNT = "pubsub.googleapis.com/subscription/num_undelivered_messages"
OLDEST = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"  # seconds

PERIOD = timedelta(seconds=60)  # between samples: one may hold a count that is this old
WINDOW = timedelta(minutes=10)  # how far back a sample is looked for
TIMEOUT_S = 5.0
_PLAIN = "http://"


@dataclass(frozen=True, slots=True)
class Sample:
    """What Monitoring counted, and when."""

    value: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Figures:
    """The last samples of a subscription; None: Monitoring did not tell."""

    count: Sample | None = None  # undelivered or unacknowledged messages
    oldest: Sample | None = None  # age in seconds of the oldest of them
    problem: str | None = None  # why there are none


def proven_left(figures: Figures, *, changed_at: datetime, target: datetime | None) -> int | None:
    """Messages left that were published before `target` (None: at all); None: not proven.

    `changed_at` is when this run last changed anything: only a sample that cannot be from before
    counts. While messages are published on, the age of the oldest one tells that it is younger
    than the target; if it is not, the count (which then includes younger ones) is what is known.
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
    """One sentence for people: the count with its age and lag, or why there is none."""
    if figures.count is None:
        return (
            "The backlog is unknown: Pub/Sub has no count, and Cloud Monitoring gave none"
            f" ({figures.problem or 'no sample in the last 10 minutes'})."
        )
    age = (now - figures.count.at).total_seconds()
    oldest = (
        f", the oldest {figures.oldest.value} s old" if figures.oldest and figures.count.value else ""
    )
    return (
        f"Cloud Monitoring counted {figures.count.value} unacknowledged messages{oldest} at"
        f" {figures.count.at:%H:%M:%SZ}, {age:.0f} s ago; it samples once a minute and shows a sample"
        " up to 2 minutes later, so this is an estimate and no proof."
    )


class Monitoring:
    """A client of Cloud Monitoring for one subscription."""

    def __init__(
        self, project: str, subscription_id: str, *, credentials: Any, endpoint: str | None
    ) -> None:
        self._project = project
        self._subscription_id = subscription_id
        self.host = (endpoint or "monitoring.googleapis.com").removeprefix(_PLAIN)
        if endpoint and endpoint.startswith(_PLAIN):
            transport = MetricServiceGrpcTransport(channel=grpc.insecure_channel(self.host))
            self._client = monitoring_v3.MetricServiceClient(transport=transport)
        else:
            self._client = monitoring_v3.MetricServiceClient(
                credentials=credentials,
                client_options={"api_endpoint": endpoint} if endpoint else None,
            )

    def figures(self, now: datetime) -> Figures:
        """The last samples before `now`; never raises, since figures are a help, not a need."""
        try:
            count = self._last(COUNT, now)
            oldest = self._last(OLDEST, now) if count and count.value else None
        except BrokerError as error:
            return Figures(problem=str(error))
        return Figures(count, oldest)

    def _last(self, metric: str, now: datetime) -> Sample | None:
        """The newest sample; of several series (there is normally one) the least favourable."""
        request = monitoring_v3.ListTimeSeriesRequest(
            name=f"projects/{self._project}",
            filter=(
                f'metric.type = "{metric}" AND resource.type = "pubsub_subscription"'
                f' AND resource.labels.subscription_id = "{self._subscription_id}"'
            ),
            interval=monitoring_v3.TimeInterval(start_time=now - WINDOW, end_time=now),
            view=monitoring_v3.ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        try:
            series = list(self._client.list_time_series(request, timeout=TIMEOUT_S, retry=None))
        except (GoogleAPICallError, GoogleAuthError) as error:
            call = Call(
                "the figures",
                f"projects/{self._project}",
                "monitoring.timeSeries.list",
                self.host,
            )
            raise to_broker_error(error, call) from None
        newest: list[Any] = [
            item.points[0] for item in series if item.points
        ]  # the newest point comes first
        if not newest:
            return None
        value = max(point.value.int64_value for point in newest)
        if metric == COUNT:
            value = sum(point.value.int64_value for point in newest)
        at = min(point.interval.end_time for point in newest)
        return Sample(value, datetime.fromtimestamp(at.timestamp(), timezone.utc))

    def close(self) -> None:
        """Close the channel."""
        transport: Any = self._client.transport
        transport.close()

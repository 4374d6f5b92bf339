"""Which subscriptions of a project have a backlog: the project's list, and two queries of Cloud Monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

from google.pubsub_v1.types import Subscription

from backlog_clearer.brokers.googlepubsub.client import (
    emulator_address,
    open_subscriber,
    subscriptions,
)
from backlog_clearer.brokers.googlepubsub.credentials import google_credentials
from backlog_clearer.brokers.googlepubsub.kinds import delivers
from backlog_clearer.brokers.googlepubsub.list_options import PubSubListOptions
from backlog_clearer.brokers.googlepubsub.monitoring import (
    COUNT,
    OLDEST,
    Monitoring,
    Sample,
    SeriesError,
)
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Found, Listing
from backlog_clearer.options.base import SystemOptions


def list_pubsub(options: SystemOptions) -> Listing:
    """The subscriptions whose names match; see `registry.Lister`."""
    assert isinstance(options, PubSubListOptions)  # noqa: S101 the registry pairs them
    emulator = emulator_address()
    credentials = None if emulator else google_credentials(options.credentials_file)
    client = open_subscriber(emulator, credentials, options.api_endpoint)
    transport: Any = client.transport
    try:
        found = [
            item
            for item in subscriptions(client, options.project_id, transport.host)
            if options.matches(_short(item))
        ]
    finally:
        transport.close()
    counts: Mapping[str, Sample | None] = {}
    ages: Mapping[str, Sample | None] = {}
    notes = []
    if emulator and not options.monitoring_endpoint:
        notes.append("An emulator has no Cloud Monitoring: backlogs are unknown.")
    else:
        now, names = datetime.now(timezone.utc), [_short(item) for item in found]
        monitoring = Monitoring(
            options.project_id, "", credentials=credentials, endpoint=options.monitoring_endpoint
        )
        with closing(monitoring):
            what = "Backlogs"
            try:
                counts = monitoring.samples(COUNT, names, now)
                what = "Ages"
                if options.ages and any(sample and sample.value for sample in counts.values()):
                    ages = monitoring.samples(OLDEST, names, now)
            except TransientError:
                raise
            except (BrokerError, SeriesError) as error:
                notes.append(f"{what} are unknown: {error}")
        if counts:
            notes.append(
                "Cloud Monitoring samples once a minute and shows a sample up to 2 minutes later; a"
                " subscription without a sample has an unknown backlog."
            )
    notes.append("Pub/Sub does not report whether consumers are attached.")
    listed = [_found(item, counts.get(_short(item)), ages.get(_short(item))) for item in found]
    return Listing(f"project {options.project_id}", "messages", tuple(listed), tuple(notes))


def _short(found: Subscription) -> str:
    return str(found.name).rpartition("/")[2]


def _found(item: Subscription, count: Sample | None, age: Sample | None) -> Found:
    how = "detached" if item.detached else "pull" if delivers(item) is None else "not pull"
    backlog = None if count is None else count.value
    oldest = age.at - timedelta(seconds=age.value) if age is not None and backlog else None
    return Found(_short(item), how, (item.topic,), backlog, None, oldest=oldest)

"""Which subscriptions of a project have a backlog: the project's list, and one query of Cloud Monitoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1.types import Subscription

from backlog_clearer.brokers.googlepubsub.client import emulator_address, open_subscriber
from backlog_clearer.brokers.googlepubsub.credentials import google_credentials
from backlog_clearer.brokers.googlepubsub.errors import Call, to_broker_error
from backlog_clearer.brokers.googlepubsub.kinds import delivers
from backlog_clearer.brokers.googlepubsub.list_options import PubSubListOptions
from backlog_clearer.brokers.googlepubsub.monitoring import Monitoring, Sample, SeriesError
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Found, Listing
from backlog_clearer.options.base import SystemOptions

_TIMEOUT_S = 10.0
_PAGE = 1000


def list_pubsub(options: SystemOptions) -> Listing:
    """The subscriptions whose names match; see `registry.Lister`."""
    assert isinstance(options, PubSubListOptions)  # noqa: S101 the registry pairs them
    emulator = emulator_address()
    credentials = None if emulator else google_credentials(options.credentials_file)
    found = [
        item
        for item in _subscriptions(options, emulator, credentials)
        if fnmatchcase(_short(item), options.matching)
    ]
    counts: Mapping[str, Sample | None] = {}
    notes = []
    if emulator and not options.monitoring_endpoint:
        notes.append("An emulator has no Cloud Monitoring: backlogs are unknown.")
    else:
        try:
            counts = _counts(options, credentials, [_short(item) for item in found])
        except TransientError:
            raise
        except (BrokerError, SeriesError) as error:
            notes.append(f"Backlogs are unknown: {error}")
        else:
            notes.append(
                "Cloud Monitoring samples once a minute and shows a sample up to 2 minutes later; a"
                " subscription without a sample has an unknown backlog."
            )
    notes.append("Pub/Sub does not report whether consumers are attached.")
    listed = [_found(item, counts.get(_short(item))) for item in found]
    return Listing(f"project {options.project_id}", "messages", tuple(listed), tuple(notes))


def _subscriptions(
    options: PubSubListOptions, emulator: str | None, credentials: Any
) -> list[Subscription]:
    client = open_subscriber(emulator, credentials, options.api_endpoint)
    transport: Any = client.transport
    project = f"projects/{options.project_id}"
    try:
        pages = client.list_subscriptions(
            request={"project": project, "page_size": _PAGE}, timeout=_TIMEOUT_S, retry=None
        )
        return list(pages)
    except (GoogleAPICallError, GoogleAuthError) as error:
        call = Call("list", project, "pubsub.subscriptions.list", transport.host)
        raise to_broker_error(error, call) from None
    finally:
        transport.close()


def _counts(
    options: PubSubListOptions, credentials: Any, names: Sequence[str]
) -> dict[str, Sample | None]:
    endpoint = options.monitoring_endpoint
    with closing(
        Monitoring(options.project_id, "", credentials=credentials, endpoint=endpoint)
    ) as monitoring:
        return monitoring.counts(names, datetime.now(timezone.utc))


def _short(found: Subscription) -> str:
    return str(found.name).rpartition("/")[2]


def _found(item: Subscription, count: Sample | None) -> Found:
    how = "detached" if item.detached else "pull" if delivers(item) is None else "not pull"
    return Found(_short(item), how, (item.topic,), None if count is None else count.value, None)

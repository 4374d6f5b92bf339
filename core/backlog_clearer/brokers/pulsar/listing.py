"""Which subscriptions of a topic, or of all topics of a namespace, have a backlog: one request a topic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

from backlog_clearer.brokers.pulsar.admin import OLDEST, Admin, missing_topic
from backlog_clearer.brokers.pulsar.admin_connection import AdminHosts
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.errors import NotFoundError
from backlog_clearer.brokers.pulsar.figures import optional_count
from backlog_clearer.brokers.pulsar.list_options import PulsarListOptions
from backlog_clearer.brokers.pulsar.service_url import admin_addresses
from backlog_clearer.brokers.shared.times import from_milliseconds
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Found, Listing, oldest_known, total_known
from backlog_clearer.options.base import SystemOptions

_PARTITION = re.compile(r"-partition-\d+$")


class _PartitionFigures(NamedTuple):
    """What one topic, or one partition of it, reports of one subscription."""

    kind: str | None
    backlog: int | None
    members: int | None
    oldest: datetime | None


def list_pulsar(options: SystemOptions) -> Listing:
    """The subscriptions whose names match; see `registry.Lister`."""
    assert isinstance(options, PulsarListOptions)  # noqa: S101 the registry pairs them
    hosts = AdminHosts(admin_addresses(options.admin or ""))
    with closing(Admin(hosts, options, access(options))) as admin:
        topics = _topics(admin, options)
        answers = admin.each(topics, lambda one, topic: one.subscriptions(topic, ages=options.ages))
        place = f"Pulsar at {admin.url}, {options.topic or 'namespace ' + (options.namespace or '')}"
    parts: dict[tuple[str, str], list[_PartitionFigures]] = {}
    notes = []
    for topic, answer in zip(topics, answers, strict=True):
        if isinstance(answer, ClearerError):
            notes.append(f"The subscriptions of {topic} are not known: {answer}")
            continue
        for name, part in _parts(answer):
            if options.matches(name):
                parts.setdefault((name, _PARTITION.sub("", topic)), []).append(part)
    if topics and len(notes) == len(topics):
        raise next(answer for answer in answers if isinstance(answer, ClearerError))
    found = [_found(name, topic, each) for (name, topic), each in sorted(parts.items())]
    return Listing(place, "entries", tuple(found), tuple(notes), complete=not notes)


def _topics(admin: Admin, options: PulsarListOptions) -> list[str]:
    """The topics to ask, a partitioned one by its partitions; raises `UsageError` where there is none."""
    try:
        if options.namespace:
            return admin.namespace_topics(options.namespace)
        count = admin.partitions(options.topic)
        if count:
            return [f"{options.topic}-partition-{number}" for number in range(count)]
        admin.subscriptions(options.topic, ages=False)  # whether it exists
    except NotFoundError as error:
        if options.topic:
            raise missing_topic(options.topic, admin.url, admin) from None
        raise UsageError(f"There is no namespace {options.namespace}: {error}") from None
    return [options.topic]


def _parts(answer: Mapping[str, Any]) -> Iterator[tuple[str, _PartitionFigures]]:
    for name, stats in answer.items():
        if not isinstance(stats, Mapping):
            continue
        consumers = stats.get("consumers")
        members = len(consumers) if isinstance(consumers, list) else None
        kind = stats.get("type")
        backlog, oldest = optional_count(stats, "msgBacklog"), optional_count(stats, OLDEST)
        time = from_milliseconds(oldest) if oldest is not None else None
        yield (
            name,
            _PartitionFigures(str(kind) if kind else None, backlog, members, time if backlog else None),
        )


def _found(name: str, topic: str, parts: Iterable[_PartitionFigures]) -> Found:
    """A subscription of one topic, of all of its partitions together."""
    kinds, backlogs, members, times = zip(*parts, strict=True)
    kind = next((each for each in kinds if each and each != "None"), None)
    oldest = oldest_known(zip(backlogs, times, strict=True))
    return Found(name, kind, (topic,), total_known(backlogs), total_known(members), oldest=oldest)

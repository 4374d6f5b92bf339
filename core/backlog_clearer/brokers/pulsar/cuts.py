"""Places by time and by number of entries, for runs that clear a part of the backlog; ages of backlogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.positions import Layout, Place
from backlog_clearer.brokers.shared.times import from_milliseconds, milliseconds
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Bound, Cut, Partition

BY_TIME = (
    "An entry's time is the one that its producer's clock set (or the broker's, where brokers add it): the"
    " broker searches for the first entry at or after the bound as if these times only grew."
)
BY_COUNT = "The messages to keep are counted in entries: a batch is one."


def bound_note(bound: Bound) -> str:
    """What the user must know about a bound."""
    return BY_COUNT if bound.until is None else BY_TIME


def before(layout: Layout, first_young: Place | None) -> Place | None:
    """The last place before the first entry that stays; None: the end."""
    if first_young is None:
        return None
    found = layout.canonical(Place(first_young.ledger, first_young.entry - 1))
    return None if found >= layout.end else found


def without_last(layout: Layout, count: int) -> Place:
    """The place that leaves so many of the topic's last entries behind it, or the first place."""
    wanted = layout.before(layout.end) - count
    for ledger, size in layout.ledgers:
        if wanted <= size:
            return layout.canonical(Place(ledger, max(wanted, 0) - 1))
        wanted -= size
    return layout.end


def cut_topics(
    admin: Admin | None,
    topics: Mapping[Partition, str],
    layouts: Mapping[Partition, Layout],
    partitions: Sequence[Partition],
    bound: Bound,
) -> Sequence[Cut]:
    """See `source.Bounded.cut`; raises `UsageError` without the admin API."""
    if admin is None:
        raise UsageError("Without --admin-url, Pulsar cannot leave a part of the backlog.")
    until = bound.until
    if until is None:
        count = bound.keep_last or 0
        return [Cut(key, str(without_last(layouts[key], count))) for key in partitions]

    def find(one: Admin, partition: Partition) -> Cut:
        young = one.first_from(topics[partition], milliseconds(until))
        found = before(layouts[partition], young)
        first = Place(layouts[partition].ledgers[0][0], -1)
        none_older = found is not None and found <= first
        return Cut(partition, None if found is None else str(found), none_older=none_older)

    answers = zip(partitions, admin.each(partitions, find), strict=True)
    return [
        Cut(key, None, str(found)) if isinstance(found, ClearerError) else found
        for key, found in answers
    ]


def publish_times(
    admin: Admin | None, topics: Mapping[Partition, str], subscription: str
) -> Mapping[Partition, datetime]:
    """See `source.Dated.oldest`; nothing is known without the admin API."""
    if admin is None:
        return {}

    def ask(one: Admin, partition: Partition) -> datetime | None:
        found = one.oldest(topics[partition], subscription)
        return None if found is None else from_milliseconds(found)

    answers = zip(topics, admin.each(list(topics), ask), strict=True)
    return {key: found for key, found in answers if isinstance(found, datetime)}

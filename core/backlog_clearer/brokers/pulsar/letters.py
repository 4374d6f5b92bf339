"""The retry and dead-letter topics of a subscription, which Pulsar's clients name after it.

Names: Pulsar's Java client (ConsumerBuilderImpl, ConsumerImpl): TOPIC-SUBSCRIPTION-RETRY and -DLQ; before 2.8
NAMESPACE/SUBSCRIPTION-RETRY and -DLQ. A consumer of a single partition names its dead-letter topic after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backlog_clearer.brokers.pulsar.admin import Admin, namespace_of
from backlog_clearer.brokers.pulsar.positions import Layout
from backlog_clearer.errors import BrokerError
from backlog_clearer.text import counted, listed

_MOST = 64  # topics that are asked


def letter_topics(topic: str, subscription: str, names: Iterable[str]) -> Sequence[str]:
    """Those of a namespace's topics, or of their partitions, that keep messages of a subscription: pure."""
    namespace = topic.rpartition("/")[0]
    name = re.escape(subscription)
    own = re.compile(
        rf"(?:{re.escape(topic)}(?:-partition-\d+)?-|{re.escape(namespace)}/){name}-(?:RETRY|DLQ)"
        r"(?:-partition-\d+)?"
    )
    return sorted(each for each in names if own.fullmatch(each))


def letter_notes(admin: Admin, topic: str, subscription: str) -> Sequence[str]:
    """A note where such topics hold something; nothing where they cannot be looked at."""
    try:
        names = letter_topics(topic, subscription, admin.namespace_topics(namespace_of(topic)))[:_MOST]
    except BrokerError:  # the role may not list the namespace's topics
        return ()
    # A retry topic has the same subscription: what that has acknowledged is done. A dead-letter topic has none.
    found = admin.each(names, lambda one, name: one.layout(name, subscription, missing_ok=True))
    held = {
        name: layout.left(layout.end)
        for name, layout in zip(names, found, strict=True)
        if isinstance(layout, Layout)
    }
    full = [f"{name} ({counted(count, 'entry', 'entries')})" for name, count in held.items() if count]
    if not full:
        return ()
    note = "Messages of this subscription are in its retry and dead-letter topics, too, which this run does"
    return (f"{note} not clear: {listed(full, 20)}.",)

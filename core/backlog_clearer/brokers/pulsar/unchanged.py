"""Whether a partition is still the one that was surveyed, at the least cost to the broker.

When a topic and a subscription were created is read from the metadata store, with every subscription of the
topic: the slowest of all answers. Positions are read from memory, and have a fingerprint.
"""

from __future__ import annotations

from dataclasses import replace

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.errors import UnreachableError
from backlog_clearer.brokers.pulsar.facts import recreation
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.positions import Layout
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition


def dated_layout(
    admin: Admin, topic: str, subscription: str, *, fast: bool, missing_ok: bool
) -> tuple[Origins, Layout]:
    """When topic and subscription were created, and positions that are not of an earlier topic.

    Creation before positions: a topic created anew in between is then found by its creation later. `fast`: the
    positions keep their fingerprint if it is certainly of these times, because it was the same before and after
    these were asked for, or by the numbers of the ledgers.
    """
    first = admin.layout(topic, subscription, missing_ok=missing_ok) if fast else None
    origins = admin.origins(topic, subscription, missing_ok=missing_ok)
    if first is not None and first.of(origins):
        return origins, first
    layout = admin.layout(topic, subscription, missing_ok=missing_ok)
    if first is None or not first.same(layout):
        layout = replace(layout, fingerprint=None)
    return origins, layout


def unchanged_layout(
    admin: Admin,
    partition: Partition,
    topic: str,
    subscription: str,
    surveyed: tuple[Origins, Layout | None],
) -> Layout:
    """Positions of a partition whose topic and subscription are the ones `surveyed`, as far as is reported.

    `surveyed`: the positions are None where their fingerprint is not of these times of creation. Raises
    `BrokerError` where topic or subscription are others.
    """
    origins, before = surveyed
    if before is not None and before.fingerprint is not None:
        try:
            now = admin.layout(topic, subscription)
        except UnreachableError:
            raise
        except BrokerError:  # what was deleted is named below
            pass
        else:
            if before.same(now):
                return now
    other = recreation(partition, origins, admin.origins(topic, subscription))
    if other:
        raise other
    return admin.layout(topic, subscription)

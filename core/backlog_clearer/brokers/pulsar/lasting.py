"""Acknowledgements that the broker keeps in memory, and how they are made to last.

A broker persists a cursor at most once a second (managedLedgerDefaultMarkDeleteRateLimit) and the last change
only after a minute (managedLedgerCursorPositionFlushSeconds): what was acknowledged since comes back if the
broker is killed. Resetting a cursor to the position that it has is stored at once (ManagedCursorImpl
.internalResetCursor).
"""

from __future__ import annotations

import logging

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.positions import Layout
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition

_LOG = logging.getLogger("backlog_clearer")


def stored_now(admin: Admin, topic: str, subscription: str, now: Layout) -> bool:
    """Have the broker store a subscription's present position, where that changes nothing else.

    Not done where it would disconnect consumers, or forget acknowledgements ahead of the position; then, and
    where the broker refuses, the result is False.
    """
    if now.holes:
        return False
    try:
        if admin.stats(topic, subscription).consumers:
            return False
        admin.reset(topic, subscription, now.mark_delete)
    except BrokerError as error:
        _LOG.warning("%s: the position could not be stored: %s", topic, error)
        return False
    return True


def warn_of_unstored(partition: Partition) -> None:
    """Log why a partition of which nothing is left is not verified."""
    _LOG.warning(
        "%s: all is acknowledged, but other consumers use the subscription, and the broker may not have stored"
        " the acknowledgements yet: messages come back if it is killed within a minute.",
        partition,
    )

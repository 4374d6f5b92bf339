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


def store_now(admin: Admin, topic: str, subscription: str, now: Layout) -> str | None:
    """Have the broker store a subscription's present position, where that changes nothing else.

    Not done where it would disconnect consumers, or forget acknowledgements ahead of the position. Returns the
    reason then, and where the broker refuses; None: it is stored.
    """
    if now.holes:
        return "messages ahead of the position are acknowledged one by one"
    try:
        if admin.stats(topic, subscription).consumers:
            return "other consumers use the subscription"
        admin.reset(topic, subscription, now.mark_delete)
    except BrokerError as error:
        return str(error)
    return None


def warn_of_unconfirmed(partition: Partition, reason: str) -> None:
    """Log why a partition of which all was acknowledged is not verified: no answer confirms that."""
    _LOG.warning(
        "%s: all is acknowledged, but this broker does not report the position, and an acknowledgement may be"
        " lost on its way. It could not be repeated by a request that has an answer: %s",
        partition,
        reason.rstrip(".") + ".",
    )


def warn_of_unstored(partition: Partition, reason: str) -> None:
    """Log why a partition of which nothing is left is not verified."""
    _LOG.warning(
        "%s: all is acknowledged, but the broker may not have stored that yet: messages come back if it is"
        " killed within a minute. It could not be made to store it: %s",
        partition,
        reason.rstrip(".") + ".",
    )

"""Errors, in the four kinds that a caller has to distinguish.

A message states what was wrong, where, and what to do about it, in one or two sentences,
and never contains a secret: adapters translate library errors before they let them out, and every message
is redacted.
"""

from __future__ import annotations

from backlog_clearer.model import Partition
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.text import spelled_out


class ClearerError(Exception):
    """Base of everything this project raises on purpose; `str(error)` is for the user."""

    def __init__(self, message: str = "") -> None:
        super().__init__(spelled_out(redacted(message)))


class UsageError(ClearerError):
    """The call is wrong: an option, a name, a topic that does not exist. Exit code 2."""


class RefusedError(ClearerError):
    """The call is valid, but was not carried out, to protect other users. Exit code 1."""


class BrokerError(ClearerError):
    """The broker refused, or did not answer, and a retry will not help. Exit code 1.

    `partition` is set where the failure concerns only one partition. `unsent`: raised by a settle that has
    sent no acknowledgement.
    """

    unsent = False

    def __init__(self, message: str, partition: Partition | None = None) -> None:
        super().__init__(message)
        self.partition = partition


class RecreatedError(BrokerError):
    """The log was deleted, and created again under its name: it is not the one that was surveyed."""

    def __init__(self, partition: Partition, since: str = "since the survey") -> None:
        super().__init__(recreated(partition, since), partition)


def recreated(partition: Partition, since: str = "since the survey") -> str:
    """The text for a log that is another one than before; `since`: since when."""
    return f"{partition} was deleted and created again {since}: nothing of it was changed."


class TransientError(BrokerError):
    """A failure that may pass (leader moved, connection lost, throttled): the engine retries it."""

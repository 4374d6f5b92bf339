"""Iggy's errors in this project's terms: the SDK's texts, and the status codes of raw replies.

Texts and codes: `IggyError` of the crate `iggy_common`, as apache-iggy 0.9.0 reports them.
"""

from __future__ import annotations

from importlib.metadata import version

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

_LOGIN = (
    "Invalid credentials",
    "Unauthenticated",
    "Invalid personal access token",
    "has expired",
    "Invalid username",
    "Invalid password",
)
_GONE = ("Disconnected", "Not connected", "Client shutdown")
_FORBIDDEN = "Unauthorized"
_NOT_FOUND = "was not found"
_VERSION = "Incompatible binary protocol version"
_INVALID_OFFSET = "Invalid offset"
_OFFSET_NOT_FOUND = "Consumer offset for consumer"
# The server's answers to a client that is not a member, or does not own the partition: the first by the
# server's source, the second as observed.
_NOT_OWNED = ("does not own partition", "Resource with key")

_STATUSES = {
    20: "Resource with key was not found",
    41: _FORBIDDEN,
    1009: "The stream was not found",
    1010: "The stream was not found",
    2010: "The topic was not found",
    2011: "The topic was not found",
    3007: "The partition was not found",
    4100: _INVALID_OFFSET,
}
"""Statuses of replies that repeating the request does not change."""


class ConnectionLostError(TransientError):
    """The SDK has no connection any more; it is configured not to open another one by itself."""


class NoAnswerError(TransientError):
    """The server accepted a request and did not answer in time."""


def library() -> str:
    """The SDK and the servers it works with, for error messages."""
    return f"apache-iggy {version('apache-iggy')}, which needs a server 0.9"


def to_broker_error(text: str, where: str, partition: Partition | None) -> BrokerError:
    """An SDK error by its text, transient or not; `where` names the server and the partition."""
    if any(known in text for known in _LOGIN):
        return BrokerError(
            f"{where} refused the login ({text}): check --username and --password, or --token.",
            partition,
        )
    if _FORBIDDEN in text:
        return BrokerError(
            f"{where} does not permit this ({text}): the user needs to read the stream's topics and to"
            " poll messages.",
            partition,
        )
    if _VERSION in text:
        return BrokerError(
            f"{where} refuses the protocol of apache-iggy {version('apache-iggy')} ({text}).",
            partition,
        )
    if any(known in text for known in (_NOT_FOUND, _INVALID_OFFSET, *_NOT_OWNED)):
        return BrokerError(f"{where}: {text}", partition)
    kind = ConnectionLostError if text in _GONE else TransientError
    return kind(f"{where}: {text}", partition)


def status_error(status: int, where: str, partition: Partition | None) -> BrokerError:
    """The error of a raw reply with a status other than 0."""
    text = _STATUSES.get(status)
    if text is None:
        return TransientError(f"{where}: the server answered with status {status}.", partition)
    return to_broker_error(f"{text}, status {status}", where, partition)


def is_not_found(error: BrokerError) -> bool:
    """Whether the server has no such stream, topic or group."""
    return _NOT_FOUND in str(error)


def is_offset_not_found(error: BrokerError) -> bool:
    """Whether the server has no stored offset for the consumer."""
    return _OFFSET_NOT_FOUND in str(error)


def is_invalid_offset(error: BrokerError) -> bool:
    """Whether the server refused an offset because it lies beyond the partition's end."""
    return _INVALID_OFFSET in str(error)


def is_not_owned(error: BrokerError) -> bool:
    """Whether the server refused a group's offset because another member owns the partition."""
    return any(text in str(error) for text in _NOT_OWNED)

"""Iggy's errors in this project's terms: the SDK's texts, statuses of replies, evictions, TLS.

Texts and codes: `IggyError` of the crate `iggy_common` 0.11.0, as apache-iggy 0.9.0 reports them;
`EvictionReason` of `iggy_binary_protocol` 0.11.0 (consensus/header.rs).
"""

from __future__ import annotations

import ssl
from importlib.metadata import version

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import Partition

TESTED = ("0.9.0",)
"""The versions of apache-iggy that this adapter was run with."""

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
_INVALID_OFFSET = "Invalid offset"
_OFFSET_NOT_FOUND = "Consumer offset for consumer"
_UNKNOWN_COMMAND = "Invalid command"
# The server's answers to a client that is not a member, or does not own the partition: the first by the
# server's source, the second as observed.
_NOT_OWNED = ("does not own partition", "Resource with key", "is not a member")

_STATUSES = {
    3: _UNKNOWN_COMMAND,
    20: "Resource with key was not found",
    40: "Unauthenticated",
    41: _FORBIDDEN,
    1009: "The stream was not found",
    1010: "The stream was not found",
    2010: "The topic was not found",
    2011: "The topic was not found",
    3007: "The partition was not found",
    3021: f"{_OFFSET_NOT_FOUND} was not found",
    4100: _INVALID_OFFSET,
    5000: "The consumer group was not found",
    5002: "The consumer group was not found",
    5006: "This client is not a member of the group",
}
"""Statuses of replies that repeating the request does not change."""

_BUSY = {57, 58}  # TransientNotCommitted, TransientNotAccepted

_EVICTIONS = {9: "invalid credentials", 10: "invalid personal access token", 11: "the user is inactive"}
_OTHER_PROTOCOL = 14
_PASSING_EVICTIONS = {1, 7, 8, 12, 13}  # the session ended; another one may be opened

_EXPIRED, _NOT_YET, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_…
_UNKNOWN_CA = {2, 18, 19, 20, 21}


class ConnectionLostError(TransientError):
    """The SDK has no connection any more; it is configured not to open another one by itself."""


class SilentError(TransientError):
    """The server accepted a request, and did not answer in time or not in this protocol."""


class ContentionError(TransientError):
    """Other members of the group, or much other work of the server, were in the way for too long."""


class StoppedError(BrokerError):
    """The server had not answered when the run was to stop: nothing is tried again."""


class HandshakeError(TransientError):
    """The server did not negotiate TLS."""


def library() -> str:
    """The SDK and the servers it works with, for error messages."""
    return f"apache-iggy {version('apache-iggy')}, which needs a server 0.9"


def check_library() -> None:
    """Raise `UsageError` where apache-iggy has a version that this adapter was not run with."""
    found = version("apache-iggy")
    if found not in TESTED:
        raise UsageError(
            f"apache-iggy {found} is installed, and this program works with {', '.join(TESTED)}: other"
            f" versions may speak another protocol than {wire.PROTOCOL}. Install it with"
            f" pip install apache-iggy=={TESTED[-1]}"
        )


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
    permanent = (_NOT_FOUND, _INVALID_OFFSET, _UNKNOWN_COMMAND, *_NOT_OWNED)
    if any(known in text for known in permanent):
        return BrokerError(f"{where}: {text}", partition)
    kind = ConnectionLostError if text in _GONE else TransientError
    return kind(f"{where}: {text}", partition)


def status_error(status: int, where: str, partition: Partition | None) -> BrokerError:
    """The error of a raw reply with a status other than 0."""
    text = _STATUSES.get(status)
    if status in _BUSY:
        return ContentionError(
            f"{where}: the server answered with status {status}, as a busy one does.", partition
        )
    if text is None:
        return TransientError(f"{where}: the server answered with status {status}.", partition)
    return to_broker_error(f"{text}, status {status}", where, partition)


def evicted(reason: int, oldest: str, newest: str, where: str) -> BrokerError:
    """Why the server ended the session; `oldest` and `newest` are the protocols that it accepts."""
    if reason == _OTHER_PROTOCOL:
        accepted = newest if oldest == newest else f"{oldest} to {newest}"
        return BrokerError(
            f"{where} speaks protocol {accepted}, and this program {wire.PROTOCOL}, which servers 0.9 speak:"
            " the versions of server and program do not fit."
        )
    if reason in _EVICTIONS:
        return BrokerError(
            f"{where} refused the login ({_EVICTIONS[reason]}): check --username and --password, or"
            " --token."
        )
    kind = TransientError if reason in _PASSING_EVICTIONS else BrokerError
    return kind(f"{where} ended the session, reason {reason}.")


def tls_problem(error: ssl.SSLError, where: str) -> BrokerError:
    """Why a connection over TLS could not be opened, by its cause."""
    if isinstance(error, ssl.SSLEOFError):
        return handshake_ended(error, where)
    if not isinstance(error, ssl.SSLCertVerificationError):
        return BrokerError(
            f"{where} does not answer over TLS ({error.reason or error}): check --port, or leave out --tls if"
            " this port is plain."
        )
    code, what = error.verify_code, f"{where} has a certificate that does not verify"
    if code == _EXPIRED:
        cause = "it has expired: it must be renewed on the server."
    elif code == _NOT_YET:
        cause = "it is not valid yet: check the clocks of server and client."
    elif code in {_OTHER_HOST, _OTHER_ADDRESS}:
        cause = f"it is for another name ({error.verify_message.rstrip('.')}): check --host and --tls-domain."
    elif code in _UNKNOWN_CA:
        cause = f"its authority is not known here ({error.verify_message}): check --tls-ca-file."
    else:
        cause = f"{error.verify_message}: check --tls-ca-file and --tls-domain."
    return BrokerError(f"{what}: {cause}")


def handshake_ended(error: OSError, where: str) -> HandshakeError:
    """Nothing, or the end of the connection, came where TLS was negotiated: a plain server does that."""
    return HandshakeError(
        f"{where} does not answer over TLS ({error.strerror or error}): check --port, or leave out --tls if"
        " this port is plain."
    )


def is_not_found(error: BrokerError) -> bool:
    """Whether the server has no such stream, topic or group."""
    return _NOT_FOUND in str(error)


def is_offset_not_found(error: BrokerError) -> bool:
    """Whether the server has no stored offset for the consumer."""
    return _OFFSET_NOT_FOUND in str(error)


def is_invalid_offset(error: BrokerError) -> bool:
    """Whether the server refused an offset because it lies beyond the partition's end."""
    return _INVALID_OFFSET in str(error)


def is_unknown_command(error: BrokerError) -> bool:
    """Whether the server does not have the command."""
    return _UNKNOWN_COMMAND in str(error)


def is_not_owned(error: BrokerError) -> bool:
    """Whether the server refused a group's offset because another member owns the partition."""
    return any(text in str(error) for text in _NOT_OWNED)

"""Azure Event Hubs: the parts of the SDK below its API that this adapter uses, and the versions that have them.

No other module imports them, so that another version is reported as that, before anything else happens.
"""

from __future__ import annotations

from importlib.metadata import version

from backlog_clearer.errors import UsageError

SUPPORTED = ("5.14", "5.15")
"""The minor versions of azure-eventhub that this was run with."""


def check_version(found: str) -> None:
    """Raise `UsageError` for a version of azure-eventhub that this was not run with."""
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise unsupported(found)


def unsupported(found: str) -> UsageError:
    """The error for a version whose parts are not as expected."""
    return UsageError(
        f"azure-eventhub {found} is installed, but the AMQP reader works with the versions"
        f" {' and '.join(SUPPORTED)} only. Install one of them: pip install"
        f" 'azure-eventhub>={SUPPORTED[0]},<{_next(SUPPORTED[-1])}'."
    )


def _next(minor: str) -> str:
    major, _, number = minor.partition(".")
    return f"{major}.{int(number) + 1}"


VERSION = version("azure-eventhub")
check_version(VERSION)
try:
    from azure.eventhub._pyamqp import AMQPClient, ReceiveClient
    from azure.eventhub._pyamqp._connection import Connection
    from azure.eventhub._pyamqp.constants import ReceiverSettleMode, SenderSettleMode
    from azure.eventhub._pyamqp.endpoints import ApacheFilters, Source
    from azure.eventhub._pyamqp.error import AMQPException
    from azure.eventhub._pyamqp.message import Message
    from azure.eventhub._pyamqp.sasl import SASLTransport, SASLWithWebSocket
    from azure.eventhub._pyamqp.utils import amqp_long_value, amqp_string_value
except ImportError as error:
    raise unsupported(VERSION) from error

__all__ = [
    "AMQPClient",
    "AMQPException",
    "ApacheFilters",
    "Connection",
    "Message",
    "ReceiveClient",
    "ReceiverSettleMode",
    "SASLTransport",
    "SASLWithWebSocket",
    "SenderSettleMode",
    "Source",
    "amqp_long_value",
    "amqp_string_value",
]

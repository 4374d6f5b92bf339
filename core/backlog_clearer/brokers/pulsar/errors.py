"""Pulsar's refusals and the admin API's failures, in the tool's terms: the address, never a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition

LOGIN_HINT = (
    "check --token (has it expired?), --token-file, --basic, the oauth2 options, --auth-plugin or"
    " --tls-certificate, and that the role may consume from the topic"
)
ANOTHER_NAME = ", or use --no-tls-validate-hostname if the certificate is of another name on purpose"
_LOGIN = ("AuthenticationError", "AuthorizationError")
_HELD = (
    " Another consumer holds the subscription exclusively, or as another type: stop it, or give its"
    " --subscription-type, or use --mode skip --force."
)
_FULL = (
    " The subscription may have no more consumers (maxConsumersPerSubscription): use fewer --workers."
)
_TYPE = " Use another --subscription-type."
_FINAL = {
    "TopicNotFound": "the topic does not exist, or no longer exists",
    "SubscriptionNotFound": "the subscription does not exist, or no longer exists",
    "InvalidTopicName": "the topic's name is not valid",
    "IncompatibleSchema": "the topic's schema refuses plain bytes",
    "UnsupportedVersionError": "the broker is too old",
    "NotAllowedError": "the broker does not allow this",
    "TopicTerminatedError": "the topic is terminated",
}
"""Errors that a retry does not mend; every other one may pass."""
_MAX_TEXT = 300  # characters of a broker's own text that are shown


class NotFoundError(BrokerError):
    """The cluster answers that the topic, namespace or subscription does not exist."""


class NoSubscriptionError(NotFoundError):
    """The topic exists and has no such subscription; `names` are those that it has."""

    def __init__(self, topic: str, names: Sequence[str], text: str | None = None) -> None:
        super().__init__(text or f"{topic} has no such subscription.")
        self.names = names


class UnreachableError(TransientError):
    """The admin API gives no HTTP answer at all."""


class FullError(TransientError):
    """The subscription has as many consumers as it may have (maxConsumersPerSubscription)."""


class TypeNotAllowedError(BrokerError):
    """The topic or its namespace does not allow subscriptions of this type (subscriptionTypesEnabled)."""


class RefusalError(Exception):
    """The broker answered a request with an error; `name` is Pulsar's name of it (ServerError)."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


@contextmanager
def refusals_translated(service_url: str, partition: Partition | None) -> Iterator[None]:
    """Raise a `RefusalError` of the block as `BrokerError` or `TransientError`."""
    try:
        yield
    except RefusalError as error:
        raise refusal_meaning(error, service_url, partition) from None


def refusal_meaning(
    error: RefusalError, service_url: str, partition: Partition | None
) -> BrokerError | TransientError:
    """The tool's error for a broker's refusal."""
    name = error.name
    where = f"{service_url}{f', {partition}' if partition else ''}"
    if name in _LOGIN:  # the broker's own text may hold the token that it was shown
        return BrokerError(f"{where} refused the login ({name}): {LOGIN_HINT}.", partition)
    if name == "NotAllowedError" and "sub type" in error.message:
        return TypeNotAllowedError(f"{where}: {shortened(error.message)} ({name}).{_TYPE}", partition)
    if name in _FINAL:
        kind = NotFoundError if name == "TopicNotFound" else BrokerError
        return kind(f"{where}: {_FINAL[name]} ({name}: {shortened(error.message)}).", partition)
    text = shortened(error.message)
    answer = f"{where}: the broker answers {name}: {text}."
    if name == "ConsumerBusy" and "max consumers" in text.lower():
        return FullError(f"{answer}{_FULL}", partition)
    hint = _HELD if name == "ConsumerBusy" else ""
    return TransientError(f"{answer}{hint}", partition)


def deleted_meanwhile(partition: Partition, subscription: str) -> BrokerError:
    """The error where a subscription is gone that the survey found."""
    return BrokerError(
        f"{partition}: the subscription {subscription!r} was deleted since the survey; it was not created"
        " again.",
        partition,
    )


def shortened(text: str) -> str:
    """A broker's own text on one line, cut where it is long."""
    return " ".join(text.split())[:_MAX_TEXT]

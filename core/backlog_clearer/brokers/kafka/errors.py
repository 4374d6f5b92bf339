"""librdkafka's errors as the project's errors, with librdkafka's reason and without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.text import shown_name

REFUSALS = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 librdkafka's local codes are public under these names
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
"""The broker refuses the login: trying again will not help."""

DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
"""The login was accepted, but an ACL is missing."""

NO_SUCH_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION})
"""A broker's answers about a topic that does not exist."""

_TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._BAD_MSG,  # noqa: SLF001 an answer that was damaged, or a batch whose CRC is wrong
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._NOENT,  # noqa: SLF001 no partition leaders, after a lost answer about them
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._RETRY,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError._DESTROY,  # noqa: SLF001
        KafkaError._DESTROY_BROKER,  # noqa: SLF001
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)


class HeadersUnsupportedError(Exception):
    """The header reader cannot be used here, but librdkafka can; `str()` is the reason, without secrets."""


def is_transient(error: KafkaError) -> bool:
    """Whether the same request may succeed a moment later."""
    return error.code() in _TRANSIENT or bool(error.retriable())


def kafka_error(failure: KafkaException | KafkaError) -> KafkaError:
    """The `KafkaError` inside an exception, or itself."""
    return failure.args[0] if isinstance(failure, KafkaException) else failure


def reason(error: KafkaError) -> str:
    """The text of librdkafka or the broker, in one line and without secrets, with the code's name."""
    name = error.name().lstrip("_")
    text = " ".join(redacted(error.str()).split()).rstrip(".: ")
    return f"{text} ({name})" if text else name


def translate(
    failure: KafkaException | KafkaError,
    doing: str,
    options: KafkaOptions,
    partition: Partition | None = None,
) -> BrokerError:
    """The exception to raise for a failure while `doing` ("reading orders[3]")."""
    error = kafka_error(failure)
    text = reason(error)
    where = f"Kafka at {','.join(options.bootstrap_servers)}"
    if error.code() in REFUSALS:
        return refusal(error, options)
    if error.code() in DENIED:
        return BrokerError(
            f"{where} does not allow {doing}: {text}. The user needs READ on the topic and the group"
            " and DESCRIBE on both.",
            partition,
        )
    kind = TransientError if is_transient(error) else BrokerError
    return kind(f"{where} failed at {doing}: {text}.", partition)


class HasOptions(Protocol):
    """A source or lane of this package."""

    _options: KafkaOptions


_Self = TypeVar("_Self", bound=HasOptions)
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def lets_out_only_ours(
    doing: str,
) -> Callable[
    [Callable[Concatenate[_Self, _Given], _Answer]], Callable[Concatenate[_Self, _Given], _Answer]
]:
    """For a method: whatever else a library raises in it is a `TransientError` with the address.

    Damaged answers make libraries raise all kinds of errors, for example `UnicodeDecodeError`; asking again
    may help.
    """

    def decorated(
        method: Callable[Concatenate[_Self, _Given], _Answer],
    ) -> Callable[Concatenate[_Self, _Given], _Answer]:
        @wraps(method)
        def called(self: _Self, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
            try:
                return method(self, *args, **kwargs)
            except (ClearerError, HeadersUnsupportedError):
                raise
            except Exception as failure:  # of any library
                raise _foreign(failure, doing, self._options) from failure

        return called

    return decorated


def _foreign(failure: Any, doing: str, options: KafkaOptions) -> TransientError:
    text = " ".join(redacted(str(failure)).split())
    return TransientError(
        f"Kafka at {','.join(options.bootstrap_servers)} failed at {doing}: an answer could not be read"
        f" ({type(failure).__name__}: {text})."
    )


def refusal(error: KafkaError, options: KafkaOptions) -> BrokerError:
    """The error of a refused login."""
    text = reason(error)
    check = (
        "ssl.ca.location, the listener's certificate and the host name in --bootstrap-servers"
        if error.code() == KafkaError._SSL  # noqa: SLF001 see above
        else "security.protocol, sasl.mechanisms, sasl.username and sasl.password"
    )
    return BrokerError(
        f"Kafka at {','.join(options.bootstrap_servers)} refused the login: {text}. Check {check}."
    )


def bad_setting(failure: KafkaException | ValueError | TypeError) -> UsageError:
    """The error of a client that a setting makes impossible; names it and never shows its value."""
    text = (
        failure.args[0].str()
        if failure.args and isinstance(failure.args[0], KafkaError)
        else str(failure)
    )
    if unknown := re.search(r'No such configuration property: "([^"]+)"', text):
        return UsageError(
            f"librdkafka has no setting {shown_name(unknown[1])}; its settings are listed in"
            " https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"
        )
    if invalid := re.search(r'configuration property "([^"]+)"', text):
        return UsageError(f"librdkafka refuses the value of the setting {invalid[1]!r}.")
    return UsageError(f"librdkafka refuses the settings: {redacted(text).rstrip('.')}.")

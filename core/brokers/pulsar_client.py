"""Pulsar's client library: opened silently, its errors in the tool's terms."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pulsar

from core.brokers.pulsar_auth import authentication
from core.errors import BrokerError, TransientError
from core.model import Partition
from core.options.pulsar import PulsarOptions, SubscriptionType

OPERATION_TIMEOUT_S = 10
CONNECT_TIMEOUT_MS = 5_000

_LOGIN = ("AuthenticationError", "AuthorizationError", "ErrorGettingAuthenticationData")
_SILENT = ("Timeout", "ConnectError", "Disconnected", "LookupError")
_SILENCE = (
    " Check --service-url, that it is up, and that --token or the oauth2 options are right (has it"
    " expired?)."
)
_HELD = (
    " Another consumer holds the subscription alone, or as another type: stop it, or give its"
    " --subscription-type, or --mode skip --force."
)
_FINAL = {
    "TopicNotFound": "the topic does not exist (any more)",
    "SubscriptionNotFound": "the subscription does not exist (any more)",
    "InvalidTopicName": "the topic's name is not valid",
    "InvalidUrl": "check --service-url",
    "InvalidConfiguration": "check --service-url and --tls-trust-certs",
    "IncompatibleSchema": "the topic's schema refuses plain bytes",
    "OperationNotSupported": "the broker does not support this",
    "UnsupportedVersionError": "the broker is too old",
    "NotAllowedError": "the broker does not allow this",
    "CumulativeAcknowledgementNotAllowedError": "the subscription is shared",
    "TopicTerminated": "the topic is terminated",
}
"""What trying again does not mend; everything else may pass."""

TYPES = {
    SubscriptionType.EXCLUSIVE: pulsar.ConsumerType.Exclusive,
    SubscriptionType.FAILOVER: pulsar.ConsumerType.Failover,
    SubscriptionType.SHARED: pulsar.ConsumerType.Shared,
    SubscriptionType.KEY_SHARED: pulsar.ConsumerType.KeyShared,
}


def open_client(options: PulsarOptions) -> pulsar.Client:
    """A client of its own; connects when it is first used."""
    with translated(options, None):
        return pulsar.Client(
            options.service_url,
            authentication=authentication(options),
            operation_timeout_seconds=OPERATION_TIMEOUT_S,
            connection_timeout_ms=CONNECT_TIMEOUT_MS,
            tls_trust_certs_file_path=options.tls_trust_certs,
            tls_validate_hostname=True,
            stats_interval_in_seconds=0,
            # Its own log would go to stdout, which is for results; errors are raised and said once.
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
        )


@contextmanager
def translated(options: PulsarOptions, partition: Partition | None) -> Iterator[None]:
    """Turn the library's exceptions into the tool's, naming the address, never a token."""
    try:
        yield
    except pulsar.exceptions.PulsarException as error:
        raise failure(error, options, partition) from None


def failure(
    error: Exception, options: PulsarOptions, partition: Partition | None
) -> BrokerError | TransientError:
    """What an exception of the library means."""
    name = type(error).__name__
    where = f"{options.service_url}{f', {partition}' if partition else ''}"
    if name in _LOGIN:
        return BrokerError(
            f"{where} refused the login: check --token (has it expired?), --token-file or the oauth2"
            " options, and that the role may consume from the topic.",
            partition,
        )
    if name in _FINAL:
        return BrokerError(f"{where}: {_FINAL[name]} ({name}).", partition)
    # The library goes on trying where a broker closes the connection on a bad login.
    hint = _SILENCE if name in _SILENT else _HELD if name == "ConsumerBusy" else ""
    return TransientError(f"{where}: Pulsar's client says {error} ({name}).{hint}", partition)


def subscribe(
    client: pulsar.Client,
    options: PulsarOptions,
    topic: str,
    kind: SubscriptionType,
    *,
    queue: int,
    batch: int,
    wait_ms: int,
) -> Any:
    """The library's bare consumer of one partition's topic; raises its exceptions.

    Encrypted messages are taken as they are: they are to be acknowledged, not read.
    """
    consumer = client.subscribe(
        topic,
        options.subscription,
        consumer_type=TYPES[kind],
        receiver_queue_size=queue,
        initial_position=pulsar.InitialPosition.Earliest,
        batch_index_ack_enabled=True,
        crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME,
        batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(batch, 16 * 1024 * 1024, wait_ms),
        consumer_name=f"backlog-clearer-{uuid.uuid4().hex[:8]}",
    )
    return consumer._consumer  # noqa: SLF001 the wrapper makes an object for each message

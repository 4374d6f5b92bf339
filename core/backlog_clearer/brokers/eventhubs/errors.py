"""Azure Event Hubs and Blob Storage: errors of the SDKs as errors of this project."""

from __future__ import annotations

import re
from http import HTTPStatus

from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError
from azure.eventhub.exceptions import AuthenticationError

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition

_TRANSIENT = (
    "serverbusy",
    "microsofttimeout",
    "operationcancelled",
    "containerclose",
    "internalerror",
    "detachforced",
    "connectionforced",
    "connectioncloseforced",
    "socketerror",
    "unknownerror",
    "statuscode500",
    "statuscode503",
    "timedout",
    "timeout",
    "closed",
    "detached",
)
"""Conditions that may pass, as in the SDK's texts without punctuation."""


_REFUSED_POSITIONS = ("georeplicationinvalidoffset", "argumentoutofrange", "argumenterror")
"""Conditions for a position to start at; the first is of offsets (go: azeventhubs/internal/errors)."""

_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
"""Answers of Blob Storage below 500 that mean "try again"."""
_CHANGED = {"conditionnotmet", "blobalreadyexists"}
"""Codes of Blob Storage for a blob that changed since it was read."""


class AttachedElsewhereError(BrokerError):
    """Other consumers hold the partition: reading is possible once they are gone."""


class PositionRefusedError(BrokerError):
    """The service does not start at this position; at another spelling of it, it may."""


def service_error(
    error: BaseException, options: EventHubsOptions, partition: Partition | None = None
) -> ClearerError:
    """An error of the SDK as one that states what was wrong, where, and what to do.

    The service's conditions are recognised by their names, which every text of the SDK carries: the
    classes differ between its layers for one and the same condition.
    """
    text = " ".join(str(error).split())
    cause = text.split(" Error condition:", maxsplit=1)[0].split(" TrackingId:", maxsplit=1)[0]
    cause = cause[:300].rstrip(" .") or type(error).__name__
    name = re.sub(r"[^a-z0-9]", "", text.lower())
    place = f"{partition}" if partition else f"{options.hub} on {options.place}"

    def has(*words: str) -> bool:
        return any(word in name for word in words)

    denied = isinstance(error, (AuthenticationError, ClientAuthenticationError)) or has(
        "unauthorized", "authenticationfailed", "authfailed", "statuscode401"
    )
    message, kind = f"{place}: {cause}.", BrokerError
    if has("notfound", "statuscode404"):
        return UsageError(
            f"There is no Event Hub {options.hub!r} with a consumer group {options.consumer_group!r} on"
            f" {options.place}: {cause}. Check --eventhub-name and --consumer-group."
        )
    if has("linkstolen", "higherepoch"):
        kind = AttachedElsewhereError
        message = (
            f"Another consumer of {options.consumer_group} reads {place} with an owner level: {cause}."
            " Stop it, or give a higher --owner-level to disconnect it."
        )
    elif has("resourcelimitexceeded"):
        kind = AttachedElsewhereError
        message = f"The service allows no more readers on {place}: {cause}. Stop others of this consumer group."
    elif denied and not has("timedout", "timeout"):
        message = (
            f"{options.place} refused the sign-in for {options.hub!r}: {cause}. Check the key and its"
            " Listen claim (with Microsoft Entra ID: the role Azure Event Hubs Data Receiver)."
        )
    elif has("failedtoinitiatetheconnection") or isinstance(error, FileNotFoundError):
        kind = BrokerError if isinstance(error, FileNotFoundError) else TransientError
        message = (
            f"{options.place} cannot be reached: {cause}. Check the name, the network and that port"
            f" {options.port} is open."
        )
    elif has(*_REFUSED_POSITIONS):
        kind = PositionRefusedError
        reason = (
            "It was stored before geo-replication, or in another region."
            if has("georeplication")
            else "The Event Hub was probably created again since the checkpoint was written."
        )
        message = f"The service does not have the position in {place}: {cause}. {reason}"
    elif denied or has(*_TRANSIENT):
        kind = TransientError
        if has("serverbusy"):
            message += " The namespace is throttled; more throughput units would help."
    return kind(message, partition)


def unusable_answer(error: Exception, options: EventHubsOptions, number: int | None) -> TransientError:
    """The management node's answer about a partition, or the Event Hub (None), that cannot be true."""
    partition = None if number is None else Partition(options.hub, number)
    return TransientError(
        f"{partition or options.hub}: the management node's answer cannot be used: {error}.", partition
    )


def storage_error(error: AzureError, account: str, container: str) -> ClearerError:
    """An error of the storage SDK as one that states what was wrong, where, and what to do.

    `account` is the storage account's URL, without a SAS.
    """
    place = f"{account}/{container}"
    code = str(getattr(error, "error_code", None) or "")
    code = code.rpartition(".")[2].replace("_", "").lower()  # some are members of an enumeration
    status = getattr(error, "status_code", None)
    if code in {"containernotfound", "containerbeingdeleted", "resourcenotfound"}:
        return UsageError(
            f"There is no blob container {place}. Check --checkpoint-container: nothing is created"
            " here, since processors would not look for it."
        )
    if isinstance(error, ClientAuthenticationError) or status in {401, 403}:
        return BrokerError(
            f"{place} refused access ({code or 'sign-in failed'}). Check the key or SAS of"
            " --checkpoint-store (with Microsoft Entra ID: the role Storage Blob Data Contributor)."
        )
    if code in _CHANGED:
        return TransientError(f"{place}: another client wrote the checkpoint at the same moment.")
    if isinstance(error, ServiceRequestError):
        return BrokerError(
            f"The checkpoint store {account} cannot be reached. Check --checkpoint-store and the network."
        )
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LATER:
        return BrokerError(f"{place} refused: {code or status}.")
    return TransientError(f"{place} did not answer: {code or type(error).__name__}.")

"""What a subscription is: how it delivers, and what distinguishes it from another one of the same name."""

from __future__ import annotations

from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet
from google.pubsub_v1.types import Subscription

from backlog_clearer.model import Mode

DELETED_TOPIC = "_deleted-topic_"
"""The topic of a subscription whose topic was deleted (pubsub.proto, `Subscription.topic`)."""

# Ways to deliver that are not pull: the field, the part of it that is only set where it is used, and a verb.
_ELSEWHERE = {
    "push_config": ("push_endpoint", "pushes to"),
    "bigquery_config": ("table", "writes to the BigQuery table"),
    "cloud_storage_config": ("bucket", "writes to the Cloud Storage bucket"),
    "bigtable_config": ("table", "writes to the Bigtable table"),
}
_BYTES = 2  # the wire type of an embedded message
# Embedded messages that are not a way to deliver, but that older client libraries do not have (pubsub.proto):
# analytics_hub_subscription_info, message_transforms, tags.
_HARMLESS = {23, 25, 26}


def delivers(found: Subscription) -> str | None:
    """How a subscription delivers, as a predicate ("pushes to …"); None: it is pulled.

    A kind that this version does not have counts, too: only what is certainly pull is read.
    """
    raw: Any = Subscription.pb(found)
    for field, value in raw.ListFields():
        if not field.name.endswith("_config"):
            continue
        part, verb = _ELSEWHERE.get(field.name, ("", f"delivers by its {field.name}"))
        where = getattr(value, part) if part else ""
        if where:
            return f"{verb} {where}"
        if part != "push_endpoint":  # an empty push_config means pull
            return verb
    unknown = sorted(
        {
            item.field_number
            for item in UnknownFieldSet(raw)
            if item.wire_type == _BYTES and item.field_number not in _HARMLESS
        }
    )
    if unknown:
        fields = ", ".join(map(str, unknown))
        return f"has settings that the installed google-cloud-pubsub does not have (field {fields})"
    return None


def obstacle(found: Subscription, mode: Mode) -> str | None:
    """Why a subscription cannot be cleared in this mode; None: it can be."""
    name = found.name
    if found.detached:
        return f"{name} is detached from its topic: it keeps no messages, so there is nothing to clear."
    how = None if mode is Mode.SKIP else delivers(found)
    if how is None:
        return None
    return (
        f"{name} {how}: it is not known to be a pull subscription, so it is not read. Use --mode skip,"
        " which clears it without reading; or change it to a pull subscription first."
    )


def incarnation(found: Subscription) -> str | None:
    """What distinguishes a subscription from another one of the same name; None: nothing is known.

    Pub/Sub gives a subscription neither an id nor a time of creation. Its topic, filter and ordering cannot be
    changed (pubsub.proto), so a difference in them proves that it was created again; one that was created
    again with the same settings cannot be distinguished from the first. Where the topic was deleted, nothing is
    known: the subscription's own topic field changes then.
    """
    if not found.topic or found.topic == DELETED_TOPIC:
        return None
    return f"{found.topic} ordering={found.enable_message_ordering} filter={found.filter}"

"""Pub/Sub's messages on the wire: only ids and publish times are decoded, never a payload.

Protocol: https://github.com/googleapis/googleapis/blob/master/google/pubsub/v1/pubsub.proto.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from backlog_clearer.brokers.shared.protobuf import BYTES, INT32, INT64, STRING, Field, message_classes

_TYPES = message_classes(
    "backlog_clearer.pubsub",
    {
        # In `Merged`, fields that repeat on the wire are declared single, and what is inside them
        # repeated. A protobuf parser must merge the occurrences of a single embedded message
        # (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so one parse in C collects
        # the ids, and the seconds, of a whole response into flat lists. Ids are bytes, so that nothing
        # decodes them. `Each` keeps messages apart, for responses in which some lie beyond the target.
        "MergedTime": {"seconds": Field(1, INT64, repeated=True)},
        "MergedMessage": {"publish_time": Field(4, "MergedTime")},
        "MergedReceived": {
            "ack_id": Field(1, BYTES, repeated=True),
            "message": Field(2, "MergedMessage"),
        },
        "Merged": {"received_messages": Field(1, "MergedReceived")},
        "MergedIds": {"ack_id": Field(1, BYTES, repeated=True)},
        "Ids": {"received_messages": Field(1, "MergedIds")},
        "Time": {"seconds": Field(1, INT64), "nanos": Field(2, INT32)},
        "Message": {"publish_time": Field(4, "Time")},
        "Received": {"ack_id": Field(1, BYTES), "message": Field(2, "Message")},
        "Each": {"received_messages": Field(1, "Received", repeated=True)},
        "Acknowledge": {
            "subscription": Field(1, STRING),
            "ack_ids": Field(2, BYTES, repeated=True),
        },
        "ModifyAckDeadline": {
            "subscription": Field(1, STRING),
            "ack_deadline_seconds": Field(3, INT32),
            "ack_ids": Field(4, BYTES, repeated=True),
        },
    },
)
_MERGED, _IDS, _EACH = _TYPES["Merged"], _TYPES["Ids"], _TYPES["Each"]
Acknowledge, ModifyAckDeadline = _TYPES["Acknowledge"], _TYPES["ModifyAckDeadline"]


class Instant(NamedTuple):
    """A publish time or target; comparable."""

    seconds: int
    nanos: int


def instant(text: str) -> Instant:
    """The instant of an RFC 3339 text in UTC, as `PartitionState.end` has it."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return Instant(int(moment.replace(microsecond=0).timestamp()), moment.microsecond * 1000)


def split_at_target(response: bytes, target: Instant | None) -> tuple[list[bytes], list[bytes]]:
    """The ids in a StreamingPullResponse: published before the target, and at or after it.

    A message without a publish time is not known to be before the target, so it counts as after it.
    """
    if target is None:
        return _IDS.FromString(response).received_messages.ack_id[:], []
    received = _MERGED.FromString(response).received_messages
    # Whole seconds decide for a whole response, unless it has messages within the target's second.
    seconds = received.message.publish_time.seconds
    if len(seconds) == len(received.ack_id) and max(seconds, default=0) < target.seconds:
        return received.ack_id[:], []
    before: list[bytes] = []
    beyond: list[bytes] = []
    for item in _EACH.FromString(response).received_messages:
        at = item.message.publish_time
        is_before = at.seconds > 0 and (at.seconds, at.nanos) < target
        (before if is_before else beyond).append(item.ack_id)
    return before, beyond

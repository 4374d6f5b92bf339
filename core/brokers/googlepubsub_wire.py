"""Pub/Sub's messages, as far as they are looked at: ids and publish times, never a payload.

Protocol: https://github.com/googleapis/googleapis/blob/master/google/pubsub/v1/pubsub.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _message_types() -> Callable[[str], Any]:
    """Wire-compatible cuts of Pub/Sub's messages, by name.

    In `Merged`, fields that repeat on the wire are declared single, and what is inside them
    repeated. A protobuf parser must merge the occurrences of a single embedded message
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so one parse in C collects the
    ids, and the seconds, of a whole response into flat lists. Ids are bytes, so that nothing
    decodes them. `Each` keeps messages apart, for responses in which some lie beyond the target.
    """
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="backlog_clearer_pubsub.proto", package="backlog_clearer", syntax="proto2"
    )

    def declare(name: str, *fields: tuple[str, int, Any, bool]) -> None:
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
            one = message.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = proto.TYPE_MESSAGE, f".backlog_clearer.{kind}"
            else:
                one.type = kind

    declare("MergedTime", ("seconds", 1, proto.TYPE_INT64, True))
    declare("MergedMessage", ("publish_time", 4, "MergedTime", False))
    declare(
        "MergedReceived", ("ack_id", 1, proto.TYPE_BYTES, True), ("message", 2, "MergedMessage", False)
    )
    declare("Merged", ("received_messages", 1, "MergedReceived", False))
    declare("MergedIds", ("ack_id", 1, proto.TYPE_BYTES, True))
    declare("Ids", ("received_messages", 1, "MergedIds", False))
    declare("Time", ("seconds", 1, proto.TYPE_INT64, False), ("nanos", 2, proto.TYPE_INT32, False))
    declare("Message", ("publish_time", 4, "Time", False))
    declare("Received", ("ack_id", 1, proto.TYPE_BYTES, False), ("message", 2, "Message", False))
    declare("Each", ("received_messages", 1, "Received", True))
    declare(
        "Acknowledge",
        ("subscription", 1, proto.TYPE_STRING, False),
        ("ack_ids", 2, proto.TYPE_BYTES, True),
    )
    declare(
        "ModifyAckDeadline",
        ("subscription", 1, proto.TYPE_STRING, False),
        ("ack_deadline_seconds", 3, proto.TYPE_INT32, False),
        ("ack_ids", 4, proto.TYPE_BYTES, True),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return lambda name: message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"backlog_clearer.{name}")
    )


_type = _message_types()
_MERGED, _IDS, _EACH = _type("Merged"), _type("Ids"), _type("Each")
Acknowledge, ModifyAckDeadline = _type("Acknowledge"), _type("ModifyAckDeadline")


class Instant(NamedTuple):
    """A publish time or target; compares as time does."""

    seconds: int
    nanos: int


def instant(text: str) -> Instant:
    """The instant that an RFC 3339 text in UTC names, as `PartitionState.end` spells it."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return Instant(int(moment.replace(microsecond=0).timestamp()), moment.microsecond * 1000)


def split(response: bytes, target: Instant | None) -> tuple[list[bytes], list[bytes]]:
    """The ids in a StreamingPullResponse: published before the target, and at or after it."""
    if target is None:
        return _IDS.FromString(response).received_messages.ack_id[:], []
    received = _MERGED.FromString(response).received_messages
    # Whole seconds decide for a response as a whole, but for those at the very edge of the target.
    if max(received.message.publish_time.seconds, default=target.seconds) < target.seconds:
        return received.ack_id[:], []
    before: list[bytes] = []
    beyond: list[bytes] = []
    for item in _EACH.FromString(response).received_messages:
        at = item.message.publish_time
        (before if (at.seconds, at.nanos) < target else beyond).append(item.ack_id)
    return before, beyond

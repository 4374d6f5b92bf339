"""Parts of a protocol's protobuf messages: only the fields that are used, declared where they are used.

The parser skips other fields. This needs no generated code, and saves the time to parse those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPE = descriptor_pb2.FieldDescriptorProto
INT32, INT64, UINT64 = _TYPE.TYPE_INT32, _TYPE.TYPE_INT64, _TYPE.TYPE_UINT64
BOOL, STRING, BYTES = _TYPE.TYPE_BOOL, _TYPE.TYPE_STRING, _TYPE.TYPE_BYTES


class Field(NamedTuple):
    """One field of a message; every one is optional, so that a missing field is not a parse error."""

    number: int
    kind: Any  # one of the constants above, or the name of a message
    repeated: bool = False


def message_classes(package: str, messages: Mapping[str, Mapping[str, Field]]) -> Mapping[str, Any]:
    """The classes of these messages, by name; enumerations are declared as INT32, as on the wire."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind, repeated) in fields.items():
            label = _TYPE.LABEL_REPEATED if repeated else _TYPE.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _TYPE.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }

"""Frames of Pulsar's binary protocol, and what a message's frame holds before its payload.

Layout and semantics: https://pulsar.apache.org/docs/4.0.x/developing-binary-protocol/; numbers: Pulsar
4.0.7's PulsarApi.proto, in which the type of a command is the number of its field in BaseCommand.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from backlog_clearer.brokers.shared.protobuf import (
    BOOL,
    BYTES,
    INT32,
    INT64,
    STRING,
    UINT64,
    Field,
    message_classes,
)

PROTOCOL_VERSION = 19  # of Pulsar 2.9; later features are requested by feature flags
SIZES = struct.Struct(">II")  # of everything after this number, and of the command after both
_U32 = struct.Struct(">I")
_CHECKED = struct.Struct(">HII")  # a magic number, a CRC32-C, the metadata's size
_BROKER_METADATA, _CHECKSUM = 0x0E02, 0x0E01  # magic numbers
MAX_COMMAND = 5 * 1024 * 1024  # a larger command is refused; a payload is not part of the command


class FrameError(ValueError):
    """Bytes that do not follow the protocol."""


class Kind(IntEnum):
    """Types of commands."""

    CONNECT = 2
    CONNECTED = 3
    SUBSCRIBE = 4
    MESSAGE = 9
    ACK = 10
    FLOW = 11
    SUCCESS = 13
    ERROR = 14
    CLOSE_CONSUMER = 16
    PING = 18
    PONG = 19
    REDELIVER_UNACKNOWLEDGED = 20
    PARTITIONED_METADATA = 21
    PARTITIONED_METADATA_RESPONSE = 22
    LOOKUP = 23
    LOOKUP_RESPONSE = 24
    CONSUMER_STATS = 25
    CONSUMER_STATS_RESPONSE = 26
    SEEK = 28
    GET_LAST_MESSAGE_ID = 29
    GET_LAST_MESSAGE_ID_RESPONSE = 30
    AUTH_CHALLENGE = 36
    AUTH_RESPONSE = 37
    TOPIC_MIGRATED = 68


_MESSAGE = Kind.MESSAGE.value  # an IntEnum compares slowly
REDIRECT = 0  # response of a lookup that has to be repeated at another broker
INDIVIDUAL, CUMULATIVE = 0, 1
"""Types of acknowledgement."""
EARLIEST = 1
"""Initial position of a subscription that does not exist yet."""

_FAILURE = {"error": Field(4, INT32), "message": Field(5, STRING)}
_BODIES = {
    Kind.CONNECT: {
        "client_version": Field(1, STRING),
        "auth_data": Field(3, BYTES),
        "protocol_version": Field(4, INT32),
        "auth_method_name": Field(5, STRING),
        "proxy_to_broker_url": Field(6, STRING),
        "feature_flags": Field(10, "FeatureFlags"),
    },
    Kind.CONNECTED: {"server_version": Field(1, STRING), "max_message_size": Field(3, INT32)},
    Kind.SUBSCRIBE: {
        "topic": Field(1, STRING),
        "subscription": Field(2, STRING),
        "sub_type": Field(3, INT32),
        "consumer_id": Field(4, UINT64),
        "request_id": Field(5, UINT64),
        "consumer_name": Field(6, STRING),
        "durable": Field(8, BOOL),  # True if it is missing
        "initial_position": Field(13, INT32),
        "force_topic_creation": Field(15, BOOL),
    },
    Kind.MESSAGE: {
        "consumer_id": Field(1, UINT64),
        "message_id": Field(2, "MessageIdData"),
        "ack_set": Field(4, INT64, repeated=True),
    },
    Kind.ACK: {
        "consumer_id": Field(1, UINT64),
        "ack_type": Field(2, INT32),
        "message_id": Field(3, "MessageIdData", repeated=True),
    },
    Kind.FLOW: {"consumer_id": Field(1, UINT64), "message_permits": Field(2, INT32)},
    Kind.SUCCESS: {"request_id": Field(1, UINT64)},
    Kind.ERROR: {
        "request_id": Field(1, UINT64),
        "error": Field(2, INT32),
        "message": Field(3, STRING),
    },
    Kind.CLOSE_CONSUMER: {"consumer_id": Field(1, UINT64), "request_id": Field(2, UINT64)},
    Kind.PING: {},
    Kind.PONG: {},
    Kind.REDELIVER_UNACKNOWLEDGED: {"consumer_id": Field(1, UINT64)},
    Kind.PARTITIONED_METADATA: {
        "topic": Field(1, STRING),
        "request_id": Field(2, UINT64),
        "metadata_auto_creation_enabled": Field(6, BOOL),
    },
    Kind.PARTITIONED_METADATA_RESPONSE: {
        "partitions": Field(1, INT32),
        "request_id": Field(2, UINT64),
        **_FAILURE,
    },
    Kind.LOOKUP: {
        "topic": Field(1, STRING),
        "request_id": Field(2, UINT64),
        "authoritative": Field(3, BOOL),
        "advertised_listener_name": Field(7, STRING),
    },
    Kind.LOOKUP_RESPONSE: {
        "broker_service_url": Field(1, STRING),
        "broker_service_url_tls": Field(2, STRING),
        "response": Field(3, INT32),
        "request_id": Field(4, UINT64),
        "authoritative": Field(5, BOOL),
        "error": Field(6, INT32),
        "message": Field(7, STRING),
        "proxy_through_service_url": Field(8, BOOL),
    },
    Kind.CONSUMER_STATS: {"request_id": Field(1, UINT64), "consumer_id": Field(4, UINT64)},
    Kind.CONSUMER_STATS_RESPONSE: {
        "request_id": Field(1, UINT64),
        "error": Field(2, INT32),
        "message": Field(3, STRING),
        "entries": Field(15, UINT64),  # in the subscription's backlog
    },
    Kind.SEEK: {
        "consumer_id": Field(1, UINT64),
        "request_id": Field(2, UINT64),
        "message_id": Field(3, "MessageIdData"),
    },
    Kind.GET_LAST_MESSAGE_ID: {"consumer_id": Field(1, UINT64), "request_id": Field(2, UINT64)},
    Kind.GET_LAST_MESSAGE_ID_RESPONSE: {
        "last_message_id": Field(1, "MessageIdData"),
        "request_id": Field(2, UINT64),
        "consumer_mark_delete_position": Field(3, "MessageIdData"),
    },
    Kind.AUTH_CHALLENGE: {},
    Kind.AUTH_RESPONSE: {
        "client_version": Field(1, STRING),
        "response": Field(2, "AuthData"),
        "protocol_version": Field(3, INT32),
    },
    Kind.TOPIC_MIGRATED: {},
}
_TYPES = message_classes(
    "backlog_clearer.pulsar",
    {
        "MessageIdData": {
            "ledger": Field(1, UINT64),
            "entry": Field(2, UINT64),
            "batch_size": Field(6, INT32),
            "first_chunk": Field(7, "MessageIdData"),
        },
        "FeatureFlags": {"auth_refresh": Field(1, BOOL), "no_auto_creation": Field(5, BOOL)},
        "AuthData": {"auth_method_name": Field(1, STRING), "auth_data": Field(2, BYTES)},
        "MessageMetadata": {
            "num_messages_in_batch": Field(11, INT32),
            "num_chunks_from_msg": Field(27, INT32),
            "chunk_id": Field(29, INT32),
        },
        **{kind.name: dict(fields) for kind, fields in _BODIES.items()},
        "BaseCommand": {
            "type": Field(1, INT32),
            **{kind.name.lower(): Field(kind.value, kind.name) for kind in Kind},
        },
    },
)
_COMMAND, _METADATA = _TYPES["BaseCommand"], _TYPES["MessageMetadata"]

_ERRORS = (
    *("UnknownError", "MetadataError", "PersistenceError", "AuthenticationError"),
    *("AuthorizationError", "ConsumerBusy", "ServiceNotReady", "ProducerBlockedQuotaExceededError"),
    *("ProducerBlockedQuotaExceededException", "ChecksumError", "UnsupportedVersionError"),
    *("TopicNotFound", "SubscriptionNotFound", "ConsumerNotFound", "TooManyRequests"),
    *("TopicTerminatedError", "ProducerBusy", "InvalidTopicName", "IncompatibleSchema"),
    *("ConsumerAssignError", "TransactionCoordinatorNotFound", "InvalidTxnStatus"),
    *("NotAllowedError", "TransactionConflict", "TransactionNotFound", "ProducerFenced"),
)


def error_name(number: int) -> str:
    """The name of a `ServerError` number."""
    return _ERRORS[number] if 0 <= number < len(_ERRORS) else f"error {number}"


def frame(kind: Kind, **fields: Any) -> bytes:
    """A command as it is sent; embedded messages are dicts."""
    command: bytes = _COMMAND(type=kind, **{kind.name.lower(): fields}).SerializeToString()
    return SIZES.pack(len(command) + 4, len(command)) + command


class EntryHead(NamedTuple):
    """What a message's frame holds about an entry."""

    consumer: int
    ledger: int
    entry: int
    permits: int  # messages that the broker counts as delivered
    messages: int  # the same, but of a chunked message only the last chunk counts
    size: int  # of the frame, bytes


class MessagePlace(NamedTuple):
    """What a serialized message identifier of a client library holds beyond ledger and entry."""

    batch_size: int  # messages in the entry; 0: it is not a batch
    first_chunk: tuple[int, int] | None  # ledger and entry of a message's first chunk


def parse_identifier(data: bytes) -> MessagePlace:
    """Read a serialized message identifier; raises `FrameError`."""
    try:
        found = _TYPES["MessageIdData"].FromString(data)
    except DecodeError as error:
        raise FrameError(f"an identifier that is not valid: {error}") from None
    first = found.first_chunk
    return MessagePlace(
        found.batch_size, (first.ledger, first.entry) if found.HasField("first_chunk") else None
    )


class Command(NamedTuple):
    """Any other command."""

    kind: int
    body: Any  # None: of a type that is ignored
    size: int  # of the frame, bytes


def parse_head(buffer: bytearray, at: int, end: int) -> EntryHead | Command | None:
    """Parse the frame at `at`, of which `end - at` bytes are there.

    None: more bytes are needed. A message's payload is not needed. Raises `FrameError`.
    """
    if end - at < 8:  # noqa: PLR2004 the two sizes in front of every command
        return None
    size, command_size = SIZES.unpack_from(buffer, at)
    if not 0 < command_size <= size - 4 or command_size > MAX_COMMAND:
        raise FrameError(f"a frame of {size} bytes with a command of {command_size}")
    behind = at + 8 + command_size
    if behind > end:
        return None
    whole = size + 4
    try:
        command = _COMMAND.FromString(bytes(buffer[at + 8 : behind]))
        kind = command.type
        if kind != _MESSAGE:
            name = Kind(kind).name.lower() if kind in _BODIES else None
            return Command(kind, getattr(command, name) if name else None, whole)
        place = _metadata(buffer, behind, end, at + whole)
        if place is None:
            return None
        metadata = _METADATA.FromString(bytes(buffer[place]))
    except DecodeError as error:
        raise FrameError(f"a frame of {size} bytes without a valid command: {error}") from None
    message = command.message
    identifier = message.message_id
    ledger, entry = identifier.ledger, identifier.entry
    absent = not (ledger and entry) and not (
        identifier.HasField("ledger") and identifier.HasField("entry")
    )
    if absent or (ledger | entry) >> 63:
        raise FrameError("a message without a valid identifier")
    count = max(1, metadata.num_messages_in_batch)
    bits = message.ack_set
    if bits:
        count = _set_bits(bits, count)
    # The last chunk counts as its message; without chunks both fields are 0.
    counted = 0 if metadata.chunk_id + 1 < metadata.num_chunks_from_msg else count
    return EntryHead(message.consumer_id, ledger, entry, count, counted, whole)


def _metadata(buffer: bytearray, at: int, end: int, frame_end: int) -> slice | None:
    """Where the metadata after a command are; None: more bytes are needed."""
    if at + _CHECKED.size > frame_end:
        raise FrameError("a message without metadata")
    if at + _CHECKED.size > end:
        return None
    magic, _, size = _CHECKED.unpack_from(buffer, at)
    start = at + _CHECKED.size
    if magic == _BROKER_METADATA:
        raise FrameError("broker metadata, which were not requested")
    if magic != _CHECKSUM:  # a producer may leave the checksum out: then the size comes first
        start = at + _U32.size
        (size,) = _U32.unpack_from(buffer, at)
    if start + size > frame_end:
        raise FrameError(f"metadata of {size} bytes, which exceed their frame")
    return slice(start, start + size) if start + size <= end else None


def _set_bits(words: Any, count: int) -> int:
    """How many of the first `count` bits are set: of messages in a batch, those not acknowledged yet."""
    whole, rest = divmod(count, 64)
    found: int = sum((word & 0xFFFF_FFFF_FFFF_FFFF).bit_count() for word in words[:whole])
    if rest and whole < len(words):
        found += (words[whole] & ((1 << rest) - 1)).bit_count()
    return found

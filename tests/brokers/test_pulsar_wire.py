"""Heads of Pulsar's frames: counts, incomplete heads, and frames that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.pulsar.wire import (
    MAX_COMMAND,
    Command,
    EntryHead,
    FrameError,
    Kind,
    error_name,
    parse_head,
)
from backlog_clearer.testing.servers.pulsar_frames import PING, fields, frame, message

PLACE = (1 << 40, 77)


def entry(data: bytes) -> EntryHead:
    """The head of an entry in a whole frame."""
    found = parse_head(bytearray(data), 0, len(data))
    assert isinstance(found, EntryHead)
    return found


def without_place(identifier: bytes) -> bytes:
    """A message's frame with these bytes as its identifier."""
    return frame(9, b"\x0e\x01" + bytes(8), f1=1, f2=identifier)


@pytest.mark.parametrize("checksum", [True, False])
def test_a_batch_is_read_from_its_head(*, checksum: bool) -> None:
    """The head of a batch holds its consumer, entry, messages and size, with and without a checksum."""
    data = message(5, PLACE, metadata=fields(f1="p", f2=9, f11=300), payload=b"xyz", checksum=checksum)
    assert entry(data) == EntryHead(5, *PLACE, permits=300, messages=300, size=len(data))


@pytest.mark.parametrize(
    ("ack_set", "count"),
    [((), 130), ((0, 0), 0), ((-1, -1, -1), 130), ((1 << 63, 3, 0b101), 4), ((0b1011,), 3)],
)
def test_acknowledged_messages_of_a_batch_are_not_counted(ack_set: tuple[int, ...], count: int) -> None:
    """Only messages whose bit is set are still to be acknowledged; without bits all of them are."""
    # Java's BitSet.toLongArray: 64 bits a number, signed, trailing zeros left out
    signed = [value - (1 << 64) if value >> 63 > 0 else value for value in ack_set]
    data = message(1, PLACE, metadata=fields(f11=130), ack_set=signed)
    assert (entry(data).messages, entry(data).permits) == (count, count)


@pytest.mark.parametrize(("chunk", "count"), [(0, 0), (1, 0), (2, 1)])
def test_a_chunked_message_counts_once(chunk: int, count: int) -> None:
    """A message of three chunks is counted with its last; each of them uses up a permit."""
    data = message(1, PLACE, metadata=fields(f26="id", f27=3, f28=900, f29=chunk))
    assert (entry(data).messages, entry(data).permits) == (count, 1)


def test_a_plain_message_counts_once() -> None:
    """Metadata without a number of messages count as one, and so does a single chunk."""
    assert entry(message(1, PLACE, metadata=fields(f1="p"))).messages == 1
    assert entry(message(1, PLACE, metadata=fields(f27=1, f29=0))).messages == 1


@given(
    properties=st.binary(max_size=300),
    before=st.binary(max_size=20),
    cut=st.integers(0, 500),
)
def test_an_incomplete_head_is_not_read(properties: bytes, before: bytes, cut: int) -> None:
    """An incomplete head yields nothing; a complete one the same with and without its payload."""
    whole = message(2, PLACE, metadata=fields(f4=properties, f11=8), payload=bytes(100))
    start = len(before)
    buffer = bytearray(before + whole + b"\xff" * 40)
    found = parse_head(buffer, start, start + min(cut, len(whole)))
    assert found == (EntryHead(2, *PLACE, 8, 8, len(whole)) if cut >= len(whole) - 100 else None)


def test_unknown_commands_are_skipped() -> None:
    """Of a command of an unknown type only the length is used."""
    data = frame(63, f1=1)
    assert parse_head(bytearray(data), 0, len(data)) == Command(63, None, len(data))
    ping = frame(PING)
    found = parse_head(bytearray(ping), 0, len(ping))
    assert isinstance(found, Command)
    assert (found.kind, found.size) == (Kind.PING, len(ping))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param((3).to_bytes(4, "big") + bytes(8), id="no room for a command"),
        pytest.param((9 << 20).to_bytes(4, "big") + (MAX_COMMAND + 1).to_bytes(4, "big"), id="huge"),
        pytest.param((8).to_bytes(4, "big") + (4).to_bytes(4, "big") + b"\xff" * 4, id="not protobuf"),
        pytest.param(message(1, PLACE)[:-1][:-4] + b"\0\0\1\0", id="metadata beyond the frame"),
        pytest.param(frame(9, b"\x0e\x02" + bytes(40), f1=1, f2=fields(f1=1, f2=1)), id="broker's own"),
        pytest.param(frame(9, f1=1, f2=fields(f1=1, f2=1)), id="no metadata"),
        pytest.param(without_place(b""), id="no identifier"),
        pytest.param(without_place(fields(f1=7)), id="no entry"),
        pytest.param(without_place(fields(f2=7)), id="no ledger"),
        pytest.param(without_place(fields(f1=-1, f2=7)), id="negative ledger"),
        pytest.param(without_place(fields(f1=7, f2=-1)), id="negative entry"),
    ],
)
def test_invalid_frames_are_refused(data: bytes) -> None:
    """Bytes that are not a frame are refused, not skipped: nothing after them could be trusted."""
    with pytest.raises(FrameError):
        parse_head(bytearray(data + bytes(64)), 0, len(data) + 64)


def test_errors_have_names() -> None:
    """Errors are named as in PulsarApi.proto; numbers from a newer one as numbers."""
    assert [error_name(number) for number in (0, 5, 11, 22, 25)] == [
        *("UnknownError", "ConsumerBusy", "TopicNotFound", "NotAllowedError", "ProducerFenced")
    ]
    assert error_name(99) == "error 99"

"""Fetch responses: read exactly in every version, and harmless when they are damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.batch_wire import CorruptBatchError
from backlog_clearer.brokers.kafka.fetch_wire import (
    MAX_VERSION,
    MIN_VERSION,
    Fetched,
    Wanted,
    fetch_request,
    response_head,
    response_partitions,
)
from backlog_clearer.model import Partition

VERSIONS = range(MIN_VERSION, MAX_VERSION + 1)
versions = st.sampled_from(VERSIONS)


class Row:
    """One partition of a response, as the test means it."""

    def __init__(
        self, topic: str, number: int, error: int, aborted: int, records: bytes | None
    ) -> None:
        self.topic, self.number, self.error = topic, number, error
        self.aborted, self.records = aborted, records

    def encode(self, version: int) -> bytes:
        """Its bytes, by the tables of the Kafka protocol guide."""
        parts = [struct.pack(">ihqq", self.number, self.error, 77, 76)]
        if version >= 5:
            parts.append(struct.pack(">q", 3))
        parts.append(struct.pack(">i", self.aborted))
        parts.append(struct.pack(">qq", 9, 9) * max(0, self.aborted))
        if version >= 11:
            parts.append(struct.pack(">i", 2))
        size = -1 if self.records is None else len(self.records)
        return b"".join([*parts, struct.pack(">i", size), self.records or b""])


rows = st.lists(
    st.builds(
        Row,
        st.sampled_from(["orders", "aé", "t" * 249]),
        st.integers(0, 2**31 - 1),
        st.integers(-1, 120),
        st.integers(-1, 3),
        st.none() | st.binary(max_size=90),
    ),
    max_size=4,
)


def encode(found: Sequence[Row], version: int) -> bytes:
    """A response without its header, one topic entry a partition."""
    parts = [struct.pack(">i", 250)]
    if version >= 7:
        parts.append(struct.pack(">hi", 70, 1234))
    parts.append(struct.pack(">i", len(found)))
    for row in found:
        name = row.topic.encode()
        parts += [struct.pack(">h", len(name)), name, struct.pack(">i", 1), row.encode(version)]
    return b"".join(parts)


def read(data: bytes, end: int, version: int) -> list[Fetched]:
    """Everything in a response."""
    return list(response_partitions(data, response_head(data, end, version).at, end, version))


@given(found=rows, version=versions, beyond=st.binary(max_size=20))
def test_every_version_is_read_back(found: list[Row], version: int, beyond: bytes) -> None:
    """Every version's response gives back its partitions, errors, replicas and record ranges."""
    data = encode(found, version)
    first = response_head(data + beyond, len(data), version)
    assert (first.throttle_ms, first.error) == (250, 70 if version >= 7 else 0)
    got = read(data + beyond, len(data), version)
    assert [(each.partition, each.error, data[each.start : each.end]) for each in got] == [
        (Partition(row.topic, row.number), row.error, row.records or b"") for row in found
    ]
    assert {each.high_watermark for each in got} <= {77}
    assert {each.read_replica for each in got} <= {2 if version >= 11 else -1}


@given(found=rows, version=versions, data=st.data())
def test_a_cut_response_is_refused(found: list[Row], version: int, data: st.DataObject) -> None:
    """A response that ends too early raises, wherever it was cut."""
    whole = encode(found, version)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptBatchError):
        read(whole, end, version)


@given(found=rows, version=versions, data=st.data())
def test_damage_never_leads_outside(found: list[Row], version: int, data: st.DataObject) -> None:
    """With bytes changed anywhere it raises `CorruptBatchError`, or stays within the response."""
    whole = bytearray(encode(found, version))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        got = read(bytes(whole), len(whole), version)
    except CorruptBatchError:
        return
    assert all(0 <= each.start <= each.end <= len(whole) for each in got)


@given(junk=st.binary(max_size=200), version=versions)
def test_noise_is_refused_or_harmless(junk: bytes, version: int) -> None:
    """Any bytes at all raise nothing but `CorruptBatchError`."""
    try:
        read(junk, len(junk), version)
    except CorruptBatchError:
        return


@pytest.mark.parametrize("version", VERSIONS)
def test_request_names_topics_once(version: int) -> None:
    """A request groups partitions by topic and asks outside of any session, for every version."""
    wanted = [Wanted(Partition("a", 0), 5), Wanted(Partition("b", 0), 6), Wanted(Partition("a", 2), 7)]
    made = fetch_request(wanted, version=version, max_bytes=1000, max_wait_ms=100, rack="r")
    again = type(made).decode(made.encode(version=version), version=version)
    assert [
        (topic.topic, [(part.partition, part.fetch_offset) for part in topic.partitions])
        for topic in again.topics
    ] == [("a", [(0, 5), (2, 7)]), ("b", [(0, 6)])]
    assert (again.max_bytes, again.isolation_level) == (1000, 0)

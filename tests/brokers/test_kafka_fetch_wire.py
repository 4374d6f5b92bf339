"""Fetch requests, and responses that are there at once: read in every version, harmless when damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.brokers.kafka.answer_wire import AnswerWalk
from backlog_clearer.brokers.kafka.batch_wire import CorruptBatchError, OldFormatError
from backlog_clearer.brokers.kafka.fetch_wire import Wanted, fetch_request, framed, topic_id
from backlog_clearer.brokers.kafka.library import FetchRequest
from backlog_clearer.model import Partition
from tests.brokers.kafka_bytes import (
    VERSIONS,
    Row,
    encode_response,
    names,
    rows,
    topic_key,
    versions,
    walk_batches,
)

POSITION = 7


def read(data: bytes | bytearray, end: int, version: int, found: list[Row]) -> AnswerWalk:
    """Walk a response to a request for these partitions, given at once."""
    wanted = {Partition(row.topic, row.number): (POSITION, None) for row in found}
    walk = AnswerWalk(end, version, wanted, names(found))
    walk.feed(data, 0, end)
    return walk


@given(found=rows, version=versions, beyond=st.binary(max_size=20))
def test_every_version_is_read_back(found: list[Row], version: int, beyond: bytes) -> None:
    """Every version's response gives back its partitions, errors, replicas and records."""
    data = encode_response(found, version)
    got = read(data + beyond, len(data), version, found)
    assert got.left == 0
    assert (got.throttle_ms, got.error) == (250, 70 if version >= 7 else 0)
    assert [(each.partition, each.error) for each in got.found] == [
        (Partition(row.topic, row.number), row.error) for row in found
    ]
    for each, row in zip(got.found, found, strict=True):
        records = b"" if row.error else row.records or b""
        whole = walk_batches(records, 0, len(records), position=POSITION)
        assert each.size == len(records)
        assert (each.walk.position, each.walk.batches) == (whole.next_offset, whole.batches)
        assert (each.walk.records, each.walk.needs) == (whole.records, whole.needs)
    assert {each.high_watermark for each in got.found} <= {77}
    assert {each.read_replica for each in got.found} <= {2 if version >= 11 else -1}
    diverging = [row.diverging if version >= 12 else None for row in found]
    assert [each.diverging for each in got.found] == diverging


@given(found=rows, version=versions, data=st.data())
def test_a_cut_response_is_refused(found: list[Row], version: int, data: st.DataObject) -> None:
    """A response that ends too early raises, wherever it was cut."""
    whole = encode_response(found, version)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptBatchError):
        read(whole, end, version, found)


@given(found=rows, version=versions, beyond=st.binary(min_size=1, max_size=20))
def test_bytes_behind_the_last_partition_are_refused(
    found: list[Row], version: int, beyond: bytes
) -> None:
    """A response that is longer than its fields raises: its announced size cannot be right."""
    whole = encode_response(found, version) + beyond
    with pytest.raises(CorruptBatchError, match="behind its last partition"):
        read(whole, len(whole), version, found)


@given(found=rows, version=versions, data=st.data())
def test_damage_never_leads_outside(found: list[Row], version: int, data: st.DataObject) -> None:
    """With bytes changed anywhere it raises one of its two errors, or walks the response to its end."""
    whole = bytearray(encode_response(found, version))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        got = read(whole, len(whole), version, found)
    except (CorruptBatchError, OldFormatError):
        return
    assert got.left == 0
    assert sum(each.size for each in got.found) <= len(whole)
    assert all(each.walk.position >= POSITION for each in got.found)


@given(junk=st.binary(max_size=200), version=versions, found=rows)
def test_noise_is_refused_or_harmless(junk: bytes, version: int, found: list[Row]) -> None:
    """Any bytes at all raise nothing but the two errors of a walk."""
    try:
        read(junk, len(junk), version, found)
    except (CorruptBatchError, OldFormatError):
        return


@pytest.mark.parametrize("version", VERSIONS)
def test_partitions_that_were_not_asked_for_are_refused(version: int) -> None:
    """An answer about another partition, or twice about the same one, raises."""
    row, other = Row("orders", 1, 0, 0, None), Row("orders", 2, 0, 0, None)
    for rows_of_it in ([other], [row, row]):
        data = encode_response(rows_of_it, version)
        with pytest.raises(CorruptBatchError, match="not asked for"):
            read(data, len(data), version, [row])


def by_library(
    wanted: Sequence[Wanted], version: int, *, max_bytes: int, rack: str, ids: Mapping[str, str]
) -> bytes:
    """The same request as kafka-python encodes it."""
    topics: dict[str, list[object]] = {}
    topic_of = FetchRequest.FetchTopic
    for (topic, number), offset, epoch in wanted:
        topics.setdefault(topic, []).append(
            topic_of.FetchPartition(
                version=version,
                partition=number,
                current_leader_epoch=-1,
                fetch_offset=offset,
                **({"last_fetched_epoch": epoch} if version >= 12 else {}),
                log_start_offset=-1,
                partition_max_bytes=max_bytes,
            )
        )
    request = FetchRequest(
        version=version,
        replica_id=-1,
        max_wait_ms=100,
        min_bytes=1,
        max_bytes=max_bytes,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[
            topic_of(
                version=version,
                partitions=places,
                **({"topic_id": topic_id(ids[topic])} if version >= 13 else {"topic": topic}),
            )
            for topic, places in topics.items()
        ],
        forgotten_topics_data=[],
        rack_id=rack,
    )
    request.API_VERSION = version
    request.with_header(correlation_id=77, client_id="c")
    return bytes(request.encode(framed=True, header=True))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("partitions", [0, 1, 126, 127, 300])
def test_requests_are_those_of_kafka_python(version: int, partitions: int) -> None:
    """A request names each topic once and asks outside of any session, for every version, byte by byte."""
    wanted = [
        Wanted(Partition("a", 0), 5),
        Wanted(Partition("b" * 200, 0), 6, 4),
        *(Wanted(Partition("a", number), 1 << 40, number) for number in range(1, partitions)),
    ][: max(partitions, 2) if partitions else 0]
    ids = {name: topic_key(name) for name in ("a", "b" * 200)}
    made = fetch_request(
        wanted, version=version, max_bytes=1000, max_wait_ms=100, rack="räck", incarnations=ids
    )
    whole = framed(made, version, 77, "c")
    assert whole == by_library(wanted, version, max_bytes=1000, rack="räck", ids=ids)

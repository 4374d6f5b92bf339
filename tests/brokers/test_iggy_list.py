"""`list iggy`: groups of a topic, a stream or a server, and consumers that are asked for.

On the in-repo wire server, or on a real one: IGGY_ADDRESS=HOST:PORT (user iggy, its password in
IGGY_PASSWORD).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.iggy.list_options import IggyListOptions
from backlog_clearer.brokers.iggy.listing import list_iggy
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Found, Listing
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.iggy import PASSWORD, USER, IggyServer
from tests.brokers.iggy_bench import ADDRESS, GROUP, WRONG, IggyBench, opened
from tests.command import cleaner


@pytest.fixture
def bench() -> Iterator[IggyBench]:
    """A topic with a group."""
    with opened() as found:
        yield found


def listed(bench: IggyBench, **options: Any) -> Listing:
    """What is listed of the bench's stream."""
    host, _, port = bench.address.partition(":")
    values = {
        "host": host, "port": int(port), "stream_id": bench.stream, "username": USER,
        "password": bench.password, **options,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    return list_iggy(build(IggyListOptions, given))


def by_name(found: Listing) -> dict[str, Found]:
    """The lines by name."""
    return {item.name: item for item in found.found}


def test_groups_are_listed_with_backlog_members_and_age(bench: IggyBench) -> None:
    """A group that is behind, one that never stored an offset and one with a member have their figures."""
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    for number in range(bench.partitions):
        bench.produce(number, 100)
    bench.advance(0, 40)
    bench.plain.run("create_consumer_group", bench.stream, bench.topic, "shipping")
    with bench.attach():
        found = by_name(listed(bench, topic_id=bench.topic))
    behind, never = found[GROUP], found["shipping"]
    everything = 100 * bench.partitions
    assert (behind.backlog, behind.members, behind.kind) == (everything - 40, 1, "group")
    assert (never.backlog, never.members) == (everything, 0)
    assert behind.topics == (f"{bench.stream}/{bench.topic}",)
    assert behind.backlog == sum(bench.left().values())
    for item in (behind, never):
        assert item.oldest is not None
        assert before <= item.oldest <= datetime.now(timezone.utc) + timedelta(seconds=1)
    assert by_name(listed(bench, ages=False))[GROUP].oldest is None
    assert list(by_name(listed(bench, matching="ship*"))) == ["shipping"]


def test_all_topics_of_a_stream_are_listed(bench: IggyBench) -> None:
    """Without --topic-id each topic's groups are listed, and an empty one has no backlog and no age."""
    bench.produce(0, 10)
    bench.create_topic(bench.stream, "refunds")
    bench.plain.run("create_consumer_group", bench.stream, "refunds", "auditors")
    found = by_name(listed(bench))
    assert (found[GROUP].backlog, found["auditors"].backlog, found["auditors"].oldest) == (10, 0, None)
    assert found["auditors"].topics == (f"{bench.stream}/refunds",)
    everywhere = [(item.name, item.topics) for item in listed(bench, stream_id=None).found]
    assert ("auditors", (f"{bench.stream}/refunds",)) in everywhere


def test_names_that_are_ids_of_others_are_listed() -> None:
    """A stream and a topic whose names are the ids of others are listed like all of them."""
    with opened() as bench:
        streams = {item.id: item.name for item in bench.plain.run("get_streams")}
        ident = next(id_ for id_, name in streams.items() if name == bench.stream)
        bench.plain.run("create_stream", str(ident))
        topic = bench.details().id
        bench.create_topic(bench.stream, str(topic))
        bench.create_topic(str(ident), str(topic))
        for stream, name in ((bench.stream, str(topic)), (str(ident), str(topic))):
            where = next(item.id for item in bench.plain.run("get_streams") if item.name == stream)
            known = bench.plain.run("get_stream", where).topics
            number = next(item.id for item in known if item.name == name)
            bench.plain.run("create_consumer_group", where, number, "auditors")
        found = {(item.name, item.topics) for item in listed(bench, stream_id=None).found}
    for stream in (bench.stream, str(ident)):
        assert ("auditors", (f"{stream}/{topic}",)) in found
    assert (GROUP, (f"{bench.stream}/{bench.topic}",)) in found


def test_consumers_are_listed_where_they_are_asked_for() -> None:
    """The server lists no consumers, which a note states; with --consumer-ids those with an offset are."""
    with opened(group=False) as bench:
        bench.produce(0, 50)
        bench.advance(0, 20)
        assert not listed(bench).found
        assert any("not single consumers" in note for note in listed(bench).notes)
        (item,) = listed(bench, consumer_ids="7,8").found
        assert (item.name, item.kind, item.backlog, item.members) == ("7", "consumer", 30, None)


def test_what_does_not_exist_is_named_with_what_does(bench: IggyBench) -> None:
    """A mistyped stream or topic is wrong use, with the nearest name."""
    with pytest.raises(UsageError, match=f"Did you mean '{bench.stream}'"):
        listed(bench, stream_id=bench.stream + "x")
    with pytest.raises(UsageError, match="Did you mean 'orders'"):
        listed(bench, topic_id="order")
    with pytest.raises(UsageError, match="--topic-id needs --stream-id"):
        listed(bench, stream_id=None, topic_id="orders")


@pytest.mark.skipif(ADDRESS is not None, reason="a real server's password may be any word")
def test_a_refused_login_is_an_error(bench: IggyBench) -> None:
    """A wrong password is an error, never an empty list, and is not shown."""
    with pytest.raises(BrokerError) as refused:
        listed(bench, password=WRONG)
    assert WRONG not in str(refused.value)


def test_an_offset_that_cannot_be_is_an_error_of_its_group() -> None:
    """With a stored offset beyond the end the backlog is unknown, with the reason; other groups are listed."""
    with (
        IggyServer() as server,
        closing(IggyBench(f"127.0.0.1:{server.port}", password=PASSWORD, server=server)) as bench,
    ):
        bench.produce(0, 10)
        bench.plain.run("create_consumer_group", bench.stream, bench.topic, "shipping")
        log = server.streams[bench.stream].topics[bench.topic].logs[bench.numbers[0]]
        log.offsets[2, GROUP] = 500
        found = by_name(listed(bench))
    assert (found["shipping"].backlog, found[GROUP].backlog, found[GROUP].oldest) == (10, None, None)
    assert "500 lies beyond the partition's end" in (found[GROUP].error or "")


def test_all_groups_that_match_are_cleared(bench: IggyBench, tmp_path: Path) -> None:
    """--all-groups clears groups, not consumers of the same names, and leaves those that do not match."""
    bench.produce(0, 20)
    bench.advance(0, 5)
    bench.plain.run("create_consumer_group", bench.stream, bench.topic, "audit")
    ran = cleaner(
        "iggy", "--host", "127.0.0.1", "--port", bench.address.partition(":")[2], "--stream-id", bench.stream,
        "--topic-id", bench.topic, "--username", USER, "--password", "${env:SECRET}",
        "--all-groups", "--matching", "bill*", "--mode", "skip", "--yes",
        "--receipt-dir", str(tmp_path), env={"SECRET": bench.password},
    )  # fmt: skip
    assert ran.code == 0, ran.stderr + ran.stdout
    assert not any(bench.left().values())
    assert {item.name: item.backlog for item in listed(bench).found} == {GROUP: 0, "audit": 20}

"""Three real brokers: leaders that die in the middle of a drain, and replicas near by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.source import KafkaSource, open_source
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Claim, Mode, Settled
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.source import Lane
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import READERS, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.command import cleaner, ended, started
from tests.real.conftest import Three
from tests.real.kafka_case import Case

PARTITIONS, EACH = 6, 20_000
MESSAGES = PARTITIONS * EACH
NO_LEADER = -1


@pytest.fixture
def cluster(three: Three) -> KafkaCluster:
    """Three nodes that deliver 1 MB/s each to a client, and that may be killed."""
    three.relay.heal()
    return three.cluster


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_partitions_of_a_killed_leader_are_read_from_the_new_ones(
    cluster: KafkaCluster, reader: Reader, tmp_path: Path
) -> None:
    """A broker dies mid-drain: its partitions are read from their new leaders, none is lost."""
    judge = Judge(cluster.bootstrap())
    topic, group = judge.create(unique("three"), PARTITIONS, copies=3), unique("group")
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH, compression="none")

    def committed() -> int:
        return sum(offset or 0 for offset in judge.committed(topic, group).values())

    with started(
        "kafka", "--bootstrap-servers", cluster.bootstrap(), "--topic", topic, "--group-id", group,
        "--reader", reader.value, "--workers", "3", "--stop-when-empty", "--receipt-dir", str(tmp_path),
    ) as process:  # fmt: skip
        wait_until(lambda: committed() > 0, "a first commit")
        assert committed() < MESSAGES
        victim = 3 if reader is Reader.HEADERS else 2
        cluster.kill(victim)
        try:
            ran = ended(process)
        finally:
            cluster.restart(victim)
    assert (ran.code, ran.result["verified"]) == (0, True), ran.stderr[-3000:]
    assert judge.committed(topic, group) == dict.fromkeys(range(PARTITIONS), EACH)
    assert ran.result["totals"]["messages"] <= MESSAGES


def test_partitions_without_a_leader_are_named_and_the_rest_is_cleared(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Partitions that only a dead broker has get an error; the rest is cleared, and later all is."""
    judge = Judge(cluster.bootstrap())
    topic, group = judge.create(unique("lone"), PARTITIONS, copies=1), unique("group")
    for number in range(PARTITIONS):
        judge.produce(topic, number, 100)
    judge.commit(topic, group, dict.fromkeys(range(PARTITIONS), 10))
    victim = judge.leaders(topic)[0]
    dead = {number for number, leader in judge.leaders(topic).items() if leader == victim}
    assert 0 < len(dead) < PARTITIONS
    args = (
        "kafka", "--bootstrap-servers", cluster.bootstrap(), "--topic", topic, "--group-id", group,
        "--stop-when-empty", "--receipt-dir", str(tmp_path),
    )  # fmt: skip
    cluster.kill(victim)
    try:
        wait_until(lambda: judge.leaders(topic)[0] == NO_LEADER, "a partition without a leader")
        first = cleaner(*args)
        expected = {number: 10 if number in dead else 100 for number in range(PARTITIONS)}
        assert judge.committed(topic, group) == expected
    finally:
        cluster.restart(victim)
    assert first.code == 1
    failed = {row["partition"] for row in first.result["partitions"] if row["error"]}
    assert (failed, first.result["verdict"]) == (dead, "not_cleared")
    wait_until(lambda: NO_LEADER not in judge.leaders(topic).values(), "leaders for all")
    assert cleaner(*args).code == 0
    assert judge.committed(topic, group) == dict.fromkeys(range(PARTITIONS), 100)


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_lane_with_a_dead_and_a_healthy_leader_clears_what_it_can(
    cluster: KafkaCluster, reader: Reader, tmp_path: Path
) -> None:
    """One worker, and a broker that dies in mid-drain and has the only copies: the rest is cleared."""
    judge = Judge(cluster.bootstrap())
    case = Case(judge, tmp_path, reader)
    topic = case.topic = judge.create(unique("half"), PARTITIONS, copies=1)
    case.group = judge.group_coordinated_by_other_than(3)
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH, compression="none")
    dead = {number for number, leader in judge.leaders(topic).items() if leader == 3}
    assert 0 < len(dead) < PARTITIONS
    killed: list[int] = []

    def kill(seen: Any) -> None:
        if seen.messages and not killed:
            killed.append(seen.messages)
            cluster.kill(3)

    try:
        result = case.clear(Callbacks(progress=kill), workers=1, max_retries=3)
        found = judge.committed(topic, case.group)
    finally:
        cluster.restart(3)
    assert killed[0] < MESSAGES
    assert {number for number, offset in found.items() if offset != EACH} == dead
    rows = {item.partition: item for item in result.partitions}
    assert all(rows[number].verified for number in set(rows) - dead)
    assert all(rows[number].error for number in dead)
    assert not result.cleared


class Unclean:
    """Four logs of 5,500 messages, and how their other copies, of 500, take over and grow past them."""

    def __init__(self, cluster: KafkaCluster, folder: Path) -> None:
        self.cluster = cluster
        self.judge = judge = Judge(cluster.bootstrap())
        self.cases = [
            Case(judge, folder, reader) for reader in (*READERS, Reader.HEADERS, Reader.CLIENT)
        ]
        for case in self.cases:
            case.topic = judge.place(unique("unclean"), [1, 3], unclean_leader_election_enable="true")
            case.group = judge.group_coordinated_by_other_than(1)
            judge.produce(case.topic, 0, 500, compression="none")
        cluster.kill(3)
        for case in self.cases:
            topic = case.topic
            wait_until(lambda: judge.in_sync(topic) == {1}, "a replica that is behind", 60)  # noqa: B023
            judge.produce(topic, 0, 5_000, compression="none")

    def replace_leader(self) -> None:
        """Let the other copies lead, and grow past the old end."""
        self.cluster.kill(1)
        self.cluster.restart(3)
        for case in self.cases:
            topic = case.topic
            wait_until(lambda: self.judge.leaders(topic)[0] == 3, "the other leader", 60)  # noqa: B023
            self.judge.produce(topic, 0, 6_000)


def test_a_log_that_an_unclean_election_cut_is_not_acknowledged(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Messages that the new leader does not have are neither committed nor verified, by either reader.

    The lanes read on after the election: librdkafka still has messages of the old leader.
    """
    unclean = Unclean(cluster, tmp_path)
    *read, done, again = unclean.cases
    run = RunOptions(workers=1, stop_when_empty=True, receipt_dir=str(tmp_path), mode=Mode.SKIP)
    attempt = partial(Job, "kafka", again.options(), run_id="again")
    first = clear(attempt(run.model_copy(update={"mode": Mode.CONSUME, "max_messages": 600})))
    assert (first.totals.messages, again.committed()) == (600, {0: 600})
    with ExitStack() as stack:
        stack.callback(cluster.restart, 1)
        sources, claims, lanes = [], [], []
        for case in (*read, done):
            sources.append(stack.enter_context(closing(open_source(case.options(), run, "run"))))
            (state,) = sources[-1].survey().partitions
            claims.append(Claim(state, None, state.end))
            lanes.append(stack.enter_context(closing(sources[-1].open_lane([claims[-1]]))))
            read_past(lanes[-1], 600 if case is not done else 5_500)
        assert lanes[-1].settle()[0].messages == 5_500
        assert sources[-1].remaining({claims[-1].partition: 5_500})[0].left == 0
        unclean.replace_leader()
        for case, lane in zip(read, lanes[:-1], strict=True):
            fault: str | None = None
            try:
                lane.read(0.2, None)
            except BrokerError as error:
                fault = str(error)
            if "cut off" not in (fault or ""):  # else the read itself noticed it
                (settled,) = settled_at_last(lane)
                fault = settled.error
            assert "cut off" in (fault or "")
            assert case.committed() == {0: None}
        # What was committed before the election is not verified after it, and a skip writes nothing.
        (left,) = sources[-1].remaining({claims[-1].partition: 5_500})
        (skipped,) = sources[-1].skip(claims[-1:])
        assert (left.left, done.committed()) == (None, {0: 5_500})
        assert "cut off" in (left.error or "")
        assert "cut off" in (skipped.error or "")
        # A later attempt of a run does not take up the target that the log no longer had.
        for mode in Mode:
            later = clear(attempt(run.model_copy(update={"mode": mode})))
            assert (later.cleared, later.verified, again.committed()) == (False, None, {0: 600})
            assert "since an earlier attempt" in (later.partitions[0].error or "")
    result = read[0].clear()
    assert (result.cleared, result.totals.messages) == (True, 6_500)


def read_past(lane: Lane, messages: int) -> None:
    """Read at least so many messages."""
    count = 0

    def read_more() -> bool:
        nonlocal count
        count += sum(advance.messages for advance in lane.read(0.2, None))
        return count >= messages

    wait_until(read_more, f"{messages} messages")


def settled_at_last(lane: Lane) -> Sequence[Settled]:
    """What a settle returns once the cluster has settled down."""
    found: list[Sequence[Settled]] = []

    def settle() -> bool:
        with suppress(TransientError):
            found.append(lane.settle())
        return bool(found)

    wait_until(settle, "a settle that decides")
    return found[0]


def test_client_rack_reads_from_the_replica_near_by(cluster: KafkaCluster) -> None:
    """With client.rack set, each partition is read from the replica in that rack (KIP-392)."""
    judge = Judge(cluster.bootstrap())
    topic, group = judge.create(unique("rack"), 3, copies=3), unique("group")
    for number in range(3):
        judge.produce(topic, number, 1000)
    options = KafkaOptions(
        bootstrap_servers=cluster.bootstrap(),
        topic=topic,
        group_id=group,
        reader=Reader.HEADERS,
        settings={"client.rack": "rack-2"},
    )
    source = open_source(options, RunOptions(workers=1), "run")
    with closing(source):
        assert isinstance(source, KafkaSource)
        survey = source.survey()
        lane = source.open_lane([Claim(state, None, state.end) for state in survey.partitions])
        assert isinstance(lane, HeaderLane)
        with closing(lane):
            count = 0

            def read_all() -> bool:
                nonlocal count
                count += sum(advance.messages for advance in lane.read(0.5, None))
                return count == 3000

            wait_until(read_all, "all messages")
            lane.settle()
            assert set(lane._source.values()) == {2}
    assert judge.committed(topic, group) == dict.fromkeys(range(3), 1000)

"""Kinds of groups other than consumer groups, and topics that the user may not see, on real Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.testing.servers.kafka import USER, KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.real.java_program import running
from tests.real.kafka_case import Case

MEMBER = Path(__file__).with_name("GroupMember.java")
SETTINGS = {
    "group.coordinator.rebalance.protocols": "classic,consumer,share,streams",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "allow.everyone.if.no.acl.found": "true",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A node with share groups, streams groups and access control."""
    with running_kafka(tmp_path_factory.mktemp("kinds"), settings=SETTINGS) as made:
        Judge(made.bootstrap()).wait_for_coordinators()
        for feature in ("share.version=1", "streams.version=1"):
            made.tool("org.apache.kafka.tools.FeatureCommand", "upgrade", "--feature", feature)
        yield made


@pytest.fixture
def kind(cluster: KafkaCluster, tmp_path: Path) -> Case:
    """A topic with ten messages in each of two partitions, and a group that does not exist yet."""
    case = Case(Judge(cluster.bootstrap()), tmp_path, Reader.HEADERS)
    topic = case.create(2)
    for number in range(2):
        case.judge.produce(topic, number, 10)
    return case


@contextmanager
def member(cluster: KafkaCluster, case: Case, kind: str) -> Iterator[None]:
    """A member of the case's group, of this kind; it leaves at the end of the block."""
    arguments = (cluster.bootstrap(), case.group, case.topic, kind)
    with running(MEMBER, cluster.jars, *arguments, until="joined") as process:
        yield
        process.communicate("leave\n", timeout=300)


def test_a_share_group_is_refused_with_kafkas_command_for_it(cluster: KafkaCluster, kind: Case) -> None:
    """A share group is refused by its kind, whether it has members or not, and nothing is committed."""
    with member(cluster, kind, "share"):
        for run in (kind.clear, kind.status):
            with pytest.raises(UsageError, match=r"share group.*kafka-share-groups\.sh"):
                run()
    for mode in ("consume", "skip"):
        with pytest.raises(UsageError, match=f"--group {kind.group} --topic {kind.topic}"):
            kind.clear(mode=mode)
    assert kind.committed() == {0: None, 1: None}


def test_members_of_a_streams_group_are_attached_consumers(cluster: KafkaCluster, kind: Case) -> None:
    """A streams group is refused while it has a member, and cleared once it is empty."""
    with member(cluster, kind, "streams"):
        for mode in ("consume", "skip"):
            with pytest.raises(RefusedError, match="streams"):
                kind.clear(mode=mode)
        assert kind.committed() == {0: None, 1: None}

    def cleared() -> bool:
        try:
            return kind.clear().cleared
        except RefusedError:
            return False  # the coordinator has not noticed yet that the member left

    wait_until(cleared, "a streams group without members")
    assert kind.committed() == {0: 10, 1: 10}


def deny(judge: Judge, kind: ResourceType, name: str) -> None:
    """Deny everything on a topic or group to the user."""
    denied = AclBinding(
        kind, name, ResourcePatternType.LITERAL,
        f"User:{USER}", "*", AclOperation.ALL, AclPermissionType.DENY,
    )  # fmt: skip
    for future in judge.admin.create_acls([denied]).values():
        future.result(30)


def as_user(cluster: KafkaCluster, case: Case) -> None:
    """Log in as the user, for whom what is denied is hidden."""
    case.judge = Judge(cluster.bootstrap("SASL_PLAINTEXT"), cluster.login("SASL_PLAINTEXT"))
    case.more = {"settings": cluster.login("SASL_PLAINTEXT")}


def test_an_undo_leaves_offsets_alone_that_the_user_may_not_see(
    cluster: KafkaCluster, kind: Case
) -> None:
    """Kafka hides offsets of topics that the user may not describe: a restore does not delete them."""
    judge = kind.judge
    hidden = judge.create(unique("hidden"))
    judge.produce(hidden, 0, 10)
    judge.commit(hidden, kind.group, {0: 7})
    deny(judge, ResourceType.TOPIC, hidden)
    as_user(cluster, kind)
    wait_until(lambda: hidden not in kind.judge.topics(), "the denial")
    result = kind.clear()
    assert (result.cleared, kind.committed()) == (True, {0: 10, 1: 10})
    back = kind.restore(result)
    assert (back.verified, kind.committed()) == (True, {0: None, 1: None})
    assert judge.committed(hidden, kind.group) == {0: 7}


def test_an_undo_leaves_a_topic_alone_that_the_run_could_not_see(
    cluster: KafkaCluster, kind: Case
) -> None:
    """Of two topics one is hidden: neither the user's nor an administrator's undo touches its offset."""
    judge, seen = kind.judge, kind.topic
    hidden = judge.create(unique("hidden"))
    judge.produce(hidden, 0, 10)
    judge.commit(hidden, kind.group, {0: 7})
    judge.commit(seen, kind.group, {0: 4})
    deny(judge, ResourceType.TOPIC, hidden)
    as_user(cluster, kind)
    wait_until(lambda: hidden not in kind.judge.topics(), "the denial")
    kind.topic = f"{hidden},{seen}"
    result = kind.clear(mode="skip")
    assert judge.committed(seen, kind.group) == {0: 10, 1: 10}
    backs = [kind.restore(result)]
    assert judge.committed(seen, kind.group) == {0: 4, 1: None}
    kind.judge, kind.more = judge, {}
    backs.append(kind.restore(result))
    assert judge.committed(hidden, kind.group) == {0: 7}
    for back in backs:
        rows = {(row.topic, row.partition): row for row in back.partitions}
        assert [rows[seen, number].verified for number in range(2)] == [True, True]
        assert "does not allow describing topic" in (rows[hidden, 0].error or "")
        assert not back.cleared


def test_a_group_that_the_user_may_not_see_is_named_as_the_reason(
    cluster: KafkaCluster, kind: Case
) -> None:
    """A missing permission for the group is the error, at once, and not a time-out."""
    kind.judge.commit(kind.topic, kind.group, {0: 4})
    judge = kind.judge
    deny(judge, ResourceType.GROUP, kind.group)
    as_user(cluster, kind)

    def refused() -> bool:
        try:
            kind.judge.admin.describe_consumer_groups([kind.group])[kind.group].result(30)
        except KafkaException:
            return True
        return False

    wait_until(refused, "the denial")
    for run in (kind.clear, kind.status):
        with pytest.raises(BrokerError, match="does not allow describing group.*needs READ"):
            run()
    assert judge.committed(kind.topic, kind.group) == {0: 4, 1: None}

"""`list kafka` on real Apache Kafka, judged by what was produced and committed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from backlog_clearer.brokers.kafka import listing
from backlog_clearer.brokers.kafka.list_options import KafkaListOptions
from backlog_clearer.brokers.kafka.listing import list_groups
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Found
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from tests.command import cleaner

EACH = 100


def names(cluster: KafkaCluster, matching: str, **options: object) -> dict[str, Found]:
    """The groups whose names match."""
    values = {"bootstrap_servers": cluster.bootstrap(), "matching": matching, **options}
    found = list_groups(KafkaListOptions.model_validate(values))
    return {item.name: item for item in found.found}


def test_groups_are_listed_with_backlog_members_and_kind(judge: Judge, kafka: KafkaCluster) -> None:
    """A group behind on two topics, one at the end and one with a member have exactly their figures."""
    first, second = judge.create(unique("first"), 2), judge.create(unique("second"), 1)
    before = datetime.now(timezone.utc) - timedelta(
        milliseconds=1
    )  # the brokers' times are milliseconds
    for number in range(2):
        judge.produce(first, number, EACH)
    judge.produce(second, 0, EACH)
    name = unique("listed")
    judge.commit(first, f"{name}-behind", {0: 10, 1: 0})
    judge.commit(second, f"{name}-behind", {0: 99})
    judge.commit(first, f"{name}-done", {0: EACH, 1: EACH})
    with judge.member(second, f"{name}-live"):
        judge.commit(first, "other-" + name, {0: 0})
        found = names(kafka, f"{name}-*")
    assert sorted(found) == [f"{name}-behind", f"{name}-done", f"{name}-live"]
    behind = found[f"{name}-behind"]
    assert (behind.backlog, behind.members, behind.kind) == (90 + EACH + 1, 0, "classic")
    assert behind.topics == tuple(sorted((first, second)))
    assert found[f"{name}-done"].backlog == 0
    assert behind.oldest is not None
    assert before <= behind.oldest <= datetime.now(timezone.utc)
    assert found[f"{name}-done"].oldest is None
    assert names(kafka, f"{name}-behind", ages=False)[f"{name}-behind"].oldest is None
    assert found[f"{name}-live"].members == 1
    on_second = names(kafka, f"{name}-*", topic=second)
    assert on_second[f"{name}-behind"].backlog == 1
    assert f"{name}-done" not in on_second


def test_a_list_counts_what_is_retained_and_nothing_that_cannot_be(
    judge: Judge, kafka: KafkaCluster
) -> None:
    """Deleted messages are not counted; an offset beyond the end makes the backlog unknown, with the reason."""
    topic, name = judge.create(unique("retained")), unique("retained")
    judge.produce(topic, 0, EACH)
    judge.delete_before(topic, 0, 30)
    judge.commit(topic, f"{name}-old", {0: 10})
    judge.commit(topic, f"{name}-beyond", {0: 5 * EACH})
    found = names(kafka, f"{name}-*")
    old, beyond = found[f"{name}-old"], found[f"{name}-beyond"]
    assert (old.backlog, old.error) == (sum(judge.left(topic, f"{name}-old").values()), None)
    assert (old.backlog, old.oldest is None) == (70, False)
    assert (beyond.backlog, beyond.oldest) == (None, None)
    assert "beyond the end" in (beyond.error or "")


def test_the_command_line_lists_the_largest_first(judge: Judge, kafka: KafkaCluster) -> None:
    """JSON on stdout has the groups in order, and those without a backlog only as a number."""
    topic, name = judge.create(unique("ordered")), unique("ordered")
    judge.produce(topic, 0, EACH)
    for number, at in enumerate((50, 0, EACH)):
        judge.commit(topic, f"{name}-{number}", {0: at})
    ran = cleaner("list", "kafka", "--bootstrap-servers", kafka.bootstrap(), "--matching", f"{name}-?")
    assert ran.code == 0, ran.stderr
    rows = [(item["name"], item["backlog"]) for item in ran.result["subscriptions"]]
    assert rows == [(f"{name}-1", EACH), (f"{name}-0", 50)]
    assert (ran.result["empty"], ran.result["backlog"]) == (1, EACH + 50)


def test_an_unreachable_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of nothing is never returned where no broker answers."""
    monkeypatch.setattr(listing, "REQUEST_TIMEOUT_S", 1.0)
    options = KafkaListOptions.model_validate({"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(BrokerError, match="bootstrap-servers"):
        list_groups(options)

"""Real Pulsar whose messages expire or are trimmed, and the retry and dead-letter topics of a subscription."""

from __future__ import annotations

from pathlib import Path

import pulsar
import pytest

from backlog_clearer.model import Mode
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge
from backlog_clearer.testing.support import wait_until

COUNT = 200
KEPT_COUNT = 30


def expire(judge: Judge, topic: str, messages: int) -> None:
    """Have the broker expire the first messages of the subscription, as a TTL would."""
    left = judge.backlog(topic) - messages
    path = topic.replace("://", "/")
    at = judge.admin("GET", f"{path}/internalStats")["cursors"][SUBSCRIPTION]["markDeletePosition"]
    ledger = judge.admin("GET", f"{path}/internalStats")["ledgers"][-1]["ledgerId"]
    entry = (int(at.partition(":")[2]) if at.startswith(f"{ledger}:") else -1) + messages
    body = {"ledgerId": ledger, "entryId": entry, "partitionIndex": -1, "batchIndex": -1}
    judge.admin("POST", f"{path}/subscription/{SUBSCRIPTION}/expireMessages", body)
    wait_until(lambda: judge.backlog(topic) == left, "the expiry")


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_entries_that_expire_meanwhile_are_counted_as_gone(pulsar_case: Case, kind: str) -> None:
    """What expires after the survey is stated with its number, in the row and in a note."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, COUNT)
    pulsar_case.changes["subscription_type"] = kind

    def confirm(_: object) -> bool:
        expire(judge, topic, COUNT - KEPT_COUNT)
        return True

    result = pulsar_case.clear(Callbacks(confirm=confirm))
    assert (result.cleared, result.totals.messages) == (True, KEPT_COUNT)
    assert [row.gone for row in result.partitions] == [COUNT - KEPT_COUNT]
    assert any(f"before they could be read: {COUNT - KEPT_COUNT} entries" in n for n in result.notes)
    assert judge.backlog(topic) == 0


def test_a_backlog_that_is_trimmed_meanwhile_is_counted_as_gone(pulsar_case: Case) -> None:
    """Where a topic is truncated after the survey, all of its backlog is gone, and the result states it."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, COUNT)

    def confirm(_: object) -> bool:
        judge.admin("DELETE", f"{topic.replace('://', '/')}/truncate")
        wait_until(lambda: judge.backlog(topic) == 0, "the truncation")
        return True

    result = pulsar_case.clear(Callbacks(confirm=confirm), stall_seconds=20)
    assert (result.totals.messages, [row.gone for row in result.partitions]) == (0, [COUNT])
    assert result.verified
    assert judge.backlog(topic) == 0


def test_an_expired_backlog_is_noted_in_the_plan(pulsar_case: Case) -> None:
    """What expired unread before the run is in the plan's notes with its number, and in no row."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, COUNT)
    expire(judge, topic, COUNT - KEPT_COUNT)
    for result in (pulsar_case.status(), pulsar_case.clear()):
        assert result.totals.backlog == KEPT_COUNT
        assert any(
            f"{COUNT - KEPT_COUNT} entries of the subscription expired" in n for n in result.notes
        )
        assert [row.gone for row in result.partitions] == [None]


@pytest.mark.parametrize("mode", Mode)
def test_nothing_is_gone_where_nothing_expired(pulsar_case: Case, mode: Mode) -> None:
    """A run without expiry reports nothing as gone, in either mode."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, COUNT, batch=20)
    result = pulsar_case.clear(mode=mode)
    assert result.cleared
    assert [row.gone for row in result.partitions] == [None]


def test_retry_and_dead_letter_topics_that_hold_something_are_named(
    pulsar_judge: Judge, pulsar_case: Case, tmp_path: Path
) -> None:
    """The plan names them with their entries, also under the older names, and not those that hold nothing."""
    del tmp_path
    topic = pulsar_case.create(2)
    namespace = topic.rpartition("/")[0]
    mine = f"{SUBSCRIPTION}{topic[-8:]}"  # the namespace is shared with other tests
    pulsar_case.changes["subscription"] = mine
    for number in range(2):
        path = f"{topic}-partition-{number}".replace("://", "/")
        pulsar_judge.admin("PUT", f"{path}/subscription/{mine}")
    assert not any("dead-letter" in note for note in pulsar_case.status().notes)
    held = {
        f"{topic}-{mine}-DLQ": 7,
        f"{topic}-partition-1-{mine}-DLQ": 3,
        f"{namespace}/{mine}-DLQ": 2,
        f"{topic}-{mine}-RETRY": 5,
    }
    for name, count in held.items():
        pulsar_judge.produce(name, count)
    done = f"{namespace}/{mine}-RETRY"  # its subscription has acknowledged all
    pulsar_judge.produce(done, 4)
    consumer = pulsar_judge.client.subscribe(
        done, mine, initial_position=pulsar.InitialPosition.Earliest
    )
    for _ in range(4):
        consumer.acknowledge(consumer.receive(10_000))
    wait_until(lambda: pulsar_judge.backlog(done, mine) == 0, "acknowledgements")
    consumer.close()
    (note,) = (note for note in pulsar_case.status().notes if "dead-letter" in note)
    for name, count in held.items():
        assert f"{name} ({count} entries)" in note
    assert f"{done} (" not in note

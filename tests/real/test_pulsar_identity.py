"""Real Pulsar where topics and subscriptions are deleted, and created again, under their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.model import Mode
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, Judge, unique
from backlog_clearer.testing.support import free_port

SLOW = "public/slow"
A_SECOND = 300  # messages that the slow namespace delivers
MESSAGES = 4 * A_SECOND


@pytest.fixture
def slow_case(pulsar_judge: Judge, tmp_path: Path) -> Case:
    """A backlog that takes seconds to read."""
    pulsar_judge.keep(SLOW)
    pulsar_judge.slow_down(SLOW, A_SECOND)
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{SLOW}/{unique('log')}"
    pulsar_judge.produce(case.create(), MESSAGES)
    return case


def once(act: Callable[[], Any], messages: int = MESSAGES) -> Callbacks:
    """Act once some of the messages, and not all of them, are read."""
    acts = [act]

    def look(seen: Any) -> None:
        if 0 < seen.messages < messages and acts:
            acts.pop()()

    return Callbacks(progress=look)


def path(topic: str) -> str:
    """Where the admin API has a topic."""
    return topic.replace("://", "/")


@pytest.mark.parametrize("follow", [False, True], ids=["frozen", "follow"])
@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_a_topic_created_again_during_a_drain_is_left_alone(
    slow_case: Case, kind: str, follow: bool
) -> None:
    """A topic that is deleted, created and refilled meanwhile keeps every message; the run is not cleared."""
    judge = slow_case.judge

    def anew() -> None:
        judge.admin("DELETE", path(slow_case.topic), force="true")
        judge.produce(slow_case.create(), 2 * MESSAGES)

    slow_case.changes["subscription_type"] = kind
    result = slow_case.clear(once(anew), follow=follow, workers=1, max_retries=3, max_seconds=60)
    assert judge.backlog(slow_case.topic) == 2 * MESSAGES
    assert (result.cleared, result.verified) != (True, True)
    assert not result.cleared
    assert "created again" in str(result.partitions[0].error)


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_a_subscription_deleted_during_a_drain_stays_deleted(slow_case: Case, kind: str) -> None:
    """A subscription that is deleted meanwhile is not created again, and the error names it."""
    at = path(slow_case.topic)
    slow_case.changes["subscription_type"] = kind
    result = slow_case.clear(
        once(
            lambda: slow_case.judge.admin("DELETE", f"{at}/subscription/{SUBSCRIPTION}", force="true")
        ),
        workers=1,
        max_retries=3,
    )
    assert slow_case.judge.admin("GET", f"{at}/subscriptions") == []
    assert not result.cleared
    assert SUBSCRIPTION in str(result.partitions[0].error)
    assert "deleted" in str(result.partitions[0].error)


def test_a_subscription_created_again_before_a_lane_opens_is_left_alone(pulsar_case: Case) -> None:
    """A subscription that is another one than the plan showed keeps its backlog, in both modes."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, 50)
    at = f"{path(topic)}/subscription/{SUBSCRIPTION}"

    def anew(_: object) -> bool:
        pulsar_case.judge.admin("DELETE", at)
        pulsar_case.judge.admin("PUT", at, {"ledgerId": 0, "entryId": 0})
        return True

    for mode in Mode:
        result = pulsar_case.clear(Callbacks(confirm=anew), mode=mode, max_retries=1)
        assert pulsar_case.judge.backlog(topic) == 50
        assert not result.cleared
        assert "subscription was deleted and created again" in str(result.partitions[0].error)


def test_trimming_and_unloading_keep_a_topic_the_same(pulsar_judge: Judge, tmp_path: Path) -> None:
    """Neither a new ledger nor the deletion of all old ones makes another topic of it."""
    namespace = f"public/{unique('short')}"
    pulsar_judge.admin("PUT", f"namespaces/{namespace}", {})
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{namespace}/{unique('log')}"
    pulsar_judge.produce(case.create(), 50)
    first = case.clear(max_messages=20, workers=1)
    pulsar_judge.reload(case.topic)
    pulsar_judge.produce(case.topic, 5)
    assert case.clear().cleared
    pulsar_judge.reload(case.topic)
    pulsar_judge.admin("POST", f"{path(case.topic)}/trim")
    pulsar_judge.produce(case.topic, 5)
    restored = case.restore(first)
    assert "created again" not in str(restored.partitions[0].error)


def test_a_receipt_of_a_topic_created_again_is_refused(pulsar_case: Case) -> None:
    """A receipt restores nothing in a topic that was created again under its name."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, 100)
    done = pulsar_case.clear()
    judge.admin("DELETE", path(topic), force="true")
    judge.produce(pulsar_case.create(), 100)
    assert pulsar_case.clear(mode=Mode.SKIP).cleared
    result = pulsar_case.restore(done)
    assert not result.cleared
    assert "created again" in str(result.partitions[0].error)
    assert judge.backlog(topic) == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_an_undo_works_by_another_spelling_of_the_same_topic(pulsar_case: Case, mode: Mode) -> None:
    """A receipt is restored through other names of the host, the next admin API and the topic's short name."""
    judge, topic = pulsar_case.judge, pulsar_case.create()
    judge.produce(topic, 100)
    done = pulsar_case.clear(mode=mode)
    assert judge.backlog(topic) == 0
    pulsar_case.topic = topic.removeprefix("persistent://")
    pulsar_case.changes = {
        "service_url": f"pulsar://localhost:{judge.server.port}",
        "admin_url": f"http://127.0.0.1:{free_port()},localhost:{judge.server.web}",
    }
    assert pulsar_case.restore(done).verified
    assert judge.backlog(topic) == 100

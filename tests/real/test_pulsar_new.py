"""Real Pulsar where the subscription does not exist: only --new creates it, with the admin API or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode
from backlog_clearer.run.job import Callbacks
from backlog_clearer.testing.servers.pulsar_judge import KEPT, Case, Judge, unique

COUNT = 120
WAYS: dict[str, dict[str, Any]] = {"admin": {}, "none": {"admin_url": "none"}}


def subscriptions(judge: Judge, topic: str) -> set[str]:
    """The subscriptions that the broker has on any partition of a topic."""
    parts = [f"{topic}-partition-{number}" for number in range(2)]
    found = (judge.admin("GET", f"{part.replace('://', '/')}/subscriptions") for part in parts)
    return {name for names in found for name in names}


@pytest.fixture(params=WAYS)
def new_case(request: pytest.FixtureRequest, pulsar_judge: Judge, tmp_path: Path) -> Case:
    """A topic of two partitions with messages in one, and without any subscription."""
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{KEPT}/{unique('log')}"
    pulsar_judge.admin("PUT", f"{case.topic.replace('://', '/')}/partitions", 2)
    pulsar_judge.produce(f"{case.topic}-partition-1", COUNT)
    case.changes = {"subscription": "a/b+c d", **WAYS[request.param]}
    return case


def test_a_missing_subscription_is_refused_and_not_created(new_case: Case) -> None:
    """Without --new, neither status nor a run creates it, and the refusal names the option."""
    for act in (new_case.status, new_case.clear):
        with pytest.raises(UsageError, match=r"There is no subscription 'a/b\+c d'.*--new"):
            act()
    assert subscriptions(new_case.judge, new_case.topic) == set()


def test_a_dry_run_with_new_creates_nothing(new_case: Case) -> None:
    """A dry run with --new shows the whole topic as backlog, and a note that it would be created."""
    result = new_case.clear(new=True, dry_run=True)
    assert [row.backlog for row in result.partitions] == [0, COUNT]
    assert any("does not exist in" in note for note in result.notes)
    assert subscriptions(new_case.judge, new_case.topic) == set()


@pytest.mark.parametrize("mode", Mode)
def test_new_creates_the_subscription_and_clears_the_topic(new_case: Case, mode: Mode) -> None:
    """With --new it is created under its exact name after the receipt is stored, and all is cleared."""
    judge, topic = new_case.judge, new_case.topic
    before: list[set[str]] = []

    def confirm(_: object) -> bool:
        before.append(subscriptions(judge, topic))
        return True

    result = new_case.clear(Callbacks(confirm=confirm), new=True, mode=mode)
    assert before == [set()]
    assert (result.cleared, result.verified) == (True, True), result
    assert result.totals.messages == (COUNT if mode is Mode.CONSUME else 0)
    assert judge.backlog(f"{topic}-partition-1", "a/b+c d") == 0
    assert subscriptions(judge, topic) == {"a/b+c d"}
    assert all("does not delete" in str(row.undo) for row in result.partitions)


def test_a_subscription_deleted_before_the_lanes_open_stays_deleted_without_the_admin_api(
    pulsar_case: Case,
) -> None:
    """Without the admin API, too, a subscription that is deleted after the plan is not created again."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, COUNT)
    at = topic.replace("://", "/")
    pulsar_case.changes["admin_url"] = "none"

    def confirm(_: object) -> bool:
        pulsar_case.judge.admin("DELETE", f"{at}/subscription/{quote('billing')}", force="true")
        return True

    result = pulsar_case.clear(Callbacks(confirm=confirm), max_retries=1)
    assert "deleted since the survey" in str(result.partitions[0].error)
    assert not result.cleared
    assert pulsar_case.judge.admin("GET", f"{at}/subscriptions") == []


def test_the_binary_protocol_reports_the_backlog(pulsar_case: Case) -> None:
    """Without the admin API, status shows the entries left, and changes neither them nor the position."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, COUNT, batch=10)
    before = pulsar_case.judge.mark_delete(topic), pulsar_case.judge.backlog(topic)
    pulsar_case.changes["admin_url"] = "none"
    assert pulsar_case.status().totals.backlog == before[1] == COUNT // 10
    assert (pulsar_case.judge.mark_delete(topic), pulsar_case.judge.backlog(topic)) == before

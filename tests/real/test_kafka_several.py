"""Several consumer groups at once on real Apache Kafka, judged by the offsets that it has committed."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.run.selection import naming_of, select
from backlog_clearer.run.several import SeveralCallbacks, SeveralPlan, clear_several, several_exit_code
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from tests.invoking import call

EACH = 100
AT_END = {0: EACH, 1: EACH}


class Groups:
    """A topic with two partitions of 100 messages, and groups whose names begin alike."""

    def __init__(self, judge: Judge, kafka: KafkaCluster, folder: Path) -> None:
        self.judge = judge
        self.where = ("--bootstrap-servers", kafka.bootstrap())
        self.receipts = str(folder)
        self.name = unique("group")
        self.topic = self.filled()

    def filled(self) -> str:
        """Another topic like it."""
        topic = self.judge.create(unique("topic"), 2)
        for number in range(2):
            self.judge.produce(topic, number, EACH)
        return topic

    def group(self, suffix: str, offset: int = 10, topic: str | None = None) -> str:
        """A group with committed offsets."""
        name = f"{self.name}-{suffix}"
        self.judge.commit(topic or self.topic, name, {0: offset, 1: offset})
        return name

    def clear(self, *args: str) -> tuple[int, dict[str, Any]]:
        """Clear; the exit code and the JSON object."""
        done = call(
            "kafka", *self.where, *args, "--stop-when-empty", "--output", "json", "--yes",
            "--receipt-dir", self.receipts,
        )  # fmt: skip
        return done.exit_code, json.loads(done.stdout)

    def at(self, group: str, topic: str | None = None) -> dict[int, int | None]:
        """The committed offsets."""
        return self.judge.committed(topic or self.topic, group)


@pytest.fixture
def groups(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> Groups:
    """A filled topic; its groups are made by the tests."""
    return Groups(judge, kafka, tmp_path)


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_of_several_groups_a_live_one_is_refused_and_the_others_are_cleared(
    groups: Groups, mode: str
) -> None:
    """Exit 1; offsets of the live group stay, those of the others are at the end, and only one is undone."""
    behind, done, live = groups.group("behind"), groups.group("done", EACH), groups.group("live")
    with groups.judge.member(groups.topic, live, **{"auto.offset.reset": "latest"}):
        code, value = groups.clear(
            "--topic", groups.topic, "--group-id", f"{live},{done},{behind}", "--mode", mode
        )
    refused, nothing, cleared = value["parts"]
    assert (code, value["verdict"], refused["kind"]) == (1, "not_cleared", "RefusedError")
    assert (nothing["result"]["verdict"], nothing["result"]["changed"]) == ("cleared", False)
    assert (cleared["result"]["verdict"], groups.at(behind), groups.at(live)) == (
        "cleared", AT_END, {0: 10, 1: 10},
    )  # fmt: skip
    undo = call("restore", cleared["result"]["receipt"], "--yes", "--receipt-dir", groups.receipts)
    assert (undo.exit_code, groups.at(behind), groups.at(done)) == (0, {0: 10, 1: 10}, AT_END)


def test_all_groups_of_a_topic_that_match_are_cleared(groups: Groups) -> None:
    """A group with another name, and one on another topic only, are not touched."""
    first, second = groups.group("a-1"), groups.group("a-2")
    other, elsewhere = groups.group("b"), groups.group("a-3", topic=groups.filled())
    pattern = f"{groups.name}-a-*"
    code, value = groups.clear("--topic", groups.topic, "--all-groups", "--matching", pattern)
    assert (code, value["matching"], value["complete"]) == (0, pattern, True)
    assert [part["name"] for part in value["parts"]] == [first, second]
    assert groups.at(first) == groups.at(second) == AT_END
    assert groups.at(other) == {0: 10, 1: 10}
    assert groups.at(elsewhere) == {0: None, 1: None}


def test_all_topics_of_a_group_are_one_run_with_one_receipt(groups: Groups) -> None:
    """Offsets on both topics reach the end, and one receipt undoes both."""
    group, second = groups.group("g"), groups.filled()
    groups.group("g", 20, topic=second)
    untouched = groups.filled()
    code, value = groups.clear("--group-id", group, "--all-topics")
    assert (code, value["schema"], value["verdict"]) == (0, "backlog-clearer/result/2", "cleared")
    assert groups.at(group) == groups.at(group, second) == AT_END
    assert groups.at(group, untouched) == {0: None, 1: None}
    undo = call("restore", value["receipt"], "--yes", "--receipt-dir", groups.receipts)
    assert undo.exit_code == 0, undo.output
    assert (groups.at(group), groups.at(group, second)) == ({0: 10, 1: 10}, {0: 20, 1: 20})


def test_a_group_with_a_comma_in_its_name_is_one_group(groups: Groups) -> None:
    """Kafka allows it: the group "x,y" is cleared, and not x and y; so is an escaped name."""
    whole, first = groups.group("x,y"), groups.group("x")
    code, value = groups.clear("--topic", groups.topic, "--group-id", whole)
    assert (code, value["schema"]) == (0, "backlog-clearer/result/2")
    assert (groups.at(whole), groups.at(first)) == (AT_END, {0: 10, 1: 10})
    code, value = groups.clear(
        "--topic", groups.topic, "--group-id", f"{whole.replace(',', chr(92) + ',')},{first}"
    )
    assert (code, [part["name"] for part in value["parts"]]) == (0, [whole, first])
    assert groups.at(first) == AT_END


def test_a_group_that_fails_midway_does_not_stop_the_next(groups: Groups) -> None:
    """Members that join after the plan: the broker refuses that group's commits, and the next one is moved."""
    first, joined, last = (groups.group(suffix) for suffix in ("1", "2", "3"))
    options = {
        "bootstrap_servers": groups.where[1], "topic": groups.topic, "group_id": [first, joined, last],
        "mode": "skip", "receipt_dir": groups.receipts,
    }  # fmt: skip
    naming = naming_of("kafka", options)
    assert naming is not None
    with ExitStack() as members:

        def joins(_: SeveralPlan) -> bool:
            member = groups.judge.member(groups.topic, joined, **{"auto.offset.reset": "latest"})
            members.enter_context(member)
            return True

        result = clear_several(select(naming), SeveralCallbacks(confirm=joins))
    found = [part.result for part in result.parts]
    assert [item.verdict for item in found if item] == ["cleared", "not_cleared", "cleared"]
    assert several_exit_code(result) == 1
    assert groups.at(first) == groups.at(last) == AT_END
    assert groups.at(joined) == {0: 10, 1: 10}

"""Several subscriptions at once, on the reference broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Partition, StopReason
from backlog_clearer.run import selection
from backlog_clearer.run.receipt import load
from tests.invoking import call, on_memory

EACH = 100
FLAGS = ("--stop-when-empty", "--output", "json")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topics `orders` and `bills`, each with 2 partitions of 100 messages."""
    with on_memory(monkeypatch, tmp_path) as made:
        for topic in ("orders", "bills"):
            made.create(topic, 2)
            for number in range(2):
                made.produce(topic, number, EACH)
        yield made


def at(broker: MemoryBroker, group: str, topic: str = "orders") -> list[int | None]:
    """A group's positions on the broker."""
    return [broker.position(group, Partition(topic, number)) for number in range(2)]


def put(broker: MemoryBroker, *groups: str, topic: str = "orders", offset: int = 10) -> None:
    """Store positions of groups."""
    for group in groups:
        for number in range(2):
            broker.positions[group, Partition(topic, number)] = offset


def run(groups: str, *args: str, **settings: Any) -> tuple[int, dict[str, Any]]:
    """Clear groups on topic `orders`; the exit code and the JSON object."""
    done = call("memory", "--topic", "orders", "--group-id", groups, *FLAGS, *args, **settings)
    return done.exit_code, json.loads(done.stdout)


def stored_receipts() -> list[Path]:
    """The receipts of all runs."""
    return sorted(Path("receipts").glob("*/whole-*.json"))


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_each_of_several_groups_is_cleared_with_its_own_receipt(
    broker: MemoryBroker, mode: str
) -> None:
    """Both positions are at the end, there are two receipts, and each undoes its own group only."""
    put(broker, "a", "b")
    code, value = run("a, b", "--mode", mode, "--yes")
    assert (code, value["schema"], value["verdict"]) == (0, "backlog-clearer/several/1", "cleared")
    assert [part["name"] for part in value["parts"]] == ["a", "b"]
    assert at(broker, "a") == at(broker, "b") == [EACH, EACH]
    receipts = [part["result"]["receipt"] for part in value["parts"]]
    assert sorted(map(str, stored_receipts())) == sorted(receipts)
    assert all(part["result"]["run_id"].startswith(f"{value['run_id']}.") for part in value["parts"])
    assert call("restore", receipts[0], "--yes").exit_code == 0
    assert (at(broker, "a"), at(broker, "b")) == ([10, 10], [EACH, EACH])


def test_a_refused_group_does_not_stop_the_others(broker: MemoryBroker) -> None:
    """One with members is refused, one without a backlog has nothing to do, the third is cleared; exit 1."""
    put(broker, "live", "behind")
    put(broker, "done", offset=EACH)
    broker.members["live"] = ("consumer-1",)
    code, value = run("live,done,behind")
    refused, done, behind = value["parts"]
    assert (code, value["verdict"]) == (1, "not_cleared")
    assert (refused["result"], refused["kind"]) == (None, "RefusedError")
    assert "1 consumer attached" in refused["error"]
    assert (done["result"]["verdict"], done["result"]["changed"]) == ("cleared", False)
    assert behind["result"]["verdict"] == "cleared"
    assert (at(broker, "live"), at(broker, "behind")) == ([10, 10], [EACH, EACH])
    assert len(stored_receipts()) == 2
    assert value["totals"] == {
        "subscriptions": 3, "refused": 1, "cleared": 2, "backlog": None, "messages": 180, "remaining": None,
    }  # fmt: skip


def test_a_group_that_fails_midway_does_not_stop_the_next(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three fails in its skip; the third is still moved, and exit is 1."""
    put(broker, "a", "b", "c")
    skip = MemorySource.skip

    def fails(source: MemorySource, claims: Any) -> Any:
        if source.group == "b":
            raise BrokerError("the coordinator is gone")
        return skip(source, claims)

    monkeypatch.setattr(MemorySource, "skip", fails)
    code, value = run("a,b,c", "--mode", "skip", "--yes")
    assert code == 1
    verdicts = [part["result"]["verdict"] for part in value["parts"]]
    assert verdicts == ["cleared", "not_cleared", "cleared"]
    assert value["parts"][1]["result"]["error"] == "the coordinator is gone"
    assert [at(broker, group) for group in "abc"] == [[EACH, EACH], [10, 10], [EACH, EACH]]


def test_a_group_that_cannot_be_surveyed_does_not_stop_the_others(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is in its part only."""
    put(broker, "a", "b")
    survey = MemorySource.survey

    def fails(source: MemorySource) -> Any:
        if source.group == "a":
            raise BrokerError("not authorised")
        return survey(source)

    monkeypatch.setattr(MemorySource, "survey", fails)
    code, value = run("a,b")
    assert (code, value["parts"][0]["error"], value["parts"][0]["kind"]) == (
        1, "not authorised", "BrokerError",
    )  # fmt: skip
    assert (at(broker, "a"), at(broker, "b")) == ([10, 10], [EACH, EACH])


def test_all_receipts_are_stored_before_anything_moves(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first skip the receipts of all three exist, with the positions from before."""
    put(broker, "a", "b", "c")
    skip = MemorySource.skip
    seen: list[int] = []

    def counts(source: MemorySource, claims: Any) -> Any:
        positions = [load(str(path)).partitions[0].position for path in stored_receipts()]
        seen.append(positions.count(10))
        return skip(source, claims)

    monkeypatch.setattr(MemorySource, "skip", counts)
    assert run("a,b,c", "--mode", "skip", "--yes")[0] == 0
    assert seen == [3, 3, 3]


def test_a_group_whose_receipt_cannot_be_stored_is_refused(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not touched, and the other one is cleared."""
    put(broker, "a", "b")
    from backlog_clearer.run import receipt as receipts  # noqa: PLC0415 where it is replaced

    save = receipts.save

    def fails(receipt: Any, path: str) -> None:
        if receipt.options["group_id"] == "a":
            raise BrokerError("the disk is full")
        save(receipt, path)

    monkeypatch.setattr(receipts, "save", fails)
    code, value = run("a,b")
    assert (code, value["parts"][0]["error"]) == (1, "the disk is full")
    assert (at(broker, "a"), at(broker, "b")) == ([10, 10], [EACH, EACH])


def test_an_interrupt_ends_the_present_group_and_begins_no_other(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal during the first skip: it is done, and the receipt of the second records that nothing began."""
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    put(broker, "a", "b")
    skip = MemorySource.skip

    def interrupted(source: MemorySource, claims: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return skip(source, claims)

    monkeypatch.setattr(MemorySource, "skip", interrupted)
    code, value = run("a,b", "--mode", "skip", "--yes")
    first, second = (part["result"] for part in value["parts"])
    assert (code, first["verdict"]) == (1, "cleared")
    assert (second["verdict"], second["stop_reason"], second["changed"]) == (
        "not_cleared", StopReason.SIGNAL, False,
    )  # fmt: skip
    assert (at(broker, "a"), at(broker, "b")) == ([EACH, EACH], [10, 10])


def test_a_declined_plan_changes_nothing_and_every_receipt_records_it(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question is asked for both groups; "n" leaves both where they are."""
    put(broker, "a", "b")
    from backlog_clearer.cli.session import Session  # noqa: PLC0415

    monkeypatch.setattr(Session, "asks", True)
    done = call(
        "memory", "--topic", "orders", "--group-id", "a,b", "--stop-when-empty", input="n\n"
    )  # fmt: skip
    assert (done.exit_code, done.output.count("Continue?")) == (1, 1)
    assert at(broker, "a") == at(broker, "b") == [10, 10]
    results = [load(str(path)).result for path in stored_receipts()]
    assert [item.stop_reason for item in results if item] == [StopReason.DECLINED] * 2


def test_a_dry_run_shows_all_and_stores_nothing(broker: MemoryBroker) -> None:
    """Exit 0, a part for each with its backlog, no receipt and no moved position."""
    put(broker, "a", "b")
    code, value = run("a,b", "--dry-run")
    assert (code, value["verdict"], value["dry_run"]) == (0, None, True)
    assert [part["result"]["totals"]["backlog"] for part in value["parts"]] == [180, 180]
    assert not stored_receipts()
    assert at(broker, "a") == [10, 10]


def test_a_status_shows_all(broker: MemoryBroker) -> None:
    """Each part has its backlog and its consumers; the text has a row for each and the sum."""
    put(broker, "a")
    put(broker, "b", offset=60)
    broker.members["b"] = ("consumer-1",)
    args = ("status", "memory", "--topic", "orders", "--group-id", "a,b")
    value = json.loads(call(*args, "--output", "json").stdout)
    assert [part["result"]["totals"]["backlog"] for part in value["parts"]] == [180, 80]
    assert (value["action"], value["totals"]["backlog"]) == ("status", 260)
    shown = call(*args)
    rows = [line.split()[:4] for line in shown.stdout.splitlines()]
    assert shown.exit_code == 0
    assert rows[2:4] == [["a", "2", "0", "180"], ["b", "2", "1", "80"]]
    assert "Backlog: 260 messages" in shown.stdout


def test_the_text_has_a_row_a_verdict_and_an_undo_for_each(broker: MemoryBroker) -> None:
    """One table, then each one's sentence and undo line; the last line counts what is cleared."""
    put(broker, "a", "b")
    put(broker, "live")
    broker.members["live"] = ("consumer-1",)
    done = call("memory", "--topic", "orders", "--group-id", "a,live,b", "--stop-when-empty")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["subscription", "a", "live", "b"]
    assert lines[1].split()[1:] == ["180", "180", "0", "yes"]
    assert lines[2].split()[1:] == ["refused"]
    assert sum(line.startswith("Undo: ") for line in lines) == 2
    assert [line for line in lines if line.startswith("a: Cleared and verified")]
    assert [line for line in lines if line.startswith("Error: live: ")]
    assert lines[-1] == "2 of 3 subscriptions cleared and verified"


def test_all_groups_of_a_topic_that_match_are_cleared(broker: MemoryBroker) -> None:
    """Those of other names and of other topics stay; the result has the pattern."""
    put(broker, "bill-1", "bill-2", "other")
    put(broker, "bill-3", topic="bills")
    args = ("memory", "--topic", "orders", "--all-groups", "--matching", "bill-*", *FLAGS)
    refused = call(*args)
    assert (refused.exit_code, "needs --yes" in refused.output) == (2, True)
    value = json.loads(call(*args, "--yes").stdout)
    assert [part["name"] for part in value["parts"]] == ["bill-1", "bill-2"]
    assert (value["matching"], value["verdict"]) == ("bill-*", "cleared")
    assert at(broker, "bill-2") == [EACH, EACH]
    assert at(broker, "other") == at(broker, "bill-3", "bills") == [10, 10]


def test_all_topics_of_a_group_are_cleared(broker: MemoryBroker) -> None:
    """Both topics where it has a position, and no other group, also one that its name matches as a pattern."""
    put(broker, "a[1]")
    put(broker, "a[1]", topic="bills")
    put(broker, "a1")
    done = call("memory", "--group-id", "a[1]", "--all-topics", *FLAGS, "--yes")
    value = json.loads(done.stdout)
    assert [part["topics"] for part in value["parts"]] == [["bills"], ["orders"]]
    assert at(broker, "a[1]") == at(broker, "a[1]", "bills") == [EACH, EACH]
    assert at(broker, "a1") == [10, 10]


def test_a_pattern_without_a_match_is_wrong_use(broker: MemoryBroker) -> None:
    """Exit 2, with the pattern in the error."""
    put(broker, "a")
    args = ("--all-groups", "--matching", "zz*", "--yes", "--stop-when-empty")
    done = call("memory", "--topic", "orders", *args)
    assert (done.exit_code, "matches 'zz*'" in done.output) == (2, True)


def test_a_name_with_a_comma_that_exists_is_one_name(broker: MemoryBroker) -> None:
    """The group "a,b" is cleared with an ordinary result, and groups a and b are not touched."""
    put(broker, "a", "b", "a,b")
    code, value = run("a,b")
    assert (code, value["schema"]) == (0, "backlog-clearer/result/2")
    assert at(broker, "a,b") == [EACH, EACH]
    assert at(broker, "a") == at(broker, "b") == [10, 10]
    assert call("restore", value["receipt"], "--yes").exit_code == 0
    assert at(broker, "a,b") == [10, 10]


def test_an_escaped_comma_is_a_part_of_a_name(broker: MemoryBroker) -> None:
    r"""`a\,b,c` is two groups, `a\,b` one, without asking which exists."""
    put(broker, "c")
    code, value = run("a\\,b,c", "--new")
    assert (code, [part["name"] for part in value["parts"]]) == (0, ["a,b", "c"])
    assert run("a\\,b", "--dry-run")[1]["subscription"].startswith("group a,b")


def test_a_list_in_a_file_is_taken_as_it_is(broker: MemoryBroker, tmp_path: Path) -> None:
    """A list of two names is two groups even where a group has both as its name; a list of one is one."""
    put(broker, "a", "b", "a,b")
    path = tmp_path / "options.json"
    for names, moved in ((["a", "b"], ("a", "b")), (["a,b"], ("a,b",))):
        path.write_text(json.dumps({"topic": "orders", "group_id": names}))
        done = call("memory", "--config-json", str(path), *FLAGS)
        assert done.exit_code == 0, done.output
        assert all(at(broker, group) == [EACH, EACH] for group in moved)
    assert at(broker, "c") == [None, None]


def test_a_name_from_the_broker_is_not_a_reference(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is called like a reference to a secret is cleared under that name."""
    monkeypatch.setenv("SECRET_VALUE", "hush-hush-hush")
    put(broker, "${env:SECRET_VALUE}")
    done = call("memory", "--topic", "orders", "--all-groups", *FLAGS, "--yes")
    assert "hush-hush-hush" not in done.output
    assert at(broker, "${env:SECRET_VALUE}") == [EACH, EACH]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--group-id", "a", "--all-groups"), "Give --group-id or --all-groups, not both."),
        (("--topic", "t", "--group-id", "a", "--matching", "x"), "--matching is for --all-groups."),
        (
            ("--topic", "t", "--group-id", "a", "--all-topics"),
            "Give --topic or --all-topics, not both.",
        ),
        (("--all-groups",), "--all-groups needs --topic, or --all-topics."),
        (("--all-groups", "--all-topics"), "needs --matching PATTERN"),
        (("--all-topics",), "--group-id is required."),
        (("--topic", "orders", "--group-id", "a,b"), "use --stop-when-empty"),
    ],
)
def test_a_combination_without_a_meaning_is_wrong_use(
    broker: MemoryBroker, args: tuple[str, ...], sentence: str
) -> None:
    """Exit 2, and the sentence names the options."""
    put(broker, "a", "b")
    done = call("memory", *args, "--yes")
    assert (done.exit_code, sentence in done.output) == (2, True), done.output
    assert at(broker, "a") == [10, 10]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("iggy", "--all-groups"), "--all-groups is not possible on iggy"),
        (("iggy", "--all-topics"), "--all-topics is not possible on iggy"),
        (("status", "iggy", "--matching", "x"), "--matching is not possible on iggy"),
        (("googlepubsub", "--subscription-id", "s", "--all-topics"), "belongs to one topic already"),
        (("googlepubsub", "--project-id", "p", "--all-groups"), "needs --matching PATTERN"),
    ],
)
def test_what_a_system_cannot_do_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], sentence: str
) -> None:
    """Exit 2, before anything is connected; where a system has no list, the names have to be given."""
    unlisted = replace(registry.SYSTEMS["iggy"], lister=None, list_options=None)
    monkeypatch.setitem(registry.SYSTEMS, "iggy", unlisted)
    done = call(*args, "--stop-when-empty") if args[0] != "status" else call(*args)
    assert (done.exit_code, sentence in done.output) == (2, True), done.output


def test_too_many_subscriptions_are_refused(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, with the largest number."""
    monkeypatch.setattr(selection, "MOST", 2)
    put(broker, "a", "b", "c")
    done = call("memory", "--topic", "orders", "--group-id", "a,b,c", *FLAGS)
    assert (done.exit_code, "at most 2" in done.output) == (2, True)
    assert at(broker, "a") == [10, 10]


def test_a_configured_backlog_may_name_several(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run NAME` clears all; another attempt of its run continues to the first one's targets."""
    from backlog_clearer.errors import UsageError  # noqa: PLC0415
    from backlog_clearer.fanout.configuration import Request, load_config  # noqa: PLC0415

    put(broker, "a", "b")
    options = {"topic": "orders", "group_id": ["a", "b"]}
    backlogs = {"both": {"system": "memory", "options": options}}
    monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", json.dumps({"backlogs": backlogs}))
    shown = json.loads(call("status", "both", "--output", "json").stdout)
    assert [part["result"]["totals"]["backlog"] for part in shown["parts"]] == [180, 180]
    assert call("run", "both", "--dry-run").exit_code == 0
    assert at(broker, "a") == [10, 10]
    done = call("run", "both", "--run-id", "night", "--output", "json")
    assert (done.exit_code, at(broker, "a"), at(broker, "b")) == (0, [EACH, EACH], [EACH, EACH])
    broker.produce("orders", 0, 5)
    again = json.loads(call("run", "both", "--run-id", "night", "--output", "json").stdout)
    assert again["run_id"] == "night"
    assert at(broker, "a") == [EACH, EACH]
    with pytest.raises(UsageError, match="configure one backlog for each"):
        load_config().job(Request(backlog="both"))


def test_a_transient_failure_of_a_list_is_retried(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second answer counts."""
    from tests import memory_system  # noqa: PLC0415

    put(broker, "a")
    lister = memory_system.list_groups
    failures = [TransientError("not now")]

    def fails_once(options: Any) -> Any:
        if failures:
            raise failures.pop()
        return lister(options)

    monkeypatch.setattr(memory_system, "list_groups", fails_once)
    done = call("memory", "--topic", "orders", "--all-groups", *FLAGS, "--yes")
    assert (done.exit_code, at(broker, "a")) == (0, [EACH, EACH])


def test_the_limit_of_open_files_is_raised(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To what the connections of all may need, within the hard limit; the real one is not changed here."""
    resource = pytest.importorskip("resource")
    put(broker, "a", "b")
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    for soft, hard in ((400, 4096), (400, 500), (4096, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=(soft, hard): limit)
        assert run("a,b")[0] == 0
    assert limits == [(640, 4096), (500, 500)]


def test_proof_that_comes_late_is_waited_for_after_all_changes(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where figures follow later, both groups are moved before the first is verified."""
    put(broker, "a", "b")
    steps: list[str] = []
    skip, remaining, opener = MemorySource.skip, MemorySource.remaining, MemorySource.__init__

    def late(source: MemorySource, *args: Any, **settings: Any) -> None:
        opener(source, *args, **settings)
        source._traits = replace(source._traits, proof_wait_s=1.0)

    def skips(source: MemorySource, claims: Any) -> Any:
        steps.append(f"skip {source.group}")
        return skip(source, claims)

    def asks(source: MemorySource, targets: Any) -> Any:
        steps.append(f"verify {source.group}")
        return remaining(source, targets)

    monkeypatch.setattr(MemorySource, "__init__", late)
    monkeypatch.setattr(MemorySource, "skip", skips)
    monkeypatch.setattr(MemorySource, "remaining", asks)
    code, value = run("a,b", "--mode", "skip", "--yes")
    assert (code, value["verdict"]) == (0, "cleared")
    assert steps == ["skip a", "skip b", "verify a", "verify b"]

"""`list SYSTEM`: order, totals and output, on a lister of this file."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from click.testing import CliRunner

from backlog_clearer import registry
from backlog_clearer.cli import commands
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Found, Listing
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.registry import System
from backlog_clearer.run import listing as runs

OLD = datetime.now(timezone.utc) - timedelta(hours=3, minutes=5)
FOUND = (
    Found("small", "classic", ("t",), 5, 0),
    Found("odd", None, (), None, None, "not authorised"),
    Found("none", "classic", ("t",), 0, 1),
    Found("large", "consumer", ("t", "u", "v"), 7000, 2, oldest=OLD),
)
fails: list[Exception] = []


def lister(options: SystemOptions) -> Listing:
    """A lister; fails first with what is in `fails`."""
    del options
    if fails:
        raise fails.pop(0)
    return Listing("Here", "messages", FOUND, ("A note.",))


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose subscriptions are `FOUND`."""
    fails.clear()
    entry = System(
        summary="a subscription of a test",
        options="backlog_clearer.options.base:SystemOptions",
        opener="nowhere:nothing",
        lister=f"{__name__}:lister",
        list_options="backlog_clearer.options.base:SystemOptions",
    )
    monkeypatch.setitem(registry.SYSTEMS, "test", entry)


def test_the_largest_backlog_is_first_and_the_unknown_last() -> None:
    """Subscriptions without a backlog are counted; the total is unknown where one of them is."""
    found = runs.listing("test", SystemOptions())
    assert [item.name for item in found.subscriptions] == ["large", "small", "odd"]
    assert (found.empty, found.backlog) == (1, None)
    everything = runs.listing("test", SystemOptions(), everything=True)
    assert [item.name for item in everything.subscriptions] == ["large", "small", "none", "odd"]


def test_a_list_is_asked_for_again_where_a_failure_may_pass() -> None:
    """A transient error is retried, another one is raised."""
    fails.append(TransientError("not now"))
    assert runs.listing("test", SystemOptions()).subscriptions
    fails.append(BrokerError("never"))
    with pytest.raises(BrokerError, match="never"):
        runs.listing("test", SystemOptions())


def test_a_list_is_text_or_json() -> None:
    """Text has a line for each subscription, errors, the total and notes; JSON is the object of its schema."""
    shown = CliRunner().invoke(commands.cli, ["list", "test"])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[1].split() == ["name", "kind", "topics", "members", "oldest", "message", "messages"]
    large = ["large", "consumer", "t,", "u", "and", "1", "more", "2", "3", "h", "7,000"]
    assert lines[2].split() == large
    assert "Error: odd: not authorised" in lines
    assert lines[-3:] == ["Backlog: unknown", "Without a backlog: 1 subscription", "Note: A note."]
    printed = CliRunner().invoke(commands.cli, ["list", "test", "--all", "--output", "json"])
    value = json.loads(printed.stdout)
    assert value["schema"] == "backlog-clearer/list/1"
    assert [item["backlog"] for item in value["subscriptions"]] == [7000, 5, 0, None]
    oldest = [item["oldest"] for item in value["subscriptions"]]
    assert (datetime.fromisoformat(oldest[0].replace("Z", "+00:00")), oldest[1:]) == (OLD, [None] * 3)


def test_a_list_without_any_age_has_no_column_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no age is known, the table does not show a column of unknown values."""
    monkeypatch.setattr(f"{__name__}.FOUND", tuple(replace(item, oldest=None) for item in FOUND))
    printed = CliRunner().invoke(commands.cli, ["list", "test"])
    assert printed.stdout.splitlines()[1].split() == ["name", "kind", "topics", "members", "messages"]


def test_every_system_of_this_distribution_can_be_listed() -> None:
    """Each has a command with --matching and its help, and names its options."""
    for name in registry.SYSTEMS.keys() - {"test"}:
        shown = CliRunner().invoke(commands.cli, ["list", name, "--help"])
        assert (shown.exit_code, "--matching" in shown.output) == (0, True), shown.output


def test_a_system_that_cannot_be_listed_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2, and the sentence names the systems that can be listed."""
    entry = replace(registry.SYSTEMS["iggy"], lister=None, list_options=None)
    monkeypatch.setitem(registry.SYSTEMS, "iggy", entry)
    shown = CliRunner().invoke(commands.cli, ["list", "iggy", "--host", "h"])
    assert shown.exit_code == 2
    assert "Subscriptions of iggy cannot be listed" in shown.output

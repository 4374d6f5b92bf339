"""Bounds as options, in configurations and requests, over the attempts of a run and its slices."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import TransientError, UsageError
from backlog_clearer.fanout.configuration import Config, Request, parse, parse_request
from backlog_clearer.fanout.dispatch import dispatch
from backlog_clearer.fanout.slices import drain_slice
from backlog_clearer.model import Bound, Mode, Partition
from backlog_clearer.options.base import SystemOptions, build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.options.times import parse_duration, parse_time
from backlog_clearer.registry import SYSTEMS
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load
from backlog_clearer.run.report import RunResult
from backlog_clearer.text import age_text
from tests import memory_system

NOW = datetime(2026, 11, 25, 10, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-25T10:00:00Z", NOW),
        ("2026-11-25t10:00z", NOW),
        ("2026-11-25 12:00:00.000+02:00", NOW),
        ("2026-11-25T10:00:00.5Z", NOW + timedelta(milliseconds=500)),
        ("2026-11-25T10:00:00.123456789Z", NOW + timedelta(microseconds=123_456)),
    ],
)
def test_a_time_is_rfc_3339(text: str, time: datetime) -> None:
    """Every form of RFC 3339 is read, to the microsecond."""
    assert parse_time(text) == time


@pytest.mark.parametrize(
    "text", ["2026-11-25T10:00:00", "2026-11-25", "yesterday", "1764064800", "2026-13-25T10:00:00Z", ""]
)
def test_a_time_without_a_zone_is_wrong_use(text: str) -> None:
    """A time without a zone, a number and a date that does not exist are refused by the option's name."""
    with pytest.raises(UsageError, match="--until"):
        build(RunOptions, {"until": text})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5d", 129_600), ("1w", 604_800)]
)
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    """Durations are numbers with a unit."""
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["2", "h", "-2h", "0s", "2 hours", "1e3s", "9999999w"])
def test_another_duration_is_wrong_use(text: str) -> None:
    """A duration without a unit, of nothing or of more than a century is refused by the option's name."""
    with pytest.raises(UsageError, match="--older-than"):
        build(RunOptions, {"older_than": text})


def test_a_bounded_run_ends_at_its_target() -> None:
    """A bound implies --stop-when-empty, and excludes --follow and other bounds."""
    assert build(RunOptions, {"older_than": "2h"}).stop_when_empty
    assert not build(RunOptions, {}).stop_when_empty
    for more in ({"follow": True}, {"keep_last": 3}, {"until": "2026-11-25T10:00:00Z"}):
        with pytest.raises(UsageError, match="--older-than"):
            build(RunOptions, {"older_than": "2h", **more})


def test_a_bound_is_counted_from_the_start() -> None:
    """--older-than counts back from the start of the run."""
    assert build(RunOptions, {"older_than": "2h"}).bound(NOW) == Bound(until=NOW - 2 * HOUR)
    assert build(RunOptions, {"keep_last": 3}).bound(NOW) == Bound(keep_last=3)
    assert build(RunOptions, {}).bound(NOW) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (172_799, "47 h"), (172_800, "2 days")],
)
def test_an_age_has_its_largest_unit(seconds: int, text: str) -> None:
    """Ages are spelled in one unit."""
    assert age_text(timedelta(seconds=seconds)) == text


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Two partitions of a registered system with 500 old messages and 30 new ones each."""
    monkeypatch.setitem(SYSTEMS, "memory", memory_system.SYSTEM)
    broker = memory_system.reset()
    broker.create("t", 2)
    for number in range(2):
        broker.produce("t", number, 500, datetime.now(timezone.utc) - 3 * HOUR)
        broker.produce("t", number, 30, datetime.now(timezone.utc) - HOUR)
    return broker


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions."""
    return [broker.position("g", Partition("t", number)) for number in range(2)]


def clear(broker: MemoryBroker, tmp_path: Path, **changes: Any) -> RunResult:
    """One attempt of run "r"."""
    source = MemorySource(broker, "t", "g")
    run = RunOptions(receipt_dir=str(tmp_path), stall_seconds=1, **changes)
    return clear_source(source, Job("memory", SystemOptions(), run, "r"), Callbacks(), Halt())


@pytest.mark.parametrize("mode", list(Mode))
def test_a_receipt_has_the_bound(broker: MemoryBroker, tmp_path: Path, mode: Mode) -> None:
    """Receipt and result have the time that bounded the targets."""
    result = clear(broker, tmp_path, mode=mode, older_than="2h")
    assert stored(broker) == [500, 500]
    assert result.until is not None
    assert result.receipt is not None
    receipt = load(result.receipt)
    assert receipt.bound == Bound(until=result.until)
    assert [item.target for item in receipt.partitions] == [500, 500]


def test_an_attempt_with_a_relative_bound_continues(broker: MemoryBroker, tmp_path: Path) -> None:
    """A later attempt with --older-than continues to the first one's targets, without a note about bounds."""
    first = clear(broker, tmp_path, older_than="2h", max_messages=100)
    again = clear(broker, tmp_path, older_than="30m")
    assert stored(broker) == [500, 500]
    assert again.until == first.until
    assert not any("is ignored" in note for note in again.notes)


def test_an_unbounded_attempt_keeps_the_bound(broker: MemoryBroker, tmp_path: Path) -> None:
    """A later attempt without a bound does not clear more than the first one was to."""
    clear(broker, tmp_path, older_than="2h", max_messages=100)
    clear(broker, tmp_path, mode=Mode.SKIP)
    assert stored(broker) == [500, 500]


def test_a_bound_on_a_run_without_one_is_ignored(broker: MemoryBroker, tmp_path: Path) -> None:
    """A bound in a later attempt of a run that had none is ignored, which is noted."""
    clear(broker, tmp_path, stop_when_empty=True, max_messages=100)
    again = clear(broker, tmp_path, older_than="2h")
    assert stored(broker) == [530, 530]
    assert any("everything up to the end; the one given now is ignored" in n for n in again.notes)


def test_one_partition_that_fails_leaves_the_others(broker: MemoryBroker, tmp_path: Path) -> None:
    """A partition whose position of a time cannot be found has an error, and the others are cleared."""
    broken = Partition("t", 1)

    class Half(MemorySource):
        def _cut(self, state: Any, bound: Bound) -> Any:
            found = super()._cut(state, bound)
            return found._replace(error="no index") if state.partition == broken else found

    run = RunOptions(receipt_dir=str(tmp_path), older_than="2h", max_retries=0)
    job = Job("memory", SystemOptions(), run, "r")
    result = clear_source(Half(broker, "t", "g"), job, Callbacks(), Halt())
    assert stored(broker) == [500, None]
    assert [item.error for item in result.partitions] == [None, "no index"]


def test_ages_that_fail_do_not_fail_a_run(broker: MemoryBroker, tmp_path: Path) -> None:
    """Where the age cannot be asked for, it is unknown, and the run is made."""

    class Ageless(MemorySource):
        def oldest(self, states: Any) -> Any:
            raise TransientError(f"no answer about {len(states)}")

    run = RunOptions(receipt_dir=str(tmp_path), stop_when_empty=True)
    job = Job("memory", SystemOptions(), run, "r")
    result = clear_source(Ageless(broker, "t", "g"), job, Callbacks(), Halt())
    assert (result.cleared, result.totals.oldest) == (True, None)


def config(tmp_path: Path, **changes: Any) -> Config:
    """A configuration of one backlog, `orders`, of two slices."""
    options = {"topic": "t", "group_id": "g"}
    backlog = {"system": "memory", "options": options, "messages_per_slice": 1, **changes}
    return parse({"receipts": str(tmp_path), "backlogs": {"orders": backlog}}, {})


def asked(found: Config, **request: Any) -> RunOptions:
    """The run options of a request."""
    return found.job(build(Request, {"backlog": "orders", **request}), environ={}).run


@pytest.mark.usefixtures("broker")
def test_a_request_may_only_lower_what_is_cleared(tmp_path: Path) -> None:
    """Of two times the earlier holds, of two counts the larger; another kind of bound is refused."""
    by_time, by_count = config(tmp_path, until=NOW.isoformat()), config(tmp_path, keep_last=10)
    assert asked(by_time).until == NOW
    assert asked(by_time, until=(NOW + HOUR).isoformat()).until == NOW
    assert asked(by_time, until=(NOW - HOUR).isoformat()).until == NOW - HOUR
    assert asked(by_count, keep_last=3).keep_last == 10
    assert asked(by_count, keep_last=30).keep_last == 30
    assert asked(config(tmp_path), older_than="2h").older_than == "2h"
    with pytest.raises(UsageError, match="may only use the same"):
        asked(by_time, keep_last=5)
    with pytest.raises(UsageError, match="may only use the same"):
        asked(by_count, older_than="2h")
    assert not asked(config(tmp_path, ages=False)).ages


def test_slices_of_a_dispatch_have_one_time(broker: MemoryBroker, tmp_path: Path) -> None:
    """A dispatch turns a relative bound into a time, which all slices have, and JSON keeps."""
    found = config(tmp_path, older_than="2h")
    queued: list[Request] = []
    made = dispatch(found, Request.model_validate({"backlog": "orders"}), queued.extend, {})
    assert (made.backlog, made.slices) == (1000, 2)
    again = [parse_request(item.model_dump_json(exclude_none=True)) for item in queued]
    assert again == queued
    assert len({item.until for item in again}) == 1
    broker.produce("t", 0, 7, datetime.now(timezone.utc))
    for item in again:
        drain_slice(found, item, deadline_s=None, environ={})
    assert stored(broker) == [500, 500]


def test_a_request_with_a_number_for_a_time_is_refused() -> None:
    """Times in requests are texts of RFC 3339."""
    with pytest.raises(UsageError, match="until"):
        parse_request(json.dumps({"backlog": "orders", "until": 1_764_064_800}))

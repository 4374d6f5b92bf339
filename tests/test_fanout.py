"""Dispatch, slices, continuation and the account of a run, on the reference broker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.fanout.configuration import Backlog, Config, Request, parse, parse_request
from backlog_clearer.fanout.dispatch import Dispatch, FrozenTarget, dispatch, read_dispatch
from backlog_clearer.fanout.run_status import RunStatus, State, combined, note_failure, run_status
from backlog_clearer.fanout.slices import FollowUp, drain_slice, follow_up_of
from backlog_clearer.model import Partition, StopReason
from backlog_clearer.options.base import build
from backlog_clearer.registry import SYSTEMS
from backlog_clearer.run.receipt import load_run, original_positions
from backlog_clearer.run.report import RunResult
from tests import memory_system

PARTITIONS, EACH = 6, 500
NOTHING: dict[str, str] = {}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBroker]:
    """The reference broker as a registered system, with a backlog."""
    monkeypatch.setitem(SYSTEMS, "memory", memory_system.SYSTEM)
    broker = memory_system.reset()
    broker.create("t", PARTITIONS)
    for number in range(PARTITIONS):
        broker.produce("t", number, EACH)
    yield broker
    memory_system.reset()


def config(folder: Path, **changes: Any) -> Config:
    """One backlog, worth six slices."""
    backlog = {
        "system": "memory",
        "options": {"topic": "t", "group_id": "g"},
        "messages_per_slice": EACH,
        **changes,
    }
    return parse({"receipts": str(folder), "backlogs": {"orders": backlog}}, NOTHING)


class Queue:
    """A queue in memory; `fails` makes it refuse."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.fails = False

    def put(self, requests: Sequence[Request]) -> None:
        """Take them all, or, where it fails, the first alone."""
        self.requests += requests[:1] if self.fails else requests
        if self.fails:
            raise BrokerError("the queue is away")


def left(broker: MemoryBroker) -> int:
    """What the broker has left for the group."""
    positions = [broker.position("g", Partition("t", number)) for number in range(PARTITIONS)]
    return sum(
        broker.logs[Partition("t", number)].end - (position or 0)
        for number, position in enumerate(positions)
    )


def ran_all(found: Config, requests: Sequence[Request]) -> list[FollowUp]:
    """Every request once."""
    return [drain_slice(found, item, deadline_s=None, environ=NOTHING).follow_up for item in requests]


def test_the_slices_of_a_dispatch_clear_everything(broker: MemoryBroker, tmp_path: Path) -> None:
    """The slices of a dispatch, in any order, clear everything; the run's status is exact."""
    found, queue = config(tmp_path), Queue()
    made = dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    assert (made.slices, made.backlog, len(queue.requests)) == (6, PARTITIONS * EACH, 6)
    assert left(broker) == PARTITIONS * EACH
    assert run_status(str(tmp_path), made.run_id).counts[State.WAITING] == 6
    assert ran_all(found, queue.requests[::-1]) == [FollowUp.CLEARED] * 6
    assert left(broker) == 0
    account = run_status(str(tmp_path), made.run_id)
    assert (account.cleared, account.total, account.gone) == (
        True,
        PARTITIONS * EACH,
        PARTITIONS * EACH,
    )
    assert [item.cleared for item in account.partitions] == [EACH] * PARTITIONS


def test_a_slice_delivered_twice_is_counted_once(broker: MemoryBroker, tmp_path: Path) -> None:
    """A duplicate changes nothing on the broker, nor in the run's status, even after new messages."""
    found, queue = config(tmp_path), Queue()
    made = dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    ran_all(found, queue.requests)
    broker.produce("t", 2, 70)
    assert ran_all(found, queue.requests) == [FollowUp.CLEARED] * 6
    assert left(broker) == 70
    account = run_status(str(tmp_path), made.run_id)
    assert (account.cleared, account.gone) == (True, PARTITIONS * EACH)
    assert {item.invocations for item in account.slices} == {2}


def test_a_repeated_dispatch_continues_from_the_record(broker: MemoryBroker, tmp_path: Path) -> None:
    """After a partial failure a repeat enqueues all slices as first decided; a further repeat nothing."""
    found, queue = config(tmp_path), Queue()
    request = Request.model_validate({"backlog": "orders", "run_id": "r-1"})
    queue.fails = True
    with pytest.raises(BrokerError):
        dispatch(found, request, queue.put, NOTHING)
    queue.fails = False
    broker.positions["g", Partition("t", 0)] = EACH  # the backlog is worth five slices now
    assert dispatch(found, request, queue.put, NOTHING).slices == 6
    assert len(queue.requests) == 1 + 6
    dispatch(found, request, queue.put, NOTHING)
    assert len(queue.requests) == 1 + 6
    recorded = read_dispatch(str(tmp_path), "r-1")
    assert recorded is not None
    assert recorded.enqueued


def test_a_refused_dispatch_enqueues_nothing(broker: MemoryBroker, tmp_path: Path) -> None:
    """Given slices, unknown names, attached consumers and a run of another backlog are refused."""
    found, queue = config(tmp_path), Queue()
    with pytest.raises(UsageError, match="leave out slice"):
        dispatch(
            found,
            Request.model_validate({"backlog": "orders", "slice": 0, "total": 2}),
            queue.put,
            NOTHING,
        )
    with pytest.raises(UsageError, match="Did you mean 'orders'"):
        dispatch(found, Request.model_validate({"backlog": "order"}), queue.put, NOTHING)
    broker.members["g"] = ("consumer-1",)
    with pytest.raises(RefusedError, match="consumer-1"):
        dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    broker.members.clear()
    dispatch(found, Request.model_validate({"backlog": "orders", "run_id": "r"}), queue.put, NOTHING)
    other = parse(
        {"receipts": str(tmp_path), "backlogs": {"bills": found.backlogs["orders"].model_dump()}},
        NOTHING,
    )
    with pytest.raises(RefusedError, match="'orders'"):
        dispatch(other, Request.model_validate({"backlog": "bills", "run_id": "r"}), queue.put, NOTHING)
    assert len(queue.requests) == 6
    assert left(broker) == PARTITIONS * EACH


@pytest.mark.parametrize("body", [None, [], "orders", {"backlog": 1, "brokers": "evil:9092"}, {}])
def test_a_request_is_a_closed_object(body: object) -> None:
    """Anything but a closed object is a caller's fault."""
    with pytest.raises(UsageError):
        parse_request(json.dumps(body))


@pytest.mark.parametrize(
    "body",
    [
        '{"backlog": "orders", "slice": true, "total": 8}',
        '{"backlog": "orders", "slice": "2", "total": 8}',
        '{"backlog": "orders", "slice": 2.0, "total": 8}',
        '{"backlog": "orders", "max_messages": "10"}',
        '{"backlog": "orders", "max_seconds": 1e999}',
        '{"backlog": "orders", "max_seconds": NaN}',
        '{"backlog": "orders", "backlog": "bills"}',
        '{"backlog": "orders", "run_id": "r\\u0000"}',
        '{"backlog": ' + "[" * 5000,
        "not JSON",
        b"\xff\xfe",
        json.dumps({"backlog": "orders", **{f"{n}" * 40: 1 for n in range(900)}}),
        json.dumps({"backlog": "orders", "x" * 60_000: 1}),
        json.dumps({"backlog": "o" * 1_000_000}),
    ],
)
def test_a_wrong_request_is_refused_in_a_short_text(body: bytes | str) -> None:
    """Wrong types, infinities, keys given twice and huge bodies are refused, in less than 4 kB."""
    with pytest.raises(UsageError) as caught:
        parse_request(body)
    assert 10 < len(str(caught.value)) < 4000


def test_only_slices_of_a_dispatched_run_are_drained(broker: MemoryBroker, tmp_path: Path) -> None:
    """A slice that its run does not have, or of another backlog, is refused; nothing is read or stored."""
    found, queue = config(tmp_path), Queue()
    made = dispatch(found, Request(backlog="orders"), queue.put, NOTHING)
    stored = sorted(tmp_path.rglob("*.json"))
    wrong: list[dict[str, Any]] = [
        {"slice": 9998, "total": 9999},
        {"slice": 0, "total": made.slices - 1},
        {},
        {"backlog": "bills", "slice": 0, "total": made.slices},
    ]
    for changes in wrong:
        request = Request.model_validate({"backlog": "orders", "run_id": made.run_id, **changes})
        with pytest.raises(UsageError, match=made.run_id):
            drain_slice(found, request, deadline_s=None, environ=NOTHING)
    assert sorted(tmp_path.rglob("*.json")) == stored
    assert left(broker) == PARTITIONS * EACH


def test_a_deadline_is_continued_until_everything_is_cleared(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that meets its deadline continues as a request with one more requeue, to the same target."""
    memory_system.slow_down(monkeypatch, 0.01)
    found = config(tmp_path, batch_size=10, workers=1)
    request: Request | None = Request.model_validate({"backlog": "orders", "run_id": "r"})
    invocations = 0
    while request is not None:
        invocations += 1
        ran = drain_slice(found, request, deadline_s=1.0, environ=NOTHING)
        if invocations == 1:
            broker.produce("t", 0, 33)
        request = ran.following
    assert ran.follow_up is FollowUp.CLEARED
    assert invocations > 1
    assert left(broker) == 33
    account = run_status(str(tmp_path), "r")
    assert (account.cleared, account.gone) == (True, PARTITIONS * EACH)
    positions = original_positions(load_run(str(tmp_path), "r").values())
    assert {item.position for item in positions} == {None}


def result_of(reason: StopReason | None, **changes: Any) -> RunResult:
    """A result that ended so."""
    values: dict[str, Any] = {
        "version": "1", "run_id": "r", "system": "memory", "subscription": "s", "action": "clear",
        "unit": "messages", "started_at": "2026-11-24T00:00:00Z", "finished_at": "2026-11-24T00:00:00Z",
        "seconds": 40.0, "partitions": (), "verdict": "not_cleared", "stop_reason": reason,
        "totals": {
            "partitions": 0, "backlog": 0, "messages": 600, "unacknowledged": 0, "bytes": 0,
            "remaining": None, "errors": 0, "retries": 0, "messages_per_second": None,
        },
        **changes,
    }  # fmt: skip
    return RunResult.model_validate(values)


@pytest.mark.parametrize(
    ("reason", "follow_up"),
    [
        (StopReason.EMPTY, FollowUp.RETRY),
        (StopReason.QUIET, FollowUp.RETRY),  # the broker's figures show messages that are left
        (StopReason.LIMIT, FollowUp.ENDED),
        (StopReason.DEADLINE, FollowUp.CONTINUE),
        (StopReason.SIGNAL, FollowUp.RETRY),
        (StopReason.STALLED, FollowUp.RETRY),
        (StopReason.FAILED, FollowUp.RETRY),
    ],
)
def test_each_result_has_one_follow_up(reason: StopReason, follow_up: FollowUp) -> None:
    """Each way to end without being cleared has one follow-up; a proven or unproven end needs none."""
    backlog = Backlog(system="memory", options={})
    asked = Request.model_validate({"backlog": "o"})
    assert follow_up_of(asked, backlog, result_of(reason))[0] is follow_up
    for verdict, expected in (("cleared", FollowUp.CLEARED), ("unproven", FollowUp.UNPROVEN)):
        assert follow_up_of(asked, backlog, result_of(reason, verdict=verdict))[0] is expected


@pytest.mark.parametrize(
    ("asked", "configured", "following"),
    [
        ({}, {}, {"max_messages": None, "max_seconds": None, "requeued": 1}),
        ({"max_messages": 1000}, {}, {"max_messages": 400, "max_seconds": None, "requeued": 1}),
        ({}, {"max_messages": 1000}, {"max_messages": 400, "max_seconds": None, "requeued": 1}),
        ({"max_seconds": 100}, {"max_seconds": 300}, {"max_messages": None, "max_seconds": 60.0}),
        ({"max_messages": 600}, {}, None),
        ({"max_seconds": 40.5}, {}, None),
        ({"requeued": 3}, {"max_requeues": 3}, None),
    ],
)
def test_a_continuation_has_the_rest_of_the_limits(
    asked: dict[str, Any], configured: dict[str, Any], following: dict[str, Any] | None
) -> None:
    """Used messages and seconds are subtracted; nothing follows if none are left, or after too many."""
    request = Request.model_validate({"backlog": "o", "slice": 1, "total": 4, **asked})
    backlog = Backlog(system="memory", options={}, **configured)
    verdict, found = follow_up_of(request, backlog, result_of(StopReason.DEADLINE))
    if following is None:
        assert (verdict, found) == (FollowUp.ENDED, None)
        return
    assert found is not None
    assert (found.slice, found.total, found.run_id) == (1, 4, "r")
    assert following.items() <= found.model_dump().items()
    assert build(Request, found.model_dump(mode="json", exclude_none=True)) == found


def test_a_failure_is_reported_until_a_later_attempt(broker: MemoryBroker, tmp_path: Path) -> None:
    """A refused slice is failed in the run's status until an attempt of it is verified."""
    found, queue = config(tmp_path), Queue()
    made: Dispatch = dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    note_failure(
        str(tmp_path), queue.requests[3], RefusedError("group g has consumers"), made.created_at
    )
    account: RunStatus = run_status(str(tmp_path), made.run_id)
    assert [item.state for item in account.slices].count(State.FAILED) == 1
    assert account.slices[3].error == "group g has consumers"
    ran_all(found, queue.requests)
    assert run_status(str(tmp_path), made.run_id).cleared
    assert left(broker) == 0


def test_the_command_line_shows_a_run(broker: MemoryBroker, tmp_path: Path) -> None:
    """`progress` shows the slices not cleared yet, and exits 0 only once every slice is cleared."""
    found, queue = config(tmp_path), Queue()
    made = dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    ran_all(found, queue.requests[:4])
    command = ("progress", made.run_id, "--receipt-dir", str(tmp_path))
    half = CliRunner().invoke(commands.cli, command)
    assert half.exit_code == 1
    assert "slice-5-of-6" in half.stdout
    assert "NOT cleared: 2 waiting, 4 cleared" in half.stdout
    assert "Cleared so far: unknown" in half.stdout
    ran_all(found, queue.requests[4:])
    whole = CliRunner().invoke(commands.cli, [*command, "--output", "json"])
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["gone"] == PARTITIONS * EACH
    text = CliRunner().invoke(commands.cli, command).stdout
    assert f"Cleared so far: {PARTITIONS * EACH:,} of {PARTITIONS * EACH:,} messages" in text
    assert left(broker) == 0
    assert CliRunner().invoke(commands.cli, ["progress", "r-9"]).exit_code == 2


def test_an_unknown_run_is_wrong_use(tmp_path: Path) -> None:
    """A run id without any files, and a path instead of an id, are wrong use."""
    for run_id in ("r-9", "../etc"):
        with pytest.raises(UsageError):
            run_status(str(tmp_path), run_id)


@pytest.mark.parametrize(
    ("partitions", "backlog", "competing", "slices"),
    [
        (6, 30 * EACH, False, 6),
        (6, 30 * EACH, True, 30),
        (1, 30 * EACH, False, 1),
        (1, 30 * EACH, True, 30),
        (1, 1000 * EACH, True, 32),
        (1, EACH + 1, True, 2),
        (1, 0, True, 1),
        (1, None, True, 32),
        (6, None, False, 6),
    ],
)
def test_slices_that_compete_may_outnumber_partitions(
    partitions: int, backlog: int | None, slices: int, *, competing: bool
) -> None:
    """Shares are counted by the backlog, up to `max_slices`; other slices by partitions, too."""
    found = Backlog(system="memory", options={}, messages_per_slice=EACH)
    assert found.slices(partitions, backlog, competing=competing) == slices


def test_the_dispatch_gives_a_total_that_no_slice_could_count(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    """Where slices share frozen targets, the backlog at the dispatch replaces one that they do not have.

    Without shared targets it does not: slices freeze their own, later ones.
    """
    assert left(broker) == PARTITIONS * EACH
    found, queue = config(tmp_path), Queue()
    made = dispatch(found, Request.model_validate({"backlog": "orders"}), queue.put, NOTHING)
    ran_all(found, queue.requests)
    uncounted = [
        item.model_copy(
            update={
                "partitions": tuple(
                    entry.model_copy(update={"backlog": None}) for entry in item.partitions
                )
            }
        )
        for item in load_run(str(tmp_path), made.run_id).values()
    ]
    target = FrozenTarget(topic="t", partition=0, position=EACH)
    shared = combined(
        made.run_id, made.model_copy(update={"targets": (target,)}), uncounted, [], made.created_at
    )
    assert (shared.total, shared.gone) == (PARTITIONS * EACH, PARTITIONS * EACH)
    apart = combined(made.run_id, made, uncounted, [], made.created_at)
    assert (apart.total, apart.gone) == (None, None)

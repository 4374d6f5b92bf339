"""Pub/Sub: its clock, its kinds of delivery, what distinguishes subscriptions of one name, one seek a skip."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.pubsub_v1.types import Subscription

from backlog_clearer.brokers.googlepubsub.clock import clock_offset, header_date
from backlog_clearer.brokers.googlepubsub.kinds import delivers, incarnation
from backlog_clearer.errors import RefusedError
from backlog_clearer.model import Claim, Recorded
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult, Verdict
from backlog_clearer.run.restore import restore
from backlog_clearer.run.status import status
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.testing.servers.pubsub import PubSubServer
from tests.brokers.test_googlepubsub import PubSubBench, server
from tests.brokers.test_googlepubsub_faults import job

__all__ = ["server"]

NOON = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    """A moment by this machine's clock, in seconds from noon."""
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("sent", "received", "offset"),
    [
        (0.2, 0.4, (0.0, 0.0)),  # within the header's second
        (-0.5, 0.1, (0.0, 0.0)),  # the answer may have been made at noon
        (0.9, 3.0, (0.0, 0.0)),
        (-7.5, -7.0, (7.0, 1.5)),  # this clock is behind
        (8.0, 8.5, (-8.5, 1.5)),  # and ahead
    ],
)
def test_the_difference_of_clocks_is_as_exact_as_an_answer_shows_it(
    sent: float, received: float, offset: tuple[float, float]
) -> None:
    """A whole second in the header and the time of the request leave a range; none, if the clocks may agree."""
    assert clock_offset(NOON, at(sent), at(received)) == tuple(timedelta(seconds=one) for one in offset)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ([("date", "Thu, 26 Nov 2026 12:00:00 GMT")], NOON),
        ([("server", "ESF"), ("Date", "Thu, 26 Nov 2026 12:00:00 GMT")], NOON),
        ([("date", "yesterday")], None),
        ([("date", b"Thu, 26 Nov 2026 12:00:00 GMT")], None),
        ([], None),
    ],
)
def test_the_services_time_is_in_its_date_header(
    metadata: list[tuple[str, str | bytes]], found: datetime | None
) -> None:
    """A header that is missing or cannot be parsed gives no time."""
    assert header_date(metadata) == found


@pytest.mark.parametrize("mode", ["consume", "skip"])
@pytest.mark.parametrize("clock_s", [-30.0, 30.0])
def test_the_target_is_by_the_services_clock(
    server: PubSubServer, tmp_path: Path, mode: str, clock_s: float
) -> None:
    """A clock that is 30 s off is reported and corrected: older messages are cleared, later ones stay."""
    bench = PubSubBench(server, figures=True)
    server.truthful(later_s=70.0)
    server.clock_s = clock_s
    server.publish(bench.sub, 40)
    for item in bench.sub.stored.values():  # the Date header has whole seconds
        item.published -= timedelta(seconds=2)
    later = datetime.now(timezone.utc) + timedelta(seconds=clock_s + 5)
    server.publish(bench.sub, 20)
    for item in list(bench.sub.stored.values())[40:]:
        item.published = later
    result = clear(job(bench, tmp_path, {"mode": mode}))
    assert bench.sub.unacked() == 20
    assert result.verdict is Verdict.CLEARED
    (note,) = (note for note in result.notes if "clock is" in note)
    assert ("ahead of" if clock_s < 0 else "behind") in note


def test_a_clock_that_agrees_is_not_mentioned(server: PubSubServer, tmp_path: Path) -> None:
    """A difference of up to two seconds is corrected silently."""
    bench = PubSubBench(server, figures=True)
    server.clock_s = 1.0
    assert not [note for note in status(job(bench, tmp_path)).notes if "clock is" in note]


def retried(bench: PubSubBench, tmp_path: Path, run_id: str, **run: Any) -> RunResult:
    """One attempt of a skip with this run id."""
    asked = job(bench, tmp_path, {"mode": "skip", **run})
    return clear(Job(asked.system, asked.options, asked.run, run_id))


def acknowledged_since(server: PubSubServer, bench: PubSubBench, count: int) -> None:
    """Publish messages, and let another consumer acknowledge them."""
    server.publish(bench.sub, count)
    for item in list(bench.sub.stored.values())[-count:]:
        item.acked = True


def test_a_skip_that_is_tried_again_seeks_once(server: PubSubServer, tmp_path: Path) -> None:
    """Messages acknowledged since the first attempt stay acknowledged, and the result is still verified."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 60)
    assert retried(bench, tmp_path, "r").cleared
    acknowledged_since(server, bench, 50)
    again = retried(bench, tmp_path, "r")
    assert (bench.sub.unacked(), len(bench.sub.seeks)) == (0, 1)
    assert (again.verdict, exit_code(again)) == (Verdict.CLEARED, 0)
    assert any("only verifies" in note for note in again.notes)


def test_a_skip_whose_outcome_is_unknown_is_not_repeated(server: PubSubServer, tmp_path: Path) -> None:
    """After a lost answer another attempt seeks no second time; the result names the way out."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 60)
    server.fail("Seek", grpc.StatusCode.UNAVAILABLE)
    first = retried(bench, tmp_path, "r")
    again = retried(bench, tmp_path, "r")
    assert (bench.sub.unacked(), len(bench.sub.seeks)) == (60, 0)
    assert [item.verdict for item in (first, again)] == [Verdict.NOT_CLEARED] * 2
    assert "use another run id" in str(again.error)
    assert retried(bench, tmp_path, "other").verdict is Verdict.UNPROVEN
    assert bench.sub.unacked() == 0


@pytest.mark.parametrize("what", ["snapshot", "seek"])
def test_a_skip_that_was_refused_is_repeated(server: PubSubServer, tmp_path: Path, what: str) -> None:
    """A snapshot or a seek that was refused changed nothing: the next attempt skips, to a separate target."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 60)
    if what == "seek":
        server.fail("Seek", grpc.StatusCode.PERMISSION_DENIED)
        first = retried(bench, tmp_path, "r")
        assert (first.verdict, first.changed) == (Verdict.NOT_CLEARED, False)
    else:
        server.refuse_snapshots = "too old"
        with pytest.raises(RefusedError):
            retried(bench, tmp_path, "r")
        server.refuse_snapshots = None
    acknowledged_since(server, bench, 50)
    again = retried(bench, tmp_path, "r")
    assert (again.cleared, bench.sub.unacked(), len(bench.sub.seeks)) == (True, 0, 1)


def test_a_skip_after_a_drain_of_the_same_run_has_its_own_target(
    server: PubSubServer, tmp_path: Path
) -> None:
    """A seek to the drain's older target would bring back what was acknowledged since: it goes to the end."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 60)
    retried(bench, tmp_path, "r", mode="consume", max_messages=10)
    acknowledged_since(server, bench, 50)
    again = retried(bench, tmp_path, "r")
    assert (again.cleared, bench.sub.unacked(), len(bench.sub.seeks)) == (True, 0, 1)


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_the_snapshots_real_expiry_is_reported(server: PubSubServer, tmp_path: Path, mode: str) -> None:
    """The result has the time at which the service lets the snapshot expire, not the estimate."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 10)
    result = clear(job(bench, tmp_path, {"mode": mode}))
    ((snapshot, _, _),) = server.snapshots.values()
    expires = f"{snapshot.expire_time:%Y-%m-%dT%H:%M:%S}"
    assert any(f"expires at {expires}" in note for note in result.notes)
    assert result.notes == load(str(result.receipt)).result.notes  # type: ignore[union-attr]


def with_field(number: int, data: bytes = b"\x0a\x01x") -> Subscription:
    """A subscription with a field that this library does not have."""
    key = number << 3 | 2
    raw = bytes([key & 0x7F | 0x80, key >> 7, len(data)]) + data
    known = Subscription.serialize(Subscription(name="s", topic="t"))
    found: Subscription = Subscription.deserialize(known + raw)
    return found


@pytest.mark.parametrize(
    ("found", "how"),
    [
        (Subscription(push_config={"push_endpoint": "https://example.test"}), "pushes to"),
        (Subscription(bigquery_config={"table": "p.d.t"}), "BigQuery table p.d.t"),
        (Subscription(bigquery_config={"write_metadata": True}), "BigQuery"),
        (Subscription(cloud_storage_config={"bucket": "b"}), "bucket b"),
        (with_field(27, b"\x0a\x01x"), "Bigtable|field 27"),
        (with_field(99), "field 99"),
        (with_field(25), None),  # message_transforms, known or not
        (Subscription(push_config={}), None),
        (Subscription(push_config={"attributes": {"a": "b"}}), None),
        (Subscription(name="s", topic="t", labels={"a": "b"}, filter="f"), None),
    ],
)
def test_only_what_is_known_to_be_pull_is_read(found: Subscription, how: str | None) -> None:
    """Each kind that delivers elsewhere is named, those of a newer service, too."""
    text = delivers(found)
    assert text is None if how is None else any(part in str(text) for part in how.split("|"))


def test_a_bigtable_subscription_is_only_skipped(server: PubSubServer, tmp_path: Path) -> None:
    """A subscription that delivers to Bigtable is not read, and a skip clears it."""
    bench = PubSubBench(server, figures=True, bigtable_config={"table": "projects/p/tables/t"})
    server.publish(bench.sub, 30)
    refused = clear(job(bench, tmp_path))
    assert (refused.verdict, bench.sub.unacked()) == (Verdict.NOT_CLEARED, 30)
    assert "Bigtable" in str(refused.partitions[0].error)
    assert clear(job(bench, tmp_path, {"mode": "skip"})).cleared
    assert bench.sub.unacked() == 0


@pytest.mark.parametrize(
    ("settings", "another"),
    [
        ({}, False),  # created again with the same settings: nothing shows it
        ({"labels": {"team": "a"}, "ack_deadline_seconds": 30}, False),  # can be changed
        ({"topic": "projects/test/topics/other"}, True),
        ({"filter": 'attributes.a = "b"'}, True),
        ({"enable_message_ordering": True}, True),
    ],
)
def test_settings_that_cannot_change_tell_a_subscription(
    settings: dict[str, Any], *, another: bool
) -> None:
    """Topic, filter and ordering are fixed when a subscription is created; the other settings are not."""
    base = {"name": "s", "topic": "projects/test/topics/orders"}
    before, after = Subscription(**base), Subscription(**{**base, **settings})
    assert (incarnation(before) != incarnation(after)) is another
    assert incarnation(Subscription(name="s", topic="_deleted-topic_")) is None


def test_a_subscription_that_was_created_again_is_left_alone(
    server: PubSubServer, tmp_path: Path
) -> None:
    """Created again with another filter after the survey: neither a skip nor a restore touches it."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 20)
    first = clear(job(bench, tmp_path, {"mode": "skip"}))
    with closing(bench.source(bench.options(tmp_path))) as source:
        (state,) = source.survey().partitions
        server.delete(bench.sub)
        bench.sub = server.create("billing", filter='attributes.a = "b"')
        server.publish(bench.sub, 30)
        (outcome,) = source.skip([Claim(state, None, state.end)])
        position = {"snapshot": next(iter(server.snapshots)), "expires_by": None}
        (back,) = source.restore([Recorded(state.partition, position, state.incarnation)])
        (left,) = source.remaining({state.partition: state.end})
    assert "created again" in str(outcome.error)
    assert "created again" in str(back.error)
    assert left.incarnation != state.incarnation
    receipt = load(str(first.receipt))
    undone = restore(job(bench, tmp_path), original_positions([receipt]), receipt.identity)
    assert undone.verdict is Verdict.NOT_RESTORED
    assert (bench.sub.unacked(), bench.sub.seeks) == (30, [])


def test_messages_of_a_subscription_created_again_stay(server: PubSubServer, tmp_path: Path) -> None:
    """Created again with the same settings during a drain: its messages are younger than the target."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 500)
    replaced: list[bool] = []

    def replace(_ids: list[str]) -> None:
        if not replaced:
            replaced.append(True)
            server.delete(bench.sub)
            bench.sub = server.create("billing")
            server.publish(bench.sub, 300)

    server.before_acknowledge = replace
    clear(job(bench, tmp_path, {"max_retries": 1, "verify_seconds": 0}))
    assert replaced
    assert bench.sub.unacked() == 300


def test_an_undo_reaches_the_emulator_by_another_name_of_its_host(
    server: PubSubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator's other name restores; another emulator with the same names is refused, and unchanged."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 20)
    receipt = load(str(clear(job(bench, tmp_path, {"mode": "skip"})).receipt))
    recorded = original_positions([receipt])
    address = os.environ["PUBSUB_EMULATOR_HOST"]
    with PubSubServer() as other:
        elsewhere = other.create("billing")
        other.publish(elsewhere, 20)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", other.address)
        with pytest.raises(RefusedError, match="The receipt is for emulator"):
            restore(job(bench, tmp_path), recorded, receipt.identity)
        assert (elsewhere.unacked(), elsewhere.seeks) == (20, [])
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address.replace("127.0.0.1", "localhost"))
    restore(job(bench, tmp_path), recorded, receipt.identity)
    assert bench.sub.unacked() == 20

"""Faults of Pub/Sub during a run, and what is refused, over real gRPC; asserted on the server."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from backlog_clearer.brokers.googlepubsub import lane
from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.engine import worker
from backlog_clearer.errors import BrokerError, RefusedError, TransientError
from backlog_clearer.model import Mode
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.restore import restore
from backlog_clearer.run.survey import survey
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.servers.pubsub import PROJECT, PubSubServer
from tests.brokers.test_googlepubsub import PubSubBench, server

__all__ = ["server"]

DEAD_LETTERS = {"dead_letter_topic": f"{PROJECT}/topics/dead", "max_delivery_attempts": 5}

LEASE = "stream_ack_deadline_seconds"
CONNECTIONS = 5  # that fail, each after a longer wait of gRPC's


def job(bench: PubSubBench, tmp_path: Path, run: dict[str, Any] | None = None, **options: Any) -> Job:
    """A run that clears what is there."""
    values = {
        "project_id": "test",
        "subscription_id": "billing",
        "monitoring_endpoint": f"http://{bench.server.address}",
        **options,
    }
    given = {
        "stop_when_empty": True,
        "receipt_dir": str(tmp_path),
        "quiet_seconds": bench.quiet_s,
        "workers": 2,
        "verify_seconds": 0,
        **(run or {}),
    }
    return Job("googlepubsub", PubSubOptions(**values), RunOptions(**given))


def delivered_twice(bench: PubSubBench) -> int:
    """Deliveries beyond the first of each message."""
    return len(bench.sub.delivered) - len({item.id for item in bench.sub.delivered})


def put_back(bench: PubSubBench, tmp_path: Path, result: RunResult, **options: Any) -> RunResult:
    """Restore from the receipt of a run."""
    receipt = load(str(result.receipt))
    undo = job(bench, tmp_path, {"force": True}, **options)
    return restore(undo, original_positions([receipt]), receipt.identity)


def test_streams_that_break_lose_and_double_nothing(server: PubSubServer, tmp_path: Path) -> None:
    """The service resets streams every half hour or sooner: all messages are cleared, and counted once."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 2000)
    server.reset_after = 5
    result = clear(job(bench, tmp_path, {"max_retries": 30}))
    assert (result.verified, bench.sub.unacked()) == (True, 0)
    assert result.totals.messages == 2000


def test_a_service_that_is_back_is_reached_at_once(server: PubSubServer, tmp_path: Path) -> None:
    """After connections that failed, a survey reaches the service, and not gRPC's memory of them."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 10)
    with (
        Relay("127.0.0.1", server.port) as relay,
        closing(bench.source_via(bench.options(tmp_path), "127.0.0.1", relay.port)) as source,
    ):
        relay.refuse()
        while relay.connections < CONNECTIONS:
            with pytest.raises(TransientError):
                source.survey()
        relay.heal()
        assert survey(source).partitions


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED])
@pytest.mark.parametrize("method", ["StreamingPull", "Acknowledge"])
def test_passing_errors_are_retried(
    server: PubSubServer, tmp_path: Path, method: str, code: grpc.StatusCode
) -> None:
    """UNAVAILABLE and ABORTED, for streams and acknowledgements, cost retries and no message."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 500)
    server.fail(method, code, times=2)
    result = clear(job(bench, tmp_path))
    assert (result.verified, result.totals.messages, bench.sub.unacked()) == (True, 500, 0)
    assert not result.totals.at_least


def test_acknowledgements_without_an_answer_make_a_lower_bound(
    server: PubSubServer, tmp_path: Path
) -> None:
    """The service does not show what was acknowledged: without answers the count is not certain."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 100)
    server.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE, times=50)
    result = clear(job(bench, tmp_path, {"max_retries": 0}))
    assert (result.totals.messages, result.totals.at_least) == (0, True)


def test_lost_answers_do_not_raise_the_limit(
    server: PubSubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged without an answer, and too late to be so again, counts to the limit."""
    monkeypatch.setattr(worker, "BACKOFF_FIRST_S", 1.5)
    monkeypatch.setattr(lane, "LEASE_USED", 1 / PubSubOptions.model_fields[LEASE].default)  # 1 s
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 400)
    lost: list[set[bytes | str]] = []

    def lose(ids: list[Any]) -> None:
        if len(lost) < 2 and (not lost or lost[0] & set(ids)):
            lost.append(set(ids))
            for one in ids:
                if one in bench.sub.leased:
                    bench.sub.leased.pop(one).acked = True
            raise ConnectionError

    server.before_acknowledge = lose
    result = clear(job(bench, tmp_path, {"max_messages": 100, "max_rate": "50/s"}))
    assert len(lost) > 1
    assert 400 - bench.sub.unacked() <= 100
    assert result.totals.at_least


@pytest.mark.parametrize("method", ["GetSubscription", "CreateSnapshot"])
def test_requests_before_the_change_are_retried_by_the_run(
    server: PubSubServer, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """UNAVAILABLE for the look-up and for the snapshot costs another attempt, and no message."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 50)
    server.fail(method, grpc.StatusCode.UNAVAILABLE, times=2)
    caplog.set_level("INFO", logger="backlog_clearer")
    result = clear(job(bench, tmp_path, {"mode": "skip"}))
    assert (result.verified, bench.sub.unacked(), len(server.snapshots)) == (True, 0, 1)
    assert caplog.text.count("Retrying the") == 2


def test_each_attempt_sends_a_request_once(server: PubSubServer, tmp_path: Path) -> None:
    """The adapter sends a refused request once: only the run repeats it."""
    bench = PubSubBench(server, figures=True)
    server.fail("GetSubscription", grpc.StatusCode.UNAVAILABLE, times=50)
    with closing(bench.source(bench.options(tmp_path))) as source:
        with pytest.raises(TransientError, match="does not answer"):
            source.survey()
        assert len(server.faults["GetSubscription"]) == 49
        server.fail("CreateSnapshot", grpc.StatusCode.UNAVAILABLE, times=50)
        with pytest.raises(TransientError, match="--no-snapshot"):
            source.prepare_undo([], Mode.SKIP)
    assert len(server.faults["CreateSnapshot"]) == 49
    assert server.snapshots == {}


def test_seek_is_sent_once(server: PubSubServer, tmp_path: Path) -> None:
    """A seek that may have taken effect is not repeated: the row shows that the outcome is not known."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 50)
    server.fail("Seek", grpc.StatusCode.UNAVAILABLE, times=50)
    result = clear(job(bench, tmp_path, {"mode": "skip"}))
    assert (result.cleared, bench.sub.unacked()) == (False, 50)
    assert result.verified is not True
    assert "not known" in str(result.partitions[0].error)
    assert len(server.faults["Seek"]) == 49


@pytest.mark.parametrize("method", ["CreateSnapshot", "Seek"])
def test_restore_is_retried_by_the_run(server: PubSubServer, tmp_path: Path, method: str) -> None:
    """UNAVAILABLE while a subscription is restored costs another attempt; all messages are back."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 80)
    result = clear(job(bench, tmp_path, {"mode": "skip"}))
    server.fail(method, grpc.StatusCode.UNAVAILABLE)
    back = put_back(bench, tmp_path, result)
    assert ([row.error for row in back.partitions], bench.sub.unacked()) == ([None], 80)


def test_snapshot_that_is_not_deleted_is_reported(server: PubSubServer, tmp_path: Path) -> None:
    """The subscription is restored once, and the row shows that its snapshot remains."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 80)
    result = clear(job(bench, tmp_path, {"mode": "skip"}))
    server.fail("DeleteSnapshot", grpc.StatusCode.UNAVAILABLE, times=50)
    back = put_back(bench, tmp_path, result, delete_snapshot=True)
    assert "was restored, but" in str(back.partitions[0].error)
    assert (bench.sub.unacked(), len(bench.sub.seeks), len(server.snapshots)) == (80, 2, 2)


def test_exactly_once_ids_put_off_are_acknowledged_again(server: PubSubServer, tmp_path: Path) -> None:
    """TRANSIENT_* for some ids: only those are sent again, and each counts once when confirmed."""
    bench = PubSubBench(server, figures=True, enable_exactly_once_delivery=True)
    server.publish(bench.sub, 600)
    server.put_off = 3
    result = clear(job(bench, tmp_path))
    assert (result.verified, result.totals.messages, bench.sub.unacked()) == (True, 600, 0)


def test_exactly_once_errors_of_a_thousand_ids_are_read(
    server: PubSubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error lists all ids that failed, hundreds of kilobytes: no limit of the channel cuts it off."""
    bench = PubSubBench(server, figures=True, enable_exactly_once_delivery=True)
    server.publish(bench.sub, 2000)
    server._ids = (f"{number}".ljust(1000, "x") for number in itertools.count())  # type: ignore[assignment]
    server.put_off = 2
    caplog.set_level("INFO", "backlog_clearer")
    result = clear(job(bench, tmp_path, {"workers": 1}))
    assert (result.verified, result.totals.messages, bench.sub.unacked()) == (True, 2000, 0)
    assert delivered_twice(bench) == 0
    assert "TRANSIENT_FAILURE_OTHER" in caplog.text
    assert "metadata" not in caplog.text


def test_exactly_once_leases_that_ended_are_not_counted(
    server: PubSubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PERMANENT_*: a message whose lease was over is reported, and counted only when redelivered."""
    bench = PubSubBench(server, figures=True, enable_exactly_once_delivery=True)
    server.publish(bench.sub, 300)
    spoiled: list[str] = []

    def spoil(ack_ids: Sequence[str]) -> None:
        if not spoiled:  # the first acknowledgement comes too late for ten of its messages
            spoiled.extend(ack_ids[:10])
            for ack_id in spoiled:
                bench.sub.release(bench.sub.leased[ack_id])

    server.before_acknowledge = spoil
    result = clear(job(bench, tmp_path))
    assert spoiled
    assert (result.totals.messages, bench.sub.unacked()) == (300, 0)
    assert "PERMANENT_FAILURE_INVALID_ACK_ID" in caplog.text


def test_leases_need_no_extension(server: PubSubServer, tmp_path: Path) -> None:
    """Messages are acknowledged long before their lease ends: none is extended or delivered twice."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 5000)
    result = clear(job(bench, tmp_path))
    assert (result.totals.messages, bench.sub.unacked()) == (5000, 0)
    assert bench.sub.modacks == []
    assert delivered_twice(bench) == 0


def test_nothing_goes_to_the_dead_letter_topic(server: PubSubServer, tmp_path: Path) -> None:
    """A dead-letter policy of five attempts, and streams that break: no message becomes a dead letter."""
    bench = PubSubBench(server, figures=True, dead_letter_policy=DEAD_LETTERS)
    server.publish(bench.sub, 1000)
    server.reset_after = 4
    result = clear(job(bench, tmp_path, {"max_retries": 30}))
    assert (result.totals.messages, bench.sub.unacked()) == (1000, 0)
    assert bench.sub.dead_letters == []


def test_messages_of_ten_megabytes_are_cleared(server: PubSubServer, tmp_path: Path) -> None:
    """The largest messages that Pub/Sub accepts are cleared, one response after the other."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 12, size=10_000_000)
    result = clear(
        job(bench, tmp_path, {"quiet_seconds": 60})
    )  # a busy machine is slow with so many bytes
    assert (result.verified, result.totals.messages, bench.sub.unacked()) == (True, 12, 0)


def test_without_figures_nothing_is_claimed(server: PubSubServer, tmp_path: Path) -> None:
    """Without Monitoring all messages are cleared, but the result is neither verified nor cleared."""
    bench = PubSubBench(server, figures=False)
    server.publish(bench.sub, 100)
    result = clear(job(bench, tmp_path))
    assert (result.totals.messages, bench.sub.unacked()) == (100, 0)
    assert (result.verified, result.cleared, result.totals.remaining) == (None, False, None)


def test_old_figures_prove_nothing(server: PubSubServer, tmp_path: Path) -> None:
    """A sample of 0 from before the last acknowledgement proves nothing."""
    bench = PubSubBench(server, figures=False)
    server.truthful(later_s=-120.0)
    server.publish(bench.sub, 100)
    result = clear(job(bench, tmp_path))
    assert (result.totals.messages, result.verified) == (100, None)


@pytest.mark.parametrize(
    ("mode", "permission"),
    [
        ("consume", "pubsub.subscriptions.consume"),
        ("skip", "pubsub.subscriptions.consume"),
        ("consume", "pubsub.snapshots.create"),
        ("skip", "pubsub.snapshots.create"),
    ],
)
def test_missing_permissions_are_named(
    server: PubSubServer, tmp_path: Path, mode: str, permission: str
) -> None:
    """A permission that is missing is named, and every message stays."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 50)
    server.denied.add(permission)
    try:
        shown = clear(job(bench, tmp_path, {"mode": mode})).model_dump_json()
    except (BrokerError, RefusedError) as error:
        shown = str(error)
    assert permission in shown
    assert bench.sub.unacked() == 50


def test_skip_takes_a_snapshot_and_restore_seeks_to_it(server: PubSubServer, tmp_path: Path) -> None:
    """Skip acknowledges by a seek, restore brings everything back and deletes the snapshot if asked to."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 80)
    result = clear(job(bench, tmp_path, {"mode": "skip"}))
    assert (result.cleared, bench.sub.unacked(), len(server.snapshots)) == (True, 0, 1)
    (taken,) = server.snapshots
    put_back(bench, tmp_path, result, delete_snapshot=True)
    assert bench.sub.unacked() == 80
    assert taken not in server.snapshots  # the restore has another one, to be undone by


def test_without_a_snapshot_there_is_no_undo(server: PubSubServer, tmp_path: Path) -> None:
    """--no-snapshot takes none, and restoring from that receipt is an error that moves nothing."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 80)
    result = clear(job(bench, tmp_path, {"mode": "skip"}, no_snapshot=True))
    assert (result.cleared, bench.sub.unacked(), server.count("CreateSnapshot")) == (True, 0, 0)
    try:
        undone = put_back(bench, tmp_path, result)
        assert not undone.cleared
    except RefusedError:
        pass
    assert (bench.sub.unacked(), len(bench.sub.seeks)) == (0, 1)


def test_refused_snapshot_stops_the_run(server: PubSubServer, tmp_path: Path) -> None:
    """Where the service refuses a snapshot nothing is changed, and the error names --no-snapshot."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 20)
    server.refuse_snapshots = "The oldest message is too old."
    with pytest.raises(RefusedError, match="--no-snapshot"):
        clear(job(bench, tmp_path, {"mode": "skip"}))
    assert bench.sub.unacked() == 20


@pytest.mark.parametrize(
    "settings",
    [
        {"push_config": {"push_endpoint": "https://example.test/push"}},
        {"bigquery_config": {"table": "p.d.t"}},
        {"cloud_storage_config": {"bucket": "archive"}},
    ],
    ids=["push", "bigquery", "cloud-storage"],
)
def test_a_subscription_that_delivers_elsewhere_is_only_skipped(
    server: PubSubServer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """A subscription that Pub/Sub delivers elsewhere cannot be read, which is reported; skip clears it."""
    bench = PubSubBench(server, figures=True, **settings)
    server.publish(bench.sub, 30)
    refused = clear(job(bench, tmp_path))
    assert not refused.cleared
    assert "--mode skip" in str(refused.partitions[0].error)
    assert bench.sub.unacked() == 30
    assert clear(job(bench, tmp_path, {"mode": "skip"})).cleared
    assert bench.sub.unacked() == 0


def test_detached_subscription_is_refused(server: PubSubServer, tmp_path: Path) -> None:
    """A detached subscription keeps no messages: both modes report that, and change nothing."""
    bench = PubSubBench(server, figures=True, detached=True)
    for mode in ("consume", "skip"):
        refused = clear(job(bench, tmp_path, {"mode": mode}))
        assert not refused.cleared
        assert "detached" in str(refused.partitions[0].error)
    assert server.count("Seek") == 0


def test_full_name_is_accepted(server: PubSubServer, tmp_path: Path) -> None:
    """projects/P/subscriptions/S is enough, without a project option."""
    bench = PubSubBench(server, figures=True)
    server.publish(bench.sub, 10)
    full = f"{PROJECT}/subscriptions/billing"
    result = clear(job(bench, tmp_path, project_id=None, subscription_id=full))
    assert (result.cleared, bench.sub.unacked()) == (True, 0)

"""Pulsar's wire reader on the broker that pip installs, with faults that a relay between them makes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pulsar
import pytest

from backlog_clearer.brokers.pulsar import cluster as pulsar_cluster
from backlog_clearer.brokers.pulsar import connection as pulsar_connection
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.source import open_source
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Survey
from backlog_clearer.options.base import build
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.pulsar_frames import (
    ACK,
    AUTH_CHALLENGE,
    AUTH_RESPONSE,
    CLOSE_CONSUMER,
    CONNECT,
    ERROR,
    FLOW,
    GET_LAST_MESSAGE_ID_RESPONSE,
    LOOKUP,
    PARTITIONED_METADATA_RESPONSE,
    PING,
    PONG,
    fields,
    frame,
    message,
    parse_fields,
)
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, produce
from backlog_clearer.testing.support import free_port
from tests.brokers.pulsar_relay import Relay
from tests.brokers.test_pulsar_lite import LiteBench, client, url  # noqa: F401 fixtures

MESSAGES = 3000
IN_FRONT = 14  # a frame between messages: the answers to survey and lane are nine frames
REDIRECT, CONNECT_TO, FAILED = 0, 1, 2
UNUSED = 1 << 40  # not the number of a consumer


class Case:
    """A backlog of batches, read through a relay."""

    def __init__(self, relay: Relay, bench: LiteBench, folder: Path) -> None:
        self.relay, self.bench, self.folder = relay, bench, folder
        self.changes: dict[str, object] = {}

    def job(self, **run: object) -> Job:
        """A job that reads through the relay."""
        values = {**self.bench.options_of(SUBSCRIPTION).model_dump(), "service_url": self.relay.url}
        options = build(PulsarOptions, {**values, **self.changes})
        settings = {"workers": 1, "quiet_seconds": 1.5, **run}
        return Job("pulsar", options, self.bench.options(self.folder, **settings))

    def clear(self, **run: object) -> RunResult:
        """Clear it."""
        return clear(self.job(**run))

    def survey(self) -> Survey:
        """Ask once, without the run's retries."""
        job = self.job()
        with closing(open_source(job.options, job.run, "survey")) as source:
            return source.survey()


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    """A separate relay for each test."""
    with Relay(int(url.rpartition(":")[2])) as found:
        yield found


@pytest.fixture(params=["failover", "shared"])
def case(
    relay: Relay,
    url: str,
    client: pulsar.Client,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Case:
    """30 entries of 100 messages, in order and competing."""
    bench = LiteBench(url, client, request.param)
    produce(client, bench.topic, MESSAGES, batch=100)
    return Case(relay, bench, tmp_path)


def cleared(case: Case, result: RunResult) -> None:
    """Assert that every message was counted once, and that the broker has none left."""
    assert result.totals.messages == MESSAGES
    assert case.bench.left() == {0: 0}


def test_heads_are_read_byte_by_byte(case: Case) -> None:
    """A head is read right even if its bytes arrive one by one."""
    case.relay.trickle = True
    cleared(case, case.clear())


def test_a_connection_cut_in_the_middle_of_a_frame_is_reopened(case: Case) -> None:
    """A connection that ends within a payload is opened again; nothing is lost or counted twice."""
    case.relay.cuts = {IN_FRONT + 3, IN_FRONT + 20}
    result = case.clear()
    cleared(case, result)
    assert result.totals.retries > 0
    assert case.relay.connections > 2


def test_messages_for_other_consumers_are_ignored(case: Case) -> None:
    """A message for a consumer that is not on its connection is neither counted nor acknowledged."""
    case.relay.before[IN_FRONT] = lambda: message(UNUSED, (0, 7))
    cleared(case, case.clear())
    assert UNUSED not in {body[1][0] for body in case.relay.commands(ACK)}


def test_ping_is_answered(case: Case) -> None:
    """A PING of the broker is answered in the middle of messages."""
    case.relay.before[IN_FRONT] = lambda: frame(PING)
    cleared(case, case.clear())
    assert len(case.relay.commands(PONG)) == 1


def test_login_is_presented_again(case: Case) -> None:
    """When the broker asks for it, the token is read from its file again and presented."""
    token = case.folder / "token"
    token.write_text("first")
    case.changes = {"token_file": str(token)}
    case.relay.swallowed = {AUTH_RESPONSE}

    def challenge() -> bytes:
        token.write_text("second")
        return frame(AUTH_CHALLENGE)

    case.relay.before[IN_FRONT] = challenge
    cleared(case, case.clear())
    assert case.relay.commands(CONNECT)[0][3] == [b"first"]
    (answer,) = case.relay.commands(AUTH_RESPONSE)
    assert parse_fields(bytes(answer[2][0])) == {1: [b"token"], 2: [b"second"]}


def test_a_consumer_closed_by_the_broker_is_reopened(case: Case) -> None:
    """A topic that moves closes its consumer: the lane is opened again, and the count continues."""

    def close() -> bytes:
        return frame(CLOSE_CONSUMER, f1=case.relay.consumer(), f2=0)

    case.relay.before[IN_FRONT] = close
    result = case.clear()
    cleared(case, result)
    assert result.totals.retries > 0


def test_a_login_that_expires_midway_ends_the_run(case: Case) -> None:
    """An error that answers no request ends the run with its reason; what was counted was acknowledged."""
    case.relay.before[IN_FRONT] = lambda: frame(ERROR, f1=-1, f2=3, f3="token eyJhbGciOi expired")
    result = case.clear()
    assert "has it expired?" in str(result.error)
    assert "eyJ" not in str(result.error)
    assert result.totals.messages + case.bench.left()[0] == MESSAGES


def test_redirects_are_followed(case: Case) -> None:
    """A redirected lookup is repeated at the other broker, with the authority that was given."""
    for _ in range(2):  # the survey's and the lane's
        case.relay.lookups += ({"f1": case.relay.url, "f3": REDIRECT, "f5": 1},)
        case.relay.lookups += ({"f1": case.relay.url, "f3": CONNECT_TO},)
    cleared(case, case.clear())
    assert [bool(body.get(3, [0])[0]) for body in case.relay.commands(LOOKUP)][:4] == [
        *(False, True, False, True)
    ]


def test_endless_redirects_are_given_up(case: Case) -> None:
    """Endless redirects end with an error that names the topic."""
    case.relay.lookups.extend([{"f1": case.relay.url, "f3": REDIRECT}] * 200)
    with pytest.raises(BrokerError, match="from broker to broker"):
        status(case.job())


def test_proxies_are_used_where_a_lookup_names_one(case: Case) -> None:
    """Where a lookup asks for it, the connection goes to the service URL and names the broker."""
    case.relay.lookups.extend(
        [{"f1": "pulsar://broker-7.internal:6650", "f3": CONNECT_TO, "f8": 1}] * 3
    )
    cleared(case, case.clear())
    assert b"broker-7.internal:6650" in [
        body[6][0] for body in case.relay.commands(CONNECT) if 6 in body
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"f3": FAILED, "f6": 11, "f7": "gone"}, "There is no topic"),
        ({"f3": FAILED, "f6": 4, "f7": "no"}, "refused the login"),
        ({"f3": FAILED, "f6": 6, "f7": "not\nyet"}, "ServiceNotReady: not yet"),
        ({"f2": "pulsar+ssl://broker:6651", "f3": CONNECT_TO}, "returned no pulsar:// address"),
    ],
)
def test_failed_lookups_are_reported(case: Case, answer: dict[str, int | str], expected: str) -> None:
    """The error states why a topic's broker cannot be found."""
    case.relay.lookups.extend([answer] * 5)
    with pytest.raises(ClearerError, match=expected):
        status(case.job())


MINUS_ONE = (1 << 64) - 1  # as an unsigned number


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({}, id="missing"),
        pytest.param({"f1": b""}, id="empty"),
        pytest.param({"f1": fields(f1=3)}, id="no entry"),
        pytest.param({"f1": fields(f2=3)}, id="no ledger"),
        pytest.param({"f1": fields(f1=MINUS_ONE, f2=3)}, id="negative ledger"),
        pytest.param({"f1": fields(f1=3, f2=MINUS_ONE - 1)}, id="negative entry"),
    ],
)
def test_a_missing_last_entry_is_an_error(case: Case, last: dict[str, bytes]) -> None:
    """An answer without a valid last entry is an error, not an empty topic; nothing is cleared by it."""
    case.relay.instead[GET_LAST_MESSAGE_ID_RESPONSE] = last
    with pytest.raises(TransientError, match="returned no last entry"):
        case.survey()
    assert case.bench.left() == {0: MESSAGES}


@pytest.mark.parametrize("found", [{}, {"f1": -1}], ids=["missing", "negative"])
def test_a_missing_number_of_partitions_is_an_error(case: Case, found: dict[str, int]) -> None:
    """An answer without a valid number of partitions is not a topic without partitions."""
    case.relay.instead[PARTITIONED_METADATA_RESPONSE] = found
    with pytest.raises(TransientError, match="returned no number of partitions"):
        case.survey()


def test_the_first_host_that_answers_is_used(case: Case) -> None:
    """Of a service URL's hosts the first that answers is used; if none answers, the error names one."""
    dead = free_port()
    case.changes = {"service_url": f"pulsar://127.0.0.1:{dead},127.0.0.1:{case.relay.port}"}
    cleared(case, case.clear())
    case.changes = {"service_url": f"pulsar://127.0.0.1:{dead},127.0.0.1:{dead}"}
    with pytest.raises(BrokerError, match="Check --service-url"):
        status(case.job())


def test_a_broker_that_never_answers_is_given_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that accepts the connection and never answers is given up."""
    monkeypatch.setattr(pulsar_connection, "TIMEOUT_S", 0.5)
    case.relay.mute = True
    with pytest.raises(BrokerError, match="no answer"):
        status(case.job())


def test_a_connection_that_falls_silent_is_reopened(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without traffic gets a PING, then is given up and opened again."""
    monkeypatch.setattr(pulsar_connection, "_PING_S", 0.3)
    monkeypatch.setattr(pulsar_connection, "TIMEOUT_S", 1)
    monkeypatch.setattr(pulsar_cluster, "_CLOSE_S", 0.5)
    case.relay.swallowed = {PING}

    def fall_silent() -> bytes:
        case.relay.mute = True
        threading.Timer(1.5, setattr, (case.relay, "mute", False)).start()
        return b""

    case.relay.before[IN_FRONT + 2] = fall_silent
    result = case.clear()
    cleared(case, result)
    assert case.relay.commands(PING)
    assert result.totals.retries > 0


def test_invalid_bytes_end_the_connection(case: Case) -> None:
    """After bytes that are not a frame the connection is opened again."""
    case.relay.before[IN_FRONT] = lambda: b"\x7f" * 64
    result = case.clear()
    cleared(case, result)
    assert result.totals.retries > 0


def test_permits_are_renewed_for_what_was_sent(case: Case) -> None:
    """Permits are renewed for messages that came, not more: the first number is never exceeded."""
    case.clear(batch_size=40)  # 1,000 messages under way
    given = [int(body[2][0]) for body in case.relay.commands(FLOW)]
    assert given[0] == 1000
    assert sum(given[1:]) <= MESSAGES


def test_entries_are_acknowledged_together(case: Case) -> None:
    """All entries of one read are acknowledged by one command, in order by one position."""
    case.clear()
    acknowledged = [len(body[3]) for body in case.relay.commands(ACK)]
    if case.bench.kind == "shared":
        assert sum(acknowledged) == MESSAGES // 100
    else:
        assert set(acknowledged) == {1}
    assert len(acknowledged) <= MESSAGES // 100

"""Two real Pulsar brokers that share the partitions, topics that move, and Pulsar's proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import requests

from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.connection import Connection
from backlog_clearer.brokers.pulsar.service_url import addresses
from backlog_clearer.brokers.pulsar.wire import REDIRECT, Kind
from backlog_clearer.errors import BrokerError
from backlog_clearer.run import retry
from backlog_clearer.run.report import RunResult
from backlog_clearer.testing.servers.pulsar import token
from backlog_clearer.testing.servers.pulsar_frames import SUBSCRIBE
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case, unique
from backlog_clearer.testing.support import free_port, wait_until
from tests.command import cleaner, ended, started
from tests.real.pulsar_cluster import Broker, TwoBrokers, two_brokers, wait_for_all
from tests.real.pulsar_deaths import EVERY_STEP, deaths

COUNTS = (900, 0, 1200, 700)  # of messages, by partition
MESSAGES = sum(COUNTS)
SLOW = "public/slow"
"""A namespace whose topics deliver 500 messages a second."""
SLOW_MESSAGES = 2000  # where one run is interrupted
TWO_SLOW_MESSAGES = 5000  # where two runs are, which do not start at the same moment


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoBrokers]:
    """Two brokers and a proxy; tests move topics, and start what they stop."""
    with two_brokers(tmp_path_factory.mktemp("two")) as judge:
        judge.admin("PUT", f"namespaces/{SLOW}", {})
        judge.slow_down(SLOW, 500)
        yield judge


def parts(topic: str) -> list[str]:
    """The topics of the partitions."""
    return [f"{topic}-partition-{number}" for number in range(len(COUNTS))]


@pytest.fixture(scope="module")
def produced(brokers: TwoBrokers, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[int]]:
    """A topic of four partitions whose messages are kept, so that tests clear it again, and its entries."""
    case = Case(brokers, tmp_path_factory.mktemp("produced"))
    for name, count in zip(parts(case.create(len(COUNTS))), COUNTS, strict=True):
        brokers.produce(name, count, batch=50)
    return case.topic, left(brokers, case)


@pytest.fixture
def case(brokers: TwoBrokers, produced: tuple[str, list[int]], tmp_path: Path) -> Case:
    """A backlog in four partitions, of which each broker owns two."""
    case = Case(brokers, tmp_path)
    case.topic, entries = produced
    topic = case.topic
    case.changes["token"] = token()
    names, owners = parts(topic), [brokers.first, brokers.second] * 2

    def placed() -> bool:
        with suppress(requests.HTTPError):  # a broker may not be notified yet of a topic's move
            found = [brokers.owner(name, asked=to) for name, to in zip(names, owners, strict=True)]
            return found == [to.service_url for to in owners]
        return False

    if not placed():
        for name, to in zip(names, owners, strict=True):
            brokers.give(name, to)
    assert placed()
    for name in names:
        brokers.rewind(name)
    wait_until(lambda: left(brokers, case) == entries, "the whole backlog")
    return case


def left(brokers: TwoBrokers, case: Case) -> list[int]:
    """Entries that the brokers still have to deliver."""
    return [brokers.backlog(name) for name in parts(case.topic)]


def cleared(brokers: TwoBrokers, case: Case, result: RunResult) -> None:
    """Every message of every partition was counted once, and no broker has any left."""
    assert tuple(row.messages for row in result.partitions) == COUNTS
    assert (result.verified, left(brokers, case)) == (True, [0] * len(COUNTS))


def arguments(case: Case, service_url: str, admin_url: str | None, *more: str) -> Sequence[str]:
    """The command line, with a token that the environment holds."""
    asked = ["--admin-url", admin_url] if admin_url else ["--assume-exists"]
    return [
        "pulsar", "--service-url", service_url, *asked, "--topic", case.topic, "--subscription",
        SUBSCRIPTION, "--token", "${env:PULSAR_TOKEN}", "--stop-when-empty", "--receipt-dir",
        str(case.folder), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["exclusive", "failover", "shared"])
def test_partitions_of_two_brokers_are_cleared(
    brokers: TwoBrokers, case: Case, kind: str, workers: int
) -> None:
    """One lane or several clear partitions of two brokers, though the URLs name only one of them."""
    case.changes["subscription_type"] = kind
    result = case.clear(workers=workers)
    cleared(brokers, case, result)


def test_two_brokers_are_reached_by_tls(brokers: TwoBrokers, case: Case) -> None:
    """With TLS, each owner is reached by its TLS address, and gets the token."""
    first = brokers.first
    case.changes |= {
        "service_url": f"pulsar+ssl://localhost:{first.secure_port}",
        "admin_url": f"https://localhost:{first.secure_web}",
        "tls_trust_certs": str(first.ca),
    }
    result = case.clear(workers=1)
    cleared(brokers, case, result)


def test_a_dead_first_host_is_passed_over(brokers: TwoBrokers, case: Case) -> None:
    """Of several hosts in the service URL the first that answers is asked."""
    port = brokers.second.port
    case.changes["service_url"] = f"pulsar://127.0.0.1:{free_port()},127.0.0.1:{port}"
    result = case.clear(workers=2)
    cleared(brokers, case, result)


def test_owners_are_reached_by_the_listener(brokers: TwoBrokers, case: Case) -> None:
    """With a listener name, the service URL's broker and every owner are reached by that listener."""
    outside = [brokers.first.outside, brokers.second.outside]
    case.changes |= {"service_url": outside[0].url, "listener_name": "outside"}
    result = case.clear(workers=1)
    subscribed = [{bytes(each[1][0]).decode() for each in way.commands(SUBSCRIBE)} for way in outside]
    names = parts(case.topic)
    assert subscribed == [{names[0], names[2]}, {names[3]}]  # there is nothing in the second
    cleared(brokers, case, result)


def test_a_mistyped_listener_clears_nothing(brokers: TwoBrokers, case: Case) -> None:
    """A mistyped listener fails with the broker's reason, and clears nothing."""
    before = left(brokers, case)
    case.changes["listener_name"] = "outsid"
    result = case.clear(workers=1, max_retries=1)
    assert "outsid" in str(result.error)
    assert (result.verified, left(brokers, case)) == (False, before)


def test_dead_hosts_clear_nothing(brokers: TwoBrokers, case: Case) -> None:
    """Where no host answers, the run fails with an address, and clears nothing."""
    before = left(brokers, case)
    ports = free_port(), free_port()
    case.changes["service_url"] = f"pulsar://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
    result = case.clear(workers=1, max_retries=1)
    assert f"127.0.0.1:{ports[1]} broke" in str(result.error)
    assert (result.verified, left(brokers, case)) == (False, before)


def test_redirects_are_followed(brokers: TwoBrokers, case: Case) -> None:
    """A broker that does not decide who owns a topic redirects to the one that does, which assigns it."""
    for name in parts(case.topic):
        brokers.unload(name)
    leader = brokers.admin("GET", "brokers/leaderBroker")["brokerId"]
    (follower,) = (
        broker for broker in (brokers.first, brokers.second) if not leader.endswith(f":{broker.web}")
    )
    (address,) = addresses(follower.service_url)
    with closing(Connection(address, access(case.options()))) as connection:

        def redirects() -> bool:  # not before it is notified of the unloading
            answers = [connection.ask(Kind.LOOKUP, topic=name) for name in parts(case.topic)]
            return all(answer.response == REDIRECT for answer in answers)

        wait_until(redirects, "topics without owners")
    ran = cleaner(
        *arguments(case, follower.service_url, None, "--subscription-type", "failover"),
        env={"PULSAR_TOKEN": token()},
    )
    assert (ran.code, ran.result.get("verified")) == (0, True), ran.stderr
    assert ran.result["totals"]["messages"] == MESSAGES
    assert left(brokers, case) == [0] * len(COUNTS)


def slow_case(
    brokers: TwoBrokers, tmp_path: Path, owner: Broker, messages: int = SLOW_MESSAGES
) -> Case:
    """A backlog in one topic, which that broker owns and delivers slowly."""
    case = Case(brokers, tmp_path)
    case.topic = f"persistent://{SLOW}/{unique('moving')}"
    brokers.produce(case.create(), messages)
    brokers.give(case.topic, owner)
    return case


def wait_for_the_middle(
    process: subprocess.Popen[str], brokers: TwoBrokers, topic: str, most: int
) -> None:
    """Wait until at most `most` of a topic's backlog is left, and assert that something is."""

    def so_far() -> bool:
        assert process.poll() is None, process.communicate()
        return brokers.backlog(topic) <= most

    wait_until(so_far, f"a backlog of {most}")
    assert brokers.backlog(topic) > 0


@pytest.mark.parametrize(
    ("kind", "proxied"), [("failover", False), ("shared", False), ("shared", True)]
)
def test_a_topic_may_move_during_a_drain(
    brokers: TwoBrokers, tmp_path: Path, kind: str, *, proxied: bool
) -> None:
    """A topic is unloaded, then given to the other broker: each message is counted once, none is lost."""
    case = slow_case(brokers, tmp_path, brokers.first)
    topic = case.topic
    asked = brokers.proxy if proxied else brokers.first
    with started(
        *arguments(case, asked.service_url, asked.admin_url, "--workers", "2"),
        *("--subscription-type", kind, "--max-retries", "20"),
        env={"PULSAR_TOKEN": token()},
    ) as process:
        wait_for_the_middle(process, brokers, topic, SLOW_MESSAGES - 1)
        brokers.reload(topic)
        wait_for_the_middle(process, brokers, topic, brokers.backlog(topic) - 1)
        brokers.give(topic, brokers.second)
        ran = ended(process)
    assert (ran.code, ran.result["verified"]) == (0, True), ran.stderr
    assert ran.result["totals"]["messages"] == SLOW_MESSAGES
    assert ran.result["totals"]["retries"] >= 2  # it was in the middle both times
    assert (brokers.owner(topic), brokers.backlog(topic)) == (brokers.second.service_url, 0)


def secure(brokers: TwoBrokers) -> dict[str, str]:
    """The proxy with TLS, as options."""
    proxy = brokers.proxy
    return {
        "service_url": f"pulsar+ssl://localhost:{proxy.secure_port}",
        "admin_url": f"https://localhost:{proxy.secure_web}",
        "tls_trust_certs": str(proxy.ca),
    }


@pytest.mark.parametrize(("kind", "tls"), [("failover", False), ("shared", False), ("shared", True)])
def test_a_proxy_leads_to_both_brokers(
    brokers: TwoBrokers, case: Case, kind: str, *, tls: bool
) -> None:
    """All traffic goes through the proxy, which connects one lane to both brokers and gives them the token."""
    plain = {"service_url": brokers.proxy.service_url, "admin_url": brokers.proxy.admin_url}
    case.changes |= {"subscription_type": kind, **(secure(brokers) if tls else plain)}
    before = brokers.proxy.connections()
    result = case.clear(workers=1)
    cleared(brokers, case, result)
    assert brokers.proxy.connections() - before == 3  # for questions, and to each broker


def test_a_proxy_suffices_without_the_admin_api(brokers: TwoBrokers, case: Case) -> None:
    """The proxy returns the number of partitions, and leads to the last entry of each."""
    case.changes |= {
        "subscription_type": "failover",
        "assume_exists": True,
        "service_url": brokers.proxy.service_url,
        "admin_url": None,
    }
    result = case.clear(workers=2)
    cleared(brokers, case, result)


def test_a_proxy_does_not_lend_its_rights(brokers: TwoBrokers, case: Case) -> None:
    """A token without permission is refused through the proxy, too, and nothing is cleared."""
    before = left(brokers, case)
    case.changes |= secure(brokers) | {
        "subscription_type": "failover",
        "assume_exists": True,
        "admin_url": None,
        "token": token("stranger"),
    }
    with pytest.raises(BrokerError, match="refused the login"):
        case.clear(workers=1)
    assert left(brokers, case) == before


def test_a_broker_may_die_during_a_drain(brokers: TwoBrokers, tmp_path: Path) -> None:
    """A dead broker's topics are taken over without its last acknowledgements: each message is counted once."""
    first, second = brokers.first, brokers.second
    cases = {
        kind: slow_case(brokers, tmp_path, second, TWO_SLOW_MESSAGES) for kind in ("failover", "shared")
    }
    url = f"{second.service_url},127.0.0.1:{first.port}"
    with ExitStack() as stack:
        processes = {
            kind: stack.enter_context(
                started(
                    *arguments(case, url, first.admin_url, "--subscription-type", kind),
                    *("--max-retries", "40", "--stall-seconds", "200"),
                    env={"PULSAR_TOKEN": token()},
                )
            )
            for kind, case in cases.items()
        }
        for kind, case in cases.items():
            wait_for_the_middle(processes[kind], brokers, case.topic, TWO_SLOW_MESSAGES - 1)
        assert all(brokers.backlog(case.topic) > 0 for case in cases.values())
        stack.callback(wait_for_all, [first, second])
        stack.callback(second.start)
        second.stop()
        for kind, case in cases.items():
            ran = ended(processes[kind], 200)
            assert (ran.code, ran.result["verified"]) == (0, True), (kind, ran.stderr)
            assert ran.result["totals"]["messages"] == TWO_SLOW_MESSAGES
            assert ran.result["totals"]["retries"] >= 1
            assert (brokers.owner(case.topic), brokers.backlog(case.topic)) == (first.service_url, 0)


def test_no_verdict_is_false_wherever_a_broker_dies(
    brokers: TwoBrokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker is killed at each step of drains, skips and surveys: nothing left is cleared, verified or 0."""
    monkeypatch.setattr(retry, "PATIENCE_S", 60.0)  # a busy machine's broker may be slow
    found = deaths(brokers, tmp_path, EVERY_STEP)
    ended = [death.result for death in found if death.result is not None]
    assert len(ended) == sum(mode is not None for mode, *_ in EVERY_STEP)
    for result in ended:  # all continue with the partition whose broker is alive
        assert (result.partitions[0].verified, result.partitions[0].remaining) == (True, 0), result
    assert any(result.cleared for result in ended)

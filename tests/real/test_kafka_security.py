"""Every login that a real Kafka accepts, with both readers, and the errors of refused logins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.cli import commands
from backlog_clearer.testing.servers.kafka import PASSWORD, KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import Stopwatch, free_port
from tests.command import Ran, cleaner
from tests.real.kafka_case import Case

LOGINS = (
    ("SSL", ""),
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
    ("SASL_PLAINTEXT", "OAUTHBEARER"),
    ("SASL_SSL", "PLAIN"),
    ("SASL_SSL", "SCRAM-SHA-512"),
)


def connection(servers: str, settings: dict[str, str]) -> list[str]:
    """Command line options that reach a listener."""
    options = ["--bootstrap-servers", servers]
    for key, value in settings.items():
        options += ["-X", f"{key}={value}"]
    return options


def invoked(*args: str, env: Mapping[str, str] | None = None) -> Ran:
    """As `cleaner`, in this process, which has the clients' library loaded."""
    done = CliRunner().invoke(commands.cli, [*args, "--output", "json"], env=env)
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize(("listener", "mechanism"), LOGINS)
def test_each_login_clears(case: Case, kafka: KafkaCluster, listener: str, mechanism: str) -> None:
    """The backlog behind each listener and mechanism is cleared by the reader that was asked for."""
    topic = case.create(2)
    for number in (0, 1):
        case.judge.produce(topic, number, 400)
    ran = invoked(
        "kafka",
        *connection(kafka.bootstrap(listener), kafka.login(listener, mechanism)),
        *("--topic", topic, "--group-id", case.group, "--reader", case.reader.value),
        *("--stop-when-empty", "--receipt-dir", str(case.folder)),
    )
    assert (ran.code, ran.result["totals"]["messages"]) == (0, 800), ran.stderr
    assert case.committed() == {0: 400, 1: 400}
    everything = (
        ran.stdout + ran.stderr + "".join(path.read_text() for path in case.folder.rglob("*.json"))
    )
    assert PASSWORD not in everything


def test_the_login_of_a_java_client_clears_and_is_undone(case: Case, kafka: KafkaCluster) -> None:
    """The settings that Kafka's own tools take, JAAS and a PEM truststore, work as they are, undo included."""
    topic = case.create()
    case.judge.produce(topic, 0, 300)
    own = kafka.login("SASL_SSL", "SCRAM-SHA-512")
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    login = f'{module} required username="{own["sasl.username"]}" password="${{env:JAVA_PASSWORD}}";'
    settings = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": login,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": own["ssl.ca.location"],
        "enable.auto.commit": "false",
        "group.protocol": "consumer",
    }
    env = {"JAVA_PASSWORD": PASSWORD}
    ran = invoked(
        "kafka",
        *connection(kafka.bootstrap("SASL_SSL"), settings),
        *("--topic", topic, "--group-id", case.group, "--reader", case.reader.value),
        *("--stop-when-empty", "--receipt-dir", str(case.folder)),
        env=env,
    )
    assert (ran.code, ran.result["totals"]["messages"]) == (0, 300), ran.stderr
    assert case.committed() == {0: 300}
    undone = invoked(
        "restore", ran.result["receipt"], "--allow-reference", "env:JAVA_PASSWORD", "--yes", env=env
    )
    assert undone.code == 0, undone.stderr
    assert case.committed() == {0: None}
    kept = "".join(path.read_text() for path in case.folder.rglob("*.json"))
    assert PASSWORD not in kept + ran.stdout + ran.stderr + undone.stdout + undone.stderr


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_wrong_password_is_told_quickly(
    judge: Judge, kafka: KafkaCluster, tmp_path: Path, mechanism: str
) -> None:
    """A wrong password: exit 1 in under 15 s, what to check, no password shown, nothing committed."""
    topic, group = judge.create(unique("login")), unique("group")
    judge.produce(topic, 0, 10)
    settings = {**kafka.login("SASL_PLAINTEXT", mechanism), "sasl.password": "${env:WRONG}"}
    with Stopwatch() as watch:
        ran = cleaner(
            "kafka",
            *connection(kafka.bootstrap("SASL_PLAINTEXT"), settings),
            *("--topic", topic, "--group-id", group, "--stop-when-empty"),
            *("--receipt-dir", str(tmp_path)),
            env={"WRONG": "not-the-password"},
        )
        assert ran.code == 1
    assert watch.seconds < 15
    assert "sasl.password" in ran.result["error"]
    assert "not-the-password" not in ran.stdout + ran.stderr
    assert judge.committed(topic, group) == {0: None}


def test_foreign_authority_is_refused(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """A server certificate of an unknown authority ends the run before anything changes."""
    topic, group = judge.create(unique("tls")), unique("group")
    judge.produce(topic, 0, 10)
    ran = invoked(
        "kafka",
        *connection(kafka.bootstrap("SSL"), {"security.protocol": "SSL"}),
        *("--topic", topic, "--group-id", group, "--stop-when-empty"),
        *("--receipt-dir", str(tmp_path)),
    )
    assert ran.code == 1
    assert "ssl.ca.location" in ran.result["error"]
    assert judge.committed(topic, group) == {0: None}


@pytest.mark.parametrize("reader", [Reader.HEADERS, Reader.CLIENT], ids=str)
def test_unreachable_broker_is_told_quickly(tmp_path: Path, reader: Reader) -> None:
    """Nothing listens: exit 1 in under 15 s with the address, and no receipt is left behind."""
    address = f"127.0.0.1:{free_port()}"
    with Stopwatch() as watch:
        ran = cleaner(
            *("kafka", "--bootstrap-servers", address, "--topic", "any", "--group-id", "any"),
            *("--reader", reader.value, "--receipt-dir", str(tmp_path)),
        )
        assert ran.code == 1
    assert watch.seconds < 15
    assert address in ran.result["error"]
    assert not list(tmp_path.rglob("*.json"))

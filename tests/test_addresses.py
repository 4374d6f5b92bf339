"""Addresses and Kafka's settings as users write them: what is wrong with them is known before a connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.settings import NO_EFFECT
from backlog_clearer.errors import UsageError
from backlog_clearer.options.addresses import checked_address
from backlog_clearer.options.layers import build_options
from backlog_clearer.options.recorded import recorded_options
from backlog_clearer.redaction.redact import redacted
from tests.invoking import call

KAFKA = ["kafka", "--topic", "orders", "--group-id", "billing"]
SECRET = "hunter2-do-not-print"


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["b", "b:9092", "10.0.0.1:1", "[::1]:9092", "[fe80::1%eth0]:65535", "b-1.c.example.com:9096"],
)
def test_an_address_is_taken_as_it_is(text: str) -> None:
    """Names, IPv4 and bracketed IPv6 addresses are valid, with a port and without one."""
    assert checked_address(text) == text
    assert checked_address(f"SASL_SSL://{text}", schemes=["sasl_ssl"]) == f"SASL_SSL://{text}"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("http://b:9092", "without http://"),
        ("https://b", "without https://"),
        ("b:port", "number from 1 to 65535"),
        ("b:", "number from 1 to 65535"),
        ("b:0", "number from 1 to 65535"),
        ("b:65536", "number from 1 to 65535"),
        ("b:٣", "number from 1 to 65535"),
        ("a:1;b:2", "by commas"),
        ("a:1 b:2", "number from 1"),
        ("b:9092/path", "number from 1"),
        ("::1", "is not HOST:PORT"),
        ("b c:1", "is not HOST:PORT"),
        ("", "is not HOST:PORT"),
        (f"user:{SECRET}@b:1", "without a user or password"),
    ],
)
def test_a_wrong_address_is_answered_with_the_reason(text: str, hint: str) -> None:
    """The reason names what to write, and never a password."""
    with pytest.raises(ValueError, match=".") as caught:
        checked_address(text)
    assert hint in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        [*KAFKA, "--bootstrap-servers", "http://b:9092"],
        [*KAFKA, "--bootstrap-servers", "b:9092;c:9092"],
        [*KAFKA, "--bootstrap-servers", "b:9092,c:kafka"],
        ["iggy", "--stream-id", "s", "--topic-id", "t", "--host", "http://h"],
        ["iggy", "--stream-id", "s", "--topic-id", "t", "--host", "h:8090"],
        ["googlepubsub", "--project-id", "p", "--subscription-id", "s", "--api-endpoint", "https://h"],
        ["googlepubsub", "--project-id", "p", "--subscription-id", "s", "--monitoring-endpoint", "h:x"],
        ["pulsar", "--service-url", "http://h:6650", "--topic", "t", "--subscription", "s"],
        ["pulsar", "--service-url", "pulsar://h:x", "--topic", "t", "--subscription", "s"],
        ["eventhubs", "--kafka-bootstrap-servers", "https://h:9093", "--fully-qualified-namespace",
         "n.servicebus.windows.net", "--eventhub-name", "h", "--no-checkpoint"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [[], ["status"]])
def test_each_system_checks_its_addresses_at_once(command: list[str], args: list[str]) -> None:
    """A wrong address is wrong use, which names its option, and no receipt is stored."""
    done = call(*command, *args, "--output", "json")
    assert done.exit_code == 2, done.output
    name = next(arg for arg in args if arg.split("-")[-1] in {"servers", "host", "endpoint", "url"})
    assert name in json.loads(done.stdout)["error"]
    assert not list(Path().iterdir())


def test_an_emulators_address_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """PUBSUB_EMULATOR_HOST with http:// is named before a connection is tried."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "http://localhost:8085")
    done = call("status", "googlepubsub", "--project-id", "p", "--subscription-id", "s")
    assert done.exit_code == 2
    assert "PUBSUB_EMULATOR_HOST: write HOST:PORT, without http://" in done.stderr


JAVA = {
    "sasl.jaas.config": (f'…PlainLoginModule required password="{SECRET}";', "sasl.username"),
    "ssl.truststore.location": ("/etc/t.jks", "ssl.ca.location"),
    "ssl.truststore.password": (SECRET, "ssl.ca.location"),
    "ssl.truststore.type": ("JKS", "PEM"),
    "ssl.keystore.type": ("JKS", "PKCS#12"),
    "bootstrap.servers": ("b:9092", "--bootstrap-servers"),
    "group.id": ("g", "--group-id"),
    "enable.auto.commit": ("true", "only be false"),
    "max.poll.records": ("500", "--batch-size"),
    "fetch.max.wait.ms": ("500", "fetch.wait.max.ms"),
    "receive.buffer.bytes": ("65536", "socket.receive.buffer.bytes"),
    "ssl.provider": ("BC", "OpenSSL"),
    "value.deserializer": ("org.example.D", "leave it out"),
    "isolation.level": ("read_committed", "read_uncommitted"),
}


@pytest.mark.parametrize("from_file", [False, True])
def test_javas_settings_are_answered_all_at_once(from_file: bool, tmp_path: Path) -> None:
    """Each setting that cannot be used is named with what does the same here, before any receipt."""
    if from_file:
        (tmp_path / "java.json").write_text(
            json.dumps({key: value for key, (value, _) in JAVA.items()})
        )
        args = ["--config-json", "java.json"]
    else:
        args = [word for key, (value, _) in JAVA.items() for word in ("-X", f"{key}={value}")]
    done = call(*KAFKA, "--bootstrap-servers", "b:9092", *args, "--stop-when-empty")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    for key, (_, hint) in JAVA.items():
        (line,) = (line for line in lines if line.strip().startswith(key))
        assert hint in line
    assert "-X: these settings cannot be used here:" in done.stderr
    assert "--settings" not in done.stderr
    assert SECRET not in done.stderr
    assert not Path("receipts").exists()


def test_settings_of_group_members_and_equal_values_are_taken() -> None:
    """What has no effect, or the value that is used anyway, is accepted and asked for by no undo."""
    settings = dict.fromkeys(NO_EFFECT, "x") | {
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_uncommitted",
        "security.protocol": "SSL",
    }
    made = KafkaOptions.model_validate(
        {"bootstrap_servers": "b:9092", "topic": "t", "group_id": "g", "settings": settings}
    )
    assert made.settings == {"security.protocol": "SSL"}
    assert made.withheld() == ()


PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
BASE = {"bootstrap_servers": "b:9092", "topic": "t", "group_id": "g"}


@pytest.mark.parametrize(
    "jaas",
    [
        f'{PLAIN} username="ops" password="{SECRET}";',
        f"{SCRAM}\n  password='{SECRET}'\n  username='ops' ;\n",
    ],
)
def test_a_java_login_by_user_and_password_is_understood(jaas: str) -> None:
    """`sasl.jaas.config` becomes user and password, and no text of the options has the password."""
    options, _ = build_options(KafkaOptions, {**BASE, "sasl.jaas.config": jaas})
    assert isinstance(options, KafkaOptions)
    assert options.settings == {"sasl.username": "ops", "sasl.password": SECRET}
    assert options.public()["settings"] == {"sasl.username": "ops"}
    assert options.withheld() == ("sasl.password",)
    assert SECRET not in redacted(f"{options!r} login failed for {SECRET}")


def test_a_reference_in_a_java_login_stays_a_reference() -> None:
    """The password is the variable's, whatever characters it has, and the receipt names the variable."""
    jaas = f'{SCRAM} username="ops" password="${{env:KAFKA_PASSWORD}}";'
    secret = 'a"b\\c;d' + SECRET
    options, _ = build_options(
        KafkaOptions, {**BASE, "sasl.jaas.config": jaas}, environ={"KAFKA_PASSWORD": secret}
    )
    assert isinstance(options, KafkaOptions)
    assert options.settings["sasl.password"] == secret
    assert options.public()["settings"]["sasl.password"] == "${env:KAFKA_PASSWORD}"
    assert options.withheld() == ()
    assert recorded_options(KafkaOptions, options.public())


@pytest.mark.parametrize(
    "jaas",
    [
        f'{SCRAM} username="ops" password="{SECRET}" tokenauth="true";',
        f'{PLAIN} username="ops" password="{SECRET}"',
        f'{PLAIN} username="ops" username="dev" password="{SECRET}";',
        f'{PLAIN} username="ops" password="{SECRET}\\"";',
        f'com.example.OwnModule required username="ops" password="{SECRET}";',
        f'{PLAIN} username="ops" password="{SECRET}"; {PLAIN} username="a" password="b";',
        'com.sun.security.auth.module.Krb5LoginModule required useKeyTab="true";',
    ],
)
def test_another_java_login_is_refused_with_what_does_the_same(jaas: str) -> None:
    """Delegation tokens, several modules, escapes and other modules are not guessed at."""
    with pytest.raises(UsageError, match="use sasl.username and sasl.password") as caught:
        build_options(KafkaOptions, {**BASE, "sasl.jaas.config": jaas})
    assert SECRET not in str(caught.value)


def test_a_java_login_beside_another_one_is_refused() -> None:
    """Two logins in one place are not one; a later layer's login replaces the one of a receipt."""
    java = {"sasl.jaas.config": f'{PLAIN} username="ops" password="{SECRET}";'}
    own = {"sasl.username": "dev", "sasl.password": "p"}
    with pytest.raises(UsageError, match="sasl.jaas.config"):
        build_options(KafkaOptions, {**BASE, **java, **own})
    options, _ = build_options(KafkaOptions, {**BASE, **own}, {"settings": java})
    assert isinstance(options, KafkaOptions)
    assert options.settings == {"sasl.username": "ops", "sasl.password": SECRET}


@pytest.mark.parametrize(
    ("java", "here"),
    [
        (
            {"ssl.truststore.type": "PEM", "ssl.truststore.location": "ca.pem"},
            {"ssl.ca.location": "ca.pem"},
        ),
        (
            {"ssl.truststore.type": "pem", "ssl.truststore.certificates": "C"},
            {"ssl.ca.pem": "C"},
        ),
        (
            {"ssl.keystore.type": "PEM", "ssl.keystore.location": "me.pem"},
            {"ssl.certificate.location": "me.pem", "ssl.key.location": "me.pem"},
        ),
        (
            {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": "C",
                "ssl.keystore.key": "K",
            },
            {"ssl.certificate.pem": "C", "ssl.key.pem": "K"},
        ),
        (
            {"ssl.keystore.type": "PKCS12", "ssl.keystore.location": "me.p12"},
            {"ssl.keystore.location": "me.p12"},
        ),
        (
            {"ssl.endpoint.identification.algorithm": ""},
            {"ssl.endpoint.identification.algorithm": "none"},
        ),
    ],
)
def test_stores_of_java_that_librdkafka_has_too_are_understood(
    java: dict[str, str], here: dict[str, str]
) -> None:
    """Stores of PEM and PKCS12, and an empty algorithm for no check of names, mean the same as in Java."""
    options, _ = build_options(KafkaOptions, {**BASE, "settings": java})
    assert isinstance(options, KafkaOptions)
    assert options.settings == here


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("orders.*", "a pattern"),
        ("^orders", "a pattern"),
        ("orders,pay-*", "a pattern"),
        ("orders billing", "not the name of a topic"),
        ("orders;billing", "not the name of a topic"),
    ],
)
def test_a_pattern_instead_of_a_topic_is_named(topic: str, hint: str) -> None:
    """Patterns are not expanded: the error states it, where librdkafka would find no such topic."""
    args = ["--bootstrap-servers", "b:9092", "--topic", topic, "--group-id", "g"]
    done = call("status", "kafka", *args)
    assert done.exit_code == 2
    assert f"is {hint}" in done.stderr
    assert "--topic" in done.stderr

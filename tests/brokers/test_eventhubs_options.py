"""What a user can give for Event Hubs, and what is refused before anything is connected."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.eventhubs.notes import without_options
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.sdk import SUPPORTED, check_version
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.options.base import build
from backlog_clearer.run.job import Job
from backlog_clearer.run.status import status
from backlog_clearer.testing.servers.eventhubs import KEY, EventHubsServer
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import clear, run_options

pytestmark = pytest.mark.timeout(300)

EMULATOR = (
    "Endpoint=sb://127.0.0.1;SharedAccessKeyName=RootManageSharedAccessKey;"
    f"SharedAccessKey={KEY};UseDevelopmentEmulator=true;"
)
"""The emulator's documented connection string, which names no port."""


def options_of(text: str, **more: Any) -> EventHubsOptions:
    """Options with a connection string."""
    return build(EventHubsOptions, {"connection_string": text, "eventhub_name": "orders", **more})


@pytest.mark.parametrize(
    ("text", "port"),
    [(EMULATOR, 5672), (EMULATOR.replace("UseDevelopmentEmulator=true;", ""), 5671)],
)
def test_a_namespace_without_a_port_has_that_of_its_kind(text: str, port: int) -> None:
    """The emulator listens on 5672, without TLS; the service on 5671."""
    assert options_of(text).port == port


def test_the_emulators_documented_string_reaches_it(tmp_path: Path) -> None:
    """Without a port in the connection string the emulator on 5672 is surveyed and drained."""
    try:
        emulator = EventHubsServer(5672)
    except OSError:
        pytest.skip("port 5672 is in use")
    try:
        emulator.create("orders", 2)
        emulator.produce("orders", 0, 10)
        with closing(open_source(options_of(EMULATOR), run_options(tmp_path), "run")) as source:
            assert [state.backlog for state in source.survey().partitions] == [10, 0]
    finally:
        emulator.stop()


def test_errors_name_the_emulator(tmp_path: Path) -> None:
    """An emulator that is not running is named as that, with its port."""
    text = EMULATOR.replace("127.0.0.1", "127.0.0.1:1")
    source = open_source(options_of(text), run_options(tmp_path), "run")
    with closing(source), pytest.raises(BrokerError, match="the Event Hubs emulator at 127.0.0.1:1"):
        source.survey()


@pytest.mark.parametrize(("name", "path"), [("orders", "invoices"), ("Orders", "order")])
def test_an_entity_path_that_contradicts_the_name_is_refused(name: str, path: str) -> None:
    """Two different Event Hubs are wrong use, reported without the key."""
    text = f"{EMULATOR}EntityPath={path}"
    with pytest.raises(UsageError, match=f"{name!r}, but .* EntityPath {path!r}") as caught:
        options_of(text, eventhub_name=name)
    assert KEY not in str(caught.value)


def test_an_entity_path_in_another_case_is_the_same_event_hub() -> None:
    """Names of Event Hubs do not depend on their case; the name that was given is used."""
    assert options_of(f"{EMULATOR}EntityPath=ORDERS").hub == "orders"


@pytest.mark.parametrize("version", ["5.14.0", "5.15.1", "5.15.99"])
def test_versions_that_were_run_are_accepted(version: str) -> None:
    """Every patch of a supported minor version is accepted."""
    check_version(version)


@pytest.mark.parametrize("version", ["5.13.0", "5.16.0", "6.0.0", "5.1.4", "5.150"])
def test_other_versions_are_refused_with_those_that_work(version: str) -> None:
    """A version that was not run is wrong use, with the command that installs one that was."""
    with pytest.raises(UsageError) as caught:
        check_version(version)
    assert version in str(caught.value)
    assert all(minor in str(caught.value) for minor in SUPPORTED)
    assert "pip install 'azure-eventhub>=5.14,<5.16'" in str(caught.value)


def with_version_5_99(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with another azure-eventhub's metadata in `path`."""
    fake = path / "azure_eventhub-5.99.0.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: azure-eventhub\nVersion: 5.99.0\n")
    command = [sys.executable, "-m", "backlog_clearer", "status", "eventhubs", *args]
    paths = ":".join([str(path), *sys.path])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={"PYTHONPATH": paths}
    )


def test_another_version_is_an_error_of_the_amqp_reader(tmp_path: Path) -> None:
    """With another azure-eventhub, --reader amqp ends with 2, one sentence and no traceback."""
    args = ["--connection-string", EMULATOR, "--eventhub-name", "orders", "--reader", "amqp"]
    done = with_version_5_99(tmp_path, *args)
    assert done.returncode == 2, done.stderr
    assert "azure-eventhub 5.99.0 is installed" in done.stderr
    assert "use --reader client" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_version_is_used_by_its_public_client(bench: EventHubsBench, tmp_path: Path) -> None:
    """With another azure-eventhub, --reader auto reports the backlog, and a note gives the reason."""
    bench.produce(1, 7)
    args = ["--connection-string", bench.server.connection_string(), "--eventhub-name", bench.hub]
    done = with_version_5_99(tmp_path, *args, "--no-checkpoint", "--output", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["totals"]["backlog"] == 7
    (note,) = [note for note in shown["notes"] if "5.99.0" in note]
    assert "slow" in note


def test_status_does_not_ask_the_kafka_endpoint(
    bench: EventHubsBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two million events, status and a dry run do not use the Kafka endpoint; a run does."""
    bench.produce(0, 2_000_000)
    asked: list[object] = []

    def check(_: object, before: object) -> None:
        asked.append(before)
        raise BrokerError("It does not answer. Check -X security.protocol and --bootstrap-servers.")

    monkeypatch.setattr("backlog_clearer.brokers.eventhubs.kafka_lane.KafkaEndpoint.check", check)
    run = run_options(tmp_path)
    shown = status(Job("eventhubs", bench.options_of(), run, "run"))
    assert any("if it answers when the run begins" in note for note in shown.notes)
    assert clear(bench, run_options(tmp_path, dry_run=True)).totals.backlog == 2_000_000
    assert asked == []
    result = clear(bench, run)
    assert result.cleared
    assert len(asked) == 1
    (note,) = [note for note in result.notes if "over AMQP, because" in note]
    assert note.endswith("cannot be used: It does not answer.")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A. Check --group-id. B.", "A. B."),
        ("Use -X sasl.mechanism.", "it does not answer as expected."),
        ("a-b - c", "a-b - c"),
    ],
)
def test_sentences_with_options_of_kafka_are_left_out(text: str, kept: str) -> None:
    """Only sentences that name an option are left out; a hyphen is not one."""
    assert without_options(text) == kept

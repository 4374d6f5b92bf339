"""Faults of Event Hubs and Blob Storage, and the results of runs that meet them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventHubConsumerClient

from backlog_clearer.brokers.eventhubs import connection as eventhubs_connection
from backlog_clearer.brokers.eventhubs import counting as eventhubs_counting
from backlog_clearer.brokers.eventhubs import management as eventhubs_management
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, RefusedError, TransientError, UsageError
from backlog_clearer.model import Mode, Partition, StopReason
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.restore import restore_source
from backlog_clearer.run.verdict import exit_code
from backlog_clearer.testing.servers.eventhubs import (
    BUSY,
    DETACH_FORCED,
    KEY,
    STOLEN,
    EventHubsServer,
    offset_of,
)
from backlog_clearer.testing.support import free_port, wait_until
from tests.brokers.test_eventhubs import EventHubsBench, bench, processor, server  # noqa: F401 fixtures

pytestmark = pytest.mark.timeout(300)  # every refusal has its own bound; this one is for hangs


def run_options(tmp_path: Path, **changes: Any) -> RunOptions:
    """Options of a run that clears everything."""
    values: dict[str, Any] = {"stop_when_empty": True, "receipt_dir": str(tmp_path), "max_seconds": 300}
    return RunOptions(**{**values, **changes})


def clear(
    bench: EventHubsBench, run: RunOptions, callbacks: Callbacks | None = None, **changes: Any
) -> Any:
    """One whole run."""
    options = bench.options_of(**changes)
    with closing(open_source(options, run, "run")) as source:
        job = Job("eventhubs", options, run, "run")
        return clear_source(source, job, callbacks or Callbacks(), Halt())


def survey_of(options: EventHubsOptions, tmp_path: Path) -> Any:
    """The adapter's survey."""
    with closing(open_source(options, run_options(tmp_path), "run")) as source:
        return source.survey()


def fill(bench: EventHubsBench, count: int = 1000) -> None:
    """Put a backlog into every partition."""
    for number in range(bench.partitions):
        bench.produce(number, count)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_processor_started_afterwards_gets_only_new_events(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """After clearing, the SDK's own processor resumes behind the backlog: the proof of a checkpoint."""
    fill(bench)
    assert clear(bench, run_options(tmp_path, mode=mode)).cleared
    received: list[tuple[str, int]] = []
    with processor(bench, received):
        fill(bench, 7)
        wait_until(lambda: len(received) >= 7 * bench.partitions, "the new events")
    assert sorted(received) == [(str(n), 1000 + i) for n in range(bench.partitions) for i in range(7)]


def test_checkpoints_are_exactly_those_of_the_sdk(bench: EventHubsBench, tmp_path: Path) -> None:
    """A checkpoint has the SDK's name and metadata, .NET's client identifier, and no content."""
    fill(bench)
    clear(bench, run_options(tmp_path, mode=Mode.SKIP))
    names = [blob.name for blob in bench.container.list_blobs()]
    path = f"{bench.server.namespace}/{bench.hub.lower()}/$default/checkpoint"
    assert names == [f"{path}/{number}" for number in range(bench.partitions)]
    properties = bench.container.get_blob_client(names[0]).get_blob_properties()
    assert properties.metadata == {
        "offset": offset_of(999),
        "sequencenumber": "999",
        "clientidentifier": "backlog-clearer/run",
    }
    assert properties.size == 0


def test_empty_partitions_get_no_checkpoint(bench: EventHubsBench, tmp_path: Path) -> None:
    """A partition without events gets no checkpoint, since there is no event that it could name."""
    bench.produce(1, 10)
    result = clear(bench, run_options(tmp_path, mode=Mode.SKIP))
    assert result.cleared
    assert set(bench.checkpoints()) == {1}


def test_expired_events_are_not_in_the_backlog(bench: EventHubsBench, tmp_path: Path) -> None:
    """Events that retention deleted are neither counted nor waited for."""
    fill(bench)
    bench.log.partitions[0].begin = 990  # most are gone
    bench.log.partitions[1].begin = 1000  # all are gone
    result = clear(bench, run_options(tmp_path))
    assert (result.totals.backlog, result.totals.messages) == (1010, 1010)
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_a_checkpoint_beyond_the_end_is_reported_and_the_others_are_cleared(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A checkpoint from before the Event Hub was created again is an error of its partition only."""
    fill(bench, 100)
    store = f"{bench.server.namespace}/{bench.hub}/$Default/checkpoint/0".lower()
    old = {"offset": offset_of(5000), "sequencenumber": "5000"}
    bench.container.upload_blob(store, b"", metadata=old)
    result = clear(bench, run_options(tmp_path))
    assert [bool(item.error) for item in result.partitions] == [True, False, False]
    assert "created again" in (result.partitions[0].error or "")
    assert not result.cleared
    assert bench.checkpoints()[0] == old
    assert bench.left()[1] == bench.left()[2] == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_a_refused_checkpoint_is_its_partitions_error(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """A blob that cannot be written keeps its content, and its partition carries the error."""
    fill(bench, 100)
    clear(bench, run_options(tmp_path, max_messages=30, workers=1))
    fill(bench, 100)
    name = f"{bench.server.namespace}/{bench.hub}/$Default/checkpoint/1".lower()
    blob = bench.container.get_blob_client(name)
    if not blob.exists():
        blob.upload_blob(b"", metadata={"offset": offset_of(3), "sequencenumber": "3"})
    before = blob.get_blob_properties().metadata
    blob.acquire_lease()
    result = clear(bench, run_options(tmp_path / "another-run", mode=mode, workers=3))
    assert "leaseidmissing" in (result.partitions[1].error or "")
    assert not result.cleared
    assert blob.get_blob_properties().metadata == before
    if mode is Mode.SKIP:
        assert (bench.left()[0], bench.left()[2]) == (0, 0)


def test_a_wrong_key_is_refused_without_showing_it(bench: EventHubsBench, tmp_path: Path) -> None:
    """A wrong key is reported as a refused sign-in, with neither key in the text."""
    options = bench.options_of(connection_string=bench.server.connection_string("c2VjcmV0"))
    with pytest.raises(BrokerError, match="refused the sign-in") as caught:
        survey_of(options, tmp_path)
    assert "c2VjcmV0" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("at_cbs", [True, False])
def test_a_missing_hub_is_named(bench: EventHubsBench, tmp_path: Path, at_cbs: bool) -> None:
    """A missing Event Hub is named, at whichever step the service refuses it."""
    bench.server.faults.missing_hub_at_cbs = at_cbs
    with pytest.raises(UsageError, match="no Event Hub 'nowhere'"):
        survey_of(bench.options_of(eventhub_name="nowhere"), tmp_path)


def test_a_missing_consumer_group_is_named(bench: EventHubsBench, tmp_path: Path) -> None:
    """A mistyped consumer group is named, although its management requests all succeed."""
    with pytest.raises(UsageError, match="a consumer group 'billin'"):
        survey_of(bench.options_of(consumer_group="billin"), tmp_path)


def test_a_missing_container_is_named_and_not_created(bench: EventHubsBench, tmp_path: Path) -> None:
    """A mistyped container is named and not created."""
    with pytest.raises(UsageError, match="no blob container .*/nowhere"):
        survey_of(bench.options_of(checkpoint_container="nowhere"), tmp_path)
    with pytest.raises(UsageError, match="nowhere"):
        survey_of(bench.options_of(checkpoint_container="nowhere"), tmp_path)


def test_a_wrong_storage_key_is_refused_without_showing_it(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A wrong storage key is reported as refused access, without the key."""
    wrong = bench.storage.connection_string.replace("AccountKey=Eby8", "AccountKey=AAAA")
    with pytest.raises(BrokerError, match="refused access") as caught:
        survey_of(bench.options_of(checkpoint_store=wrong), tmp_path)
    assert "AAAA" not in str(caught.value)


def test_an_unreachable_namespace_is_named(bench: EventHubsBench, tmp_path: Path) -> None:
    """An address on which nothing listens is named in the error."""
    port = free_port()
    text = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=k;SharedAccessKey={KEY};"
    options = bench.options_of(connection_string=text + "UseDevelopmentEmulator=true")
    with pytest.raises(BrokerError, match=f"127.0.0.1:{port} cannot be reached"):
        survey_of(options, tmp_path)


def test_an_unreachable_store_is_named(bench: EventHubsBench, tmp_path: Path) -> None:
    """The address of a storage account that does not answer is in the error."""
    port = free_port()
    text = bench.storage.connection_string.replace(str(bench.storage.blob_port), str(port))
    with pytest.raises(BrokerError, match=f"127.0.0.1:{port}/devstoreaccount1 cannot be reached"):
        survey_of(bench.options_of(checkpoint_store=text), tmp_path)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_silent_service_does_not_hold_the_survey(
    bench: EventHubsBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """A service that stops answering, at the first or a later step, ends in an error."""
    monkeypatch.setattr(eventhubs_connection, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(eventhubs_counting, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(eventhubs_management, "TIMEOUT_S", 1.0)
    bench.server.faults.silent_after = after
    with pytest.raises(BrokerError, match="did not answer|cannot be reached|in time|timed-out"):
        survey_of(bench.options_of(), tmp_path)


def test_throttled_management_is_transient(bench: EventHubsBench, tmp_path: Path) -> None:
    """ServerBusy from the management node is a transient error."""
    bench.server.faults.management.append((503, "com.microsoft:server-busy"))
    with pytest.raises(TransientError, match="orders|Orders"):
        survey_of(bench.options_of(), tmp_path)


def test_throttled_links_are_tried_again(bench: EventHubsBench, tmp_path: Path) -> None:
    """ServerBusy while attaching is retried, and the backlog is cleared."""
    fill(bench)

    def throttle(_: object) -> bool:
        bench.server.faults.attach.append((BUSY, "The request was terminated because of throttling."))
        return True

    result = clear(bench, run_options(tmp_path), Callbacks(confirm=throttle))
    assert result.cleared
    assert result.totals.retries == 1
    assert bench.left() == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("kind", ["detached", "dropped"])
def test_a_break_in_the_middle_loses_and_doubles_nothing(
    bench: EventHubsBench, tmp_path: Path, kind: str
) -> None:
    """Detached links and broken connections are opened again at the checkpoint."""
    fill(bench, 5000)

    def harm(_: object) -> bool:
        for after in (300, 4100, 2500):
            if kind == "detached":
                bench.server.faults.detach_after.append((after, DETACH_FORCED, "The partition moved."))
            else:
                bench.server.faults.drop_after.append(after)
        return True

    result = clear(bench, run_options(tmp_path, workers=2), Callbacks(confirm=harm))
    assert result.cleared
    assert result.totals.retries >= 2
    assert result.totals.messages == 15_000
    assert bench.left() == {0: 0, 1: 0, 2: 0}


def test_a_stolen_link_ends_the_run_with_what_to_do(bench: EventHubsBench, tmp_path: Path) -> None:
    """A stolen link is not taken back: the run stops, names the option, and keeps its checkpoints."""
    fill(bench, 5000)

    def harm(_: object) -> bool:
        text = (
            "New receiver with higher epoch of '1' is created hence current receiver is disconnected."
        )
        bench.server.faults.detach_after.append((1200, STOLEN, text))
        return True

    result = clear(bench, run_options(tmp_path, workers=1), Callbacks(confirm=harm))
    assert (result.stop_reason, result.cleared) == (StopReason.FAILED, False)
    assert "--owner-level" in (result.error or "")
    assert sum(bench.left().values()) + result.totals.messages == 15_000


def test_a_reader_with_an_owner_level_is_found_and_can_be_disconnected(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A real exclusive reader without a checkpoint store refuses its partition, and can be disconnected."""
    fill(bench, 100)
    client = EventHubConsumerClient.from_connection_string(
        bench.server.connection_string(), "$Default", eventhub_name=bench.hub, retry_total=0
    )
    reader = threading.Thread(
        target=lambda: client.receive(
            lambda *_: None, partition_id="1", owner_level=3, starting_position="@latest"
        ),
        daemon=True,
    )
    reader.start()
    try:
        wait_until(lambda: ("1", 3) in bench.server.readers(), "the exclusive reader")
        with pytest.raises(RefusedError, match=f"{bench.hub}.1."):
            clear(bench, run_options(tmp_path))
        assert bench.checkpoints() == {}
        other = clear(bench, run_options(tmp_path, slice="0/3"))
        assert (other.cleared, list(bench.checkpoints())) == (True, [0])
        result = clear(bench, run_options(tmp_path, force=True), owner_level=9)
        assert result.cleared
        assert ("$Default", "1", 9) in bench.server.attached
    finally:
        client.close()
        reader.join(30)


def test_live_processors_are_refused_and_named(bench: EventHubsBench, tmp_path: Path) -> None:
    """A running processor refuses the run; with --force, a note warns that it overwrites checkpoints."""
    received: list[tuple[str, int]] = []
    with processor(bench, received):
        fill(bench, 20)
        wait_until(lambda: len(received) == 60, "the processor at work")
        blobs = bench.container.list_blobs(include=["metadata"])
        owners = {blob.metadata["ownerid"] for blob in blobs if "/ownership/" in blob.name}
        (owner,) = owners
        with pytest.raises(RefusedError, match=owner):
            clear(bench, run_options(tmp_path, mode=Mode.SKIP))
        assert bench.checkpoints() == {}
        result = clear(bench, run_options(tmp_path, mode=Mode.SKIP, force=True))
        assert result.verified
        assert any("overwrite" in note for note in result.notes)
        assert bench.left() == {0: 0, 1: 0, 2: 0}
    assert survey_of(bench.options_of(), tmp_path).live == ()


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_store_it_counts_and_claims_nothing(
    bench: EventHubsBench, tmp_path: Path, asked: bool
) -> None:
    """With no checkpoint store the events are counted, no blob is written and nothing is called cleared."""
    fill(bench)
    none: dict[str, Any] = {
        "checkpoint_store": None,
        "checkpoint_container": None,
        "no_checkpoint": asked,
    }
    result = clear(bench, run_options(tmp_path, workers=16, batch_size=1000), **none)
    assert result.totals.messages == 3000
    assert (result.verified, result.cleared) == (None, False)
    assert (result.verdict, result.changed, exit_code(result)) == ("counted", False, 0 if asked else 1)
    assert list(bench.container.list_blobs()) == []
    notes = " ".join(result.notes)
    assert ("--no-checkpoint: this only drains and counts; nothing changes" in notes) is asked
    assert ("--checkpoint-store" in notes) is not asked


def test_skip_without_a_store_is_a_usage_error(bench: EventHubsBench, tmp_path: Path) -> None:
    """Skipping without a checkpoint store is wrong use, reported before a connection is made."""
    with pytest.raises(UsageError, match="--checkpoint-store"):
        clear(
            bench,
            run_options(tmp_path, mode=Mode.SKIP),
            checkpoint_store=None,
            checkpoint_container=None,
        )


def test_functions_leases_are_the_position_until_a_checkpoint_is_written(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Functions: an old lease is the position until a checkpoint exists, and restore removes the checkpoint."""
    fill(bench)
    container = bench.container
    lease = (
        b'{"PartitionId":"0","Owner":"o","Token":"t","Epoch":3,'
        b'"Offset":"' + offset_of(899).encode() + b'","SequenceNumber":899}'
    )
    container.upload_blob(f"{bench.server.namespace}/{bench.hub}/$Default/0", lease)
    functions: dict[str, Any] = {"checkpoint_format": "functions"}
    result = clear(bench, run_options(tmp_path), **functions)
    assert (result.cleared, result.totals.messages) == (True, 2100)
    assert bench.left() == {0: 0, 1: 0, 2: 0}
    receipt = load(result.receipt)
    options = bench.options_of(**functions)
    run = run_options(tmp_path)
    with closing(open_source(options, run, "back")) as source:
        job = Job("eventhubs", options, run, "back")
        back = restore_source(source, job, original_positions([receipt]), receipt.identity, Callbacks())
    assert back.cleared
    assert bench.checkpoints() == {}
    assert survey_of(options, tmp_path).partitions[0].backlog == 100


def test_functions_have_their_own_container(bench: EventHubsBench) -> None:
    """Functions' checkpoints lie in azure-webjobs-eventhub unless another container is named."""
    options = bench.options_of(checkpoint_format="functions", checkpoint_container=None)
    assert options.container == "azure-webjobs-eventhub"


def test_checkpoints_of_other_sdks_are_restored_as_they_were(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A .NET checkpoint with only a sequence number is read, cleared and put back."""
    fill(bench, 100)
    name = f"{bench.server.namespace}/{bench.hub}/$Default/checkpoint/2".lower()
    old = {"offset": "", "sequencenumber": "39", "clientidentifier": "dotnet"}
    bench.container.upload_blob(name, b"", metadata=old)
    run = run_options(tmp_path)
    result = clear(bench, run)
    assert result.totals.messages == 260
    receipt = load(result.receipt)
    with closing(open_source(bench.options_of(), run, "back")) as source:
        job = Job("eventhubs", bench.options_of(), run, "back")
        assert restore_source(
            source, job, original_positions([receipt]), receipt.identity, Callbacks()
        ).cleared
    blob = bench.container.get_blob_client(name).get_blob_properties()
    assert blob.metadata == old
    assert set(bench.checkpoints()) == {2}


def test_large_events_are_counted_once(bench: EventHubsBench, tmp_path: Path) -> None:
    """An event that takes several frames is one event."""
    bench.log.body = b"x" * 250_000
    fill(bench, 12)
    result = clear(bench, run_options(tmp_path))
    assert (result.cleared, result.totals.messages) == (True, 36)
    assert result.totals.bytes > 36 * 250_000


def test_receipts_hold_no_secret(bench: EventHubsBench, tmp_path: Path) -> None:
    """Neither the namespace's key nor the storage account's is in anything that is stored."""
    fill(bench, 10)
    clear(bench, run_options(tmp_path))
    stored = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert bench.server.namespace in stored
    assert KEY not in stored
    assert "Eby8vdM0" not in stored


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[EventHubsServer]:
    """The AMQP server behind TLS, with the certificate authority in `ca.pem`."""
    from backlog_clearer.testing.servers.kafka import _tls  # noqa: PLC0415 one authority for every test server

    _tls(tmp_path)
    import ssl  # noqa: PLC0415

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = EventHubsServer(tls=context)
    yield server
    server.stop()


def test_tls_through_a_custom_endpoint(
    tls_server: EventHubsServer, bench: EventHubsBench, tmp_path: Path
) -> None:
    """Over TLS, and through an endpoint that is not the namespace, everything is cleared."""
    tls_server.hubs[bench.hub] = bench.server.hubs[bench.hub]
    fill(bench, 4000)
    text = f"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey={KEY}"
    result = clear(
        bench,
        run_options(tmp_path / "receipts"),
        connection_string=text,
        custom_endpoint_address=f"sb://127.0.0.1:{tls_server.port}",
        connection_verify=str(tmp_path / "ca.pem"),
    )
    assert (result.cleared, result.totals.messages) == (True, 12_000)
    names = list(bench.container.list_blob_names())
    assert names[0] == f"ns.servicebus.windows.net/{bench.hub.lower()}/$default/checkpoint/0"


def test_partitions_are_named_by_hub_and_number(bench: EventHubsBench, tmp_path: Path) -> None:
    """A partition is the Event Hub's name and the partition id."""
    states = survey_of(bench.options_of(), tmp_path).partitions
    assert [state.partition for state in states] == [Partition(bench.hub, n) for n in range(3)]

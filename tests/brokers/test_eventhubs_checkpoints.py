"""Checkpoint blobs as each SDK spells them: found, moved, verified and restored as they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas

from backlog_clearer.brokers.eventhubs.blobs import RECORD, account_url, recorded_blobs
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.source import open_source
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.model import Mode, Position
from backlog_clearer.options.base import build
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.restore import restore_source
from backlog_clearer.testing.servers.azurite import ACCOUNT
from backlog_clearer.testing.servers.azurite import KEY as STORAGE_KEY
from backlog_clearer.testing.servers.eventhubs import offset_of
from tests.brokers.test_eventhubs import EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import clear, fill, run_options, survey_of

pytestmark = pytest.mark.timeout(300)


def spelled(bench: EventHubsBench, number: int, kind: str = "checkpoint") -> str:
    """The name of a blob as Go and Java spell it."""
    return f"{bench.server.namespace}/{bench.hub}/$Default/{kind}/{number}"


def put(bench: EventHubsBench, name: str, number: int, **more: str) -> dict[str, str]:
    """Write a checkpoint blob at a sequence number; returns its metadata."""
    metadata = {"offset": offset_of(number), "sequencenumber": str(number), **more}
    bench.container.upload_blob(name, b"", metadata=metadata, overwrite=True)
    return metadata


def stored(bench: EventHubsBench) -> dict[str, dict[str, str]]:
    """Every blob in the container with its metadata."""
    names = [blob.name for blob in bench.container.list_blobs()]
    return {
        name: dict(bench.container.get_blob_client(name).get_blob_properties().metadata)
        for name in names
    }


def numbers(bench: EventHubsBench) -> dict[str, int]:
    """The sequence number in every blob."""
    return {
        name: int({key.lower(): value for key, value in metadata.items()}["sequencenumber"])
        for name, metadata in stored(bench).items()
    }


def undo(bench: EventHubsBench, tmp_path: Path, result: Any, **changes: Any) -> Any:
    """Restore a run's receipt."""
    receipt = load(result.receipt)
    options, run = bench.options_of(**changes), run_options(tmp_path)
    with closing(open_source(options, run, "back")) as source:
        job = Job("eventhubs", options, run, "back")
        return restore_source(source, job, original_positions([receipt]), receipt.identity, Callbacks())


@pytest.mark.parametrize("mode", list(Mode))
def test_checkpoints_are_found_moved_and_restored_whatever_their_case(
    bench: EventHubsBench, tmp_path: Path, mode: Mode
) -> None:
    """Blobs that keep the case are the position; they, and no other blob, are moved and brought back."""
    fill(bench, 100)
    before = {spelled(bench, n): put(bench, spelled(bench, n), 39 + n) for n in range(3)}
    found = survey_of(bench.options_of(), tmp_path)
    assert [state.backlog for state in found.partitions] == [60, 59, 58]
    assert any(f"/{bench.hub}/$Default/checkpoint/<partition>." in note for note in found.notes)
    result = clear(bench, run_options(tmp_path, mode=mode))
    assert (result.cleared, result.verified) == (True, True)
    assert result.totals.messages == (177 if mode is Mode.CONSUME else 0)
    assert numbers(bench) == dict.fromkeys(before, 99)
    back = undo(bench, tmp_path, result)
    assert (back.cleared, back.verified) == (True, True)
    assert stored(bench) == before


def test_a_new_checkpoint_is_spelled_as_the_others_of_its_group(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A partition without a checkpoint gets one where the group's processors look for it."""
    fill(bench, 100)
    before = {spelled(bench, 0): put(bench, spelled(bench, 0), 39)}
    result = clear(bench, run_options(tmp_path))
    assert numbers(bench) == {spelled(bench, n): 99 for n in range(3)}
    assert undo(bench, tmp_path, result).cleared
    assert stored(bench) == before


def test_all_spellings_of_one_checkpoint_are_moved(bench: EventHubsBench, tmp_path: Path) -> None:
    """With two blobs of one partition the one furthest behind counts, and both are moved and restored."""
    fill(bench, 100)
    lower, kept = bench.checkpoint(1), spelled(bench, 1)
    before = {lower: put(bench, lower, 80, clientidentifier="net"), kept: put(bench, kept, 39)}
    found = survey_of(bench.options_of(), tmp_path)
    assert found.partitions[1].backlog == 60
    assert any("1 partition with several checkpoint blobs" in note for note in found.notes)
    result = clear(bench, run_options(tmp_path, partitions="1"))
    assert (result.cleared, result.totals.messages) == (True, 60)
    assert numbers(bench) == {lower: 99, kept: 99}
    assert undo(bench, tmp_path, result).verified
    assert stored(bench) == before


def test_names_of_metadata_are_read_in_any_case_and_kept(bench: EventHubsBench, tmp_path: Path) -> None:
    """Metadata named `SequenceNumber` is a position, is moved under that name, and comes back."""
    fill(bench, 100)
    old = {"Offset": offset_of(39), "SequenceNumber": "39", "note": "ours"}
    bench.container.upload_blob(bench.checkpoint(0), b"", metadata=old)
    result = clear(bench, run_options(tmp_path, partitions="0"))
    assert (result.cleared, result.totals.messages) == (True, 60)
    moved = stored(bench)[bench.checkpoint(0)]
    assert moved == {
        "Offset": offset_of(99),
        "SequenceNumber": "99",
        "note": "ours",
        "clientidentifier": "backlog-clearer/run",
    }
    assert undo(bench, tmp_path, result).verified
    assert stored(bench) == {bench.checkpoint(0): old}


@pytest.mark.parametrize(
    "old",
    [
        {"offset": "no offset", "sequencenumber": "39", "clientidentifier": "net-1"},
        {"offset": "", "sequencenumber": "39"},
        {"sequencenumber": "39"},
        {
            "offset": offset_of(39),
            "sequencenumber": "-9223372036854775808",
            "clientidentifier": "net-1",
        },
    ],
)
def test_the_whole_old_metadata_comes_back(
    bench: EventHubsBench, tmp_path: Path, old: dict[str, str]
) -> None:
    """What .NET writes beside a position, and in place of an offset, is restored as it was."""
    fill(bench, 100)
    bench.container.upload_blob(bench.checkpoint(2), b"", metadata=old)
    result = clear(bench, run_options(tmp_path, partitions="2"))
    assert (result.cleared, result.totals.messages) == (True, 60)
    assert numbers(bench) == {bench.checkpoint(2): 99}
    assert undo(bench, tmp_path, result).verified
    assert stored(bench) == {bench.checkpoint(2): old}


def test_owners_are_live_whatever_their_case(bench: EventHubsBench, tmp_path: Path) -> None:
    """A fresh ownership that keeps the case is a running processor: the run is refused by its name."""
    fill(bench, 100)
    before = {spelled(bench, 0): put(bench, spelled(bench, 0), 39)}
    owner = spelled(bench, 0, "ownership")
    bench.container.upload_blob(owner, b"", metadata={"OwnerId": "go-1"})
    with pytest.raises(RefusedError, match="processor go-1"):
        clear(bench, run_options(tmp_path))
    assert stored(bench) == {**before, owner: {"OwnerId": "go-1"}}


Arrange = Callable[[EventHubsBench], str]


def _group(bench: EventHubsBench) -> str:
    put(bench, f"{bench.server.namespace}/{bench.hub}/billing/checkpoint/0".lower(), 39)
    return "consumer group billing"


def _alias(bench: EventHubsBench) -> str:
    put(bench, f"alias.servicebus.windows.net/{bench.hub}/$Default/checkpoint/0".lower(), 39)
    return "namespace alias.servicebus.windows.net"


def _hub(bench: EventHubsBench) -> str:
    put(bench, f"{bench.server.namespace}/invoices/$default/checkpoint/0", 39)
    return "Event Hub invoices"


def _functions(bench: EventHubsBench) -> str:
    lease = b'{"Offset":"640","SequenceNumber":10}'
    bench.container.upload_blob(f"{bench.server.namespace}/{bench.hub}/$Default/0", lease)
    return "--checkpoint-format functions"


def _host(bench: EventHubsBench) -> str:
    bench.container.upload_blob("$Default/0", b'{"Offset":"640","SequenceNumber":10}')
    return "Event Processor Host"


@pytest.mark.parametrize("arrange", [_group, _alias, _hub, _functions, _host])
def test_a_group_without_a_checkpoint_is_refused_where_others_have_some(
    bench: EventHubsBench, tmp_path: Path, arrange: Arrange
) -> None:
    """The refusal names what is there and writes nothing; --new still clears the group."""
    fill(bench, 100)
    text = arrange(bench)
    before = stored(bench)
    found = survey_of(bench.options_of(), tmp_path)
    assert found.doubt is not None
    with pytest.raises(RefusedError, match=r"--new") as refused:
        clear(bench, run_options(tmp_path))
    assert text in str(refused.value)
    assert stored(bench) == before
    result = clear(bench, run_options(tmp_path, new=True))
    assert result.cleared
    assert bench.left() == {0: 0, 1: 0, 2: 0}
    assert any("Nothing was ever stored under the name" in note for note in result.notes)


def test_the_backlogs_of_other_groups_are_named(bench: EventHubsBench, tmp_path: Path) -> None:
    """Where a group has no checkpoint, the groups of this Event Hub that have a backlog are listed."""
    fill(bench, 100)
    _group(bench)
    notes = " ".join(survey_of(bench.options_of(), tmp_path).notes)
    assert "names with a backlog there: 'billing' (260 events)" in notes


def test_an_empty_container_refuses_nothing(bench: EventHubsBench, tmp_path: Path) -> None:
    """The first group of a container is cleared without --new, and a note reports that it is new."""
    fill(bench, 100)
    found = survey_of(bench.options_of(), tmp_path)
    assert found.doubt is None
    assert any("no other name has a backlog there" in note for note in found.notes)
    assert clear(bench, run_options(tmp_path)).cleared


def test_undo_deletes_only_what_the_tool_wrote(bench: EventHubsBench, tmp_path: Path) -> None:
    """A checkpoint that a processor wrote since stays as it is; it is that partition's error."""
    fill(bench, 100)
    result = clear(bench, run_options(tmp_path, mode=Mode.SKIP))
    since = put(bench, bench.checkpoint(1), 99)
    back = undo(bench, tmp_path, result)
    assert not back.cleared
    assert [bool(item.error) for item in back.partitions] == [False, True, False]
    assert "was not written by this tool last" in (back.partitions[1].error or "")
    assert stored(bench) == {bench.checkpoint(1): since}


def test_a_blob_of_another_spelling_that_came_since_is_left(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Undo writes back what the receipt has, and leaves another client's new blob of the partition."""
    fill(bench, 100)
    before = put(bench, bench.checkpoint(0), 39)
    result = clear(bench, run_options(tmp_path, partitions="0"))
    since = put(bench, spelled(bench, 0), 50)
    back = undo(bench, tmp_path, result)
    assert spelled(bench, 0) in (back.partitions[0].error or "")
    assert stored(bench) == {bench.checkpoint(0): before, spelled(bench, 0): since}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("change", ["deleted", "moved back"])
def test_a_position_that_vanished_or_moved_back_is_not_written_over(
    bench: EventHubsBench, tmp_path: Path, mode: Mode, change: str
) -> None:
    """If another client deletes or lowers a checkpoint meanwhile, its partition ends with that."""
    fill(bench, 100)
    for number in range(3):
        put(bench, bench.checkpoint(number), 39)
    after: dict[str, dict[str, str]] = {}

    def harm(_: object) -> bool:
        if change == "deleted":
            bench.container.delete_blob(bench.checkpoint(1))
        else:
            after[bench.checkpoint(1)] = put(bench, bench.checkpoint(1), 7)
        return True

    result = clear(bench, run_options(tmp_path, mode=mode, workers=3), Callbacks(confirm=harm))
    assert not result.cleared
    assert change in (result.partitions[1].error or "")
    assert {name: held for name, held in stored(bench).items() if name == bench.checkpoint(1)} == after


def test_a_checkpoint_that_was_unreadable_is_not_restored(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """A receipt marks it as not to be restored, and its blob stays whatever it holds later."""
    fill(bench, 100)
    bench.container.upload_blob(bench.checkpoint(0), b"", metadata={"sequencenumber": "many"})
    result = clear(bench, run_options(tmp_path))
    entries = load(result.receipt).partitions
    assert [entry.undo is not None for entry in entries] == [True, False, False]
    mended = put(bench, bench.checkpoint(0), 50)
    undo(bench, tmp_path, result)
    assert stored(bench) == {bench.checkpoint(0): mended}


@pytest.mark.parametrize(
    "record",
    [
        '{"other/hub/group/checkpoint/0": {"offset": "1"}}',
        "[]",
        "{",
        '{"ns/h/g/checkpoint/0": {"a": 1}}',
    ],
)
def test_a_record_of_other_blobs_is_refused(record: str) -> None:
    """An edited receipt cannot name a blob that is not the partition's own."""
    position: Position = {"offset": "640", "sequence_number": 10, RECORD: record}
    with pytest.raises(UsageError):
        recorded_blobs(position, "ns/h/g/checkpoint/0")


def test_the_url_of_a_container_with_a_sas_is_a_store(bench: EventHubsBench, tmp_path: Path) -> None:
    """A container's SAS URL reaches the container that it names, for everything that a run does."""
    fill(bench, 100)
    name = bench.container.container_name
    sas = generate_container_sas(
        ACCOUNT,
        name,
        account_key=STORAGE_KEY,
        permission=ContainerSasPermissions(read=True, list=True, write=True, delete=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    url = f"{bench.storage.blob_url}/{name}?{sas}"
    changes: dict[str, Any] = {"checkpoint_store": url, "checkpoint_container": None}
    result = clear(bench, run_options(tmp_path), **changes)
    assert result.cleared
    assert bench.left() == {0: 0, 1: 0, 2: 0}
    assert sas.partition("sig=")[2] not in result.to_json()
    assert undo(bench, tmp_path, result, **changes).cleared
    assert stored(bench) == {}


AZURE = "https://acc.blob.core.windows.net"


@pytest.mark.parametrize(
    ("url", "key_of", "reported", "account"),
    [
        (f"{AZURE}/c", "acc", AZURE, AZURE),
        ("http://ACC.blob.core.windows.net:80/c", None, None, AZURE),
        ("https://acc.blob.core.windows.net.:443/c", None, None, AZURE),
        ("https://acc-secondary.blob.core.windows.net/c", None, None, AZURE),
        ("https://acc.privatelink.blob.core.windows.net/c", None, None, AZURE),
        ("https://checkpoints.example.com/c", "acc", "https://checkpoints.example.com", AZURE),
        ("https://checkpoints.example.com/c", None, f"{AZURE}/", AZURE),
        ("https://Checkpoints.example.com/c", None, None, "https://checkpoints.example.com"),
        (f"{AZURE[:-3]}cn/c", "acc", None, f"{AZURE[:-3]}cn"),
        ("https://acc.z7.blob.storage.azure.net/c", None, None, "https://acc.z7.blob.storage.azure.net"),
        ("https://acc.blob.core.windows.net.example.com/c", None, None, f"{AZURE}.example.com"),
        ("http://localhost:10000/dev/c", "dev", None, "http://127.0.0.1:10000/dev"),
        ("http://[::1]:10000/dev/c", "dev", None, "http://127.0.0.1:10000/dev"),
        ("http://azurite:10000/dev/c", "dev", None, "http://azurite:10000/dev"),
    ],
)  # fmt: skip
def test_an_account_is_the_same_however_its_host_is_spelled(
    url: str, key_of: str | None, reported: str | None, account: str
) -> None:
    """Private link, secondary, port, case and a custom domain name the account; other hosts are others."""
    assert account_url(url, key_of, reported) == account


def test_an_undo_reaches_the_checkpoints_by_another_name_of_their_account(
    bench: EventHubsBench, tmp_path: Path
) -> None:
    """Other names of both hosts restore; another container by the same spelling is refused, unchanged."""
    fill(bench, 100)
    before = {bench.checkpoint(n): put(bench, bench.checkpoint(n), 39) for n in range(3)}
    result = clear(bench, run_options(tmp_path))
    moved = stored(bench)
    assert numbers(bench) == dict.fromkeys(before, 99)
    store = bench.storage.connection_string
    other = ContainerClient.from_connection_string(store, f"{bench.container.container_name}-2")
    other.create_container()
    for name, metadata in moved.items():
        other.upload_blob(name, b"", metadata=metadata)
    with pytest.raises(RefusedError, match="The receipt is for checkpoints"):
        undo(bench, tmp_path, result, checkpoint_container=other.container_name)
    assert {blob.name: blob.metadata for blob in other.list_blobs(include=["metadata"])} == moved
    back = undo(
        bench, tmp_path, result,
        checkpoint_store=store.replace("127.0.0.1", "localhost"),
        custom_endpoint_address=f"sb://localhost:{bench.server.port}",
    )  # fmt: skip
    assert (back.cleared, back.verified) == (True, True)
    assert stored(bench) == before


@pytest.mark.parametrize(
    ("store", "account", "container"),
    [
        ("https://acc.blob.core.windows.net", "https://acc.blob.core.windows.net", None),
        ("https://acc.blob.core.windows.net/", "https://acc.blob.core.windows.net", None),
        ("https://acc.blob.core.windows.net/c?sv=1&sig=x", "https://acc.blob.core.windows.net?sv=1&sig=x", "c"),
        ("http://127.0.0.1:10000/dev?sig=x", "http://127.0.0.1:10000/dev?sig=x", None),
        ("http://127.0.0.1:10000/dev/c?sig=x", "http://127.0.0.1:10000/dev?sig=x", "c"),
        ("http://azurite:10000/dev/c", "http://azurite:10000/dev", "c"),
        ("AccountName=a;BlobEndpoint=https://h/c", "AccountName=a;BlobEndpoint=https://h/c", None),
    ],
)  # fmt: skip
def test_the_url_of_a_store_is_split(store: str, account: str, container: str | None) -> None:
    """The account and the container of a URL are found, also where an emulator has the account in it."""
    values = {
        "fully_qualified_namespace": "ns.servicebus.windows.net",
        "eventhub_name": "orders",
        "checkpoint_store": store,
        "checkpoint_container": None if container else "named",
    }
    options = build(EventHubsOptions, values)
    assert (options.store_account, options.container) == (account, container or "named")


def test_a_container_that_contradicts_the_url_is_refused() -> None:
    """Two different containers are wrong use, reported without the URL's signature."""
    values = {
        "fully_qualified_namespace": "ns.servicebus.windows.net",
        "eventhub_name": "orders",
        "checkpoint_store": "https://acc.blob.core.windows.net/one?sig=secret",
        "checkpoint_container": "two",
    }
    with pytest.raises(
        UsageError, match="container 'one', but --checkpoint-container is 'two'"
    ) as caught:
        build(EventHubsOptions, values)
    assert "secret" not in str(caught.value)

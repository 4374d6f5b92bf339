"""`list eventhubs`: consumer groups as the checkpoints in a container show them, on real Azurite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.eventhubs.list_options import EventHubsListOptions
from backlog_clearer.brokers.eventhubs.listing import list_eventhubs
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Found, Listing
from backlog_clearer.options.base import build
from backlog_clearer.testing.servers.eventhubs import offset_of
from tests.brokers.test_eventhubs import WRONG_KEY, EventHubsBench, bench, server  # noqa: F401 fixtures
from tests.brokers.test_eventhubs_faults import fill
from tests.command import cleaner

pytestmark = pytest.mark.timeout(300)


def options_of(bench: EventHubsBench, **changes: Any) -> EventHubsListOptions:
    """How to reach the bench's Event Hub and container."""
    values = {
        "connection_string": bench.server.connection_string(),
        "eventhub_name": bench.hub,
        "checkpoint_store": bench.storage.connection_string,
        "checkpoint_container": bench.container.container_name,
    }
    return build(EventHubsListOptions, {**values, **changes})


def listed(bench: EventHubsBench, **changes: Any) -> tuple[dict[str, Found], Listing]:
    """The lines by name, and the whole list."""
    found = list_eventhubs(options_of(bench, **changes))
    return {item.name: item for item in found.found}, found


def put(bench: EventHubsBench, group: str, number: int, at: int, *, lower: bool = True) -> None:
    """Write a checkpoint as an SDK does, in lower case or as settings spell it."""
    name = f"{bench.server.namespace}/{bench.hub}/{group}/checkpoint/{number}"
    metadata = {"offset": offset_of(at), "sequencenumber": str(at)}
    bench.container.upload_blob(name.lower() if lower else name, b"", metadata=metadata)


def own(bench: EventHubsBench, group: str, number: int, owner: str) -> None:
    """Write an ownership, now."""
    name = f"{bench.server.namespace}/{bench.hub}/{group}/ownership/{number}".lower()
    bench.container.upload_blob(name, b"", metadata={"ownerid": owner})


def test_groups_are_listed_whatever_the_case_of_their_blobs(bench: EventHubsBench) -> None:
    """Groups of Python and of Go or Java, one in both spellings, have their unread events and live owners."""
    fill(bench, 100)
    for number in range(3):
        put(bench, "billing", number, 39 + number)
        put(bench, "Shipping", number, 99, lower=False)
    put(bench, "Audit", 0, 9, lower=False)
    put(bench, "audit", 0, 19)
    own(bench, "billing", 0, "one")
    own(bench, "billing", 1, "one")
    own(bench, "billing", 2, "two")
    own(bench, "new", 0, "three")
    found, whole = listed(bench)
    figures = {name.lower(): (item.backlog, item.members) for name, item in found.items()}
    assert figures == {
        "billing": (60 + 59 + 58, 2),
        "shipping": (0, 0),
        "audit": (90 + 200, 0),
        "new": (300, 1),
    }
    assert found["Shipping"].topics == (bench.hub,)
    assert (found["billing"].kind, found["new"].kind) == ("checkpoints", "ownerships")
    assert any("2 consumer groups without a checkpoint for some" in note for note in whole.notes)
    assert list(listed(bench, matching="SHIP*")[0]) == ["Shipping"]


def test_the_command_line_lists_the_largest_first(bench: EventHubsBench) -> None:
    """JSON has the groups in order, and what is stored for other Event Hubs is left out."""
    fill(bench, 100)
    put(bench, "small", 0, 89)
    put(bench, "small", 1, 99)
    put(bench, "small", 2, 99)
    put(bench, "large", 0, 0)
    bench.container.upload_blob("other/hub/elsewhere/checkpoint/0", b"", metadata={"offset": "1"})
    ran = cleaner(
        "list", "eventhubs", "--eventhub-name", bench.hub,
        "--connection-string", "${env:EVENT_HUB}", "--checkpoint-store", "${env:STORE}",
        "--checkpoint-container", bench.container.container_name,
        env={"EVENT_HUB": bench.server.connection_string(), "STORE": bench.storage.connection_string},
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    rows = [(item["name"], item["backlog"]) for item in ran.result["subscriptions"]]
    assert rows == [("large", 299), ("small", 10)]
    assert not any(secret in ran.stdout + ran.stderr for secret in bench.secrets)


def test_what_cannot_be_read_is_unknown_with_its_reason(bench: EventHubsBench) -> None:
    """A broken checkpoint is an error of its group; without an answer of the hub, groups are listed still."""
    fill(bench, 100)
    put(bench, "good", 0, 39)
    put(bench, "beyond", 0, 5000)
    put(bench, "broken", 1, 39)
    broken = f"{bench.server.namespace}/{bench.hub}/broken/checkpoint/0".lower()
    bench.container.upload_blob(broken, b"", metadata={"sequencenumber": "x"})
    found, _ = listed(bench)
    assert found["good"].backlog == 60 + 200
    assert (found["broken"].backlog, found["beyond"].backlog) == (None, None)
    assert f"{bench.hub}[0]: its checkpoint blob {broken} cannot be read" in (
        found["broken"].error or ""
    )
    assert "beyond the last event" in (found["beyond"].error or "")
    refused, whole = listed(bench, connection_string=bench.server.connection_string(WRONG_KEY))
    assert {item.backlog for item in refused.values()} == {None}
    assert any(note.startswith("Backlogs are unknown: ") for note in whole.notes)
    assert WRONG_KEY not in str(whole)


def test_an_empty_list_names_what_the_container_has(bench: EventHubsBench) -> None:
    """Checkpoints of another Event Hub are named; an Event Hub that does not exist is wrong use."""
    name = f"{bench.server.namespace}/invoices/billing/checkpoint/0".lower()
    bench.container.upload_blob(name, b"", metadata={"offset": "1", "sequencenumber": "1"})
    found, whole = listed(bench)
    assert not found
    assert any(
        "It has others: consumer group billing of Event Hub invoices" in note for note in whole.notes
    )
    with pytest.raises(UsageError, match=bench.missing):
        listed(bench, eventhub_name=bench.missing)
    with pytest.raises(UsageError, match="container"):
        listed(bench, checkpoint_container="no-such-container")


def test_leases_of_functions_count_only_for_functions(bench: EventHubsBench) -> None:
    """A lease of before version 5 is a position with --checkpoint-format functions, and none otherwise."""
    fill(bench, 100)
    for number in range(3):
        name = f"{bench.server.namespace}/{bench.hub}/old/{number}"
        lease = f'{{"Offset": "{offset_of(49)}", "SequenceNumber": 49}}'
        bench.container.upload_blob(name, lease.encode())
    assert not listed(bench)[0]
    (old,) = listed(bench, checkpoint_format="functions")[0].values()
    assert (old.name, old.kind, old.backlog) == ("old", "leases", 150)


def test_a_checkpoint_store_is_needed() -> None:
    """Without a container there is nothing to list."""
    values = {"fully_qualified_namespace": "n.example", "eventhub_name": "h"}
    with pytest.raises(UsageError, match="--checkpoint-store is needed"):
        build(EventHubsListOptions, values)


def test_a_refused_store_is_an_error(bench: EventHubsBench) -> None:
    """Where the storage account refuses the key, there is no empty list."""
    text = bench.storage.connection_string
    key = next(part for part in text.split(";") if part.startswith("AccountKey="))
    with pytest.raises(BrokerError):
        listed(bench, checkpoint_store=text.replace(key, f"AccountKey={WRONG_KEY}"))


def test_all_groups_that_match_are_cleared(bench: EventHubsBench, tmp_path: Path) -> None:
    """--all-groups moves the checkpoints of the groups that match, and of no other."""
    fill(bench, 50)
    for group in ("billing", "bills", "audit"):
        for number in range(3):
            put(bench, group, number, 9)
    bench.log.groups |= {"billing", "bills", "audit"}
    ran = cleaner(
        "eventhubs", "--eventhub-name", bench.hub, "--connection-string", "${env:EVENT_HUB}",
        "--checkpoint-store", "${env:STORE}", "--checkpoint-container",
        bench.container.container_name, "--all-groups", "--matching", "bill*", "--mode", "skip",
        "--yes", "--receipt-dir", str(tmp_path),
        env={"EVENT_HUB": bench.server.connection_string(), "STORE": bench.storage.connection_string},
    )  # fmt: skip
    assert ran.code == 0, ran.stderr + ran.stdout
    found, _ = listed(bench)
    assert {name: item.backlog for name, item in found.items()} == {
        "billing": 0,
        "bills": 0,
        "audit": 120,
    }

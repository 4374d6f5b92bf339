"""Several consumer groups at once on Event Hubs, judged by their checkpoints in real Azurite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.brokers.test_eventhubs import EventHubsBench, bench, server
from tests.invoking import call

__all__ = ["bench", "server"]

EACH = 20


def positions(bench: EventHubsBench, group: str) -> dict[str, str]:
    """The sequence numbers in a group's checkpoints, by partition."""
    prefix = f"{bench.server.namespace}/{bench.hub}/{group}/checkpoint/".lower()
    blobs = bench.container.list_blobs(prefix, include=["metadata"])
    return {blob.name.removeprefix(prefix): blob.metadata["sequencenumber"] for blob in blobs}


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_a_group_that_does_not_exist_does_not_stop_the_others(
    bench: EventHubsBench, tmp_path: Path, mode: str
) -> None:
    """Exit 1; the two groups have checkpoints at the end, and the missing one has none."""
    for number in range(bench.partitions):
        bench.produce(number, EACH)
    config = tmp_path / "options.json"
    options = {
        "connection_string": bench.server.connection_string(),
        "eventhub_name": bench.hub,
        "checkpoint_store": bench.storage.connection_string,
        "checkpoint_container": bench.container.container_name,
    }
    config.write_text(json.dumps(options))
    done = call(
        "eventhubs", "--config-json", str(config), "--consumer-group", "$Default,no-such,shipping",
        "--mode", mode, "--stop-when-empty", "--output", "json", "--yes", "--receipt-dir", str(tmp_path),
    )  # fmt: skip
    value = json.loads(done.stdout)
    first, missing, last = value["parts"]
    assert (done.exit_code, missing["result"]) == (1, None)
    assert first["result"]["verdict"] == last["result"]["verdict"] == "cleared"
    ends = {str(number): str(EACH - 1) for number in range(bench.partitions)}
    assert positions(bench, "$Default") == positions(bench, "shipping") == ends
    assert positions(bench, "no-such") == {}

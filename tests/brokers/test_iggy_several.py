"""Several consumers or groups at once on Iggy, judged by the offsets that it has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.iggy_bench import GROUP, IggyBench, opened
from tests.invoking import call

EACH = 50


@pytest.fixture
def bench() -> Iterator[IggyBench]:
    """A topic with two groups and 50 messages."""
    with opened() as found:
        found.plain.run("create_consumer_group", found.stream, found.topic, "shipping")
        found.produce(0, EACH)
        yield found


def cleared(bench: IggyBench, folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Clear; the exit code and the JSON object."""
    host, _, port = bench.address.partition(":")
    config = folder / "options.json"
    options = {
        "host": host, "port": int(port), "stream_id": bench.stream, "topic_id": bench.topic,
        "username": "iggy", "password": bench.password,
    }  # fmt: skip
    config.write_text(json.dumps(options))
    done = call(
        "iggy", "--config-json", str(config), *args, "--stop-when-empty", "--output", "json", "--yes",
        "--receipt-dir", str(folder),
    )  # fmt: skip
    return done.exit_code, json.loads(done.stdout)


def left(bench: IggyBench, folder: Path, *whose: str) -> int:
    """The backlog of another group or consumer, by the offset that the server has."""
    code, value = cleared(bench, folder, *whose, "--dry-run")
    assert code == 0
    return int(value["totals"]["backlog"])


@pytest.mark.parametrize("mode", ["consume", "skip"])
def test_of_several_groups_a_live_and_a_missing_one_are_refused(
    bench: IggyBench, tmp_path: Path, mode: str
) -> None:
    """Exit 1; the group with a member keeps its offsets, and the last one is cleared."""
    with bench.attach():
        code, value = cleared(
            bench, tmp_path, "--group-id", f"{GROUP},no-such,shipping", "--mode", mode
        )  # fmt: skip
    live, missing, shipping = value["parts"]
    assert (code, live["kind"], missing["kind"]) == (1, "RefusedError", "UsageError")
    assert shipping["result"]["verdict"] == "cleared"
    assert bench.stored()[0] is None
    assert left(bench, tmp_path, "--group-id", "shipping") == 0


def test_several_consumers_are_cleared(bench: IggyBench, tmp_path: Path) -> None:
    """Both have no backlog afterwards, and a third still has all of it."""
    code, value = cleared(bench, tmp_path, "--consumer-id", "7,8", "--mode", "skip")
    assert (code, [part["name"] for part in value["parts"]]) == (0, ["7", "8"])
    found = [left(bench, tmp_path, "--consumer-id", number) for number in ("7", "8", "9")]
    assert found == [0, 0, EACH]

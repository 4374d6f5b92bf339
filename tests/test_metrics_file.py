"""`--metrics-file`: what is in the file, when it is written, and what happens where it cannot be."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE, parse_request
from backlog_clearer.model import Partition
from backlog_clearer.options.layers import build_options
from backlog_clearer.registry import options_model
from backlog_clearer.run import metrics, metrics_file
from backlog_clearer.testing.support import wait_until
from functions.job import main as job
from tests.invoking import call, clear, stored, three_partitions
from tests.paths import ROOT

DONE = ("--stop-when-empty", "--metrics-file", "out.prom")
OLDEST = datetime(2026, 11, 25, 10, tzinfo=timezone.utc)
LABELS = {"system": "memory", "topic": "orders", "subscription": "billing"}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, in an empty folder."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def series(path: str = "out.prom") -> dict[tuple[str, str], float]:
    """The samples of a file by name and by the value of the label that only this metric has."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(Path(path).read_text(encoding="utf-8")):
        for sample in family.samples:
            extra = [value for name, value in sample.labels.items() if name not in {*LABELS, "slice"}]
            found[sample.name.removeprefix("backlog_clearer_"), "".join(extra)] = sample.value
    return found


def labels(path: str = "out.prom") -> list[dict[str, str]]:
    """The labels that every sample of a file has, once each."""
    families = text_string_to_metric_families(Path(path).read_text(encoding="utf-8"))
    kept = {*LABELS, "slice"}
    found = {
        tuple(sorted((name, value) for name, value in sample.labels.items() if name in kept))
        for family in families
        for sample in family.samples
    }
    return [dict(each) for each in found]


def test_a_run_leaves_its_figures_in_the_file(broker: MemoryBroker) -> None:
    """A cleared backlog: messages, nothing left, the verdict and the reason as states, and both times."""
    done = clear(*DONE, "--output", "json")
    assert done.exit_code == 0, done.stderr
    found = series()
    assert found["messages_total", ""] == 3000
    assert (found["initial_backlog", "messages"], found["backlog", "messages"]) == (3000, 0)
    states = {name: value for (metric, name), value in found.items() if metric == "verdict"}
    assert states == {"cleared": 1, "unproven": 0, "not_cleared": 0, "counted": 0}
    assert found["stop_reason", "empty"] == 1
    assert sum(value for (metric, _), value in found.items() if metric == "stop_reason") == 1
    assert found["run_end_timestamp_seconds", ""] >= found["run_start_timestamp_seconds", ""]
    assert found["failed_partitions", ""] == 0
    assert labels() == [LABELS]
    assert stored(broker) == [1000] * 3


def test_every_metric_has_help_and_a_type_once(broker: MemoryBroker) -> None:
    """Each family has one HELP and one TYPE line before its samples, and counters end in _total."""
    assert clear(*DONE).exit_code == 0
    lines = Path("out.prom").read_text().splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE "))
    assert helps == list(types)
    assert len(set(helps)) == len(helps)
    assert {name for name, kind in types.items() if kind == "counter"} == {
        f"{each.prometheus}_total" for each in metrics.METRICS if each.kind == "counter"
    }
    assert stored(broker) == [1000] * 3


def test_label_values_are_escaped(broker: MemoryBroker) -> None:
    """A group whose name has a quotation mark, a backslash and a line break is read back as it is."""
    name = 'a "b" \\n c\nd'
    done = call("memory", "--topic", "orders", "--group-id", name, *DONE)
    assert done.exit_code == 0, done.stderr
    assert labels() == [{**LABELS, "subscription": name}]
    assert broker.position(name, Partition("orders", 0)) == 1000


def test_the_file_is_renewed_while_a_run_reads(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a run the file shows what was read and is left, no verdict and no end."""
    monkeypatch.setattr(metrics_file, "EVERY_S", 0.02)
    gate, read = threading.Event(), MemoryLane.read
    seen: dict[tuple[str, str], float] = {}
    reads = itertools.count()

    def gated(lane: MemoryLane, *args: Any) -> Any:
        if next(reads) == 5:
            gate.wait(60)
        return read(lane, *args)

    monkeypatch.setattr(MemoryLane, "read", gated)

    def middle() -> bool:
        if Path("out.prom").exists():
            seen.update(series())
        return 0 < seen.get(("messages_total", ""), 0) < 3000

    def watch() -> None:
        try:
            wait_until(middle, "a file of the middle of a run")
        finally:
            gate.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = clear(*DONE, "--workers", "1", "--batch-size", "100")
    watcher.join()
    assert done.exit_code == 0, done.stderr
    assert ("run_end_timestamp_seconds", "") not in seen
    assert not [value for (name, _), value in seen.items() if name == "verdict" and value]
    assert series()["messages_total", ""] == 3000
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("missing/out.prom", "its directory does not exist"),
        (".", "it is not a file"),
        ("/dev/null", "it is not a file"),
        ("a" * 300, "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_wrong_use(broker: MemoryBroker, path: str, hint: str) -> None:
    """It is refused before anything is connected: no receipt, no position, exit 2."""
    for args in (("--stop-when-empty",), ("--mode", "skip", "--yes")):
        done = clear(*args, "--metrics-file", path)
        assert (done.exit_code, hint in done.stderr) == (2, True), done.stderr
    looked = call("status", "memory", "--topic", "orders", "--group-id", "b", "--metrics-file", path)
    assert looked.exit_code == 2
    assert stored(broker) == [None] * 3
    assert not Path("receipts").exists()


def test_a_write_that_fails_is_a_note(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory disappears: the run is cleared with exit 0, and result and receipt have the note."""
    Path("kept").mkdir()
    prepare = MemorySource.prepare_undo

    def remove(source: MemorySource, *args: Any) -> Any:
        shutil.rmtree("kept")
        return prepare(source, *args)

    monkeypatch.setattr(MemorySource, "prepare_undo", remove)
    monkeypatch.setattr(metrics_file, "EVERY_S", 0.02)
    done = clear("--stop-when-empty", "--metrics-file", "kept/out.prom", "--output", "json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    (note,) = (note for note in result["notes"] if "metrics" in note)
    assert "could not be written" in note
    assert "No such file or directory" in note
    assert json.loads(Path(result["receipt"]).read_text())["result"]["notes"] == result["notes"]
    assert done.stderr.count("The metrics cannot be written") == 1
    assert stored(broker) == [1000] * 3
    assert (
        call("restore", result["receipt"], "--yes").exit_code == 0
    )  # its checksum is that of the note, too
    assert stored(broker) == [None] * 3


def test_a_file_system_that_hangs_does_not_keep_a_run(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that never returns is given up after a bounded time, with a note, and the run is cleared."""
    hang = threading.Event()
    monkeypatch.setattr(metrics_file, "LIMIT_S", 0.05)
    monkeypatch.setattr(metrics_file.MetricsFile, "_write", lambda *_: hang.wait(60))
    done = clear(*DONE, "--output", "json")
    hang.set()
    assert done.exit_code == 0, done.stderr
    assert [note for note in json.loads(done.stdout)["notes"] if "no end within" in note]
    assert stored(broker) == [1000] * 3


def test_a_run_that_ends_with_an_error_is_not_cleared(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between the plan and its change leaves the verdict `not_cleared` in the file."""

    def refuse(*_: Any) -> None:
        raise BrokerError("no snapshot")

    monkeypatch.setattr(MemorySource, "prepare_undo", refuse)
    assert clear(*DONE).exit_code == 1
    found = series()
    assert (found["verdict", "not_cleared"], found["stop_reason", "failed"]) == (1, 1)
    assert stored(broker) == [None] * 3


def test_a_skip_is_measured(broker: MemoryBroker) -> None:
    """A skip has read nothing, and leaves nothing."""
    done = clear("--mode", "skip", "--yes", "--metrics-file", "out.prom")
    assert done.exit_code == 0, done.stderr
    found = series()
    assert (found["messages_total", ""], found["backlog", "messages"]) == (0, 0)
    assert found["verdict", "cleared"] == 1
    assert stored(broker) == [1000] * 3


def test_a_status_has_the_backlog_and_no_verdict(broker: MemoryBroker) -> None:
    """`status --metrics-file` writes backlog, age and errors, and nothing that only a run has."""
    broker.logs[Partition("orders", 1)].times[0] = (0, OLDEST)
    args = ("--topic", "orders", "--group-id", "billing", "--metrics-file", "out.prom")
    assert call("status", "memory", *args).exit_code == 0
    found = series()
    assert found["backlog", "messages"] == 3000
    names = {name for name, _ in found}
    assert names == {"backlog", "failed_partitions", "oldest_message_timestamp_seconds"}
    assert abs(found["oldest_message_timestamp_seconds", ""] - OLDEST.timestamp()) < 1
    assert stored(broker) == [None] * 3


def test_a_dry_run_writes_no_metrics(broker: MemoryBroker) -> None:
    """`--dry-run` changes nothing, and no metrics file either."""
    assert clear(*DONE, "--dry-run").exit_code == 0
    assert not Path("out.prom").exists()
    assert stored(broker) == [None] * 3


def test_slices_of_a_job_write_a_file_each(broker: MemoryBroker) -> None:
    """A configured `metrics_file` is completed by the slice's index, and its series by the slice."""
    entry = {
        "system": "memory",
        "options": {"topic": "orders", "group_id": "billing"},
        "metrics_file": "out.prom",
    }
    environ = {VARIABLE: json.dumps({"receipts": "r", "backlogs": {"shop": entry}})}
    for index in range(2):
        args = ["--backlog", "shop", "--slice", str(index), "--total", "2"]
        values = vars(job.arguments().parse_args(args))
        assert job.run(values, environ, Halt()) == 0
    assert sorted(path.name for path in Path().glob("*.prom*")) == ["out-0.prom", "out-1.prom"]
    assert labels("out-1.prom") == [{**LABELS, "slice": "1/2"}]
    total = sum(series(f"out-{index}.prom")["messages_total", ""] for index in range(2))
    assert total == 3000
    assert stored(broker) == [1000] * 3


def test_a_request_names_no_metrics_file(broker: MemoryBroker) -> None:
    """A request with `metrics_file` is refused, like any field that only the configuration has."""
    with pytest.raises(UsageError, match="unknown option 'metrics_file'"):
        parse_request('{"backlog": "shop", "metrics_file": "x.prom"}')
    assert stored(broker) == [None] * 3


def test_the_page_names_every_metric() -> None:
    """Each name that is written, to a file or to OpenTelemetry, is in the table of docs/metrics.md."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for metric in metrics.METRICS:
        ending = "_total" if metric.kind == "counter" else ""
        names = (metric.prometheus and f"{metric.prometheus}{ending}", metric.opentelemetry)
        assert not [name for name in names if name and f"`{name}`" not in page]
        assert metric.state is None or f"`{metric.state}`" in page


@pytest.mark.parametrize(
    ("system", "given", "name"),
    [
        ("kafka", {"bootstrap_servers": "b:1", "topic": "t", "group_id": "g"}, "g"),
        (
            "pulsar",
            {"service_url": "pulsar://b:6650", "topic": "persistent://a/b/t", "subscription": "s"},
            "s",
        ),
        ("googlepubsub", {"project_id": "p", "subscription_id": "s"}, "s"),
        (
            "eventhubs",
            {"fully_qualified_namespace": "n", "eventhub_name": "e", "consumer_group": "c"},
            "c",
        ),
        ("iggy", {"stream_id": "s", "topic_id": "t", "group_id": "g"}, "g"),
        ("iggy", {"stream_id": "s", "topic_id": "t", "consumer_id": "7"}, "7"),
    ],
)
def test_each_system_names_its_consumer(system: str, given: dict[str, str], name: str) -> None:
    """The label `subscription` is the name under which a system stores positions."""
    options, _ = build_options(options_model(system), given)
    assert options.consumer_name == name


def test_several_groups_have_a_file_each(broker: MemoryBroker) -> None:
    """Two groups of one call, cleared and then looked at: a file each by its name, with its own label."""
    groups = ("memory", "--topic", "orders", "--group-id", "billing,a/b")
    for name in ("billing", "a/b"):
        broker.positions[name, Partition("orders", 0)] = 10
    done = call(*groups, *DONE)
    assert done.exit_code == 0, done.stderr
    paths = ["out-a%2Fb.prom", "out-billing.prom"]
    assert sorted(path.name for path in Path().glob("out*")) == paths
    assert [labels(path)[0]["subscription"] for path in paths] == ["a/b", "billing"]
    assert [series(path)["messages_total", ""] for path in paths] == [2990, 2990]
    assert [series(path)["verdict", "cleared"] for path in paths] == [1, 1]
    assert call("status", *groups, "--metrics-file", "out.prom").exit_code == 0
    assert [series(path)["backlog", "messages"] for path in paths] == [0, 0]
    assert stored(broker) == [1000] * 3


def test_one_group_of_several_topics_has_a_file_for_each(broker: MemoryBroker) -> None:
    """Where a group's name is that of one topic, the topic is in the file's name, too."""
    broker.create("bills", 1)
    broker.produce("bills", 0, 30)
    for topic in ("orders", "bills"):
        broker.positions["billing", Partition(topic, 0)] = 10
    done = call("memory", "--all-topics", "--group-id", "billing", "--yes", *DONE)
    assert done.exit_code == 0, done.stderr
    found = {path.name: series(path.name)["messages_total", ""] for path in Path().glob("out*")}
    assert found == {"out-billing%40bills.prom": 20, "out-billing%40orders.prom": 2990}
    assert broker.position("billing", Partition("bills", 0)) == 30


def test_several_groups_are_refused_for_a_path_that_cannot_be(broker: MemoryBroker) -> None:
    """A wrong path refuses the whole call before anything is connected or stored."""
    for name in ("billing", "b"):
        broker.positions[name, Partition("orders", 0)] = 10
    args = ("memory", "--topic", "orders", "--group-id", "billing,b", "--stop-when-empty")
    done = call(*args, "--metrics-file", "missing/out.prom")
    assert (done.exit_code, "its directory does not exist" in done.stderr) == (2, True)
    assert stored(broker) == [10, None, None]
    assert not Path("receipts").exists()


def test_no_metrics_are_written_through_a_link_that_was_planted(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    """A link is replaced, and the file that it leads to keeps its content."""
    del broker
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out.prom").symlink_to(victim)
    assert clear(*DONE).exit_code == 0
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out.prom").is_symlink()
    assert series()
    assert not list(tmp_path.glob("*.tmp")), "no draft is left"

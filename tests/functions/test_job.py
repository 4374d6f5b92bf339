"""The container job as separate processes, each a slice, as the platforms start them."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.fanout.configuration import Request
from backlog_clearer.fanout.run_status import State, run_status
from backlog_clearer.options.base import flag
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from functions.job.main import arguments
from tests.brokers.kafka_embedded import embedded
from tests.command import Ran, cleaner, ended, job_started
from tests.functions.deployed import Deployed
from tests.test_notify import webhook

__all__ = ["embedded"]

PARTITIONS, EACH = 6, 500
NOT_CLEARED = "ERROR backlog-clearer: not cleared"
# One worker that asks for one message at a time does not read 120,000 of them in 0.2 s.
MANY = 60_000  # messages a partition: seconds of work, one at a time
SLOW: dict[str, Any] = {"options": {"reader": "client"}, "batch_size": 1, "workers": 1, "each": MANY}


class Image(Deployed):
    """The image's command beside its configured backlog."""

    def start(
        self, environ: Mapping[str, str], *args: str
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start the job."""
        return job_started(str(self.config), *args, env=environ)

    def run(self, environ: Mapping[str, str], *args: str) -> Ran:
        """Run the job to its end."""
        with self.start(environ, *args) as process:
            return ended(process)


@pytest.fixture
def deployed(embedded: Judge, tmp_path: Path) -> Image:
    """A separate backlog."""
    return Image(embedded, tmp_path, partitions=PARTITIONS, each=EACH)


PLATFORMS = {
    "cloud run": ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT", "CLOUD_RUN_EXECUTION"),
    "batch": ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", "AWS_BATCH_JOB_ID"),
    "kubernetes": ("JOB_COMPLETION_INDEX", "BACKLOG_CLEARER_TOTAL", "BACKLOG_CLEARER_RUN_ID"),
}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_slices_side_by_side_clear_everything(deployed: Image, platform: str) -> None:
    """Four processes clear disjoint partitions and together everything; one restore undoes them all."""
    index, total, run = PLATFORMS[platform]
    deployed.judge.commit(deployed.topic, deployed.group, dict.fromkeys(range(PARTITIONS), 10))
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                deployed.start({index: str(number), total: "4", run: "run-7"}, "--backlog", "orders")
            )
            for number in range(4)
        ]
        done = [ended(job) for job in jobs]
    assert [each.code for each in done] == [0] * 4, done[0].stderr
    assert sum(each.result["totals"]["messages"] for each in done) == PARTITIONS * (EACH - 10)
    assert deployed.left() == 0
    assert {each.result["run_id"] for each in done} == {"run-7"}
    undone = cleaner("restore", "--run", "run-7", "--receipt-dir", str(deployed.receipts), "--yes")
    assert undone.code == 0, undone.stderr
    committed = deployed.judge.committed(deployed.topic, deployed.group)
    assert committed == dict.fromkeys(range(PARTITIONS), 10)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_index_beyond_the_partitions_is_cleared(deployed: Image, platform: str) -> None:
    """An array with more indexes than partitions: the rest exits with 0, and changes nothing."""
    index, total, run = PLATFORMS[platform]
    before = deployed.left()
    ran = deployed.run({index: "7", total: "8", run: "run-8"}, "--backlog", "orders")
    assert (ran.code, ran.result["verdict"], ran.result["partitions"]) == (0, "cleared", [])
    assert not ran.result["changed"]
    assert deployed.left() == before == PARTITIONS * EACH


def test_a_slice_delivered_twice_does_no_harm(deployed: Image) -> None:
    """The same slice twice at the same time: everything is cleared, and every message is acknowledged once."""
    args = ("--backlog", "orders", "--slice", "0", "--total", "2", "--run-id", "again")
    with deployed.start({}, *args) as first, deployed.start({}, *args) as second:
        done = [ended(first), ended(second)]
    assert [each.result["verified"] for each in done] == [True, True], done
    assert sum(each.result["totals"]["messages"] for each in done) >= 3 * EACH
    left = deployed.judge.left(deployed.topic, deployed.group)
    assert [left[number] for number in range(PARTITIONS)] == [0, EACH] * 3


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("--backlog", "order"), "Did you mean"),
        (("--backlog", "orders", "--mode", "skip"), "may only be cleared by consume"),
        (("--backlog", "orders", "--slice", "1"), "together"),
    ],
)
def test_wrong_use_asks_for_no_retry(deployed: Image, args: tuple[str, ...], hint: str) -> None:
    """A fault that another attempt cannot mend exits with 2, with the reason, and changes nothing."""
    ran = deployed.run({}, *args)
    assert (ran.code, ran.result["verdict"]) == (2, "not_cleared")
    assert hint in ran.result["error"]
    assert ran.stderr.startswith(NOT_CLEARED)
    assert deployed.left() == PARTITIONS * EACH


def test_the_command_line_takes_the_same_configuration(deployed: Image) -> None:
    """`cleaner.py run NAME` clears what the configuration names."""
    ran = cleaner("run", "orders", env={"BACKLOG_CLEARER_CONFIG": str(deployed.config)})
    assert (ran.code, deployed.left()) == (0, 0), ran.stderr


def test_a_job_leaves_metrics_and_posts_its_result(embedded: Judge, tmp_path: Path) -> None:
    """A process on Kafka: its file, its collector and its hook have the same figures as its result."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    collecting: Any = importlib.import_module("tests.test_metrics_otel").collector
    path = str(tmp_path / "orders.prom")
    image = Image(embedded, tmp_path, each=EACH, metrics_file=path, notify="${env:HOOK_URL}")
    with webhook() as hook, collecting() as (received, port):
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        ran = image.run({"HOOK_URL": hook.url, **otel}, "--backlog", "orders")
    assert (ran.code, image.left()) == (0, 0), ran.stderr
    assert hook.posts == [ran.result]
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    labels = f'subscription="{image.group}",system="kafka",topic="{image.topic}"'
    totals = ran.result["totals"]
    assert totals["messages"] == PARTITIONS * EACH
    assert f"backlog_clearer_messages_total{{{labels}}} {totals['messages']}.0" in lines
    assert f"backlog_clearer_received_bytes_total{{{labels}}} {float(totals['bytes'])}" in lines
    (resource,) = received.exports[-1].resource_metrics
    sums = {each.name: each.sum for each in resource.scope_metrics[0].metrics if each.HasField("sum")}
    (point,) = sums["backlog_clearer.messages"].data_points
    assert point.as_int == totals["messages"]
    attributes = {each.key: each.value.string_value for each in point.attributes}
    assert attributes == {"system": "kafka", "topic": image.topic, "subscription": image.group}


def test_a_limit_asks_for_no_retry(embedded: Judge, tmp_path: Path) -> None:
    """A slice that ends at max_messages exits with 3: another attempt would read more than was asked for."""
    image = Image(embedded, tmp_path, partitions=PARTITIONS, each=EACH, max_messages=700)
    ran = image.run({}, "--backlog", "orders")
    assert (ran.code, ran.result["verdict"], ran.result["stop_reason"]) == (3, "not_cleared", "limit")
    assert ran.stderr.startswith(NOT_CLEARED)
    assert image.left() == PARTITIONS * EACH - 700


def test_a_deadline_asks_for_a_retry_that_continues(embedded: Judge, tmp_path: Path) -> None:
    """A job that meets its deadline exits with 1; retries of the same run continue to its frozen target."""
    image = Image(embedded, tmp_path, partitions=PARTITIONS, **SLOW)
    environ = {
        "BACKLOG_CLEARER_DEADLINE_S": "1",
        "CLOUD_RUN_TASK_INDEX": "0",
        "CLOUD_RUN_TASK_COUNT": "1",
        "CLOUD_RUN_EXECUTION": "drain-x7k2p",
    }
    first = image.run(environ, "--backlog", "orders")
    assert (first.code, first.result["stop_reason"]) == (1, "deadline")
    assert first.stderr.startswith(NOT_CLEARED)
    left = image.left()
    assert 0 < left < PARTITIONS * MANY
    embedded.produce(image.topic, 0, 70)
    again = image.run({**environ, "BACKLOG_CLEARER_DEADLINE_S": "200"}, "--backlog", "orders")
    assert (again.code, again.result["verdict"]) == (0, "cleared"), again.stderr
    assert again.result["totals"]["messages"] == left
    assert image.left() == 70


def test_a_signal_settles_and_asks_for_a_retry(embedded: Judge, tmp_path: Path) -> None:
    """SIGTERM ends a job with 1, and its count equals the messages that the broker shows as acknowledged."""
    image = Image(embedded, tmp_path, partitions=PARTITIONS, **SLOW)
    with image.start({}, "--backlog", "orders") as process:
        wait_until(lambda: image.left() < PARTITIONS * MANY, "a first commit")
        process.send_signal(signal.SIGTERM)
        ran = ended(process)
    assert (ran.code, ran.result["stop_reason"]) == (1, "signal")
    assert ran.stderr.startswith(NOT_CLEARED)
    assert ran.result["totals"]["messages"] == PARTITIONS * MANY - image.left() > 0


def test_a_refusal_is_stored_with_the_run(deployed: Image) -> None:
    """Attached consumers: exit 1, nothing moved, and the run's slice is failed."""
    with deployed.judge.member(deployed.topic, deployed.group):
        args = ("--slice", "1", "--total", "2", "--run-id", "live")
        ran = deployed.run({}, "--backlog", "orders", *args)
    assert (ran.code, ran.result["kind"]) == (1, "RefusedError")
    assert ran.stderr.count(NOT_CLEARED) == 1
    assert deployed.left() == PARTITIONS * EACH
    slices = run_status(deployed.receipts, "live").slices
    assert [(item.state, "1 consumer attached" in (item.error or "")) for item in slices] == [
        (State.WAITING, False),
        (State.FAILED, True),
    ]


def test_an_unreadable_deadline_is_wrong_use(deployed: Image) -> None:
    """A deadline that cannot be read is wrong use: nothing is drained without one."""
    ran = deployed.run({"BACKLOG_CLEARER_DEADLINE_S": "-1"}, "--backlog", "orders")
    assert ran.code == 2
    assert "BACKLOG_CLEARER_DEADLINE_S" in ran.result["error"]
    assert deployed.left() == PARTITIONS * EACH


def test_a_library_that_is_missing_is_named() -> None:
    """Without Azure's library `--from-queue` is wrong use that names the package to install."""
    code = (
        "import sys; sys.modules['azure.storage.queue'] = None;"
        "from functions.job.main import main; main(['--from-queue'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install '.[azure]'" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--from-queue", "--visibility-s", "2"], "from 3 to 604800"),
        (["--from-queue", "--visibility-s", "1h"], "'1h' is not a number of seconds"),
        (["--backlogs", "orders"], "--backlogs"),
        (["--back", "orders"], "--back"),
    ],
)
def test_a_faulty_argument_exits_2_and_is_named(
    args: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown or abbreviated flag, or an impossible time, exits with 2 and is named on stderr."""
    with pytest.raises(SystemExit) as ended_with:
        arguments().parse_args(args)
    assert ended_with.value.code == 2
    assert hint in capsys.readouterr().err


def test_every_field_of_a_request_is_a_flag_with_help() -> None:
    """`--help` lists each field of a request and the queue's flags."""
    text = arguments().format_help()
    flags = {flag(name) for name in Request.model_fields} | {"--from-queue", "--visibility-s"}
    assert flags <= set(text.split())

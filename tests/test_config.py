"""Named backlogs and requests for them: closed, bounded, all faults reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import VARIABLE, Backlog, Config, Request, load_config, parse
from backlog_clearer.fanout.platform import run_of, scheduled_run, slice_of
from backlog_clearer.model import Mode
from backlog_clearer.options.base import build
from backlog_clearer.options.rate import Rate
from backlog_clearer.run.receipt import check_run_id

KAFKA = {"bootstrap_servers": "b:9092", "topic": "orders", "group_id": "billing"}


def config(**changes: Any) -> Config:
    """A configuration of one backlog, `orders`."""
    return parse(
        {"receipts": "r", "backlogs": {"orders": {"system": "kafka", "options": KAFKA, **changes}}}
    )


def ask(**values: Any) -> Request:
    """A request for `orders`."""
    return build(Request, {"backlog": "orders", **values})


def test_a_configuration_is_inline_or_in_a_file(tmp_path: Path) -> None:
    """The variable holds the object, or names a file with it; both mean the same."""
    text = json.dumps({"backlogs": {"orders": {"system": "kafka", "options": KAFKA}}})
    (tmp_path / "c.json").write_text(text)
    inline = load_config({VARIABLE: text})
    assert load_config({VARIABLE: str(tmp_path / "c.json")}) == inline
    assert list(inline.backlogs) == ["orders"]


@pytest.mark.parametrize("value", ["", "/no/such/file.json", "{", "{}", '{"backlogs": {}}'])
def test_an_unusable_configuration_names_its_variable(value: str) -> None:
    """An empty variable, a missing file, invalid JSON and no backlogs are wrong use that names the variable."""
    with pytest.raises(UsageError):
        load_config({VARIABLE: value})


def test_all_faults_are_listed_at_once_without_values() -> None:
    """Every fault of every backlog is listed by its name, without any value."""
    value = {
        "recipts": "r",
        "backlogs": {
            "a": {"system": "kafka", "options": {**KAFKA, "topik": "x"}},
            "b": {"system": "kafak", "options": KAFKA},
            "c": {"system": "kafka", "options": KAFKA, "workers": 0, "password": "hunter2"},
            "d": {"system": "kafka", "options": {**KAFKA, "sasl.password": "${env:NOT_SET}"}},
        },
    }
    with pytest.raises(UsageError) as raised:
        parse(value, {})
    text = str(raised.value)
    for part in (
        "backlog 'a': ",
        "Did you mean 'topic'",
        "'kafak'",
        "--workers",
        "'password'",
        "NOT_SET",
    ):
        assert part in text
    assert "'recipts'" in text
    assert "hunter2" not in text


def test_secrets_come_from_the_environment() -> None:
    """References are resolved when a job is made; the job's public options contain no secret."""
    found = parse(
        {
            "backlogs": {
                "orders": {"system": "kafka", "options": {**KAFKA, "sasl.password": "${env:P}"}}
            }
        },
        {"P": "hunter2"},
    )
    job = found.job(ask(), environ={"P": "hunter2"})
    assert "hunter2" in str(job.options.model_dump())
    assert "hunter2" not in json.dumps(job.options.public())


def test_the_lowest_limit_holds_for_a_request() -> None:
    """A slice is cleared up to the frozen target, by the lowest of all limits."""
    found = config(workers=7, max_seconds=100, max_messages=1000)
    job = found.job(ask(slice=2, total=8, max_seconds=60, run_id="r-1"), deadline_s=50)
    assert (str(job.run.slice), job.run.stop_when_empty, job.run.workers) == ("2/8", True, 7)
    assert (job.run.max_seconds, job.run.max_messages, job.run_id) == (50, 1000, "r-1")
    assert found.job(ask(max_seconds=20, max_messages=5), deadline_s=50).run.max_messages == 5


def test_slices_share_the_rate_of_a_run() -> None:
    """The lowest rate holds, and a slice has its part of it."""
    found = config(max_rate="80MB/s")
    assert found.job(ask()).run.max_rate == "80MB/s"
    job = found.job(ask(slice=2, total=8, max_rate="40MB/s"))
    assert job.run.rate == Rate(5e6, of_bytes=True)


@pytest.mark.parametrize(
    ("changes", "request_", "hint"),
    [
        ({}, {"backlog": "order"}, "Did you mean 'orders'"),
        ({}, {"mode": "skip"}, "may only be cleared by consume"),
        ({"max_messages": 10}, {"max_messages": 11}, "allows at most 10"),
        ({"max_seconds": 10}, {"max_seconds": 10.5}, "allows at most 10.0"),
        ({"max_rate": "1MB/s"}, {"max_rate": "2MB/s"}, "max_rate is 2MB/s, .* allows at most 1MB/s"),
        ({"max_rate": "1MB/s"}, {"max_rate": "1/s"}, "give it in the same unit"),
    ],
)
def test_more_than_configured_is_refused(
    changes: dict[str, Any], request_: dict[str, Any], hint: str
) -> None:
    """A name, a mode or a limit beyond the configuration is refused, with the reason."""
    with pytest.raises(UsageError, match=hint):
        config(**changes).job(build(Request, {"backlog": "orders", **request_}))


def test_an_allowed_mode_may_be_chosen() -> None:
    """A request chooses among the modes that the configuration lists."""
    found = config(allowed_modes=["consume", "skip"])
    assert found.job(ask(mode="skip")).run.mode is Mode.SKIP
    assert found.job(ask()).run.mode is Mode.CONSUME


@pytest.mark.parametrize(
    "values",
    [
        {"bootstrap_servers": "evil:9092"},
        {"options": {}},
        {"force": True},
        {"slice": 1},
        {"slice": 8, "total": 8},
        {"run_id": "../../etc"},
        {"max_messages": 0},
        {"backlog": ""},
    ],
)
def test_unknown_fields_of_requests_are_refused(values: dict[str, Any]) -> None:
    """Addresses, options, half a slice, paths and nonsense are refused by the schema."""
    with pytest.raises(UsageError):
        ask(**values)


@given(partitions=st.integers(0, 5000), backlog=st.none() | st.integers(0, 10**13))
def test_slices_fit_partitions_and_backlog(partitions: int, backlog: int | None) -> None:
    """A dispatch makes at least one slice, and no more than partitions, limit and backlog allow."""
    found = Backlog(system="kafka", options={}, max_slices=100, messages_per_slice=1000)
    slices = found.slices(partitions, backlog)
    assert 1 <= slices <= max(1, min(100, partitions))
    if backlog is not None:
        assert (slices - 1) * 1000 < max(1, backlog)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"CLOUD_RUN_TASK_INDEX": "3", "CLOUD_RUN_TASK_COUNT": "8"}, (3, 8)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, (0, 2)),
        ({"JOB_COMPLETION_INDEX": "1", "BACKLOG_CLEARER_TOTAL": "4"}, (1, 4)),
    ],
)
def test_each_platforms_variables_give_the_slice(
    environ: dict[str, str], found: tuple[int, int] | None
) -> None:
    """The slice is read from the variables of each platform."""
    assert slice_of(environ) == found


@pytest.mark.parametrize(
    "environ",
    [
        {"JOB_COMPLETION_INDEX": "1"},
        {"JOB_COMPLETION_INDEX": "4", "BACKLOG_CLEARER_TOTAL": "4"},
        {"CLOUD_RUN_TASK_INDEX": "one", "CLOUD_RUN_TASK_COUNT": "8"},
    ],
)
def test_half_a_slice_is_refused(environ: dict[str, str]) -> None:
    """An index without a total, beyond it, or not a number, is wrong use; it never means the whole backlog."""
    with pytest.raises(UsageError):
        slice_of(environ)


@pytest.mark.parametrize(
    ("environ", "run"),
    [
        ({}, None),
        ({"CLOUD_RUN_EXECUTION": "drain-x7k2p"}, "drain-x7k2p"),
        ({"AWS_BATCH_JOB_ID": "1d7f-22:5"}, "1d7f-22"),
        ({"BACKLOG_CLEARER_RUN_ID": "a/b", "AWS_BATCH_JOB_ID": "x"}, "a-b"),
    ],
)
def test_slices_of_one_execution_share_a_run(environ: dict[str, str], run: str | None) -> None:
    """The run id comes from the execution, is the same for all of its slices, and is a valid file name."""
    assert run_of(environ) == run


def test_long_names_that_differ_at_their_ends_are_different_runs() -> None:
    """Tasks of 500 characters, or backlogs of 90, give each a run id that is always the same and valid."""
    tasks = [scheduled_run("orders", "t" * 499 + end) for end in "ab"]
    backlogs = [scheduled_run("b" * 90 + end, "2026-11-24T20:00:00Z") for end in "ab"]
    executions = [run_of({"BACKLOG_CLEARER_RUN_ID": "e" * 110 + end}) for end in "ab"]
    found = [*tasks, *backlogs, *executions]
    assert len(set(found)) == 6
    assert [check_run_id(run or "") for run in found] == found
    assert scheduled_run("orders", "t" * 499 + "a") == tasks[0]
    assert scheduled_run("orders", "4711") == "4711-orders"

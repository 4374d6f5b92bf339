"""What each command does, from its values to its exit code.

`commands` imports this module when a command runs, because it loads rich: `--help` does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from backlog_clearer.cli.session import Session, session
from backlog_clearer.cli.talk import Talk
from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import Request, load_config
from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.options.base import build
from backlog_clearer.options.layers import build_options, read_file
from backlog_clearer.registry import options_model
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import Receipt, load, load_run, original_positions
from backlog_clearer.run.restore import restore
from backlog_clearer.run.status import status


def clear_system(talk: Talk, system: str, values: dict[str, Any]) -> NoReturn:
    """`SYSTEM`: clear the backlog of a subscription."""
    with session(talk) as opened:
        options, run = build_options(options_model(system), *_layers(values))
        _clear(opened, Job(system, options, run))


def clear_named(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`run NAME`: clear a backlog that the configuration names."""
    with session(talk) as opened:
        request = build(Request, {key: value for key, value in values.items() if value is not None})
        _clear(opened, load_config().job(request))


def _clear(opened: Session, job: Job) -> NoReturn:
    with opened.progress() as observe:
        result = clear(job, opened.callbacks(observe), opened.halt)
    opened.end(result)


def show_status(talk: Talk, system: str, values: dict[str, Any]) -> NoReturn:
    """`status SYSTEM`: show the backlog of a subscription and change nothing."""
    with session(talk) as opened:
        options, run = build_options(options_model(system), *_layers(values))
        opened.end(status(Job(system, options, run)))


def find_receipts(talk: Talk, path: str | None, run_id: str | None, directory: str) -> list[Receipt]:
    """`restore`: the receipt in a file, or those of a run in a directory, oldest first; at least one."""
    with session(talk) as opened:
        found = [load(path)] if path else list(load_run(directory, run_id or "").values())
        if not found:
            opened.fail(UsageError(f"There is no receipt of a run {run_id!r} in {directory}."))
    return found


def undo(talk: Talk, receipts: Sequence[Receipt], values: dict[str, Any]) -> NoReturn:
    """`restore`: set partitions back to what the receipts (of one run, oldest first) recorded."""
    with session(talk) as opened:
        first = receipts[0]
        options, run = build_options(options_model(first.system), first.options, *_layers(values))
        positions = original_positions(receipts)
        if run.partitions is not None:
            positions = tuple(item for item in positions if item.partition.number in run.partitions)
        job = Job(first.system, options, run)
        opened.end(restore(job, positions, first.identity, opened.callbacks()))


def show_run_status(talk: Talk, run_id: str, receipt_dir: str) -> NoReturn:
    """`progress RUN_ID`: show the slices of a run."""
    with session(talk) as opened:
        opened.end(run_status(receipt_dir, run_id))


def _layers(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The file that --config-json names, and the flags above it."""
    flags = {name: value for name, value in values.items() if name != "config_json"}
    path = values.get("config_json")
    return [read_file(path), flags] if path else [flags]

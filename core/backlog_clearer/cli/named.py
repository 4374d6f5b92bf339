"""What the commands about backlogs do that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from backlog_clearer.cli.actions import clear_one, clear_selected, look_at_one, look_at_selected
from backlog_clearer.cli.session import session
from backlog_clearer.cli.talk import Talk
from backlog_clearer.fanout.configuration import Request, load_config
from backlog_clearer.options.base import Options, build
from backlog_clearer.options.run import Slice
from backlog_clearer.run.job import reading_nothing


class _SliceGiven(Options):
    """`--slice INDEX/TOTAL`."""

    slice: Slice


def clear_named(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`run NAME`: clear a backlog that the configuration names."""
    with session(talk) as opened:
        config, request = load_config(), _request(values)
        dry_run = bool(values.get("dry_run"))
        naming = config.naming(request)
        if naming is not None:
            clear_selected(opened, naming, request.run_id, dry_run=dry_run)
        job = config.job(request)
        clear_one(opened, reading_nothing(job) if dry_run else job)


def show_named_status(talk: Talk, values: dict[str, Any]) -> NoReturn:
    """`status NAME`: show a backlog that the configuration names, and change nothing."""
    every_s = values.pop("watch", None)
    with session(talk) as opened:
        config, request = load_config(), _request(values)
        naming = config.naming(request)
        if naming is not None:
            look_at_selected(opened, naming, every_s)
        look_at_one(opened, config.job(request), every_s)


def _request(values: Mapping[str, Any]) -> Request:
    given = {key: value for key, value in values.items() if value is not None and key != "dry_run"}
    if "slice" in given and "total" not in given:
        part = build(_SliceGiven, {"slice": given["slice"]}).slice
        given.update(slice=part.index, total=part.total)
    return build(Request, given)

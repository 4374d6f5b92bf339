"""Named backlogs: one configuration for the laptop, the functions and the container jobs.

    {"receipts": "gs://ops-receipts/drains",
     "backlogs": {"orders": {"system": "kafka",
                             "options": {"bootstrap_servers": "b:9092", "topic": "orders",
                                         "group_id": "billing", "security.protocol": "SASL_SSL",
                                         "sasl.password": "${env:KAFKA_PASSWORD}"},
                             "mode": "consume", "workers": 8}}}

A request names a backlog and a slice of it, and may lower limits; it cannot contain an address, an option
or a secret. `BACKLOG_CLEARER_CONFIG` holds the object itself or the path of a file with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import Self

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode
from backlog_clearer.options.base import Names, Options, build, suggestion
from backlog_clearer.options.bounds import BOUNDS, BoundOptions
from backlog_clearer.options.layers import build_options
from backlog_clearer.options.places import checked_place, checked_schemes
from backlog_clearer.options.rate import RateText, lower_rate
from backlog_clearer.options.references import read_text
from backlog_clearer.options.run import Slice
from backlog_clearer.registry import options_model
from backlog_clearer.run.job import Job
from backlog_clearer.run.receipt import check_run_id
from backlog_clearer.run.selection import Naming, naming_of
from backlog_clearer.text import listed, parsed_json, shown_path

VARIABLE = "BACKLOG_CLEARER_CONFIG"


class Backlog(BoundOptions):
    """One backlog that may be cleared by its name."""

    system: str = Field(description="kafka, pulsar, …")
    options: dict[str, Any] = Field(
        description="the system's options by their field names; secrets as ${env:NAME} or ${file:PATH}"
    )
    mode: Mode = Field(Mode.CONSUME, description="unless a request chooses another allowed one")
    allowed_modes: tuple[Mode, ...] = Field(
        (), description="modes that a request may choose; default: `mode`"
    )
    workers: int = Field(4, ge=1, le=1024, description="lanes of one slice")
    batch_size: int = Field(2000, ge=1, le=1_000_000, description="messages requested by one read")
    max_messages: int | None = Field(None, ge=1, description="of one slice; a request may lower it")
    max_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of one slice; a request may lower it"
    )
    max_rate: RateText | None = Field(
        None,
        description="of a whole run, as in 50MB/s or 200k/s; its slices share it evenly, and a request may"
        " lower it",
    )
    verify_seconds: float | None = Field(
        None, ge=0, description="how long an invocation waits for the broker's proof at most"
    )
    ages: bool = Field(
        True, description="find out the age of the backlog, at one small request a partition"
    )
    force: bool = Field(False, description="proceed even if consumers are attached")
    metrics_file: str | None = Field(
        None,
        min_length=1,
        description="file for metrics as Prometheus' text format; a slice's has its index in its name",
    )
    notify: str | None = Field(
        None,
        min_length=1,
        description="URL that the result of each run and slice is posted to; ${env:NAME} or ${file:PATH}",
    )
    notify_authorization: str | None = Field(
        None,
        min_length=1,
        description="header Authorization of these posts, as in 'Bearer …'; ${env:NAME} or ${file:PATH}",
    )
    max_slices: int = Field(32, ge=1, le=10_000, description="largest number of slices of a dispatch")
    messages_per_slice: int = Field(
        50_000_000, ge=1, description="backlog of one slice: a dispatch makes one more for each"
    )
    max_requeues: int = Field(
        10, ge=0, le=1000, description="how often a slice that met its deadline is enqueued again"
    )

    @model_validator(mode="after")
    def _mode_is_allowed(self) -> Self:
        if self.allowed_modes and self.mode not in self.allowed_modes:
            raise ValueError(f"mode {self.mode} is not among allowed_modes")
        return self

    @property
    def announcing(self) -> dict[str, str | None]:
        """Where results are posted, as run options."""
        return {"notify": self.notify, "notify_authorization": self.notify_authorization}

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that a request may choose."""
        return self.allowed_modes or (self.mode,)

    def slices(self, partitions: int, backlog: int | None, *, competing: bool = False) -> int:
        """The number of slices of a dispatch; the largest if the backlog is unknown.

        At most one a partition, unless the slices may compete for one.
        """
        most = max(1, self.max_slices if competing else min(partitions, self.max_slices))
        return (
            most if backlog is None else max(1, min(most, math.ceil(backlog / self.messages_per_slice)))
        )


class Request(BoundOptions):
    """A caller's request: the same over HTTP, in a queue's message and as job arguments."""

    backlog: str = Field(min_length=1, max_length=100, description="name of a configured backlog")
    slice: int | None = Field(None, ge=0, description="index of the slice; with `total`")
    total: int | None = Field(None, ge=1, le=10_000, description="number of slices")
    mode: Mode | None = Field(None, description="if the configuration allows it")
    max_messages: int | None = Field(None, ge=1, description="at most the configured limit")
    max_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="at most the configured limit"
    )
    max_rate: RateText | None = Field(
        None, description="of the whole run, as in 50MB/s or 200k/s; at most the configured one"
    )
    run_id: str | None = Field(None, description="of the run that the slice belongs to")
    verify: bool = Field(
        False, description="only verify: an earlier invocation of the run did the rest"
    )
    requeued: int = Field(
        0, ge=0, le=1000, description="how often the slice was enqueued again already"
    )

    @model_validator(mode="after")
    def _slice_exists(self) -> Self:
        if (self.slice is None) != (self.total is None):
            raise ValueError("slice and total are only valid together")
        if self.slice is not None and self.total is not None and self.slice >= self.total:
            raise ValueError(f"slice {self.slice} of {self.total} does not exist: slices count from 0")
        return self

    @model_validator(mode="after")
    def _run_id_is_a_name(self) -> Self:
        if self.run_id is not None:
            try:
                check_run_id(self.run_id)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def part(self) -> Slice | None:
        """The slice asked for; None: the whole backlog."""
        if self.slice is None or self.total is None:
            return None
        return Slice(index=self.slice, total=self.total)


def _bound(request: Request, found: Backlog, now: datetime) -> dict[str, Any]:
    """The bound of a job, as run options: a request may only lower what is cleared.

    Of two times the earlier holds, of two numbers of messages to keep the larger. Raises `UsageError`
    where the configuration has another kind of bound than the request.
    """
    asked, most = request.bound(now), found.bound(now)
    if asked is None or most is None:
        return {name: getattr(found if asked is None else request, name) for name in BOUNDS}
    if asked.until is not None and most.until is not None:
        return {"until": min(asked.until, most.until)}
    if asked.keep_last is not None and most.keep_last is not None:
        return {"keep_last": max(asked.keep_last, most.keep_last)}
    only = "keep_last" if most.until is None else "until or older_than"
    raise UsageError(
        f"The configuration bounds backlog {request.backlog!r} with {only}: a request may only use the same."
    )


_BODY_LIMIT = 65_536  # bytes of a request; an ordinary one has about 100


def parse_request(body: bytes | str) -> Request:
    """A request from the JSON text of a caller; raises `UsageError` without showing any value."""
    if len(body) > _BODY_LIMIT:
        raise UsageError(f"The request has more than {_BODY_LIMIT} bytes.")
    try:
        value = parsed_json(body)
    except ValueError:
        raise UsageError(
            'The body is not JSON, or has a key twice; send an object, as in {"backlog": "orders"}.'
        ) from None
    if not isinstance(value, dict):
        raise UsageError('A request is a JSON object, as in {"backlog": "orders"}.')
    return build(Request, value, strict=True)


class Config(Options):
    """All backlogs that may be cleared, and the place of receipts."""

    receipts: str = Field(
        "receipts", min_length=1, description="directory or URL (gs://, s3://, az://) for receipts"
    )
    receipt_schemes: Names = Field(
        (), description="further fsspec URL schemes that `receipts` may have, as in sftp"
    )
    backlogs: dict[str, Backlog] = Field(min_length=1)

    @model_validator(mode="after")
    def _receipts_can_be_kept(self) -> Self:
        try:
            checked_schemes(self.receipt_schemes)
            checked_place(self.receipts, self.receipt_schemes)
        except ValueError as error:
            raise ValueError(f"receipts: {error}") from None
        return self

    def backlog(self, name: str) -> Backlog:
        """A backlog by its name; raises `UsageError` with a suggestion."""
        try:
            return self.backlogs[name]
        except KeyError:
            known = listed(self.backlogs, 20)
            raise UsageError(
                f"There is no backlog {name!r}; the configuration has {known}."
                f"{suggestion(name, list(self.backlogs))}"
            ) from None

    def job(
        self,
        request: Request,
        *,
        deadline_s: float | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Job:
        """The job of a request, within the configured limits; raises `UsageError`.

        `deadline_s` is the time that the platform leaves, in seconds; the lowest limit holds.
        """
        found = self.backlog(request.backlog)
        values = self._run_values(request, found, deadline_s)
        naming = naming_of(found.system, found.options, values, environ=environ)
        if naming is None:
            options, run = build_options(
                options_model(found.system), found.options, values, environ=environ
            )
            job = Job(found.system, options, run)
        elif naming.settled:
            job = naming.job(naming.names[0])
        else:
            raise UsageError(
                f"Backlog {request.backlog!r} names several subscriptions. Only the command line clears"
                " these (run NAME): for functions and jobs, configure one backlog for each. One name with"
                " a comma in it is written as a list of one name."
            )
        job = replace(job, deadline_s=deadline_s, only_verify=request.verify)
        return job if request.run_id is None else replace(job, run_id=request.run_id)

    def naming(self, request: Request, *, environ: Mapping[str, str] = os.environ) -> Naming | None:
        """How a request's backlog names several subscriptions; None: it is one. Raises like `job`."""
        found = self.backlog(request.backlog)
        values = self._run_values(request, found, None)
        naming = naming_of(found.system, found.options, values, environ=environ)
        return None if naming is None or naming.settled else naming

    def _run_values(self, request: Request, found: Backlog, deadline_s: float | None) -> dict[str, Any]:
        """The options of a run, within the configured limits; raises `UsageError`."""
        if request.mode is not None and request.mode not in found.modes:
            raise UsageError(
                f"Backlog {request.backlog!r} may only be cleared by {' or '.join(found.modes)}."
            )
        for name in ("max_messages", "max_seconds"):
            asked, most = getattr(request, name), getattr(found, name)
            if asked is not None and most is not None and asked > most:
                raise UsageError(f"{name} is {asked}, but the configuration allows at most {most}.")
        seconds = [
            limit for limit in (request.max_seconds, found.max_seconds, deadline_s) if limit is not None
        ]
        try:
            max_rate = lower_rate(request.max_rate, found.max_rate)
        except ValueError as error:
            raise UsageError(f"max_rate {error}.") from None
        return {
            "mode": request.mode or found.mode,
            "workers": found.workers,
            "batch_size": found.batch_size,
            "max_messages": request.max_messages or found.max_messages,
            "max_seconds": min(seconds, default=None),
            **_bound(request, found, datetime.now(timezone.utc)),
            "ages": found.ages,
            "max_rate": max_rate,
            "force": found.force,
            "metrics_file": found.metrics_file,
            **found.announcing,
            "stop_when_empty": True,
            "verify_seconds": found.verify_seconds,
            "slice": request.part,
            "receipt_dir": self.receipts,
            "receipt_schemes": self.receipt_schemes,
        }


def load_config(environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration that `BACKLOG_CLEARER_CONFIG` names, checked whole.

    Raises `UsageError` that lists every fault of every backlog at once, without any value.
    """
    text = environ.get(VARIABLE, "").strip(_AROUND)
    if not text:
        raise UsageError(f"{VARIABLE} is not set: name a JSON file, or give the object itself.")
    if not text.startswith("{"):
        text = _in_file(text)
    try:
        value = parsed_json(text)
    except ValueError as error:
        raise UsageError(f"{VARIABLE} is not JSON: {error}.") from None
    return parse(value, environ)


_AROUND = " \t\r\n\ufeff"  # blanks, and a byte order mark


def _in_file(name: str) -> str:
    """The text of the file that the variable names.

    Nothing of a name that is not a file's is shown: it may be a configuration with passwords in it, in
    quotes, as an array, or encoded.
    """
    try:
        exists = Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL
        exists = False
    if exists:
        return read_text(name, f"The file that {VARIABLE} names").strip(_AROUND)
    if name[0] in "'\"":
        hint = "it begins with a quotation mark: give the object without quotation marks around it"
    elif name[0] == "[":
        hint = "it is an array: give an object"
    elif shown_path(name) == name and "\n" not in name:
        hint = f"there is no file {name}"
    else:
        hint = "its content is not shown, since it may hold secrets"
    raise UsageError(
        f"{VARIABLE} is neither an object, which begins with '{{', nor the path of a file: {hint}."
    )


def _check_options(found: Backlog, environ: Mapping[str, str]) -> None:
    naming = naming_of(found.system, found.options, found.announcing, environ=environ)
    if naming is None:
        build_options(options_model(found.system), found.options, found.announcing, environ=environ)
    else:
        naming.job()


def parse(value: Any, environ: Mapping[str, str] = os.environ) -> Config:
    """A configuration from its JSON value; raises like `load_config`."""
    if not isinstance(value, dict) or not isinstance(value.get("backlogs"), dict):
        raise UsageError(f'{VARIABLE} must be an object with "backlogs", an object by name.')
    faults = []
    found: dict[str, Backlog] = {}
    for name, entry in value["backlogs"].items():
        try:
            found[name] = build(Backlog, entry if isinstance(entry, dict) else {})
            _check_options(found[name], environ)
        except UsageError as error:
            faults += [f"backlog {name!r}: {line}" for line in str(error).splitlines()]
    try:
        config = build(Config, {**value, "backlogs": found})
    except UsageError as error:
        faults += str(error).splitlines()
    if faults:
        raise UsageError("\n".join(faults))
    return config

"""Receipts: everything needed to undo a run, stored before the run changes anything.

A receipt is one JSON file for a run, or for one slice of it; `DIR/RUN_ID/NAME.json` on any file
system that fsspec knows. It holds no secret. After the run it is completed with the result, and so
is the audit record too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.model import Mode, Partition, Recorded, Survey
from backlog_clearer.options.run import Slice
from backlog_clearer.run import store
from backlog_clearer.run.report import Action, RunResult, StoredPosition

RECEIPT_SCHEMA: Literal["backlog-clearer/receipt/1"] = "backlog-clearer/receipt/1"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RecordedPartition(BaseModel):
    """One partition before the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    position: StoredPosition = Field(description="null: nothing was stored")
    backlog: int | None = Field(ge=0, description="in `unit`; null: unknown")
    target: StoredPosition = None
    incarnation: str | None = Field(
        None, description="tells this log from another one of the same name; null: not recorded"
    )
    undo: str | None = Field(None, description="why restore cannot bring this partition back")

    @field_validator("position", "target")
    @classmethod
    def _possible(cls, value: StoredPosition, info: ValidationInfo) -> StoredPosition:
        """Refuse numbers that no broker stores; the target of an empty Iggy partition is -1."""
        lowest = -1 if info.field_name == "target" else 0
        if isinstance(value, int) and value < lowest:
            raise ValueError(f"{value} is not a position")
        return value

    @property
    def id(self) -> Partition:
        """The partition this entry is about."""
        return Partition(self.topic, self.partition)


class Receipt(BaseModel):
    """Everything needed to undo one run or slice."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["backlog-clearer/receipt/1"] = Field(RECEIPT_SCHEMA, alias="schema")
    version: str
    run_id: str
    system: str
    subscription: str
    identity: dict[str, str]
    options: dict[str, Any] = Field(description="how the subscription was reached, without secrets")
    action: Action
    mode: Mode | None
    slice: Slice | None
    unit: str
    created_at: datetime
    partitions: tuple[RecordedPartition, ...]
    result: RunResult | None = Field(None, description="null: the run did not complete")


def new_run_id(now: datetime) -> str:
    """A sortable id that no other run has: "20261123T214500Z-1f2e3d4c"."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def check_run_id(run_id: str) -> str:
    """The id itself; raises `UsageError` where it could not be a file name."""
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{run_id[:100]!r} is not a valid run id: use letters, digits, '.', '_' and '-', at most 100."
        )
    return run_id


def run_folder(directory: str, run_id: str) -> str:
    """The folder of a run's files; raises `UsageError` if the run id is not valid."""
    return f"{directory.rstrip('/')}/{check_run_id(run_id)}"


def part_name(part: Slice | None) -> str:
    """The name of a slice, or of the whole, in file names: "slice-2-of-8", "whole"."""
    return "whole" if part is None else f"slice-{part.index}-of-{part.total}"


def new_path(directory: str, run_id: str, part: Slice | None) -> str:
    """A fresh path for a receipt; two invocations of one slice never share it."""
    return f"{run_folder(directory, run_id)}/{part_name(part)}-{secrets.token_hex(4)}.json"


def save(receipt: Receipt, path: str) -> None:
    """Store a receipt durably.

    Raises `BrokerError` naming the path where that fails: a run must not start without it.
    """
    try:
        store.write(path, receipt.model_dump_json(by_alias=True, indent=2).encode())
    except OSError as error:
        raise BrokerError(
            f"The receipt cannot be written to {path}: {error}. Nothing was changed;"
            " choose another place with --receipt-dir."
        ) from error


def load(path: str) -> Receipt:
    """Read a receipt; raises `UsageError` where the file does not exist or is not a receipt."""
    try:
        data = store.read(path)
    except OSError as error:
        raise UsageError(f"The receipt {path} cannot be read: {error.strerror or error}.") from error
    return _parsed(path, data)


def _parsed(path: str, data: bytes) -> Receipt:
    try:
        return Receipt.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is not a receipt of this tool: {where}: {first['msg']}.") from error


def load_run(
    directory: str, run_id: str, part: Slice | Literal["all"] | None = "all"
) -> dict[str, Receipt]:
    """Receipts of a run by path, oldest first: all, or those of one slice (None: of unsliced runs).

    Empty where there are none; raises `UsageError` where they cannot be read.
    """
    folder = run_folder(directory, run_id)
    prefixes = ("whole-", "slice-") if part == "all" else (f"{part_name(part)}-",)
    try:
        found = store.read_all(store.json_files(folder, *prefixes))
    except OSError as error:
        raise UsageError(f"The receipts in {folder} cannot be read: {error}.") from error
    receipts = {path: _parsed(path, data) for path, data in found.items()}
    return dict(sorted(receipts.items(), key=lambda item: (item[1].created_at, item[0])))


def original_positions(receipts: Iterable[Receipt]) -> tuple[Recorded, ...]:
    """Every partition as it was before the first of these receipts (oldest first)."""
    found: dict[Partition, Recorded] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            found.setdefault(entry.id, Recorded(entry.id, entry.position, entry.incarnation))
    return tuple(found.values())


def original_targets(receipts: Iterable[Receipt]) -> dict[Partition, Recorded]:
    """The target of every partition in the first of these receipts (oldest first) that names it."""
    targets: dict[Partition, Recorded] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            if entry.target is not None:
                targets.setdefault(entry.id, Recorded(entry.id, entry.target, entry.incarnation))
    return targets


SINCE = "since the receipt"


def is_another(recorded: str | None, found: str | None) -> bool:
    """Whether two incarnations are of different logs; an unknown one (None) decides nothing."""
    return recorded is not None and found is not None and recorded != found


def check_identity(identity: Mapping[str, str], survey: Survey) -> None:
    """Raise `RefusedError` where a receipt's identity is not the surveyed subscription's."""
    for key, value in identity.items():
        found = survey.identity.get(key)
        if found is not None and found != value:
            raise RefusedError(
                f"The receipt is for {key} {value!r}, but this is {found!r}; nothing was changed."
            )

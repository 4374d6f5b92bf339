"""Receipts: what it takes to undo a run, stored before the run changes anything.

A receipt is one JSON file for a run, or for one slice of it; `DIR/RUN_ID/NAME.json` on any file
system that fsspec knows. It holds no secret. After the run it is completed with the result, and so
is the audit record too.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import fsspec.core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import BrokerError, UsageError
from core.model import Mode, Partition, Position
from core.options.base import Slice
from core.report import Action, RunResult, StoredPosition

RECEIPT_SCHEMA: Literal["backlog-clearer/receipt/1"] = "backlog-clearer/receipt/1"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Entry(BaseModel):
    """What one partition was before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    position: StoredPosition = Field(description="null: nothing was stored")
    backlog: int | None = Field(description="in `unit`; null: unknown")
    target: StoredPosition = None
    undo: str | None = Field(None, description="why restore cannot bring this partition back")

    @property
    def id(self) -> Partition:
        """The partition this entry is about."""
        return Partition(self.topic, self.partition)


class Receipt(BaseModel):
    """What it takes to undo one run or slice."""

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
    partitions: tuple[Entry, ...]
    result: RunResult | None = Field(None, description="null: the run did not complete")


def new_run_id(now: datetime) -> str:
    """A sortable id that no other run has: "20261123T214500Z-1f2e3d4c"."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def check_run_id(run_id: str) -> str:
    """The id itself; raises `UsageError` where it could not be a file name."""
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{run_id[:100]!r} is no run id: letters, digits, '.', '_' and '-', 100 at most."
        )
    return run_id


def place(directory: str, run_id: str, part: Slice | None) -> str:
    """A fresh path for a receipt; two invocations of one slice never share it."""
    name = "whole" if part is None else f"slice-{part.index}-of-{part.total}"
    return f"{directory.rstrip('/')}/{check_run_id(run_id)}/{name}-{secrets.token_hex(4)}.json"


def save(receipt: Receipt, path: str) -> None:
    """Store a receipt durably (written whole or not at all, and synced, on a local disk).

    Raises `BrokerError` naming the path where that fails: a run must not start without it.
    """
    data = receipt.model_dump_json(by_alias=True, indent=2).encode()
    try:
        fs, where = fsspec.core.url_to_fs(path)
        if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
            _save_locally(Path(where), data)
        else:
            fs.pipe_file(where, data)
    except (OSError, ValueError, ImportError) as error:
        raise BrokerError(
            f"The receipt cannot be written to {path}: {error}. Nothing was changed because of"
            " that; choose another place with --receipt-dir."
        ) from error


def _save_locally(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: str) -> Receipt:
    """Read a receipt; raises `UsageError` where there is none or it is not one."""
    try:
        fs, where = fsspec.core.url_to_fs(path)
        data = fs.cat_file(where)
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The receipt {path} cannot be read: {reason}.") from error
    try:
        return Receipt.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is not a receipt of this tool: {where}: {first['msg']}.") from error


def load_run(directory: str, run_id: str) -> dict[str, Receipt]:
    """All receipts of a run by path, oldest first; raises `UsageError` where there is none."""
    folder = f"{directory.rstrip('/')}/{check_run_id(run_id)}"
    try:
        fs, where = fsspec.core.url_to_fs(folder)
        names = [fs.unstrip_protocol(name) for name in fs.glob(f"{where}/*.json")]
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"The receipts in {folder} cannot be listed: {error}.") from error
    if not names:
        raise UsageError(f"There is no receipt of a run {run_id!r} in {directory}.")
    receipts = {name: load(name) for name in names}
    return dict(sorted(receipts.items(), key=lambda item: (item[1].created_at, item[0])))


def original_positions(receipts: Iterable[Receipt]) -> dict[Partition, Position | None]:
    """Where every partition was before the first of these receipts (oldest first) touched it."""
    positions: dict[Partition, Position | None] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            positions.setdefault(entry.id, entry.position)
    return positions

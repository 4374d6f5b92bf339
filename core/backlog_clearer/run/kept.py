"""The receipts that a directory or bucket keeps: what each is about, and what can still be undone.

Everything is read from the receipts themselves; no broker is asked. So an undo may still be refused by the
broker: a log may have been deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Mode, Recorded
from backlog_clearer.options.times import parse_time
from backlog_clearer.run import store
from backlog_clearer.run.receipt import (
    Receipt,
    RecordedPartition,
    can_be_restored,
    is_declined,
    load_run,
    run_folder,
)
from backlog_clearer.run.report import Action
from backlog_clearer.text import counted

RECEIPTS_SCHEMA: Literal["backlog-clearer/receipts/1"] = "backlog-clearer/receipts/1"

EXPIRES_BY = "expires_by"
"""The key of a position that cannot be restored after the time that it has there (RFC 3339)."""


class KeptReceipt(BaseModel):
    """One receipt, as a list of receipts has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    run_id: str
    created_at: datetime
    system: str
    subscription: str
    action: Action
    mode: Mode | None
    slice: str | None
    outcome: str = Field(
        description="the verdict of the result; declined: nothing began; started: no result, because the run"
        " is still running or was killed"
    )
    partitions: int
    undoable: int = Field(
        description="partitions that an undo could still set back, as far as the receipt shows"
    )
    expires_by: datetime | None = Field(None, description="when the first of them no longer can be")


class KeptReceipts(BaseModel):
    """The receipts of a directory, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["backlog-clearer/receipts/1"] = Field(RECEIPTS_SCHEMA, alias="schema")
    directory: str
    receipts: tuple[KeptReceipt, ...]
    unreadable: tuple[str, ...] = Field(
        (), description="why folders could not be read, one sentence each"
    )
    removed: bool = Field(False, description="whether `receipts prune` removed these")
    undeleted: tuple[str, ...] = Field(
        (), description="why snapshots were not deleted, whose receipts are kept; one sentence each"
    )


def kept_receipts(directory: str, now: datetime) -> KeptReceipts:
    """All receipts in a directory, oldest first.

    A run whose receipts cannot be read is named, and the others are listed. Raises `BrokerError` where the
    directory itself cannot be read.
    """
    found: list[KeptReceipt] = []
    unreadable = []
    for name in _listed_runs(directory):
        try:
            loaded = load_run(directory, name)
        except UsageError as error:
            unreadable.append(str(error))
            continue
        found += [kept_receipt(path, receipt, now) for path, receipt in loaded.items()]
    found.sort(key=lambda item: (item.created_at, item.path))
    return KeptReceipts(directory=directory, receipts=tuple(found), unreadable=tuple(unreadable))


def _listed_runs(directory: str) -> list[str]:
    try:
        return store.folders(directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BrokerError(f"The receipts in {directory} cannot be listed: {reason}.") from error


def kept_receipt(path: str, receipt: Receipt, now: datetime) -> KeptReceipt:
    """What a receipt is about: pure."""
    undoable = [entry for entry in receipt.partitions if _can_be_undone(entry, receipt, now)]
    times = [time for entry in undoable if (time := _expiry(entry)) is not None]
    return KeptReceipt(
        path=path,
        run_id=receipt.run_id,
        created_at=receipt.created_at,
        system=receipt.system,
        subscription=receipt.subscription,
        action=receipt.action,
        mode=receipt.mode,
        slice=str(receipt.slice) if receipt.slice else None,
        outcome=outcome(receipt),
        partitions=len(receipt.partitions),
        undoable=len(undoable),
        expires_by=min(times, default=None),
    )


def outcome(receipt: Receipt) -> str:
    """What became of the run, in one word."""
    if receipt.result is None:
        return "started"
    if is_declined(receipt) or receipt.result.verdict is None:
        return "declined"
    return receipt.result.verdict.value.replace("_", " ")


def _can_be_undone(entry: RecordedPartition, receipt: Receipt, now: datetime) -> bool:
    changed = receipt.result is None or receipt.result.changed
    expiry = _expiry(entry)
    alive = expiry is None or now < expiry
    return changed and alive and can_be_restored(entry.position, entry.recorded.undo)


def _expiry(entry: RecordedPartition) -> datetime | None:
    """When a position stops to be one that can be restored; None: never, or it is not known."""
    text = entry.position.get(EXPIRES_BY) if isinstance(entry.position, Mapping) else None
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def expiring(receipt: Receipt, now: datetime) -> tuple[Recorded, ...]:
    """The positions that something at the broker keeps restorable until a time that has not come: pure."""
    return tuple(
        entry.recorded
        for entry in receipt.partitions
        if (expiry := _expiry(entry)) is not None and now < expiry
    )


def without(kept: KeptReceipts, runs: AbstractSet[str], why: Sequence[str]) -> KeptReceipts:
    """The same without the receipts of these runs, whose snapshots were not deleted: pure."""
    left = tuple(item for item in kept.receipts if item.run_id not in runs)
    return kept.model_copy(update={"receipts": left, "undeleted": tuple(why)})


def to_prune(kept: KeptReceipts, before: datetime) -> KeptReceipts:
    """The receipts of runs that stored nothing since `before`: pure."""
    newest: dict[str, datetime] = {}
    for item in kept.receipts:
        newest[item.run_id] = max(newest.get(item.run_id, item.created_at), item.created_at)
    chosen = tuple(item for item in kept.receipts if newest[item.run_id] < before)
    return kept.model_copy(update={"receipts": chosen})


def prune(kept: KeptReceipts) -> KeptReceipts:
    """Remove these receipts, and everything else that was stored for their runs. Raises `BrokerError`."""
    for run_id in dict.fromkeys(item.run_id for item in kept.receipts):
        folder = run_folder(kept.directory, run_id)
        try:
            store.remove(store.json_files(folder, ""))
        except OSError as error:
            reason = error.strerror or str(error)
            raise BrokerError(f"The receipts in {folder} cannot be removed: {reason}.") from error
    return kept.model_copy(update={"removed": True})


def undo_text(item: KeptReceipt, now: datetime) -> str:
    """What can still be undone, for people: "3 of 4 partitions for 6 more days"."""
    if not item.undoable:
        return "nothing"
    text = f"{item.undoable} of {counted(item.partitions, 'partition')}"
    return text if item.expires_by is None else f"{text}, {_left(item.expires_by, now)}"


def _left(until: datetime, now: datetime) -> str:
    left = until - now
    days = f"for {counted(left.days, 'day')}"
    return days if left.days else f"for {counted(left.seconds // 3600, 'hour')}"

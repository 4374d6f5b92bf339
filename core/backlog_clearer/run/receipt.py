"""Receipts: everything needed to undo a run, stored before the run changes anything.

A receipt is one JSON file for a run, or for one slice of it; `DIR/RUN_ID/NAME.json` on any file
system that `run.store` supports. It holds no secret. After the run it is completed with the result, and so
is the audit record too.

A receipt that is read is data which others may have written: every figure is checked, and a checksum
shows edits that did not renew it. It does not show who wrote the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import StringIO
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.model import Bound, Mode, Partition, Position, Recorded, StopReason, Survey
from backlog_clearer.options.faults import fault_text
from backlog_clearer.options.run import Slice
from backlog_clearer.run import store
from backlog_clearer.run.report import Action, FreeText, RunResult, StoredPosition
from backlog_clearer.text import counted, listed, parsed_json, shown_name, shown_path

RECEIPT_SCHEMA: Literal["backlog-clearer/receipt/1"] = "backlog-clearer/receipt/1"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBERED = re.compile(r"-(\d{4,9})-[0-9a-f]{8}\.json")

LARGEST_POSITION = 2**63 - 2
"""No broker stores a larger number as a position."""


class RecordedPartition(BaseModel):
    """One partition before the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str = Field(min_length=1)
    partition: int = Field(ge=0, lt=2**31)
    position: StoredPosition = Field(description="null: nothing was stored")
    backlog: int | None = Field(ge=0, description="in `unit`; null: unknown")
    target: StoredPosition = None
    incarnation: str | None = Field(
        None, description="distinguishes this log from another one of the same name; null: not recorded"
    )
    epoch: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="leader epoch in which the target was frozen; null: not recorded, or the system has none",
    )
    undo: FreeText | None = Field(None, description="why restore cannot bring this partition back")
    error: FreeText | None = Field(
        None, description="why it could not be read before the run, which then did not change it"
    )

    @field_validator("position", "target", mode="before")
    @classmethod
    def _possible(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what no broker stores; the target of an empty Iggy partition is -1."""
        numbers = value.values() if isinstance(value, Mapping) else [value]
        lowest = -1 if info.field_name == "target" or isinstance(value, Mapping) else 0
        for number in numbers:
            if isinstance(number, (bool, float, list)):
                raise ValueError(f"{json.dumps(number)[:40]} is not a position")  # noqa: TRY004 pydantic's
            if isinstance(number, int) and not lowest <= number <= LARGEST_POSITION:
                raise ValueError(f"{number} is not a position")
        return value

    @property
    def id(self) -> Partition:
        """The partition this entry is about."""
        return Partition(self.topic, self.partition)

    @property
    def recorded(self) -> Recorded:
        """The position to restore; without one, an error is why none is known."""
        unknown = self.error if self.position is None else None
        return Recorded(self.id, self.position, self.incarnation, self.undo or unknown)


class Receipt(BaseModel):
    """Everything needed to undo one run or slice."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["backlog-clearer/receipt/1"] = Field(RECEIPT_SCHEMA, alias="schema")
    version: str
    run_id: str = Field(pattern=f"^{_RUN_ID.pattern}$")
    sequence: int = Field(
        0,
        ge=0,
        description="a receipt has a higher number than every receipt of its run that was stored before"
        " its positions were read; 0: written by a version without numbers",
    )
    system: str
    subscription: str
    identity: dict[str, str] = Field(min_length=1)
    options: dict[str, Any] = Field(
        description="how the subscription was reached: no secrets, only references to them"
    )
    action: Action
    mode: Mode | None
    slice: Slice | None
    until: datetime | None = Field(
        None, description="the targets leave messages published at this time or later; null: no bound"
    )
    keep_last: int | None = Field(
        None, ge=1, description="the targets leave so many of each partition; null: no bound"
    )
    unit: str
    created_at: datetime
    partitions: tuple[RecordedPartition, ...]
    checksum: str | None = Field(
        None,
        description="SHA-256 of everything but the result; null: written by a version without one",
    )
    result: RunResult | None = Field(None, description="null: the run did not complete")

    @property
    def bound(self) -> Bound | None:
        """What bounded the targets; None: nothing did."""
        if self.until is None and self.keep_last is None:
            return None
        return Bound(self.until, self.keep_last)

    @field_validator("partitions")
    @classmethod
    def _each_once(cls, partitions: tuple[RecordedPartition, ...]) -> tuple[RecordedPartition, ...]:
        seen: set[Partition] = set()
        for entry in partitions:
            if entry.id in seen:
                raise ValueError(f"{entry.id} is there twice")
            seen.add(entry.id)
        return partitions


def new_run_id(now: datetime) -> str:
    """A sortable id that no other run has: "20261123T214500Z-1f2e3d4c"."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def check_run_id(run_id: str) -> str:
    """The id itself; raises `UsageError` where it could not be a file name."""
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"This is not a valid run id: {shown_name(run_id)}. Use letters, digits, '.', '_' and '-', at"
            " most 100."
        )
    return run_id


def run_folder(directory: str, run_id: str) -> str:
    """The folder of a run's files; raises `UsageError` if the run id is not valid."""
    return f"{directory.rstrip('/')}/{check_run_id(run_id)}"


def part_name(part: Slice | None) -> str:
    """The name of a slice, or of the whole, in file names: "slice-2-of-8", "whole"."""
    return "whole" if part is None else f"slice-{part.index}-of-{part.total}"


def new_path(directory: str, run_id: str, part: Slice | None, sequence: int = 0) -> str:
    """A fresh path for a receipt; two invocations of one slice never share it."""
    name = f"{part_name(part)}-{sequence:04d}-{secrets.token_hex(4)}.json"
    return f"{run_folder(directory, run_id)}/{name}"


def next_sequence(directory: str, run_id: str) -> int:
    """The number of the next receipt of a run; to be asked for after the survey that it records.

    A receipt is stored before its run moves a position. So a survey that saw a moved position is
    followed by a listing that has the receipt which holds the original one, and gets a higher number.
    Clocks have no part in it. Raises `BrokerError` if the receipts cannot be listed.
    """
    folder = run_folder(directory, run_id)
    try:
        found = store.json_files(folder, "whole-", "slice-")
    except OSError as error:
        raise BrokerError(
            f"The receipts in {folder} cannot be listed: {_reason(error)}. Nothing was changed;"
            " choose another place with --receipt-dir."
        ) from error
    numbers = [_NUMBERED.search(path) for path in found]
    return 1 + max((int(number[1]) for number in numbers if number), default=0)


def save(receipt: Receipt, path: str) -> None:
    """Store a receipt durably, and find it again.

    Raises `BrokerError` naming the path where that fails: a run must not start without it.
    """
    data = _sealed(receipt)
    folder, _, name = path.rpartition("/")
    try:
        store.write(path, data)
        found = store.read(path) == data and path in store.json_files(folder, name)
    except OSError as error:
        raise _not_stored(path, _reason(error)) from error
    if not found:
        raise _not_stored(path, "it was stored, but could not be found again")


def _not_stored(path: str, why: str) -> BrokerError:
    return BrokerError(
        f"The receipt cannot be written to {path}: {why}. Nothing was changed; choose another place with"
        " --receipt-dir."
    )


def _sealed(receipt: Receipt) -> bytes:
    """A receipt as JSON, with its checksum."""
    value = receipt.model_dump(mode="json", by_alias=True)
    value["checksum"] = checksum(value)
    value["result"] = value.pop("result")  # last, after what it is about
    text = StringIO()
    json.dump(value, text, indent=2)  # in pieces: `dumps` keeps a list of them, ten times the text
    return text.getvalue().encode()


def checksum(value: Mapping[str, Any]) -> str:
    """The checksum of a receipt's JSON value, over everything but the result and the checksum."""
    kept = {key: item for key, item in value.items() if key not in ("checksum", "result")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def load(path: str) -> Receipt:
    """Read a receipt; raises `UsageError` where the file does not exist, is not one, or was edited."""
    try:
        data = store.read(path)
    except OSError as error:
        raise UsageError(f"The receipt {shown_path(path)} cannot be read: {_reason(error)}.") from error
    return _parsed(path, data)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")


def _parsed(path: str, data: bytes) -> Receipt:
    try:
        value = parsed_json(data)
        receipt = Receipt.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path} is not a receipt of this tool: {where}: {fault_text(first)}."
        ) from None
    except ValueError as error:
        raise UsageError(f"{path} is not a receipt of this tool: it is not JSON ({error}).") from None
    if receipt.checksum is not None and receipt.checksum != checksum(value):
        raise UsageError(
            f"The receipt {path} was edited or damaged after it was stored: its checksum does not match."
            " Nothing was changed."
        )
    return receipt


def load_run(
    directory: str,
    run_id: str,
    part: Slice | Literal["all"] | None = "all",
    known: Mapping[str, Receipt] = MappingProxyType({}),
) -> dict[str, Receipt]:
    """Receipts of a run by path, in their sequence: all, or those of one slice (None: of unsliced runs).

    Those in `known`, by path, are not read again.
    Empty where there are none; raises `UsageError` where they cannot be read.
    """
    folder = run_folder(directory, run_id)
    prefixes = ("whole-", "slice-") if part == "all" else (f"{part_name(part)}-",)
    try:
        paths = store.json_files(folder, *prefixes)
        found = store.read_all([path for path in paths if path not in known])
    except OSError as error:
        raise UsageError(f"The receipts in {folder} cannot be read: {_reason(error)}.") from error
    receipts = {path: known[path] for path in paths if path in known}
    receipts |= {path: _parsed(path, data) for path, data in found.items()}
    return dict(
        sorted(
            receipts.items(),
            key=lambda item: (item[1].sequence, item[1].created_at, item[0]),
        )
    )


def is_declined(receipt: Receipt) -> bool:
    """Whether the run of this receipt was not confirmed, and so changed nothing."""
    return receipt.result is not None and receipt.result.stop_reason is StopReason.DECLINED


def to_undo(receipts: Sequence[Receipt]) -> tuple[Receipt, ...]:
    """Those of a run's receipts that an undo starts from; raises `UsageError` where none changed anything.

    Between a declined invocation and the next one, positions may have moved without this tool.
    """
    found = tuple(item for item in receipts if not is_declined(item))
    if not found:
        raise UsageError(
            f"Run {receipts[0].run_id} was declined when its plan was shown: it changed nothing, so there is"
            " nothing to undo."
        )
    return found


def original_positions(receipts: Iterable[Receipt]) -> tuple[Recorded, ...]:
    """Every partition as it was before the first of these receipts (oldest first) that could read it."""
    found: dict[Partition, RecordedPartition] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            if entry.id not in found or (found[entry.id].error and not entry.error):
                found[entry.id] = entry
    return tuple(entry.recorded for entry in found.values())


def original_targets(receipts: Iterable[Receipt]) -> dict[Partition, Recorded]:
    """The target of every partition in the first of these receipts (oldest first) that names it."""
    targets: dict[Partition, Recorded] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            if entry.target is not None:
                target = Recorded(entry.id, entry.target, entry.incarnation, epoch=entry.epoch)
                targets.setdefault(entry.id, target)
    return targets


SINCE = "since the receipt"


def is_another(recorded: str | None, found: str | None) -> bool:
    """Whether two incarnations are of different logs; an unknown one (None) decides nothing."""
    return recorded is not None and found is not None and recorded != found


def can_be_restored(position: StoredPosition | Position, undo: str | None) -> bool:
    """Whether a recorded position can be written back.

    `undo` of a position is a reservation about its messages; without a position it is why none is known,
    which is not the same as that none was stored.
    """
    parts = position.values() if isinstance(position, Mapping) else (position,)
    return undo is None or any(part is not None for part in parts)


def check_alike(receipts: Sequence[Receipt]) -> None:
    """Raise `UsageError` where receipts of one run are not of one subscription."""
    first = receipts[0]
    for other in receipts[1:]:
        if (other.system, other.identity) != (first.system, first.identity):
            raise UsageError(
                f"The receipts of run {first.run_id} are of different subscriptions:"
                f" {first.subscription} on {first.system}, {other.subscription} on {other.system}."
                " Nothing was changed."
            )


def unsealed(receipts: Iterable[Receipt]) -> tuple[str, ...]:
    """A note where receipts have no checksum: they are of an older version, or it was taken off."""
    count = sum(receipt.checksum is None for receipt in receipts)
    if not count:
        return ()
    note = (
        f"{counted(count, 'receipt')} of an older version without a checksum: whether it was edited cannot be"
        " detected. Compare the new positions with what you expect."
    )
    return (note,)


def unidentified(identity: Mapping[str, str], survey: Survey) -> tuple[str, ...]:
    """A note where a receipt lacks a part of its subscription's identity: it is older, or it was edited."""
    lacking = sorted(survey.identity.keys() - identity.keys()) if identity else []
    if not lacking:
        return ()
    here = listed([f"{key} {survey.identity[key]!r}" for key in lacking])
    return (f"The receipt does not record {listed(lacking)}: that it is of {here} cannot be checked.",)


def check_identity(identity: Mapping[str, str], survey: Survey) -> None:
    """Raise `RefusedError` where a receipt's identity is not the surveyed subscription's."""
    for key, value in identity.items():
        found = survey.identity.get(key)
        if found is not None and found != value:
            raise RefusedError(
                f"The receipt is for {key} {value!r}, but this is {found!r}; nothing was changed."
            )
    if identity and not identity.keys() & survey.identity.keys():
        raise RefusedError(
            f"The receipt identifies its subscription by {listed(identity)}, none of which is known here: it"
            " cannot be checked whether it is this one. Nothing was changed."
        )

"""The result of a run: one versioned object for people, scripts and the functions.

The JSON Schema of `RunResult` is committed as docs/schema/result.schema.json; a test holds the two
together. Unknown figures are null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backlog_clearer.model import (
    Mode,
    Partition,
    PartitionState,
    Position,
    StopReason,
    StrEnum,
    total_known,
)
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.text import spelled_out

FreeText = Annotated[str, AfterValidator(lambda text: spelled_out(redacted(text)))]
"""A text for people, in which libraries and brokers may have put a secret."""

RESULT_SCHEMA: Literal["backlog-clearer/result/2"] = "backlog-clearer/result/2"
_FIRST_SCHEMA = "backlog-clearer/result/1"  # as in receipts of earlier versions

StoredPosition = int | str | dict[str, int | str | None] | None
"""A position as JSON has it; null: nothing is stored, or it is not known."""


class Action(StrEnum):
    """The requested action."""

    CLEAR = "clear"
    STATUS = "status"
    RESTORE = "restore"


class Verdict(StrEnum):
    """What a run came to, by the broker's figures."""

    CLEARED = "cleared"  # nothing is left up to the target, confirmed by the broker
    UNPROVEN = "unproven"  # done, as far as the run could see; the broker gives no proof yet
    NOT_CLEARED = "not_cleared"
    COUNTED = "counted"  # read and counted; no position can be stored, so nothing was acknowledged
    RESTORED = "restored"  # written, and read back
    NOT_RESTORED = "not_restored"


class Reported(BaseModel):
    """A frozen part of what the tool prints as JSON."""

    # Copies are validated where they become a part of a result: `model_copy` does not redact.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, revalidate_instances="always"
    )


class PartitionResult(Reported):
    """One partition, before and after."""

    topic: str
    partition: int
    before: StoredPosition = Field(description="stored position before; null: none was stored")
    target: StoredPosition = Field(description="position to reach; null: none was frozen")
    after: StoredPosition = Field(None, description="stored position afterwards")
    backlog: int | None = Field(description="backlog before, in `unit`; null: unknown")
    backlog_bytes: int | None = Field(None, description="the same in stored bytes")
    messages: int = Field(0, description="messages read and acknowledged by this run")
    unacknowledged: int = Field(
        0,
        description="messages read whose acknowledgement failed, or is not shown by the broker",
    )
    at_least: bool = Field(
        False,
        description="whether more than `messages` may be acknowledged: answers of the broker were lost",
    )
    at_most: bool = Field(
        False,
        description="whether fewer than `messages` may be acknowledged: the broker may have lost some, and did"
        " not show at the end which it has",
    )
    remaining: int | None = Field(None, description="left up to the target, in `unit`; null: unknown")
    verified: bool | None = Field(
        None, description="whether the broker itself confirms it afterwards; null: unknown"
    )
    undo: FreeText | None = Field(None, description="why restore could not bring this partition back")
    deleted: int | None = Field(
        None,
        description="restore: how much after the restored position no longer exists, in `unit`; null: nothing"
        " that is known of",
    )
    oldest: datetime | None = Field(
        None, description="when the oldest message of the backlog before was published; null: unknown"
    )
    gone: int | None = Field(
        None,
        description="how much of the backlog was gone before it could be read, in `unit`: it expired, was"
        " trimmed, or others acknowledged it; null: nothing that is known of",
    )
    error: FreeText | None = None

    @property
    def id(self) -> Partition:
        """The partition this row is about."""
        return Partition(self.topic, self.partition)


class Totals(Reported):
    """The sum over the partitions; null where any part is unknown."""

    partitions: int
    backlog: int | None = Field(description="before, in `unit`")
    messages: int = Field(description="read and acknowledged")
    unacknowledged: int
    at_least: bool = Field(False, description="whether `messages` is a lower bound for any partition")
    at_most: bool = Field(False, description="whether `messages` is an upper bound for any partition")
    bytes: int = Field(description="received, where the reader sees it; otherwise 0")
    remaining: int | None = Field(description="afterwards, in `unit`")
    errors: int = Field(description="partitions with an error")
    retries: int
    messages_per_second: float | None = Field(description="null where nothing was transferred")
    oldest: datetime | None = Field(
        None, description="the earliest time of the partitions' oldest messages; null: none is known"
    )

    @property
    def bound(self) -> str:
        """What to write before the count of messages, with a blank at its end; empty: it is exact."""
        if self.at_least and self.at_most:
            return "about "
        return "at least " if self.at_least else "at most " if self.at_most else ""


class RunResult(Reported):
    """The outcome of one run, or of one slice of it."""

    schema_: Literal["backlog-clearer/result/2"] = Field(RESULT_SCHEMA, alias="schema")
    version: str = Field(description="of backlog-clearer")
    run_id: str
    system: str
    subscription: str
    action: Action
    mode: Mode | None = Field(None, description="how the backlog was cleared; null: it was not")
    dry_run: bool = False
    slice: str | None = Field(None, description="INDEX/TOTAL; null: everything")
    until: datetime | None = Field(
        None, description="only messages published before were to be cleared; null: no such bound"
    )
    keep_last: int | None = Field(
        None, description="all but so many of each partition were to be cleared; null: no such bound"
    )
    unit: str = Field(description="the unit of backlog and remaining")
    started_at: datetime
    finished_at: datetime
    seconds: float = Field(description="of draining, skipping or restoring only")
    partitions: tuple[PartitionResult, ...]
    totals: Totals
    stop_reason: StopReason | None = None
    verified: bool | None = Field(
        None, description="true only if the broker confirms every partition; null: unknown"
    )
    verdict: Verdict | None = Field(description="null: status and dry runs, which change nothing")
    changed: bool = Field(
        False, description="whether the run changed anything, or may have; false: nothing to undo"
    )
    proof: FreeText | None = Field(None, description="how to prove an unproven result")
    provable: bool = Field(
        False, description="whether waiting longer, or asking again later, may prove an unproven result"
    )
    waited_seconds: float = Field(0.0, description="for the broker's proof; no part of `seconds`")
    live: tuple[str, ...] = Field((), description="consumers attached before, as the broker names them")
    receipt: str | None = Field(None, description="where the receipt is; null: none was written")
    notes: tuple[FreeText, ...] = ()
    eta_seconds: float | None = Field(
        None,
        description="dry run: how long it takes at an earlier run's rate, which a note names; null: unknown",
    )
    error: FreeText | None = Field(None, description="of the run as a whole")

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, value: object) -> object:
        """Read results of schema 1, which had `cleared` instead of a verdict."""
        if not isinstance(value, Mapping) or value.get("schema") != _FIRST_SCHEMA:
            return value
        kept = {key: item for key, item in value.items() if key != "cleared"}
        restored = value.get("action") == Action.RESTORE
        good, bad = (
            (Verdict.RESTORED, Verdict.NOT_RESTORED)
            if restored
            else (Verdict.CLEARED, Verdict.NOT_CLEARED)
        )
        return {
            **kept,
            "schema": RESULT_SCHEMA,
            "verdict": good if value.get("cleared") else bad,
            "changed": True,
        }

    @property
    def cleared(self) -> bool:
        """Whether everything that was asked for is done and proven: cleared, or restored."""
        return self.verdict in {Verdict.CLEARED, Verdict.RESTORED}

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON text."""
        return self.model_dump_json(by_alias=True, indent=indent)


def failure_json(error: Exception, **about: str | None) -> str:
    """One JSON object instead of a result, where a run could not start; with what is known `about` it."""
    found = {
        "schema": RESULT_SCHEMA,
        "verdict": Verdict.NOT_CLEARED,
        "error": redacted(str(error)),
        "kind": type(error).__name__,
    }
    known = {key: value for key, value in about.items() if value is not None}
    return json.dumps({**found, **known})


def rounded(value: float | None) -> float | None:
    """Seconds or a rate as results have it, to a thousandth; None: unknown."""
    return None if value is None else round(value, 3)


def as_json(position: Position | None) -> Any:
    """A position as JSON has it."""
    return dict(position) if isinstance(position, Mapping) else position


def row(state: PartitionState, *, target: Position | None) -> PartitionResult:
    """A partition's row as it is before anything happened."""
    return PartitionResult.model_validate(
        {
            "topic": state.partition.topic,
            "partition": state.partition.number,
            "before": as_json(state.position),
            "target": as_json(target),
            "backlog": state.backlog,
            "backlog_bytes": state.backlog_bytes,
            "undo": state.undo,
            "oldest": state.oldest,
            "error": state.error,
        }
    )


def total(
    rows: tuple[PartitionResult, ...], *, retries: int = 0, seconds: float = 0.0, received: int = 0
) -> Totals:
    """Add up the rows."""
    messages = sum(item.messages for item in rows)
    return Totals(
        partitions=len(rows),
        backlog=total_known(item.backlog for item in rows),
        messages=messages,
        unacknowledged=sum(item.unacknowledged for item in rows),
        at_least=any(item.at_least for item in rows),
        at_most=any(item.at_most for item in rows),
        bytes=received,
        remaining=total_known(item.remaining for item in rows),
        errors=sum(item.error is not None for item in rows),
        retries=retries,
        messages_per_second=round(messages / seconds, 1) if messages and seconds else None,
        oldest=min((item.oldest for item in rows if item.oldest is not None), default=None),
    )


def all_verified(rows: tuple[PartitionResult, ...]) -> bool | None:
    """True if every row is, False if any is not, None if that is unknown (or nothing was there)."""
    verdicts = {item.verified for item in rows}
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True

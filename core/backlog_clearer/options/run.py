"""What to do with a backlog: the options that are the same for every system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode, Partition
from backlog_clearer.options.base import Names, PartitionNumbers
from backlog_clearer.options.bounds import BOUNDS, BoundOptions
from backlog_clearer.options.hooks import HeaderValue, HookUrl, is_confidential
from backlog_clearer.options.places import checked_place, checked_schemes
from backlog_clearer.options.rate import AHEAD_S, Rate, RateText, rate_of
from backlog_clearer.text import listed, shown_value


class Slice(BaseModel):
    """One part of a backlog that is cleared by several processes: partitions `[index::total]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0)
    total: int = Field(ge=1, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+)/(\d+)", value.strip())
            if not match:
                raise ValueError(
                    f"{shown_value(value)} is not a valid slice; write INDEX/TOTAL, as in 2/8"
                )
            return {"index": int(match[1]), "total": int(match[2])}
        return value

    @model_validator(mode="after")
    def _index_below_total(self) -> Self:
        if self.index >= self.total:
            raise ValueError(
                f"slice {self} does not exist: indexes of {self.total} slices run from 0"
                f" to {self.total - 1}"
            )
        return self

    def __str__(self) -> str:
        return f"{self.index}/{self.total}"


class RunOptions(BoundOptions):
    """What to do with the backlog, the same for every system."""

    mode: Mode = Field(
        Mode.CONSUME, description="consume: read and acknowledge; skip: move the position to the end"
    )
    workers: int = Field(
        4, ge=1, le=1024, description="lanes that read at the same time, each with its own client"
    )
    batch_size: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="messages requested by one read, where the protocol allows it",
    )
    stop_when_empty: bool = Field(
        False, description="end once the target is reached; otherwise continue until interrupted"
    )
    follow: bool = Field(
        False,
        description="continue past the end as it was at the start, instead of freezing it as the target",
    )
    max_messages: int | None = Field(None, ge=1, description="stop after this many messages")
    max_seconds: float | None = Field(None, gt=0, description="stop after this many seconds")
    max_rate: RateText | None = Field(
        None,
        description="read at most this much a second, with all workers and slices together: bytes as in"
        " 50MB/s, messages as in 200k/s",
    )
    stall_seconds: float = Field(
        60.0, gt=0, description="give up if backlog remains and no message arrives for this long"
    )
    max_retries: int = Field(
        10,
        ge=0,
        le=1000,
        description="attempts in a row after transient errors of a partition or lane, with backoff",
    )
    quiet_seconds: float = Field(
        15.0,
        gt=0,
        description="where the broker has no figures: end if no message arrives for this long",
    )
    verify_seconds: float | None = Field(
        None,
        ge=0,
        description="wait for the broker's proof for this long at most;"
        " default: 300 where its figures are late (Pub/Sub with Cloud Monitoring), otherwise 0",
    )
    partitions: PartitionNumbers | None = Field(None, description="only these, as in 0,3,5-8")
    slice: Slice | None = Field(
        None,
        description="only every TOTALth partition of the sorted list, as in 2/8; of a subscription whose"
        " consumers compete, a share",
    )
    force: bool = Field(False, description="proceed even if consumers are attached")
    new: bool = Field(
        False,
        description="the name is meant to be new: proceed although a similar one is in use;"
        " Pulsar: create the subscription",
    )
    ages: bool = Field(
        True,
        description="find out when the oldest message was published, at one small request a partition",
    )
    dry_run: bool = Field(False, description="show backlog, plan and cost; change nothing")
    receipt_dir: str = Field(
        "receipts", description="directory for receipts, a path or a URL (gs://, s3://, az://)"
    )
    receipt_schemes: Names = Field(
        (), description="further fsspec URL schemes that --receipt-dir may have, as in sftp"
    )
    metrics_file: str | None = Field(
        None,
        min_length=1,
        description="write metrics to this file while running and at the end, as Prometheus' text format",
    )
    notify: HookUrl | None = Field(
        None, description="post the result to this URL at the end, as JSON; better as ${env:NAME}"
    )
    notify_authorization: HeaderValue | None = Field(
        None, description="header Authorization of that post, as in 'Bearer …'; better as ${env:NAME}"
    )

    @model_validator(mode="before")
    @classmethod
    def _bounded_run_ends(cls, value: object) -> object:
        """A run with a bound has a target, and ends there."""
        if isinstance(value, Mapping) and any(value.get(name) is not None for name in BOUNDS):
            return {**value, "stop_when_empty": True}
        return value

    @model_validator(mode="after")
    def _follows_no_bound(self) -> Self:
        if self.follow and self.bounded:
            raise ValueError("--follow has no meaning with --until, --older-than or --keep-last")
        return self

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.mode is Mode.SKIP and self.follow:
            raise ValueError("--follow has no meaning with --mode skip: a skip ends at once")
        return self

    @model_validator(mode="after")
    def _authorization_is_kept_secret(self) -> Self:
        if self.notify_authorization is None:
            return self
        if self.notify is None:
            raise ValueError("--notify-authorization needs --notify")
        if not is_confidential(self.notify):
            raise ValueError("--notify-authorization is not sent without TLS: --notify needs https://")
        return self

    @model_validator(mode="after")
    def _receipts_can_be_kept(self) -> Self:
        try:
            checked_schemes(self.receipt_schemes)
        except ValueError as error:
            raise ValueError(f"--receipt-schemes: {error}") from None
        try:
            checked_place(self.receipt_dir, self.receipt_schemes)
        except ValueError as error:
            raise ValueError(f"--receipt-dir: {error}") from None
        return self

    @property
    def rate(self) -> Rate | None:
        """The part of `max_rate` that this slice has: slices of a run share it evenly."""
        if self.max_rate is None:
            return None
        return rate_of(self.max_rate).share(self.slice.total if self.slice else 1)

    def ahead_messages(self, most: int, lanes: int | None = None, *, ahead_s: float = AHEAD_S) -> int:
        """How many messages one of so many lanes may ask for in advance; `most` without `max_rate`."""
        rate = self.rate
        return rate.ahead_messages(lanes or self.workers, most, ahead_s) if rate else most

    def ahead_bytes(self, most: int, lanes: int | None = None, *, ahead_s: float = AHEAD_S) -> int:
        """How many bytes one of so many lanes may ask for in advance; `most` without `max_rate`."""
        rate = self.rate
        return rate.ahead_bytes(lanes or self.workers, most, ahead_s) if rate else most

    @property
    def answer_seconds(self) -> float:
        """How long a lane waits for an answer before its connection counts as dead.

        Less than half of --stall-seconds, so that a new connection is tried before the run counts as
        stalled; at most 15 s.
        """
        return min(15.0, 0.4 * self.stall_seconds)

    def choose(self, partitions: Iterable[Partition], *, competing: bool = False) -> list[Partition]:
        """The partitions that `--partitions` and `--slice` select, sorted.

        `competing`: several slices may share a partition, so that none is left without one.

        Raises `UsageError` naming partitions that do not exist, and those that do.
        """
        chosen = sorted(partitions)
        if self.partitions is not None:
            existing = {partition.number for partition in chosen}
            missing = [number for number in self.partitions if number not in existing]
            if missing:
                raise UsageError(
                    f"--partitions names {listed(missing)}, but the partitions are"
                    f" {listed(sorted(existing), 20)}."
                )
            wanted = set(self.partitions)
            chosen = [partition for partition in chosen if partition.number in wanted]
        if self.slice is None:
            return chosen
        index, total = self.slice.index, self.slice.total
        if competing and chosen and total > len(chosen):
            return [chosen[index % len(chosen)]]
        return chosen[index::total]

"""The status of a whole run, from the files of its invocations: receipts, their results, failures.

Slices run twice, die and continue, so nothing is added up that could be counted twice. A partition's
figures span from the first receipt that names it (its position and target) to the newest figure of the
broker: exact, however many invocations there were.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Literal

from pydantic import Field, ValidationError

from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.fanout.dispatch import Dispatch, read_dispatch
from backlog_clearer.fanout.run_pace import (
    SliceFigures,
    common_rate,
    is_final,
    shared_partitions,
    slice_eta_s,
    slice_figures,
)
from backlog_clearer.model import Partition, StrEnum, total_known
from backlog_clearer.options.run import Slice
from backlog_clearer.run import store
from backlog_clearer.run.job import now
from backlog_clearer.run.receipt import Receipt, is_declined, load_run, part_name, run_folder
from backlog_clearer.run.report import Action, FreeText, Reported, StoredPosition, Verdict, rounded
from backlog_clearer.run.verdict import EXIT_DONE, EXIT_NOT_DONE, EXIT_UNPROVEN

RUN_SCHEMA: Literal["backlog-clearer/run/2"] = "backlog-clearer/run/2"


class Failure(Reported):
    """An invocation that ended before it had a receipt, or a message that its queue gave up on."""

    slice: Slice | None
    error: FreeText
    kind: str
    at: datetime


class State(StrEnum):
    """The state of one slice."""

    WAITING = "waiting"  # no invocation has stored anything yet
    STARTED = "started"  # its newest invocation has no result: it runs, or was killed
    CLEARED = "cleared"  # an invocation of it was verified by the broker
    UNPROVEN = "unproven"  # done by its newest result, but not proven by any
    NOT_CLEARED = "not cleared"  # by its newest result; another attempt may follow
    DECLINED = "declined"  # its newest invocation was not confirmed, and changed nothing
    FAILED = "failed"  # refused, or given up by the queue, since its newest receipt


_FINAL = {State.CLEARED, State.DECLINED, State.FAILED}
_PERHAPS_FINAL = {State.UNPROVEN, State.NOT_CLEARED}


class SliceStatus(Reported):
    """One slice of a run."""

    slice: str = Field(description='"slice-2-of-8" or "whole"')
    state: State
    invocations: int = Field(description="how many stored a receipt")
    error: str | None = None
    since: datetime | None = Field(
        None,
        description="started: when its newest invocation stored its receipt; it has no result since, because it"
        " is still running or was killed",
    )
    backlog: int | None = Field(
        None,
        description="of its partitions, before, in `unit`; null: unknown, or shared with other slices",
    )
    gone: int | None = Field(None, description="how much of it is gone, by the newest result")
    messages: int = Field(0, description="read and acknowledged by invocations that ended")
    per_second: float | None = Field(
        None,
        description="gone in each second of its draining (messages, where slices share partitions); null:"
        " no invocation ended yet",
    )
    eta_seconds: float | None = Field(
        None,
        description="until it is done, estimated by the slices that ended; null: unknown, or it is not at work",
    )
    final: bool = Field(False, description="whether no other invocation of it is expected")


class PartitionStatus(Reported):
    """One partition over all invocations of a run."""

    topic: str
    partition: int
    before: StoredPosition = Field(description="stored position before the run's first invocation")
    target: StoredPosition = Field(description="position to reach, frozen by the first invocation")
    after: StoredPosition = Field(None, description="stored position by the newest result")
    backlog: int | None = Field(description="before, up to the target, in `unit`; null: unknown")
    remaining: int | None = Field(None, description="by the newest result, in `unit`; null: unknown")
    verified: bool = Field(
        False, description="whether the broker confirmed to an invocation that nothing is left"
    )

    @property
    def id(self) -> Partition:
        """The partition this entry is about."""
        return Partition(self.topic, self.partition)

    @property
    def cleared(self) -> int | None:
        """How much of the backlog is gone, in `unit`."""
        return _difference(self.backlog, self.remaining)


class RunStatus(Reported):
    """The status of a run."""

    schema_: Literal["backlog-clearer/run/2"] = Field(RUN_SCHEMA, alias="schema")
    run_id: str
    backlog: str | None = Field(description="configured name; null: the run was not dispatched")
    subscription: str | None
    unit: str | None
    verdict: Verdict = Field(
        description="cleared: every slice is; unproven: every slice is done; otherwise not_cleared"
    )
    counts: dict[State, int] = Field(description="slices by state")
    slices: tuple[SliceStatus, ...]
    partitions: tuple[PartitionStatus, ...]
    total: int | None = Field(description="backlog before, in `unit`; null: unknown")
    gone: int | None = Field(
        description="how much of it is gone; null: not known for all partitions yet"
    )
    expected: int | None = Field(
        None,
        description="`total`, or the backlog at the dispatch while `total` is not known, in `unit`",
    )
    gone_so_far: int = Field(
        0, description="how much of it is gone, of the partitions for which that is known, in `unit`"
    )
    started_at: datetime | None = Field(None, description="its dispatch, or its first invocation")
    per_second: float | None = Field(
        None, description="gone in each second since the start; null: unknown, or the run has ended"
    )
    eta_seconds: float | None = Field(
        None, description="until all is gone at that rate; null: unknown, or the run has ended"
    )
    ended: bool = Field(False, description="whether no other invocation is expected")

    @property
    def cleared(self) -> bool:
        """Whether every slice is cleared, by the broker's figures."""
        return self.verdict is Verdict.CLEARED


def run_status(receipts: str, run_id: str, known: dict[str, Receipt] | None = None) -> RunStatus:
    """The status of a run; raises `UsageError` if there is no such run, `BrokerError`.

    `known` keeps the receipts that do not change any more, by path: a later call does not read them again.
    """
    known = {} if known is None else known
    dispatched = read_dispatch(receipts, run_id)
    try:
        loaded = load_run(receipts, run_id, known=known)
    except UsageError as error:  # the run may exist
        raise BrokerError(str(error)) from error
    known.update({path: item for path, item in loaded.items() if item.result is not None})
    found = [item for item in loaded.values() if item.action is Action.CLEAR]
    failures = _failures(run_folder(receipts, run_id))
    if dispatched is None and not found and not failures:
        raise UsageError(f"There is no run {run_id!r} in {receipts}.")
    return combined(run_id, dispatched, found, failures, now())


def combined(
    run_id: str,
    dispatched: Dispatch | None,
    receipts: Sequence[Receipt],
    failures: Sequence[Failure],
    at: datetime,
) -> RunStatus:
    """The status of a run from its dispatch, its receipts (oldest first) and its failures: pure.

    `at` is the time of the status.
    """
    parts = [item.slice for item in receipts] + [item.slice for item in failures]
    total = dispatched.slices if dispatched else max((part.total for part in parts if part), default=0)
    names = [part_name(Slice(index=index, total=total)) for index in range(total)]
    names += [part_name(part) for part in parts]
    partitions = _partitions(receipts)
    proven = {item.id for item in partitions if item.verified}
    left = {item.id: (item.backlog, item.remaining) for item in partitions}
    shared = shared_partitions(receipts)
    by_name: dict[str, list[Receipt]] = {}
    for item in receipts:
        by_name.setdefault(part_name(item.slice), []).append(item)
    figures = {name: slice_figures(by_name.get(name, ()), left, shared) for name in names}
    rate = common_rate(list(figures.values()))
    slices = tuple(
        _with_figures(
            _slice(
                name,
                by_name.get(name, ()),
                [item for item in failures if part_name(item.slice) == name],
                proven,
            ),
            figures[name],
            by_name.get(name, ()),
            rate,
            at,
        )
        for name in dict.fromkeys(names)
    )
    total_before = total_known(item.backlog for item in partitions)
    if total_before is None and dispatched is not None and dispatched.targets:
        total_before = dispatched.backlog  # up to the same targets, counted before any slice began
    remaining = total_known(item.remaining for item in partitions)
    complete = all(item.invocations for item in slices)
    first = receipts[0] if receipts else None
    expected = total_before if complete else dispatched.backlog if dispatched else None
    so_far = sum(item.cleared or 0 for item in partitions)
    began = [dispatched.created_at] if dispatched else [item.created_at for item in receipts]
    started_at = min(began, default=None)
    ended = all(item.final for item in slices)
    per_second = None
    if so_far and not ended and started_at is not None and at > started_at:
        per_second = so_far / (at - started_at).total_seconds()
    return RunStatus(
        run_id=run_id,
        backlog=dispatched.request.backlog if dispatched else None,
        subscription=first.subscription if first else dispatched.subscription if dispatched else None,
        unit=first.unit if first else dispatched.unit if dispatched else None,
        verdict=_verdict({item.state for item in slices}),
        counts={state: sum(item.state is state for item in slices) for state in State},
        slices=slices,
        partitions=partitions,
        total=total_before if complete else None,
        gone=_difference(total_before, remaining) if complete else None,
        expected=expected,
        gone_so_far=so_far,
        started_at=started_at,
        per_second=rounded(per_second),
        eta_seconds=rounded(
            None if per_second is None or expected is None else max(0, expected - so_far) / per_second
        ),
        ended=ended,
    )


def _with_figures(
    found: SliceStatus,
    figures: SliceFigures,
    receipts: Sequence[Receipt],
    rate: float | None,
    at: datetime,
) -> SliceStatus:
    """A slice with its figures; `rate` is what slices of this run do in a second."""
    runs = found.state is State.STARTED
    eta_s = slice_eta_s(figures, figures.rate or rate, at) if runs else None
    final = found.state in _FINAL or (
        found.state in _PERHAPS_FINAL and bool(receipts) and is_final(receipts[-1], at)
    )
    more = {
        "backlog": figures.backlog,
        "gone": figures.gone,
        "messages": figures.messages,
        "per_second": rounded(figures.rate),
        "eta_seconds": rounded(eta_s),
        "final": final,
    }
    return found.model_copy(update=more)


def _difference(before: int | None, left: int | None) -> int | None:
    return None if before is None or left is None else before - left


def _verdict(states: set[State]) -> Verdict:
    if states == {State.CLEARED}:
        return Verdict.CLEARED
    done = states and states <= {State.CLEARED, State.UNPROVEN}
    return Verdict.UNPROVEN if done else Verdict.NOT_CLEARED


def run_exit_code(run: RunStatus) -> int:
    """The exit code of a run's status: 0 cleared, 1 not cleared, 4 unproven."""
    codes = {Verdict.CLEARED: EXIT_DONE, Verdict.UNPROVEN: EXIT_UNPROVEN}
    return codes.get(run.verdict, EXIT_NOT_DONE)


def _slice(
    name: str, receipts: Sequence[Receipt], failures: Sequence[Failure], proven: AbstractSet[Partition]
) -> SliceStatus:
    """The state of a slice; one that is done is proven by whichever invocation proved its partitions."""
    newest = receipts[-1] if receipts else None
    since = None
    failure = max(failures, key=lambda item: item.at, default=None)
    error = None
    if any(item.result is not None and item.result.cleared for item in receipts):
        state = State.CLEARED
    elif failure is not None and (newest is None or newest.created_at <= failure.at):
        state, error = State.FAILED, failure.error
    elif newest is None:
        state = State.WAITING
    elif newest.result is None:
        state, since = State.STARTED, newest.created_at
    elif is_declined(newest):
        state = State.DECLINED
    elif newest.result.verdict is Verdict.UNPROVEN:
        whole = {entry.id for entry in newest.partitions} <= proven
        state = State.CLEARED if whole else State.UNPROVEN
    else:
        rows = [item.error for item in newest.result.partitions if item.error]
        state, error = State.NOT_CLEARED, newest.result.error or (rows[0] if rows else None)
    return SliceStatus(slice=name, state=state, invocations=len(receipts), error=error, since=since)


def _partitions(receipts: Sequence[Receipt]) -> tuple[PartitionStatus, ...]:
    found: dict[Partition, PartitionStatus] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            found.setdefault(
                entry.id,
                PartitionStatus(
                    topic=entry.topic,
                    partition=entry.partition,
                    before=entry.position,
                    target=entry.target,
                    backlog=entry.backlog,
                ),
            )
    for result in (item.result for item in receipts if item.result is not None):
        for row in result.partitions:
            so_far = found.get(row.id)
            if so_far is None:
                continue
            verified = so_far.verified or row.verified is True
            # Clocks do not decide which of two overlapping attempts ended last: up to one target, and with
            # positions that only move forward, the smaller figure is the newer one.
            known = [left for left in (so_far.remaining, row.remaining) if left is not None]
            remaining = 0 if verified else min(known, default=None)
            newer = (
                so_far.remaining is None or row.remaining is None or row.remaining <= so_far.remaining
            )
            found[row.id] = so_far.model_copy(
                update={
                    "after": row.after if newer else so_far.after,
                    "remaining": remaining,
                    "verified": verified,
                }
            )
    return tuple(found[key] for key in sorted(found))


def note_failure(receipts: str, request: Request, error: Exception, at: datetime) -> None:
    """Store the failure of a slice, for the status of its run.

    Does nothing for a request without a run. Raises `BrokerError` where it cannot be stored.
    """
    if request.run_id is None:
        return
    part = request.part
    failure = Failure(slice=part, error=str(error), kind=type(error).__name__, at=at)
    path = (
        f"{run_folder(receipts, request.run_id)}/failed-{part_name(part)}-{secrets.token_hex(4)}.json"
    )
    try:
        store.write(path, failure.model_dump_json(indent=2).encode())
    except OSError as problem:
        raise BrokerError(f"The failure cannot be stored in {path}: {problem}.") from problem


def _failures(folder: str) -> list[Failure]:
    try:
        found = store.read_all(store.json_files(folder, "failed-"))
    except OSError as error:
        raise BrokerError(f"The failures in {folder} cannot be read: {error}.") from error
    try:
        return [Failure.model_validate_json(data) for data in found.values()]
    except ValidationError as error:
        raise BrokerError(f"A file failed-….json in {folder} is not a failure of this tool.") from error

"""How fast earlier runs read the same backlog, by their receipts: for the estimate of a dry run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backlog_clearer.deadline import within
from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Mode, PartitionState, StopReason, Survey, total_known
from backlog_clearer.options.run import Slice
from backlog_clearer.run import store
from backlog_clearer.run.job import Job
from backlog_clearer.run.plan import least_s
from backlog_clearer.run.receipt import Receipt, load, part_name
from backlog_clearer.run.report import Action
from backlog_clearer.text import amount, duration

RUNS = 25
"""So many runs are looked at, the newest first; one receipt of each."""

DEADLINE_S = 2.0
"""After this time the plan is shown without an estimate."""

_BY_TIME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")  # see `receipt.new_run_id`
_READING = {StopReason.EMPTY, StopReason.LIMIT, StopReason.DEADLINE}  # others waited as well as read
_COUNTS_MESSAGES = {"messages", "events"}


class EarlierRate(NamedTuple):
    """What an earlier run read, in its source's unit, and how long it took."""

    run_id: str
    read: int  # above 0
    seconds: float  # above 0
    unit: str

    def seconds_for(self, backlog: int) -> float:
        """How long so much takes at this rate."""
        return backlog * self.seconds / self.read

    def sentence(self, backlog: int, seconds: float) -> str:
        """How long a backlog takes, and where that comes from."""
        return (
            f"Reading {amount(backlog, self.unit)} takes about {duration(seconds)} at the rate of run"
            f" {self.run_id} ({amount(self.read, self.unit)} in {duration(self.seconds)})."
        )


def estimated(
    job: Job, survey: Survey, states: Sequence[PartitionState]
) -> tuple[float | None, tuple[str, ...]]:
    """How long a dry run's backlog takes to read, in seconds, and a note of why; None: no rate is known."""
    run, backlog = job.run, total_known(state.backlog for state in states)
    if not run.dry_run or run.mode is not Mode.CONSUME or not backlog:
        return None, ()
    earlier = earlier_rate(job, survey.identity)
    if earlier is None:
        return None, ()
    seconds = max(earlier.seconds_for(backlog), least_s(run, states) or 0.0)
    return seconds, (earlier.sentence(backlog, seconds),)


def earlier_rate(job: Job, identity: Mapping[str, str]) -> EarlierRate | None:
    """The rate of the newest run on this subscription of which a receipt shows it; never raises.

    None: none of the last `RUNS` runs in the receipt directory shows it, or looking took longer than
    `DEADLINE_S`. A slice is compared with the same slice.
    """
    run = job.run
    try:
        return within(DEADLINE_S, lambda: _newest(run.receipt_dir, job.system, identity, run.slice))
    except (OSError, ClearerError):  # TimeoutError is one, too
        return None


def _newest(
    directory: str, system: str, identity: Mapping[str, str], part: Slice | None
) -> EarlierRate | None:
    for run_id in newest_first(store.folders(directory))[:RUNS]:
        paths = store.json_files(f"{directory.rstrip('/')}/{run_id}", f"{part_name(part)}-")
        try:
            found = rate_shown_by(load(paths[-1]), system, identity) if paths else None
        except ClearerError:  # an edited or damaged receipt
            continue
        if found is not None:
            return found
    return None


def newest_first(run_ids: Sequence[str]) -> list[str]:
    """Run ids by the time in them, the newest first; those without a time last: pure."""
    return sorted(run_ids, key=lambda item: (bool(_BY_TIME.fullmatch(item)), item), reverse=True)


def rate_shown_by(receipt: Receipt, system: str, identity: Mapping[str, str]) -> EarlierRate | None:
    """What a receipt shows of how fast this subscription is read; None: nothing. Pure."""
    result = receipt.result
    if result is None or receipt.action is not Action.CLEAR or receipt.mode is not Mode.CONSUME:
        return None
    if result.stop_reason not in _READING:
        return None
    if (receipt.system, receipt.identity) != (system, dict(identity)):
        return None
    totals = result.totals
    count = totals.messages if receipt.unit in _COUNTS_MESSAGES else 0
    if not count and totals.backlog is not None and totals.remaining is not None and totals.messages:
        count = totals.backlog - totals.remaining
    if count <= 0 or result.seconds <= 0:
        return None
    return EarlierRate(receipt.run_id, count, result.seconds, receipt.unit)

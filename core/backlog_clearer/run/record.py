"""One run: the facts that every step needs, and what is shown and stored of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from backlog_clearer import __version__
from backlog_clearer.engine.drain import Drain
from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.model import Bound, Partition, PartitionState, Position, StopReason, Survey, Traits
from backlog_clearer.run import receipt as receipts
from backlog_clearer.run.job import Callbacks, Job, now
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.proof import wanted_s
from backlog_clearer.run.receipt import Receipt, RecordedPartition
from backlog_clearer.run.report import (
    Action,
    PartitionResult,
    RunResult,
    Verdict,
    all_verified,
    as_json,
    rounded,
    row,
    total,
)
from backlog_clearer.run.shares import is_share, proves
from backlog_clearer.run.verdict import changed


@dataclass(frozen=True, slots=True)
class Change:
    """What a run did, apart from its rows; times in seconds."""

    seconds: float
    reason: StopReason | None = None
    retries: int = 0
    bytes: int = 0
    waited_s: float = 0.0  # for the broker's proof
    error: str | None = None  # of the run as a whole, where no partition is at fault


def change_of(drained: Drain, waited_s: float = 0.0) -> Change:
    """A drain or a skip as a `Change`."""
    received = sum(item.bytes for item in drained.partitions.values())
    return Change(drained.seconds, drained.reason, drained.retries, received, waited_s, drained.error)


@dataclass(frozen=True, slots=True)
class Record:
    """One run after its survey; nothing of it changes any more."""

    job: Job
    action: Action
    traits: Traits
    survey: Survey
    states: tuple[PartitionState, ...]
    targets: Mapping[Partition, Position | None]
    """The position that each partition is to reach; None: the end, or nothing stored."""
    notes: tuple[str, ...]
    started_at: datetime
    path: str | None  # of the receipt; None: none is written
    sequence: int = 0  # of the receipt among those of its run
    bound: Bound | None = None  # what the targets leave; None: nothing
    eta_s: float | None = None  # of a dry run: how long it takes; None: unknown
    absent: tuple[PartitionResult, ...] = ()  # partitions that do not exist; no receipt records them

    @property
    def rows(self) -> tuple[PartitionResult, ...]:
        """The partitions before anything changes."""
        found = [row(state, target=self.targets.get(state.partition)) for state in self.states]
        return tuple(sorted((*found, *self.absent), key=lambda item: item.id))

    def plan(self, cost: str) -> Plan:
        """The plan to show before anything changes; `cost` is one line."""
        return Plan(
            action=self.action,
            mode=self.job.run.mode if self.action is Action.CLEAR else None,
            subscription=self.survey.subscription,
            unit=self.traits.unit,
            rows=self.rows,
            notes=self.notes,
            cost=cost,
            receipt=self.path,
            dry_run=self.job.run.dry_run,
            bounded=self.bound is not None,
        )

    def begin(self, path: str, plan: Plan, callbacks: Callbacks) -> Receipt:
        """Store the receipt, show the plan, and have it confirmed: only then may anything change.

        Raises `BrokerError` if the receipt cannot be stored, `RefusedError` if it is not confirmed; the
        receipt then records that.
        """
        receipt = self.stored(path)
        try:
            callbacks.show(plan)
            confirmed = callbacks.confirm(plan)
        except BaseException:  # an interrupt, too
            self.end_unbegun(receipt, StopReason.DECLINED)
            raise
        if not confirmed:
            self.end_unbegun(receipt, StopReason.DECLINED)
            raise RefusedError(
                f"Not confirmed; nothing was changed. The receipt at {path} records that it was declined."
            )
        return receipt

    def stored(self, path: str) -> Receipt:
        """Store the receipt; raises `BrokerError` if that fails."""
        receipt = self.receipt()
        receipts.save(receipt, path)
        return receipt

    def end_unbegun(self, receipt: Receipt, reason: StopReason) -> RunResult:
        """Complete a receipt: nothing of its run began, for this reason."""
        clears = self.action is Action.CLEAR
        result = self.result(
            self.rows,
            verdict=Verdict.NOT_CLEARED if clears else Verdict.NOT_RESTORED,
            change=Change(0.0, reason),
            untouched=frozenset(item.id for item in self.rows),
        )
        return complete(receipt, result)

    def receipt(self) -> Receipt:
        """The receipt of this run, without its result."""
        clears = self.action is Action.CLEAR
        return Receipt(
            version=__version__,
            run_id=self.job.run_id,
            sequence=self.sequence,
            system=self.job.system,
            subscription=self.survey.subscription,
            identity=dict(self.survey.identity),
            options=self.job.options.public(),
            action=self.action,
            mode=self.job.run.mode if clears else None,
            slice=self.job.run.slice,
            until=self.bound.until if self.bound else None,
            keep_last=self.bound.keep_last if self.bound else None,
            unit=self.traits.unit,
            created_at=self.started_at,
            partitions=tuple(
                RecordedPartition(
                    topic=state.partition.topic,
                    partition=state.partition.number,
                    position=as_json(state.position),
                    backlog=state.backlog,
                    target=as_json(self.targets.get(state.partition)) if clears else None,
                    incarnation=state.incarnation,
                    epoch=state.epoch if clears else None,
                    undo=state.undo,
                    error=state.error,
                )
                for state in self.states
            ),
        )

    def _provable(self, rows: tuple[PartitionResult, ...], waited_s: float) -> bool:
        """Whether waiting longer than `waited_s` may prove that nothing is left."""
        if self.action is not Action.CLEAR:
            return False
        if is_share(self.survey, self.traits, self.job.run):  # the others may take any time
            figures = self.traits.proof_wait_s or any(item.remaining is not None for item in rows)
            return proves(self.job.run) and bool(figures)
        return waited_s + 1.0 < wanted_s(self.job, self.traits)

    def result(
        self,
        rows: tuple[PartitionResult, ...],
        *,
        verdict: Verdict | None,
        change: Change | None = None,
        untouched: AbstractSet[Partition] = frozenset(),
        notes: tuple[str, ...] = (),
    ) -> RunResult:
        """The result of the run; `notes` come after those that the plan had.

        `untouched` are partitions that were certainly not changed.
        """
        done = change or Change(0.0)
        mode = self.job.run.mode if self.action is Action.CLEAR else None
        return RunResult(
            version=__version__,
            run_id=self.job.run_id,
            system=self.job.system,
            subscription=self.survey.subscription,
            action=self.action,
            mode=mode,
            dry_run=self.job.run.dry_run,
            slice=str(self.job.run.slice) if self.job.run.slice else None,
            until=self.bound.until if self.bound else None,
            keep_last=self.bound.keep_last if self.bound else None,
            unit=self.traits.unit,
            started_at=self.started_at,
            finished_at=now(),
            seconds=round(done.seconds, 3),
            partitions=rows,
            totals=total(rows, retries=done.retries, seconds=done.seconds, received=done.bytes),
            stop_reason=done.reason,
            verified=all_verified(rows) if change else None,
            verdict=verdict,
            changed=change is not None
            and not self.traits.counts_only
            and any(changed(item, mode) for item in rows if item.id not in untouched),
            proof=self.traits.proof or None if verdict is Verdict.UNPROVEN else None,
            provable=verdict is Verdict.UNPROVEN and self._provable(rows, done.waited_s),
            waited_seconds=round(done.waited_s, 3),
            live=self.survey.live,
            receipt=self.path,
            notes=(*self.notes, *notes),
            eta_seconds=rounded(self.eta_s),
            error=done.error,
        )


def complete(receipt: Receipt, result: RunResult) -> RunResult:
    """Store the result in the receipt; a failure to do so is noted, since the change is made."""
    if result.receipt is None:
        return result
    try:
        receipts.save(receipt.model_copy(update={"result": result}), result.receipt)
    except BrokerError as error:
        note = f"The run is complete, but its receipt could not be completed: {error}"
        return result.model_copy(update={"notes": (*result.notes, note)})
    return result


def annotated(result: RunResult, notes: Sequence[str]) -> RunResult:
    """A result with further notes; its receipt gets them, too, where it can be stored again."""
    if not notes:
        return result
    noted = result.model_copy(update={"notes": (*result.notes, *notes)})
    if noted.receipt is None:
        return noted
    try:
        stored = receipts.load(noted.receipt)
    except (BrokerError, UsageError):
        return noted
    return complete(stored, noted)

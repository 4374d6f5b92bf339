"""Several subscriptions at once: one survey of all, one plan, all receipts, then one after the other.

Each is a separate run, with its receipt and its result; one that is refused or fails does not stop
the others. Nothing is changed before every receipt is stored and the one plan is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import Field

from backlog_clearer import __version__
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import ClearerError, RefusedError, UsageError
from backlog_clearer.model import Mode, StopReason, total_known
from backlog_clearer.registry import open_source
from backlog_clearer.run.clear import Carried, Prepared, carry_out, prepare, verified
from backlog_clearer.run.job import Callbacks, Job, now
from backlog_clearer.run.metering import Meter, status_metered
from backlog_clearer.run.metrics_file import named_path
from backlog_clearer.run.notify import announce_failure, announced
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.receipt import Receipt
from backlog_clearer.run.report import Action, FreeText, Reported, RunResult, Verdict
from backlog_clearer.run.selection import Member, Selected
from backlog_clearer.run.verdict import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    EXIT_UNPROVEN,
    EXIT_WRONG_USE,
    exit_code,
)

SEVERAL_SCHEMA: Literal["backlog-clearer/several/1"] = "backlog-clearer/several/1"

_AT_A_TIME = 8  # surveys


class SeveralPart(Reported):
    """One of the subscriptions: its result, or why there is none."""

    name: str
    topics: tuple[str, ...] = Field(
        (), description="those that were found for it; empty: as the options name them"
    )
    result: RunResult | None = Field(None, description="null: it was refused, and nothing was changed")
    error: FreeText | None = Field(None, description="why there is no result")
    kind: str | None = Field(None, description="of the error: UsageError, RefusedError, BrokerError")


class SeveralTotals(Reported):
    """The sum over the subscriptions; null where any part is unknown."""

    subscriptions: int
    refused: int = Field(description="those without a result")
    cleared: int = Field(description="those whose verdict is cleared")
    backlog: int | None = Field(description="before, in `unit`")
    messages: int = Field(description="read and acknowledged")
    remaining: int | None = Field(description="afterwards, in `unit`")


class SeveralResult(Reported):
    """The outcome of one call for several subscriptions, with a part for each."""

    schema_: Literal["backlog-clearer/several/1"] = Field(SEVERAL_SCHEMA, alias="schema")
    version: str = Field(description="of backlog-clearer")
    run_id: str = Field(description="the run id of each part begins with it, and a dot")
    system: str
    action: Action
    mode: Mode | None = Field(None, description="how the backlogs were cleared; null: they were not")
    dry_run: bool = False
    matching: str | None = Field(None, description="the pattern of names; null: all were named")
    complete: bool = Field(
        True, description="false: the system could not list all; a note states what is missing"
    )
    unit: str | None = Field(description="of backlog and remaining; null: no part has a result")
    started_at: datetime
    finished_at: datetime
    parts: tuple[SeveralPart, ...]
    totals: SeveralTotals
    verdict: Verdict | None = Field(
        description="the gravest of the parts; null: status and dry runs, which change nothing"
    )
    notes: tuple[FreeText, ...] = ()


class PlannedPart(NamedTuple):
    """One subscription of a plan: its own plan, or why it is refused."""

    name: str
    topics: tuple[str, ...]
    plan: Plan | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SeveralPlan:
    """What is about to be changed, of all subscriptions."""

    mode: Mode | None
    dry_run: bool
    matching: str | None
    notes: tuple[str, ...]
    parts: tuple[PlannedPart, ...]


Beginning: TypeAlias = Callable[[str], AbstractContextManager[Callbacks]]
"""Called with the name of each subscription when its change begins; how that run talks."""


@dataclass(frozen=True, slots=True)
class SeveralCallbacks:
    """How a call for several subscriptions talks; every part may be left out."""

    show: Callable[[SeveralPlan], None] = lambda _: None
    confirm: Callable[[SeveralPlan], bool] = lambda _: True
    begin: Beginning = lambda _: nullcontext(Callbacks())


_Outcome: TypeAlias = RunResult | ClearerError
_Done = TypeVar("_Done")


def clear_several(
    selected: Selected, callbacks: SeveralCallbacks | None = None, halt: Halt | None = None
) -> SeveralResult:
    """Clear the backlogs of several subscriptions, or only show what would be done (`dry_run`).

    Raises `UsageError` for a run without an end, `RefusedError` if the plan is not confirmed; every other
    error is in its part.
    """
    _check_ends(selected)
    selected = with_files(selected)
    jobs = {index: member.job for index, member in enumerate(selected.members) if member.job}
    halt = halt or Halt()
    meters = {index: Meter(job, halt) for index, job in jobs.items()}
    with ExitStack() as stack:
        for meter in meters.values():
            stack.callback(meter.broken_off)  # of those that have not ended
        found = _Several(selected, callbacks or SeveralCallbacks(), halt, stack, meters)
        return found.clear()


def status_several(selected: Selected) -> SeveralResult:
    """The backlogs of several subscriptions as they are now; changes nothing and raises nothing."""
    started_at = now()
    selected = with_files(selected)
    found = _each(selected, status_metered)
    return _result(selected, Action.STATUS, found, started_at)


def several_exit_code(result: SeveralResult) -> int:
    """The exit code: 0 where all are done and proven (or shown), 2 where all were wrong use.

    Otherwise 4 where only proof is missing, and 1.
    """
    if result.parts and all(part.kind == UsageError.__name__ for part in result.parts):
        return EXIT_WRONG_USE
    codes = {exit_code(part.result) if part.result else EXIT_NOT_DONE for part in result.parts}
    if EXIT_NOT_DONE in codes or not result.complete:
        return EXIT_NOT_DONE
    return EXIT_UNPROVEN if EXIT_UNPROVEN in codes else EXIT_DONE


def _check_ends(selected: Selected) -> None:
    for member in selected.members:
        if member.job is not None:
            run = member.job.run
            if run.mode is Mode.CONSUME and not (run.stop_when_empty or run.dry_run):
                raise UsageError(
                    "Several subscriptions are cleared one after the other: use --stop-when-empty, so that"
                    " each has an end."
                )


@dataclass(frozen=True, slots=True)
class _Several:
    """One call; `outcomes` fills up, by the index of the member."""

    selected: Selected
    callbacks: SeveralCallbacks
    halt: Halt
    stack: ExitStack  # closes the sources
    meters: Mapping[int, Meter]  # of the members that have a job
    outcomes: dict[int, _Outcome] = field(default_factory=dict)

    def clear(self) -> SeveralResult:
        """All phases; see the module."""
        started_at = now()
        ready = self._surveyed()
        receipts: dict[int, Receipt] = {}
        try:
            self._store(ready, receipts)
            confirmed = self._confirmed(ready)
        except BaseException:  # an interrupt, too
            self._decline(ready, receipts)
            raise
        if not confirmed:
            self._decline(ready, receipts)
            raise RefusedError(
                "Not confirmed; nothing was changed. The receipts record that it was declined."
            )
        for index, item in ready.items():
            if index not in receipts and index not in self.outcomes:  # a dry run
                self.outcomes[index] = item.record.result(item.record.rows, verdict=None)
        self._change(ready, receipts)
        self._announce()
        return _result(self.selected, Action.CLEAR, self.outcomes, started_at)

    def _surveyed(self) -> dict[int, Prepared]:
        def prepared(job: Job) -> Prepared:
            source = open_source(job.system, job.options, job.run, job.run_id)
            self.stack.enter_context(closing(source))
            return prepare(source, job)

        found = _each(self.selected, prepared)
        self.outcomes.update({k: v for k, v in found.items() if isinstance(v, ClearerError)})
        return {k: v for k, v in found.items() if not isinstance(v, ClearerError)}

    def _store(self, ready: Mapping[int, Prepared], receipts: dict[int, Receipt]) -> None:
        """Store the receipts of all; one that cannot be stored refuses its subscription."""
        for index, item in ready.items():
            path = item.record.path
            if path is not None:
                try:
                    receipts[index] = item.record.stored(path)
                except ClearerError as error:
                    self.outcomes[index] = error

    def _confirmed(self, ready: Mapping[int, Prepared]) -> bool:
        plan = self._plan(ready)
        self.callbacks.show(plan)
        begins = any(index not in self.outcomes for index in ready)
        return plan.dry_run or not begins or self.callbacks.confirm(plan)

    def _plan(self, ready: Mapping[int, Prepared]) -> SeveralPlan:
        parts = []
        for index, member in enumerate(self.selected.members):
            failed = self.outcomes.get(index)
            plan = ready[index].plan if failed is None else None
            error = str(failed) if failed is not None else None
            parts.append(PlannedPart(member.name, member.topics, plan, error))
        run = _first_job(self.selected)
        return SeveralPlan(
            mode=run.run.mode if run else None,
            dry_run=bool(run and run.run.dry_run),
            matching=self.selected.matching,
            notes=self.selected.notes,
            parts=tuple(parts),
        )

    def _decline(self, ready: Mapping[int, Prepared], receipts: Mapping[int, Receipt]) -> None:
        for index, receipt in receipts.items():
            ready[index].record.end_unbegun(receipt, StopReason.DECLINED)

    def halted(self) -> bool:
        """Whether a signal has asked for a stop."""
        return self.halt.signalled

    def _announce(self) -> None:
        """Post each result, or why there is none, where the configuration asks for it."""
        for index, member in enumerate(self.selected.members):
            outcome = self.outcomes[index]
            if member.job is None:
                continue
            if isinstance(outcome, ClearerError):
                announce_failure(member.job, outcome, self.halted)
            else:
                self.outcomes[index] = announced(member.job, outcome, self.halted)

    def _change(self, ready: Mapping[int, Prepared], receipts: Mapping[int, Receipt]) -> None:
        """Change and verify one after the other; figures that come late are waited for at the end."""
        late: dict[int, Carried] = {}
        for index, receipt in receipts.items():
            item = ready[index]
            self.halt.renew()
            if self.halt.signalled:
                self.outcomes[index] = item.record.end_unbegun(receipt, StopReason.SIGNAL)
                continue
            meter = self.meters[index]
            meter.begin(item.plan)
            with self.callbacks.begin(self.selected.members[index].name) as talk:
                try:
                    carried = carry_out(item, receipt, meter.listening(talk), self.halt)
                except ClearerError as error:
                    meter.broken_off()
                    self.outcomes[index] = error
                    continue
                if item.source.traits.proof_wait_s > 0:
                    late[index] = carried
                else:
                    self.outcomes[index] = meter.ended(verified(carried, talk, self.halt))
        for index, carried in late.items():
            with self.callbacks.begin(self.selected.members[index].name) as talk:
                result = verified(carried, talk, self.halt)
                self.outcomes[index] = self.meters[index].ended(result)


def with_files(selected: Selected) -> Selected:
    """The same, with a metrics file for each subscription where one is asked for."""

    def named(member: Member) -> Member:
        job = member.job
        if job is None or job.run.metrics_file is None:
            return member
        topic = getattr(job.options, "topic", None)  # a name is that of one topic where it is one
        which = [member.name, *member.topics] if isinstance(topic, str) else [member.name]
        path = named_path(job.run.metrics_file, "@".join(which))
        run = job.run.model_copy(update={"metrics_file": path})
        return member._replace(job=replace(job, run=run))

    return replace(selected, members=tuple(map(named, selected.members)))


def _each(selected: Selected, do: Callable[[Job], _Done]) -> dict[int, _Done | ClearerError]:
    """The result or the error of each member, some at the same time."""

    def done(member: Member) -> _Done | ClearerError:
        if member.job is None:
            return member.error or ClearerError("It cannot be reached.")
        try:
            return do(member.job)
        except ClearerError as error:
            return error

    pool = ThreadPoolExecutor(_AT_A_TIME)
    try:
        return dict(enumerate(pool.map(done, selected.members)))
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt, too


def _first_job(selected: Selected) -> Job | None:
    return next((member.job for member in selected.members if member.job is not None), None)


def _result(
    selected: Selected,
    action: Action,
    outcomes: Mapping[int, _Outcome],
    started_at: datetime,
) -> SeveralResult:
    parts = tuple(_part(member, outcomes[index]) for index, member in enumerate(selected.members))
    results = [part.result for part in parts if part.result is not None]
    job = _first_job(selected)
    clears = action is Action.CLEAR and job is not None
    dry_run = clears and job is not None and job.run.dry_run
    return SeveralResult(
        version=__version__,
        run_id=selected.run_id,
        system=selected.system,
        action=action,
        mode=job.run.mode if clears and job is not None else None,
        dry_run=dry_run,
        matching=selected.matching,
        complete=selected.complete,
        unit=results[0].unit if results else None,
        started_at=started_at,
        finished_at=now(),
        parts=parts,
        totals=_totals(parts, results),
        verdict=None if action is Action.STATUS or dry_run else _verdict(selected, parts),
        notes=selected.notes,
    )


def _part(member: Member, outcome: _Outcome) -> SeveralPart:
    if isinstance(outcome, ClearerError):
        return SeveralPart(
            name=member.name, topics=member.topics, error=str(outcome), kind=type(outcome).__name__
        )
    return SeveralPart(name=member.name, topics=member.topics, result=outcome)


def _totals(parts: tuple[SeveralPart, ...], results: list[RunResult]) -> SeveralTotals:
    refused = len(parts) - len(results)
    backlogs = [item.totals.backlog for item in results] + [None] * refused
    remaining = [item.totals.remaining for item in results] + [None] * refused
    return SeveralTotals(
        subscriptions=len(parts),
        refused=refused,
        cleared=sum(item.verdict is Verdict.CLEARED for item in results),
        backlog=total_known(backlogs),
        messages=sum(item.totals.messages for item in results),
        remaining=total_known(remaining),
    )


_GRAVEST = (Verdict.NOT_CLEARED, Verdict.UNPROVEN, Verdict.COUNTED)


def _verdict(selected: Selected, parts: tuple[SeveralPart, ...]) -> Verdict:
    found = {part.result.verdict if part.result else Verdict.NOT_CLEARED for part in parts}
    if not selected.complete:
        found.add(Verdict.NOT_CLEARED)
    return next((verdict for verdict in _GRAVEST if verdict in found), Verdict.CLEARED)

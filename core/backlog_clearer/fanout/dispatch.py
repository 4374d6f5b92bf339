"""Dispatch one backlog to many invocations: count it, decide on slices, record the run, enqueue them.

A platform's handler brings a way to put requests on its queue; everything else is the same for all.
Queues deliver at least once and instances outlive their time-outs, so every step may happen twice: the
targets of a slice are frozen once a run (`run.clear`), positions are never moved back, and a repeated
dispatch continues from the record of the first one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backlog_clearer.errors import BrokerError, RefusedError, UsageError
from backlog_clearer.fanout.configuration import Config, Request
from backlog_clearer.model import Mode, Partition, Position, total_known
from backlog_clearer.run import store
from backlog_clearer.run.plan import live_text
from backlog_clearer.run.receipt import new_run_id, run_folder
from backlog_clearer.run.report import StoredPosition, as_json
from backlog_clearer.run.survey import look, refuse_doubt

DISPATCH_SCHEMA: Literal["backlog-clearer/dispatch/1"] = "backlog-clearer/dispatch/1"


class FrozenTarget(BaseModel):
    """The position that every slice of a partition goes to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    position: StoredPosition


class Dispatch(BaseModel):
    """A dispatch, as it is recorded with the run and returned to the caller."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["backlog-clearer/dispatch/1"] = Field(DISPATCH_SCHEMA, alias="schema")
    run_id: str
    request: Request
    system: str
    subscription: str
    unit: str = Field(description="the unit of `backlog`")
    partitions: int
    backlog: int | None = Field(description="at the dispatch; null: unknown")
    slices: int = Field(ge=1, le=10_000)
    targets: tuple[FrozenTarget, ...] = Field(
        (), description="where slices share partitions: the position that all of them go to"
    )
    created_at: datetime
    enqueued: bool = Field(description="false: the queue has not confirmed all slices yet")

    @property
    def frozen_targets(self) -> dict[Partition, Position]:
        """Where its slices go, by partition; none where they share no partition."""
        return {
            Partition(item.topic, item.partition): item.position
            for item in self.targets
            if item.position is not None
        }

    def requests(self) -> list[Request]:
        """One request a slice."""
        return [
            self.request.model_copy(update={"slice": index, "total": self.slices})
            for index in range(self.slices)
        ]


def dispatch(
    config: Config,
    request: Request,
    put: Callable[[Sequence[Request]], None],
    environ: Mapping[str, str] = os.environ,
) -> Dispatch:
    """Count the backlog, decide on slices, record the run, and enqueue the slices.

    A dispatch of a run that is already recorded enqueues the recorded slices, or nothing if the queue
    has them all. Raises `UsageError`, `RefusedError` (consumers are attached) and `BrokerError`.
    """
    if request.slice is not None:
        raise UsageError("A dispatch decides on the slices itself: leave out slice and total.")
    now = datetime.now(timezone.utc)
    run_id = request.run_id or new_run_id(now)
    path = f"{run_folder(config.receipts, run_id)}/dispatch.json"
    found = read_dispatch(config.receipts, run_id)
    if found is not None and found.request.backlog != request.backlog:
        raise RefusedError(
            f"Run {run_id!r} belongs to backlog {found.request.backlog!r}; nothing was changed."
        )
    if found is None:
        found = _survey(config, request.model_copy(update={"run_id": run_id}), now, environ)
        _record(found, path)
    if not found.enqueued:
        put(found.requests())
        found = found.model_copy(update={"enqueued": True})
        _record(found, path)
    return found


def _survey(config: Config, request: Request, now: datetime, environ: Mapping[str, str]) -> Dispatch:
    job = config.job(request, environ=environ)
    seen = look(job)
    if seen.survey.live and not job.run.force:
        raise RefusedError(f"{live_text(seen.survey)} Stop them, or set force for this backlog.")
    refuse_doubt(seen.survey, job.run)
    backlog = total_known(state.backlog for state in seen.states)
    slices = config.backlog(request.backlog).slices(
        len(seen.states), backlog, competing=seen.competing and job.run.mode is Mode.CONSUME
    )
    targets = tuple(
        FrozenTarget(
            topic=state.partition.topic, partition=state.partition.number, position=as_json(state.end)
        )
        for state in seen.states
        if state.end is not None
    )
    bound = job.run.bound(now)
    if bound is not None and bound.until is not None:  # one time for all slices, whenever they start
        request = request.model_copy(update={"until": bound.until, "older_than": None})
    return Dispatch(
        run_id=job.run_id,
        request=request,
        system=job.system,
        subscription=seen.survey.subscription,
        unit=seen.unit,
        partitions=len(seen.states),
        backlog=backlog,
        slices=slices,
        targets=targets if slices > len(seen.states) else (),
        created_at=now,
        enqueued=False,
    )


def _record(found: Dispatch, path: str) -> None:
    try:
        store.write(path, found.model_dump_json(by_alias=True, indent=2).encode())
    except OSError as error:
        raise BrokerError(f"The dispatch cannot be recorded in {path}: {error}.") from error


def read_dispatch(receipts: str, run_id: str) -> Dispatch | None:
    """The recorded dispatch of a run; None: there is none. Raises `UsageError`, `BrokerError`."""
    path = f"{run_folder(receipts, run_id)}/dispatch.json"
    try:
        return Dispatch.model_validate_json(store.read(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BrokerError(f"{path} is not a dispatch of this tool.") from error
    except OSError as error:
        raise BrokerError(f"The dispatch in {path} cannot be read: {error}.") from error

"""What is measured of a run, in terms that Prometheus and OpenTelemetry share: pure.

A `Reading` is one moment of a run; `samples` are its values, each with its labels. Unknown figures have no
sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple

from backlog_clearer.engine.drain import Snapshot
from backlog_clearer.model import StopReason
from backlog_clearer.run.job import Job
from backlog_clearer.run.plan import Plan
from backlog_clearer.run.report import PartitionResult, RunResult, Verdict, total

VERDICTS = (Verdict.CLEARED, Verdict.UNPROVEN, Verdict.NOT_CLEARED, Verdict.COUNTED)
"""The verdicts that a run which clears may come to."""

REASONS = tuple(reason for reason in StopReason if reason is not StopReason.DECLINED)
"""Why such a run may end: one that was declined has not begun, and is not measured."""


@dataclass(frozen=True, slots=True)
class Work:
    """How far a run is; counts are those since its start."""

    started_at: datetime
    seconds: float = 0.0  # of draining or skipping
    messages: int = 0  # read
    bytes: int = 0  # received, where the reader sees them
    retries: int = 0
    ended_at: datetime | None = None  # None: it runs
    verdict: Verdict | None = None
    reason: StopReason | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment of a run, or of a subscription that is only looked at (`work` is None)."""

    system: str
    topic: str  # several are separated by commas
    subscription: str
    slice: str | None  # INDEX/TOTAL; None: everything
    unit: str  # of the backlog
    backlog: int | None  # what is left now; None: unknown
    initial: int | None  # what was there at the start; None: unknown
    oldest: datetime | None  # when the oldest message was published, at the start; None: unknown
    failed: int  # partitions with an error
    work: Work | None

    @property
    def labels(self) -> dict[str, str]:
        """What distinguishes this subscription, or this slice of it, from others."""
        found = {"system": self.system, "topic": self.topic, "subscription": self.subscription}
        return {**found, "slice": self.slice} if self.slice else found


def planned(job: Job, plan: Plan, now: datetime) -> Reading:
    """The reading of a run whose plan was confirmed."""
    return _reading(job, plan.subscription, plan.unit, plan.rows, Work(now))


def looked_at(job: Job, result: RunResult) -> Reading:
    """The reading of a subscription that only its status was asked of."""
    return _reading(job, result.subscription, result.unit, result.partitions, None)


def _reading(
    job: Job, subscription: str, unit: str, rows: tuple[PartitionResult, ...], work: Work | None
) -> Reading:
    totals = total(rows)
    return Reading(
        system=job.system,
        topic=",".join(sorted({item.topic for item in rows})),
        subscription=job.options.consumer_name or subscription,
        slice=str(job.run.slice) if job.run.slice else None,
        unit=unit,
        backlog=totals.backlog,
        initial=totals.backlog,
        oldest=totals.oldest,
        failed=totals.errors,
        work=work,
    )


def moved(reading: Reading, seen: Snapshot) -> Reading:
    """The reading of a run while it drains."""
    if reading.work is None:
        return reading
    work = replace(
        reading.work,
        seconds=seen.seconds,
        messages=seen.messages,
        bytes=seen.bytes,
        retries=seen.retries,
    )
    return replace(reading, backlog=seen.left, work=work)


def ended(reading: Reading, result: RunResult) -> Reading:
    """The reading of a run that has a result."""
    if reading.work is None:
        return reading
    totals = result.totals
    work = replace(
        reading.work,
        seconds=result.seconds,
        messages=max(reading.work.messages, totals.messages + totals.unacknowledged),
        bytes=max(reading.work.bytes, totals.bytes),
        retries=max(reading.work.retries, totals.retries),
        ended_at=result.finished_at,
        verdict=result.verdict,
        reason=result.stop_reason,
    )
    return replace(reading, backlog=totals.remaining, failed=totals.errors, work=work)


def broken_off(reading: Reading, now: datetime) -> Reading:
    """The reading of a run that ended with an error instead of a result."""
    if reading.work is None:
        return reading
    work = replace(reading.work, ended_at=now, verdict=Verdict.NOT_CLEARED, reason=StopReason.FAILED)
    return replace(reading, work=work)


class Metric(NamedTuple):
    """One metric, by its names in both worlds."""

    prometheus: str | None  # without the `_total` of a counter; None: not there
    opentelemetry: str | None
    kind: Literal["counter", "gauge"]
    unit: str  # as UCUM spells it, for OpenTelemetry
    text: str
    value: Callable[[Reading, datetime], float | None]
    label: Literal["unit", "verdict", "reason"] | None = None  # one more than `Reading.labels`
    state: str | None = None  # the value of that label where it is one of several states


class Measured(NamedTuple):
    """The value of a metric at one moment."""

    metric: Metric
    labels: dict[str, str]
    value: float


def _of_work(get: Callable[[Work], float | None]) -> Callable[[Reading, datetime], float | None]:
    return lambda reading, _: None if reading.work is None else get(reading.work)


def _oldest(reading: Reading) -> datetime | None:
    """None where nothing of the backlog is left."""
    return None if reading.backlog == 0 else reading.oldest


def _oldest_at(reading: Reading, _: datetime) -> float | None:
    oldest = _oldest(reading)
    return None if oldest is None else oldest.timestamp()


def _oldest_age_s(reading: Reading, now: datetime) -> float | None:
    oldest = _oldest(reading)
    return None if oldest is None else max(0.0, (now - oldest).total_seconds())


def _is_verdict(verdict: Verdict) -> Callable[[Reading, datetime], float | None]:
    return _of_work(lambda work: float(work.verdict is verdict))


def _is_reason(reason: StopReason) -> Callable[[Reading, datetime], float | None]:
    return _of_work(lambda work: float(work.reason is reason))


METRICS = (
    Metric(
        "backlog_clearer_messages",
        "backlog_clearer.messages",
        "counter",
        "{message}",
        "Messages that the run has read.",
        _of_work(lambda work: work.messages),
    ),
    Metric(
        "backlog_clearer_received_bytes",
        "backlog_clearer.received",
        "counter",
        "By",
        "Bytes that the run has received, where its reader sees them; otherwise 0.",
        _of_work(lambda work: work.bytes),
    ),
    Metric(
        "backlog_clearer_retries",
        "backlog_clearer.retries",
        "counter",
        "{retry}",
        "Attempts that the run has repeated after transient errors.",
        _of_work(lambda work: work.retries),
    ),
    Metric(
        "backlog_clearer_backlog",
        "backlog_clearer.backlog",
        "gauge",
        "1",
        "What is left up to the target, in the unit of the label.",
        lambda reading, _: reading.backlog,
        "unit",
    ),
    Metric(
        "backlog_clearer_initial_backlog",
        "backlog_clearer.initial_backlog",
        "gauge",
        "1",
        "What was there at the start of the run, in the unit of the label.",
        lambda reading, _: reading.initial if reading.work else None,
        "unit",
    ),
    Metric(
        "backlog_clearer_oldest_message_timestamp_seconds",
        None,
        "gauge",
        "s",
        "When the oldest message of the backlog was published, as it was at the start.",
        _oldest_at,
    ),
    Metric(
        None,
        "backlog_clearer.oldest_message.age",
        "gauge",
        "s",
        "How old the oldest message is that the backlog had at the start.",
        _oldest_age_s,
    ),
    Metric(
        "backlog_clearer_failed_partitions",
        "backlog_clearer.failed_partitions",
        "gauge",
        "{partition}",
        "Partitions with an error.",
        lambda reading, _: reading.failed,
    ),
    Metric(
        "backlog_clearer_run_duration_seconds",
        "backlog_clearer.run.duration",
        "gauge",
        "s",
        "For how long the run has been draining or skipping.",
        _of_work(lambda work: work.seconds),
    ),
    Metric(
        "backlog_clearer_run_start_timestamp_seconds",
        None,
        "gauge",
        "s",
        "When the run began to change something.",
        _of_work(lambda work: work.started_at.timestamp()),
    ),
    Metric(
        "backlog_clearer_run_end_timestamp_seconds",
        None,
        "gauge",
        "s",
        "When the run ended; absent while it runs.",
        _of_work(lambda work: None if work.ended_at is None else work.ended_at.timestamp()),
    ),
    *(
        Metric(
            "backlog_clearer_verdict",
            "backlog_clearer.verdict",
            "gauge",
            "1",
            "1 for the verdict of the run, 0 for the others; all are 0 while it runs.",
            _is_verdict(verdict),
            "verdict",
            verdict.value,
        )
        for verdict in VERDICTS
    ),
    *(
        Metric(
            "backlog_clearer_stop_reason",
            "backlog_clearer.stop_reason",
            "gauge",
            "1",
            "1 for the reason why the run ended, 0 for the others; all are 0 while it runs.",
            _is_reason(reason),
            "reason",
            reason.value,
        )
        for reason in REASONS
    ),
)
"""All metrics; one with several states has an entry for each."""


def samples(reading: Reading, now: datetime) -> Iterator[Measured]:
    """The values of a reading; those of one metric follow each other."""
    for metric in METRICS:
        value = metric.value(reading, now)
        if value is not None:
            labels = reading.labels
            if metric.label is not None:
                labels[metric.label] = metric.state or reading.unit
            yield Measured(metric, labels, value)

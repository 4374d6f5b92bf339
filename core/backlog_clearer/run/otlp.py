"""Metrics to an OpenTelemetry collector, by OTLP over HTTP; only loaded where they are wanted.

Endpoint, headers, certificates, time-outs, interval, temporality and resource come from the standard
environment variables, which OpenTelemetry's own libraries read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)

from backlog_clearer import __version__
from backlog_clearer.answers import kept_whole
from backlog_clearer.deadline import within
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.run.job import Job, now
from backlog_clearer.run.metrics import METRICS, Reading, samples

FLUSH_S = 5.0
"""How long the last delivery may take at the end of a run."""

_SHOWN = 300  # characters of a library's complaint, which may repeat whatever it was given

SERVICE = "backlog-clearer"
"""`service.name` where the environment has none."""

_LIBRARIES = (
    logging.getLogger("opentelemetry.exporter"),
    logging.getLogger("opentelemetry.sdk.metrics"),
)


_SESSIONS = ("_session", "_client._transport._session")
"""Where an exporter has its session of `requests`, before its version 1.45 and since then."""


class Collector:
    """Sends the newest reading at the interval of the environment, and the last one at the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reading: Reading | None = None
        self._provider: MeterProvider | None = None
        self._exporter: _Watched | None = None

    def start(self, reading: Reading) -> None:
        """Begin to send."""
        self._reading = reading
        _LAST.listen()
        try:
            self._exporter = _Watched(_bounded(OTLPMetricExporter()))
            reader = PeriodicExportingMetricReader(self._exporter)
            self._provider = MeterProvider([reader], resource_of(self._job), shutdown_on_exit=False)
            self._instrument(self._provider)
        except Exception as error:  # noqa: BLE001 a variable that the libraries cannot use
            _LAST.text = f"{type(error).__name__}: {error}"

    def show(self, reading: Reading) -> None:
        """Take a newer reading; costs nothing."""
        self._reading = reading

    def finish(self, reading: Reading) -> str | None:
        """Send the last reading, and end; returns a note if that failed."""
        self._reading = reading
        fault = self._flushed()
        shown = redacted(fault)[:_SHOWN] if fault else None
        return f"The metrics could not be sent to OpenTelemetry: {shown}." if shown else None

    def _flushed(self) -> str | None:
        """Why the last reading was not delivered; None: it was."""
        if self._provider is None or self._exporter is None:
            return _LAST.reason()
        end = partial(self._provider.shutdown, timeout_millis=FLUSH_S * 1000)  # exports once more
        try:
            within(FLUSH_S, end)
        except Exception as error:  # noqa: BLE001 a library's fault does not end a run
            return _LAST.reason(str(error) or type(error).__name__)
        return None if self._exporter.delivered else _LAST.reason()

    def _instrument(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("backlog_clearer", __version__)
        for name, group in groupby(METRICS, lambda metric: metric.opentelemetry):
            first = next(group)
            if name is not None:
                counts = first.kind == "counter"
                create: Any = (
                    meter.create_observable_counter if counts else meter.create_observable_gauge
                )
                create(name, [partial(self._observe, name)], first.unit, first.text)

    def _observe(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        if self._reading is None:
            return []
        found = samples(self._reading, now())
        return [
            Observation(each.value, each.labels) for each in found if each.metric.opentelemetry == name
        ]


def resource_of(job: Job) -> Resource:
    """What sends the metrics, with the attributes of the environment before ours.

    The instance is the run, or its slice, so that slices that run side by side have their own series.
    """
    instance = f"{job.run_id}/{job.run.slice}" if job.run.slice else job.run_id
    ours = {SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: instance}
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def _bounded(exporter: OTLPMetricExporter) -> OTLPMetricExporter:
    """The exporter; an endless answer of its collector takes no memory."""
    for place in _SESSIONS:  # a session of ours would lose the library's settings
        with suppress(AttributeError):
            session: Any = attrgetter(place)(exporter)
            session.hooks["response"].append(kept_whole)
    return exporter


class _Watched(MetricExporter):
    """An exporter of which is known whether its newest export was delivered."""

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__(
            preferred_temporality=exporter._preferred_temporality,  # noqa: SLF001 as readers do
            preferred_aggregation=exporter._preferred_aggregation,  # noqa: SLF001
        )
        self._exporter = exporter
        self.delivered = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """See `MetricExporter`."""
        self.delivered = False
        result = self._exporter.export(metrics_data, timeout_millis, **kwargs)
        self.delivered = result is MetricExportResult.SUCCESS
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """See `MetricExporter`."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """See `MetricExporter`."""
        self._exporter.shutdown(timeout_millis, **kwargs)


class _Last(logging.Handler):
    """Keeps the newest complaint of the libraries, instead of a line for each on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def reason(self, otherwise: str = "no answer") -> str:
        """The complaint, for a note."""
        return (self.text or otherwise).rstrip(". ")

    def listen(self) -> None:
        """Take the records of the libraries from now on; their threads may outlive a run."""
        self.text = ""
        for logger in _LIBRARIES:
            logger.propagate = False
            logger.addHandler(self)  # once, however often it is called

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self.text = record.getMessage()


_LAST = _Last()

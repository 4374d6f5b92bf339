"""Whether OpenTelemetry's standard environment variables ask for metrics; loads nothing of its libraries.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. One difference: where
none of them names an exporter or an endpoint, nothing is sent, instead of to a collector on localhost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backlog_clearer.registry import install_command
from backlog_clearer.run.job import Job

if TYPE_CHECKING:
    from backlog_clearer.run.otlp import Collector

ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
"""The protocol that the extra `otel` brings, and the specification's default."""

_LOG = logging.getLogger("backlog_clearer")


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether metrics are to be sent."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    named = environ.get("OTEL_METRICS_EXPORTER", "").strip()
    if named:
        return "otlp" in {name.strip() for name in named.split(",")}
    return any(environ.get(name, "").strip() for name in ENDPOINTS)


def collector_of(job: Job, environ: Mapping[str, str]) -> Collector | None:
    """The collector that the environment names; None: none, or one that cannot be used, with a warning."""
    if not is_wanted(environ):
        return None
    protocol = next((text for name in PROTOCOLS if (text := environ.get(name, "").strip())), SPOKEN)
    if protocol != SPOKEN:
        _LOG.warning(
            "No metrics are sent to OpenTelemetry: %s is not %s, the only protocol here.",
            " or ".join(PROTOCOLS),
            SPOKEN,
        )
        return None
    try:
        from backlog_clearer.run.otlp import Collector  # noqa: PLC0415 it loads OpenTelemetry's SDK
    except ModuleNotFoundError as error:
        _LOG.warning(
            "No metrics are sent to OpenTelemetry: %r is not installed; install it with: %s",
            error.name,
            install_command("otel"),
        )
        return None
    return Collector(job)

"""The systems that can be cleared: one line each, imported only when asked for.

`options` names a `backlog_clearer.options.base.SystemOptions` model, which imports without the broker's
library; `opener` names `open_source(options, run, run_id) -> Source`, whose module needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source

Opener: TypeAlias = Callable[[SystemOptions, RunOptions, str], Source]
"""Opens a source for (how to reach it, what to do, the run's id); connects lazily or at once."""


@dataclass(frozen=True, slots=True)
class System:
    """A registry line."""

    summary: str  # what it clears, for the help text
    options: str  # "module:Class" of the options model
    opener: str  # "module:function" that opens a source
    extra: str | None  # the pip extra that installs its library; None: it needs none


SYSTEMS: dict[str, System] = {
    "kafka": System(
        "a consumer group on Apache Kafka and compatible brokers",
        "backlog_clearer.brokers.kafka.options:KafkaOptions",
        "backlog_clearer.brokers.kafka.source:open_source",
        "kafka",
    ),
    "pulsar": System(
        "a subscription on Apache Pulsar",
        "backlog_clearer.brokers.pulsar.options:PulsarOptions",
        "backlog_clearer.brokers.pulsar.source:open_source",
        "pulsar",
    ),
    "streamnative": System(
        "a subscription on StreamNative Cloud (Pulsar with TLS and a token)",
        "backlog_clearer.brokers.pulsar.options:StreamNativeOptions",
        "backlog_clearer.brokers.pulsar.source:open_source",
        "pulsar",
    ),
    "googlepubsub": System(
        "a subscription on Google Cloud Pub/Sub",
        "backlog_clearer.brokers.googlepubsub.options:PubSubOptions",
        "backlog_clearer.brokers.googlepubsub.source:open_source",
        "googlepubsub",
    ),
    "eventhubs": System(
        "a consumer group's checkpoints on Azure Event Hubs",
        "backlog_clearer.brokers.eventhubs.options:EventHubsOptions",
        "backlog_clearer.brokers.eventhubs.source:open_source",
        "eventhubs",
    ),
    "iggy": System(
        "a consumer's or a group's offsets on Apache Iggy",
        "backlog_clearer.brokers.iggy.options:IggyOptions",
        "backlog_clearer.brokers.iggy.source:open_source",
        "iggy",
    ),
}


def system(name: str) -> System:
    """The registry line of a system; raises `UsageError` with a suggestion for an unknown name."""
    try:
        return SYSTEMS[name]
    except KeyError:
        known = ", ".join(SYSTEMS)
        raise UsageError(
            f"There is no system {name!r}; choose one of {known}.{suggestion(name, list(SYSTEMS))}"
        ) from None


def _load(path: str) -> object:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def options_model(name: str) -> type[SystemOptions]:
    """The options model of a system."""
    return cast("type[SystemOptions]", _load(system(name).options))


def open_source(name: str, options: SystemOptions, run: RunOptions, run_id: str) -> Source:
    """Open a system's source.

    Raises `UsageError` with the command that installs the library if it is missing, and whatever
    the adapter raises.
    """
    entry = system(name)
    try:
        opener = cast("Opener", _load(entry.opener))
    except ModuleNotFoundError as error:
        if entry.extra is None or (error.name or "").split(".")[0] == "backlog_clearer":
            raise
        raise UsageError(
            f"{name} needs the Python package that provides {error.name!r}, which is not installed;"
            f" install it with: pip install '.[{entry.extra}]'"
        ) from error
    return opener(options, run, run_id)

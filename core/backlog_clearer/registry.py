"""The systems that can be cleared: built-in ones, and those of other distributions.

A distribution outside this one adds a system with an entry point in the group `backlog_clearer.systems`:
its name is the system's name, and its object is a `System`. Nothing is imported before a system is used,
so a missing library or a broken package affects only its own system.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeAlias, cast

from backlog_clearer.errors import UsageError
from backlog_clearer.guard import guarded_call, guarded_source
from backlog_clearer.model import Listing
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.text import listed, shown_name

Opener: TypeAlias = Callable[[SystemOptions, RunOptions, str], Source]
"""Opens a source for (how to reach it, what to do, the run's id); connects lazily or at once."""

Lister: TypeAlias = Callable[[SystemOptions], Listing]
"""Lists a system's subscriptions with their backlogs, in as few requests as the protocol allows.

Changes nothing; raises `UsageError`, `BrokerError`, or `TransientError` for what may pass. A subscription
that cannot be asked has an `error`, and the others are listed. Unknown is None.
"""

GROUP = "backlog_clearer.systems"
"""The group of entry points that add systems."""

DISTRIBUTION = "backlog-clearer"
"""The distribution of the built-in systems."""


@dataclass(frozen=True, slots=True)
class System:
    """One kind of subscription; everything that lists systems is derived from these fields."""

    summary: str  # what it clears, with an article: "a subscription on Apache Pulsar"
    options: str  # "module:Class", a `SystemOptions` model; imports without the broker's library
    opener: str  # "module:function", an `Opener`; its module may import the library
    extra: str | None = None  # the pip extra of its distribution that installs its library
    libraries: tuple[str, ...] = ()  # top-level modules of its libraries; only adapters import them
    newest_python: tuple[int, int] | None = (
        None  # the last that its libraries have wheels for; None: any
    )
    page: str | None = None  # its documentation: a file in this repository, or a URL
    clears: str = ""  # for tables: "a consumer group"
    position: str = ""  # for tables: where progress is stored, "committed offset"
    unit: str = ""  # for tables: what its backlog counts, "offsets"
    lister: str | None = None  # "module:function", a `Lister`; None: subscriptions cannot be listed
    list_options: str | None = None  # "module:Class", the `SystemOptions` model that the lister takes


_KAFKA = "backlog_clearer.brokers.kafka"
_PULSAR = "backlog_clearer.brokers.pulsar"
_PUBSUB = "backlog_clearer.brokers.googlepubsub"
_EVENTHUBS = "backlog_clearer.brokers.eventhubs"
_IGGY = "backlog_clearer.brokers.iggy"

_ON_PULSAR = System(
    summary="a subscription on Apache Pulsar",
    options=f"{_PULSAR}.options:PulsarOptions",
    opener=f"{_PULSAR}.source:open_source",
    lister=f"{_PULSAR}.listing:list_pulsar",
    list_options=f"{_PULSAR}.list_options:PulsarListOptions",
    extra="pulsar",
    libraries=("google", "pulsar", "requests"),
    page="docs/pulsar.md",
    clears="a subscription",
    position="mark-delete position and acknowledgements",
    unit="entries (batches)",
)

SYSTEMS: dict[str, System] = {
    "kafka": System(
        summary="a consumer group on Apache Kafka and compatible brokers",
        options=f"{_KAFKA}.options:KafkaOptions",
        opener=f"{_KAFKA}.source:open_source",
        lister=f"{_KAFKA}.listing:list_groups",
        list_options=f"{_KAFKA}.list_options:KafkaListOptions",
        extra="kafka",
        libraries=("confluent_kafka", "kafka"),
        page="docs/kafka.md",
        clears="a consumer group",
        position="committed offset",
        unit="offsets",
    ),
    "pulsar": _ON_PULSAR,
    "streamnative": replace(
        _ON_PULSAR,
        summary="a subscription on StreamNative Cloud (Pulsar with TLS and a token)",
        options=f"{_PULSAR}.options:StreamNativeOptions",
        list_options=f"{_PULSAR}.list_options:StreamNativeListOptions",
    ),
    "googlepubsub": System(
        summary="a subscription on Google Cloud Pub/Sub",
        options=f"{_PUBSUB}.options:PubSubOptions",
        opener=f"{_PUBSUB}.source:open_source",
        lister=f"{_PUBSUB}.listing:list_pubsub",
        list_options=f"{_PUBSUB}.list_options:PubSubListOptions",
        extra="googlepubsub",
        libraries=("google", "grpc", "grpc_status"),
        page="docs/googlepubsub.md",
        clears="a subscription",
        position="acknowledgements",
        unit="messages, from Cloud Monitoring",
    ),
    "eventhubs": System(
        summary="a consumer group's checkpoints on Azure Event Hubs",
        options=f"{_EVENTHUBS}.options:EventHubsOptions",
        opener=f"{_EVENTHUBS}.source:open_source",
        lister=f"{_EVENTHUBS}.listing:list_eventhubs",
        list_options=f"{_EVENTHUBS}.list_options:EventHubsListOptions",
        extra="eventhubs",
        libraries=("azure", "websocket"),
        page="docs/eventhubs.md",
        clears="a consumer group",
        position="checkpoint blob",
        unit="events",
    ),
    "iggy": System(
        summary="a consumer's or a group's offsets on Apache Iggy",
        options=f"{_IGGY}.options:IggyOptions",
        opener=f"{_IGGY}.source:open_source",
        lister=f"{_IGGY}.listing:list_iggy",
        list_options=f"{_IGGY}.list_options:IggyListOptions",
        extra="iggy",
        libraries=("apache_iggy",),
        newest_python=(3, 13),
        page="docs/iggy.md",
        clears="a consumer's or a group's offsets",
        position="stored offset",
        unit="messages",
    ),
}
"""The built-in systems by name."""


def _added() -> Mapping[str, Sequence[EntryPoint]]:
    """Entry points of installed distributions by the system they add; imports none of them."""
    return _found_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _found_on(_path: tuple[str, ...]) -> Mapping[str, Sequence[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def names() -> list[str]:
    """The names of all systems: built-in ones in their order, then added ones sorted."""
    return [*SYSTEMS, *sorted(_added().keys() - SYSTEMS.keys())]


def system(name: str) -> System:
    """A system by its name.

    Raises `UsageError` with a suggestion for an unknown name, for one that two distributions provide,
    and for an added one whose package cannot be imported.
    """
    points = _added().get(name, [])
    providers = [DISTRIBUTION] * (name in SYSTEMS) + [_distribution(point) for point in points]
    if len(providers) > 1:
        raise UsageError(
            f"The system {name!r} is provided by {' and by '.join(providers)}; uninstall all but one."
        )
    if name in SYSTEMS:
        return SYSTEMS[name]
    if not points:
        raise UsageError(
            f"There is no system {shown_name(name)}; choose one of {listed(names(), 20)}."
            f"{suggestion(name, names())}"
        )
    found = _loaded(name, points[0].value)
    if not isinstance(found, System):
        raise UsageError(
            f"The system {name!r} of {providers[0]} is not usable: {points[0].value} is not a"
            " backlog_clearer.registry.System."
        )
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unnamed distribution"


def _provider(name: str) -> str:
    """The distribution that provides a system."""
    points = _added().get(name)
    return _distribution(points[0]) if points and name not in SYSTEMS else DISTRIBUTION


def _load(path: str) -> object:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _loaded(name: str, path: str, extra: str | None = None) -> object:
    """The object that "module:attribute" names.

    Raises `UsageError` if a library is missing that the extra installs, or if the package of an added
    system fails.
    """
    try:
        return _load(path)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and extra and missing.split(".")[0] != path.split(".", maxsplit=1)[0]:
            raise UsageError(
                f"{name} needs the Python package that provides {missing!r}, which is not installed;"
                f" {_installing(name, extra)}"
            ) from error
        if name in SYSTEMS:
            raise
        raise UsageError(
            f"The system {name!r} of {_provider(name)} cannot be loaded from {path}:"
            f" {type(error).__name__}: {error}"
        ) from error


def _installing(name: str, extra: str) -> str:
    """How to install the libraries of a system on this Python, as the end of a sentence."""
    newest = system(name).newest_python
    if newest is not None and sys.version_info[:2] > newest:
        here = ".".join(map(str, sys.version_info[:2]))
        return (
            f"it has no wheels for Python {here}: use Python {newest[0]}.{newest[1]} or earlier, or build it"
            f" (the page of {name} shows how)"
        )
    return f"install it with: {install_command(extra, _provider(name))}"


def options_model(name: str) -> type[SystemOptions]:
    """The options model of a system; raises like `system`."""
    return cast("type[SystemOptions]", _loaded(name, system(name).options))


def list_options(name: str) -> type[SystemOptions]:
    """The model of what a system's lister takes; raises like `system`, `UsageError` where it has none."""
    entry = system(name)
    if entry.list_options is None:
        able = [item for item in names() if system(item).list_options]
        raise UsageError(
            f"Subscriptions of {name} cannot be listed; list is there for {listed(able, 20)}."
        )
    return cast("type[SystemOptions]", _loaded(name, entry.list_options))


def list_only(name: str) -> tuple[str, ...]:
    """Options that only a system's list has, and that name where to look; raises like `list_options`."""
    model = list_options(name)
    known = {*options_model(name).model_fields, *getattr(model, "HOW", ("matching",))}
    return tuple(field for field in model.model_fields if field not in known)


def list_subscriptions(name: str, options: SystemOptions) -> Listing:
    """The subscriptions of a system; raises like `list_options`, and whatever the lister raises."""
    list_options(name)
    entry = system(name)
    lister = cast("Lister", _loaded(name, entry.lister or "", entry.extra))
    listing: Listing = guarded_call(lister, place_of_system(name, options), "listing")(options)
    return listing


def open_source(name: str, options: SystemOptions, run: RunOptions, run_id: str) -> Source:
    """Open a system's source.

    Raises `UsageError` with the command that installs the library if it is missing, and whatever
    the adapter raises. The methods of the source, and of its lanes, raise no errors but ours.
    """
    entry = system(name)
    opener = cast("Opener", _loaded(name, entry.opener, entry.extra))
    return guarded_source(opener(options, run, run_id), place_of_system(name, options))


def place_of_system(name: str, options: SystemOptions) -> str:
    """What is connected to, for errors."""
    return f"{name} at {options.place}" if options.place else name


def install_command(extra: str, distribution: str = DISTRIBUTION) -> str:
    """The command that installs an extra as this copy was installed: a checkout, or a distribution."""
    root = Path(__file__).resolve().parents[2]
    if distribution == DISTRIBUTION and (root / "pyproject.toml").is_file():
        distribution = "." if root == Path.cwd() else str(root)
    return f"pip install '{distribution}[{extra}]'"

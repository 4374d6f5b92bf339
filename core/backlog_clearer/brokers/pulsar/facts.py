"""What the admin API reports of partitions, in the terms of a survey: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from backlog_clearer.brokers.pulsar.brokers import is_of
from backlog_clearer.brokers.pulsar.figures import Origins, SubscriptionStats
from backlog_clearer.brokers.pulsar.options import COMPETING, SubscriptionType
from backlog_clearer.brokers.pulsar.positions import Layout, Place
from backlog_clearer.errors import BrokerError, RecreatedError
from backlog_clearer.model import Partition, PartitionState
from backlog_clearer.options.base import suggestion
from backlog_clearer.source import failed_state
from backlog_clearer.text import counted, listed

PREFERRED_TYPES = (
    *(SubscriptionType.FAILOVER, SubscriptionType.EXCLUSIVE),
    *(SubscriptionType.SHARED, SubscriptionType.KEY_SHARED),
)
NO_UNDO = "The subscription does not exist before this run creates it: restore does not delete it."
UNKNOWN_RETENTION = "The retention policy is not known: acknowledged messages may be deleted at once."


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """What the admin API reports of one partition."""

    stats: SubscriptionStats
    layout: Layout
    origins: Origins
    acknowledging: int | None  # open transactions with acknowledgements; None: not reported


def recreation(partition: Partition, surveyed: Origins | None, now: Origins) -> BrokerError | None:
    """The error where a topic, or its subscription, is not the one that was surveyed; None: no difference.

    What is not reported in one of both cannot be compared.
    """
    if surveyed is None:
        return None
    if _other(surveyed.topic, now.topic):
        return RecreatedError(partition)
    if _other(surveyed.subscription, now.subscription):
        return BrokerError(
            f"{partition}: its subscription was deleted and created again since the survey: nothing of it"
            " was changed.",
            partition,
        )
    return None


def missing_subscription(wanted: str, topic: str, names: Sequence[str]) -> str:
    """The text for a subscription that does not exist, with the nearest of the `names` that do."""
    return (
        f"There is no subscription {wanted!r} on {topic}; nothing was created."
        f"{suggestion(wanted, list(names))} If it is meant to be new, use --new: it is created at the topic's"
        " first message."
    )


def _other(before: str | None, now: str | None) -> bool:
    return None not in (before, now) and before != now


def stored_position(layout: Layout) -> str:
    """The subscription's position, spelled the same wherever it means the same."""
    return str(layout.canonical(layout.mark_delete))


def partition_state(
    partition: Partition, look: PartitionFacts | BrokerError, undo: str | None
) -> PartitionState:
    """A partition in a survey, or why nothing is known of it; `undo`: see `PartitionState`."""
    if isinstance(look, BrokerError):
        return failed_state(partition, look)
    found = look.layout
    return PartitionState(
        partition,
        position=stored_position(found) if look.stats.exists else None,
        start=str(Place(found.ledgers[0][0], -1)),
        end=str(found.canonical(found.end)),
        backlog=found.left(found.end),
        backlog_bytes=look.stats.backlog_bytes,
        undo=undo if look.stats.exists else NO_UNDO,
        incarnation=look.origins.topic,
    )


def attached_consumers(looks: Mapping[Partition, PartitionFacts], run_id: str) -> Iterator[str]:
    """Consumers of the subscription, without those of this run."""
    for look in looks.values():
        for name, address in look.stats.consumers:
            if not is_of(run_id, name):
                yield f"{name} at {address}"


def undo_obstacle(retention: tuple[int, int] | None) -> str | None:
    """Why messages may be gone when they are wanted back; None: they are kept."""
    if retention is None:
        return UNKNOWN_RETENTION
    if 0 in retention:
        return (
            "No retention is set: acknowledged messages that no other subscription needs may be"
            " deleted at once, and cannot be brought back."
        )
    return None


def chosen_type(
    asked: SubscriptionType,
    looks: Iterable[PartitionFacts],
    allowed: Callable[[], frozenset[str] | None],
) -> SubscriptionType:
    """The type asked for, else the one that the broker reports, else the first that is allowed.

    `allowed` asks the broker (None: all types); it is called only if it decides.
    """
    if asked is not SubscriptionType.AUTO:
        return asked
    reported = {look.stats.kind for look in looks}
    for kind in (SubscriptionType.KEY_SHARED, SubscriptionType.SHARED, SubscriptionType.EXCLUSIVE):
        if kind in reported:
            return kind
    if SubscriptionType.FAILOVER in reported:
        return SubscriptionType.FAILOVER
    types = allowed()
    return next(
        (each for each in PREFERRED_TYPES if types is None or each in types), PREFERRED_TYPES[0]
    )


def system_cursor(subscription: str) -> str | None:
    """What is lost when the position of one of Pulsar's own cursors moves; None: it is not one."""
    if subscription == "__compaction":
        return "messages that are not compacted yet never reach readers of the compacted topic"
    if subscription == "pulsar.dedup":
        return "the broker forgets which messages it has seen, and may store them twice"
    if subscription.startswith("pulsar.repl."):
        return "messages that are not replicated yet never reach the other cluster"
    return "Pulsar may lose its own data" if subscription.startswith("__") else None


def survey_notes(kind: SubscriptionType, looks: Mapping[Partition, PartitionFacts]) -> Iterator[str]:
    """Facts that the user needs before the run starts."""
    yield f"Reads as {kind}. An entry is one message, or a batch of them as its producer made it."
    stats = [look.stats for look in looks.values()]
    delayed = sum(each.delayed or 0 for each in stats)
    if delayed:
        yield (
            f"{counted(delayed, 'message is', 'messages are')} delayed: skip clears them; consume gets them"
            " before their time only with --subscription-type exclusive or failover."
        )
    pending = sum(each.open_transactions or 0 for each in stats)
    if pending:
        yield (
            f"Open transactions with messages: {pending:,}. Until they end, consume stalls before the"
            " first of those messages; skip passes over them, so that they are never delivered."
        )
    unknown = [
        name
        for name, figures in (
            ("delayed messages", [each.delayed for each in stats]),
            ("open transactions with messages", [each.open_transactions for each in stats]),
        )
        if None in figures
    ]
    if unknown:
        yield f"Not known, because the broker does not report them: {listed(unknown)}."
    acknowledging = sum(look.acknowledging or 0 for look in looks.values())
    if acknowledging:
        stalls = "consume stalls before them; skip passes"
        passes = stalls if kind in COMPETING else "consume and skip pass"
        yield (
            f"Open transactions with acknowledgements: {acknowledging:,}. Until they end, the messages that"
            f" they acknowledged are not delivered: {passes} over them, so that they do not come back if"
            " the transaction aborts."
        )
    expired = sum(each.expired or 0 for each in stats)
    if expired:
        yield (
            f"{counted(expired, 'entry', 'entries')} of the subscription expired unread since the broker loaded"
            " the topic (message TTL): not in the backlog."
        )
    with_holes = [key for key, look in looks.items() if look.layout.holes]
    if with_holes:
        yield (
            f"Messages ahead of the position are acknowledged one by one in {listed(with_holes)}:"
            " restore brings those back, too, because a position cannot express them."
        )
    if any(each.replicated for each in stats):
        yield "The subscription is replicated: other clusters follow what is acknowledged here."

"""Azure Event Hubs: what a survey shows in sentences: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from backlog_clearer.brokers.eventhubs.blobs import Blobs, Elsewhere, Ownership
from backlog_clearer.brokers.eventhubs.errors import AttachedElsewhereError
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions, EventReader, EventTransport
from backlog_clearer.brokers.eventhubs.positions import (
    LEGACY,
    PartitionProperties,
    left_up_to,
    sequence_number,
)
from backlog_clearer.brokers.shared.names import never_stored
from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Partition, PartitionState, total_known
from backlog_clearer.text import counted, listed

NO_STORE = (
    "Event Hubs does not store the position of a consumer group: its consumers do, in a checkpoint store."
    " Without --checkpoint-store this only drains and counts; nothing is cleared. To clear the backlog, use"
    " --checkpoint-store and --checkpoint-container; to count only, use --no-checkpoint."
)
_NO_CHECKPOINT = "--no-checkpoint: this only drains and counts; nothing changes."

_LIVE = (
    "Processors read a checkpoint only when they claim its partition: those that run now continue"
    " from where they are, and their next checkpoints overwrite those of this run."
)
_CLOCKS = timedelta(minutes=1)  # by which the clocks of the two services may differ
_SLOWER = "its public API is about three times as slow as --reader amqp"
_WORTH_KAFKA = 1_000_000  # events; below, AMQP takes seconds and needs one port less
_SPELLING = (
    "New checkpoints get names in lower case, as Python, .NET, JavaScript and Azure Functions look for them;"
    " processors in Go and Java look for names as their own settings spell namespace, Event Hub and group."
)


def live_processors(owners: Sequence[Ownership], expiration_s: float) -> tuple[str, ...]:
    """Processors whose ownership has not expired, with their partitions."""
    fresh = [owner for owner in owners if owner.age_s < expiration_s]
    names = sorted({owner.name for owner in fresh})
    texts = []
    for name in names:
        owned = sorted({owner.number for owner in fresh if owner.name == name})
        age = min(owner.age_s for owner in fresh if owner.name == name)
        numbers = listed(owned)
        texts.append(f"processor {name} (partitions {numbers}; renewed {max(0.0, age):.0f} s ago)")
    return tuple(texts)


def exclusive_readers(refused: Mapping[Partition, ClearerError]) -> tuple[str, ...]:
    """Consumers that let no other read their partition, from the refusals that `find_readers` met."""
    held = sorted(key for key, error in refused.items() if isinstance(error, AttachedElsewhereError))
    return tuple(f"a consumer that holds {partition}" for partition in held)


def unprobed_notes(refused: Mapping[Partition, ClearerError]) -> list[str]:
    """Partitions of which it is not known whether another consumer holds them."""
    others = {k: error for k, error in refused.items() if not isinstance(error, AttachedElsewhereError)}
    if not others:
        return []
    first = min(others)
    return [
        f"Whether a consumer holds {listed(sorted(others))} exclusively is not known: {others[first]}"
    ]


def reason_for_amqp(
    options: EventHubsOptions, states: Sequence[PartitionState], *, dry_run: bool
) -> str | None:
    """Why the Kafka endpoint is not asked, as a note; None: it is, since that reader is wanted.

    Raises `UsageError` if --reader kafka cannot be used.
    """
    if options.reader is EventReader.AMQP:
        return "Reading over AMQP, as --reader amqp asks for."
    if options.reader is EventReader.CLIENT:
        return f"Reading with the SDK's client, as --reader client asks for: {_SLOWER}."
    wanted = options.reader is EventReader.KAFKA
    unnumbered = sum(
        state.position is not None and not state.error and sequence_number(state.position) is None
        for state in states
    )
    size = sum(state.backlog or 0 for state in states)
    reason = None
    if unnumbered:
        cause = (
            f"{counted(unnumbered, 'checkpoint')} without a sequence number, which the Kafka endpoint"
            " needs to start there"
        )
        if wanted:
            raise UsageError(f"--reader kafka cannot be used: {cause}. Use --reader amqp.")
        reason = f"Reading over AMQP: {cause}."
    elif not wanted and options.connection_string is None:
        reason = "Reading over AMQP: the Kafka endpoint needs a connection string to sign in."
    elif not wanted and options.transport is EventTransport.WEBSOCKET:
        reason = "Reading over AMQP: the Kafka endpoint cannot be reached over WebSockets."
    elif not wanted and size < _WORTH_KAFKA:
        reason = (
            f"Reading over AMQP: {counted(size, 'event')}, too few to gain from the Kafka endpoint."
        )
    elif dry_run:  # the endpoint may take seconds to answer, and nothing will be read
        reason = "Reading through the Kafka endpoint if it answers when the run begins, else over AMQP."
    return reason


def fallback_notes(options: EventHubsOptions, fault: str | None) -> list[str]:
    """Why the SDK's public client is used, although it was not asked for; `fault`: of the AMQP layers."""
    if fault is None or options.reader is EventReader.CLIENT:
        return []
    return [f"AMQP is used by the SDK's client ({_SLOWER}): {fault}"]


def without_options(text: str) -> str:
    """A text of the Kafka adapter without the sentences that name its options: there are none here."""
    sentences = re.split(r"(?<=[.;]) ", text)
    kept = [part for part in sentences if not re.search(r"(?:^|[\s(,])--?[A-Za-z]", part)]
    return " ".join(kept) or "it does not answer as expected."


def undo_of(fault: str | None) -> str | None:
    """Why a partition cannot be restored: what its checkpoint holds is not known."""
    return fault and f"{fault}; nothing is written over it or deleted"


def notes_of(
    options: EventHubsOptions,
    states: Sequence[PartitionState],
    blobs: Blobs,
    container: str | None,
    live: Sequence[str],
) -> list[str]:
    """Facts about the checkpoints; `container` is None where no checkpoint store is used."""
    notes = []
    if options.no_checkpoint:
        notes.append(_NO_CHECKPOINT)
    elif container is None:
        notes.append(NO_STORE)
    else:
        notes += _of_checkpoints(options, states, blobs, container)
    return [*notes, *([_LIVE] if live else [])]


def _of_checkpoints(
    options: EventHubsOptions, states: Sequence[PartitionState], blobs: Blobs, container: str
) -> list[str]:
    notes = [f"The checkpoints are {container}/{blobs.folder}checkpoint/<partition>."]
    usual = f"{options.namespace}/{options.hub}/{options.consumer_group}/checkpoint/".lower()
    names = {name for found in blobs.names.values() for name in found}
    folders = sorted({name.rpartition("/")[0] + "/" for name in names} - {usual})
    if folders:
        notes.append(
            f"Checkpoint blobs spelled differently are moved under their own names: {listed(folders)}"
            " (processors in Go and Java do not write lower case)."
        )
    several = sum(len(found) > 1 for found in blobs.names.values())
    if several:
        notes.append(
            f"{counted(several, 'partition')} with several checkpoint blobs: the backlog counts from the one"
            " furthest behind, and all of them are moved."
        )
    never = sum(state.position is None and not state.error for state in states)
    if never:
        notes.append(
            f"{counted(never, 'partition')} without a checkpoint: the backlog counts from the first"
            " event retained, while a processor would begin at its default position."
        )
    mine = {state.partition.number for state in states}
    ignored = {number: text for number, text in blobs.ignored.items() if number in mine}
    notes += [f"{Partition(options.hub, number)}: {text}." for number, text in sorted(ignored.items())]
    if any(position.get("layout") == LEGACY for position in blobs.positions.values()):
        notes.append(
            "Some positions are leases of the Functions extension before version 5. Newer versions read"
            " a lease only if the partition has no checkpoint blob, and this run writes the blob."
        )
    return notes


def older_notes(blobs: Blobs, created_ms: int | None) -> list[str]:
    """Checkpoints from before the Event Hub was created (milliseconds since 1970)."""
    if created_ms is None:
        return []
    created = datetime.fromtimestamp(created_ms / 1000, timezone.utc)
    older = sum(modified < created - _CLOCKS for modified in blobs.modified.values())
    if not older:
        return []
    return [
        (
            f"{counted(older, 'checkpoint')} older than the Event Hub, which was created at"
            f" {created:%Y-%m-%dT%H:%MZ}: a deleted one of its name had them, and a processor starts there."
        )
    ]


def _what(options: EventHubsOptions) -> str:
    return f"consumer group {options.consumer_group} on Event Hub {options.hub}"


def never_notes(
    options: EventHubsOptions, blobs: Blobs, found: Mapping[int, PartitionProperties | ClearerError]
) -> list[str]:
    """That nothing was ever stored for the group, and which other groups have a backlog there."""
    backlogs: dict[str, int | None] = {}
    for other, positions in blobs.others.items():
        here = (other.namespace, other.hub) == (options.namespace.lower(), options.hub.lower())
        if here and not other.lease:
            backlogs[other.group] = total_known(
                None if isinstance(item, ClearerError) else _left(item, positions.get(number))
                for number, item in found.items()
            )
    return [never_stored(_what(options), backlogs, "events") + " " + _SPELLING]


def _left(item: PartitionProperties, position: Mapping[str, int | str | None] | None) -> int | None:
    return left_up_to(item, position, item.last)


def doubt_of(options: EventHubsOptions, blobs: Blobs, container: str) -> str | None:
    """Why a clear is refused: the group has no checkpoint, and the container has others; None: it is not."""
    if not blobs.nothing or not blobs.others:
        return None
    others = described_elsewhere(blobs.others, options)
    return (
        f"The {_what(options)} has no checkpoint in {container}, where others have: {others}."
        " Check the consumer group, the Event Hub, the namespace and --checkpoint-format. If this consumer"
        " group is new, use --new."
    )


def described_elsewhere(others: Iterable[Elsewhere], options: EventHubsOptions) -> str:
    """Checkpoints of others, for people."""
    return listed(sorted({_described(other, options) for other in others}))


def _described(other: Elsewhere, options: EventHubsOptions) -> str:
    """One kind of checkpoints, by what differs from those that were looked for."""
    parts = [f"consumer group {other.group}"]
    if other.hub and other.hub != options.hub.lower():
        parts.append(f"Event Hub {other.hub}")
    if other.namespace and other.namespace != options.namespace.lower():
        parts.append(f"namespace {other.namespace}")
    text = " of ".join(parts)
    if other.lease and other.hub:
        return f"{text} (leases of Functions before extension version 5: --checkpoint-format functions)"
    return f"{text} (leases of the older Event Processor Host)" if other.lease else text

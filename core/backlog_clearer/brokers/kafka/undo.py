"""Putting a group's offsets back to what a receipt recorded: offset, metadata, leader epoch, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.commits import IdCommits
from backlog_clearer.brokers.kafka.coordinator import cannot_forget, committed_anywhere, forget
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.figures import OffsetFigures, Stored, offset_of, stored_of
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.model import Outcome, Partition, PartitionState, Recorded

_SINCE = "since the receipt"
_LACKS = "this broker cannot forget the committed offset of one partition (Kafka before 2.4)"


def undo_fault(options: KafkaOptions) -> str | None:
    """Why a partition without a committed offset could not be restored to that; None: it could."""
    reason = cannot_forget(options)
    if reason is None:
        return None
    if reason == "":
        if options.delete_group:
            return None
        return (
            f"nothing is committed for it yet, and {_LACKS}; restore can only delete the whole group, with"
            " --delete-group"
        )
    return f"nothing is committed for it yet, and whether that can be restored is not known: {reason}"


def with_undo(state: PartitionState, forget_fault: str | None) -> PartitionState:
    """The state with why it could not be restored, if so."""
    offset, end = offset_of(state.position), offset_of(state.end)
    if state.position is None:
        return replace(state, undo=forget_fault)
    if offset is not None and end is not None and offset > end:
        return replace(
            state,
            undo="its committed offset lies beyond the end of the log, where restore writes none",
        )
    return state


def undo_notes(options: KafkaOptions) -> tuple[str, ...]:
    """A note where a restore may delete the group."""
    if not options.delete_group:
        return ()
    note = (
        "--delete-group: where the broker cannot forget single offsets, restore deletes group"
        f" {options.group_id} with all that is stored for it, also offsets of topics that this user may not"
        " see."
    )
    return (note,)


def restored(
    options: KafkaOptions,
    admin: GroupAdmin,
    commits: IdCommits,
    recorded: Sequence[Recorded],
    committed: OffsetFigures,
    *,
    by_name: Callable[[Mapping[Partition, Stored]], Mapping[Partition, str | None]],
) -> Sequence[Outcome]:
    """One outcome for each; `committed` has the offsets stored now, `by_name` commits without topic ids.

    Refused are partitions whose topic is another one or gone, and offsets beyond the log's end: no
    consumer could continue there.
    """
    stored, unknown = committed
    logs = commits.logs
    writes = {
        item.partition: stored_of(item.position) for item in recorded if item.position is not None
    }
    ends, end_errors = admin.log_end([p for p, found in writes.items() if found is not None])
    faults = logs.faults({item.partition: item.incarnation for item in recorded}, _SINCE)
    errors: dict[Partition, str | None] = {
        p: str(error) for p, error in {**unknown, **end_errors, **faults}.items()
    }
    for item in recorded:
        if errors.get(item.partition) is None and item.position is not None:
            errors[item.partition] = _write_fault(writes[item.partition], item, ends)
    sound = [item.partition for item in recorded if errors.get(item.partition) is None]
    wanted = {p: found for p in sound if (found := writes.get(p)) is not None}
    # A receipt without ids: those of the topics that were just found.
    ids = {item.partition: item.incarnation or logs.ids.get(item.partition.topic) for item in recorded}
    written = commits.write(wanted, ids, _SINCE)
    errors.update(by_name(wanted) if written is None else written)
    errors.update(_forgotten(options, admin, [p for p in sound if p not in writes and p in stored]))
    return [
        Outcome(
            item.partition,
            None if errors.get(item.partition) else item.position,
            errors.get(item.partition),
        )
        for item in recorded
    ]


def _write_fault(found: Stored | None, item: Recorded, ends: Mapping[Partition, int]) -> str | None:
    if found is None:
        return f"The receipt's position {item.position!r} is not an offset that Kafka can store."
    end = ends.get(item.partition)
    if end is not None and found.offset > end:
        return (
            f"The receipt's offset {found.offset} lies beyond the end of the log of {item.partition}, {end}:"
            " it was not written, since a consumer could not continue there."
        )
    return None


def _forgotten(
    options: KafkaOptions, admin: GroupAdmin, partitions: Sequence[Partition]
) -> Mapping[Partition, str | None]:
    """Forget the offsets of exactly these partitions; by partition, why that failed, or None."""
    if not partitions:
        return {}
    try:
        outcomes = forget(options, partitions)
    except HeadersUnsupportedError as reason:
        text = f"librdkafka cannot forget a committed offset, and {reason}"
        return dict.fromkeys(partitions, text)
    if outcomes is not None:
        return outcomes
    if not options.delete_group:
        return dict.fromkeys(partitions, f"{_LACKS}; --delete-group deletes the whole group")
    others = committed_anywhere(options) - set(partitions)
    if others:
        text = f"{_LACKS}, and the group was not deleted, since it has other offsets"
        return dict.fromkeys(partitions, text)
    return dict.fromkeys(partitions, admin.delete_group())

"""What a survey needs of a group beyond its offsets: its kind, its members, names like its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.coordinator import listed_group, offsets_of, unstable
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.figures import offset_of, offsets_left
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.shared.names import doubt, never_stored, similar
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.model import Partition, PartitionState
from backlog_clearer.text import listed

_MOST = 100  # other groups whose offsets are asked for
_OFFSETS = 50_000  # that are asked for of all of them: fewer groups where there are many partitions
_EMPTY = frozenset({"empty", "dead"})


class Others(NamedTuple):
    """What the other groups on the same topics show about a name under which nothing was ever stored."""

    doubt: str | None
    note: str


def subscription(options: KafkaOptions) -> str:
    """The group and its topics, for people."""
    return f"group {options.group_id} on topic {','.join(options.topic)}"


def attached(
    members: tuple[str, ...] | None, options: KafkaOptions, *, stored: bool
) -> tuple[str, ...]:
    """The members of the group, whatever its kind; raises `UsageError` for a share group.

    `members`: see `GroupAdmin.members`. A group that Kafka describes as dead has no members only if it does
    not exist: share and streams groups are described so, too. `stored`: whether it has committed offsets.
    """
    if members is not None:
        return members
    try:
        group = listed_group(options)
    except HeadersUnsupportedError:
        if not stored:
            return ()
        return ("a group that Kafka describes as dead although it has offsets: a streams group?",)
    if group is None or (group.kind != "share" and group.state.lower() in _EMPTY):
        return ()
    if group.kind == "share":
        raise UsageError(_share_text(options))
    kind, state = group.kind or "unknown", group.state or "unknown"
    return (f"a group of kind {kind} in state {state}, whose members Kafka does not list here",)


def _share_text(options: KafkaOptions) -> str:
    commands = "; ".join(
        f"kafka-share-groups.sh --bootstrap-server {options.bootstrap_servers[0]} --group"
        f" {options.group_id} --topic {topic} --reset-offsets --to-latest --execute"
        for topic in options.topic
    )
    return (
        f"{options.group_id!r} is a share group: it has no committed offsets, and this tool clears consumer"
        f" groups. Kafka's own command moves it to the end: {commands}"
    )


def pending_notes(options: KafkaOptions, partitions: Sequence[Partition]) -> tuple[str, ...]:
    """A note on partitions for which an open transaction has an offset that is not committed yet."""
    pending = unstable(options, partitions)
    if not pending:
        return ()
    # rarely needed, and slow to load
    from backlog_clearer.brokers.kafka.transactions import open_transactions  # noqa: PLC0415

    names = open_transactions(options)
    which = f" ({listed(map(repr, names))})" if names else ""
    note = (
        f"{listed(sorted(pending))}: an open transaction{which} has an offset pending that will be"
        " committed or dropped when it ends."
    )
    return (note,)


def others(admin: GroupAdmin, options: KafkaOptions, states: Sequence[PartitionState]) -> Others:
    """Names like the group's, and those with a backlog, among the groups that have offsets here."""
    what = subscription(options)
    try:
        names = [name for name in admin.groups()[0] if name != options.group_id]
        near = similar(options.group_id, names, limit=10)
        most = max(len(near), min(_MOST, _OFFSETS // max(1, len(states))))
        asked = [*near, *(name for name in names if name not in near)][:most]
        stored = _stored(admin, options, asked, [state.partition for state in states])
    except BrokerError:
        return Others(None, never_stored(what, None, "offsets"))
    here = {name: offsets for name, offsets in stored.items() if offsets}
    backlogs = {name: _backlog(offsets, states) for name, offsets in here.items()}
    some = len(asked) < len(names)
    which = f"group of the {len(asked)} that were asked for" if some else "other name"
    note = never_stored(what, backlogs, "offsets", asked=which)
    return Others(doubt(what, similar(options.group_id, here)), note)


def _stored(
    admin: GroupAdmin, options: KafkaOptions, groups: Sequence[str], partitions: Sequence[Partition]
) -> dict[str, dict[Partition, int]]:
    """What other groups have committed."""
    try:
        return offsets_of(options, groups, partitions)
    except HeadersUnsupportedError:
        return admin.offsets_of(groups, partitions)


def _backlog(offsets: Mapping[Partition, int], states: Sequence[PartitionState]) -> int | None:
    """What a group has left in the partitions where it has an offset; None: not known."""
    left = 0
    for state in states:
        if state.partition in offsets:
            start, end = offset_of(state.start), offset_of(state.end)
            if start is None or end is None:
                return None
            left += offsets_left(offsets[state.partition], start, end)
    return left

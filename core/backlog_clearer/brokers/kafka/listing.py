"""Which consumer groups of a cluster have a backlog, in few requests whatever their number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.cuts import batch_times
from backlog_clearer.brokers.kafka.fetch_wire import Wanted
from backlog_clearer.brokers.kafka.figures import OffsetFigures, contradiction, offsets_left
from backlog_clearer.brokers.kafka.librdkafka import REQUEST_TIMEOUT_S
from backlog_clearer.brokers.kafka.list_options import KafkaListOptions
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Found, Listing, Partition, oldest_known
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.text import counted

_AT_A_TIME = 500  # requests that a coordinator gets at the same time
_OWN_OFFSETS = frozenset({"", "classic", "consumer"})  # kinds whose offsets OffsetFetch returns


class _Group(NamedTuple):
    """What is known of one group."""

    offsets: Mapping[Partition, int]
    error: str | None = None


class _Logs(NamedTuple):
    """Where the logs begin and end in which groups have offsets."""

    starts: OffsetFigures
    ends: OffsetFigures

    def left(self, partition: Partition, committed: int) -> int | ClearerError | None:
        """The backlog of a committed offset, why it is not known, or None."""
        (starts, no_start), (ends, no_end) = self
        if partition not in starts or partition not in ends:
            return no_end.get(partition) or no_start.get(partition)
        start, end = starts[partition], ends[partition]
        return contradiction(partition, committed, start, end) or offsets_left(committed, start, end)

    def first(self, partition: Partition, committed: int) -> Wanted:
        """The first retained offset of a backlog."""
        return Wanted(partition, max(committed, self.starts[0][partition]))


def list_groups(options: SystemOptions) -> Listing:
    """The groups that the options' pattern matches; see `registry.Lister`."""
    assert isinstance(options, KafkaListOptions)  # noqa: S101 the registry pairs them
    reach = options.reach()
    admin = ClusterAdmin(reach)
    found, silent = admin.groups()
    kinds = {name: group for name, group in found.items() if options.matches(name)}
    asked = [name for name, group in kinds.items() if group.kind in _OWN_OFFSETS]
    stored = admin.committed_offsets(asked)
    if options.topic:
        chosen = set(options.topic)
        stored = {
            name: group._replace(
                offsets={p: at for p, at in group.offsets.items() if p.topic in chosen}
            )
            for name, group in stored.items()
        }
    wanted = sorted({partition for group in stored.values() for partition in group.offsets})
    logs = _Logs(admin.log_start(wanted), admin.log_end(wanted))
    members = admin.member_counts(asked)
    listed = [
        _found(name, group.kind, stored.get(name), logs, members.get(name))
        for name, group in kinds.items()
        if not options.topic or name not in stored or stored[name].offsets or stored[name].error
    ]
    others = sum(group.kind not in _OWN_OFFSETS for group in kinds.values())
    notes = [f"Groups of one broker are missing from the list: {error}" for error in silent]
    if options.ages:
        try:
            listed = _aged(reach, listed, stored, logs)
        except ClearerError as error:
            notes.append(f"Ages are unknown: {error}")
    if others:
        notes.append(
            f"The backlog of {counted(others, 'group')} of other kinds (share, streams) is unknown."
        )
    place = f"Kafka at {','.join(options.bootstrap_servers)}"
    return Listing(place, "offsets", tuple(listed), tuple(notes), complete=not silent)


def _found(name: str, kind: str, group: _Group | None, logs: _Logs, members: int | None) -> Found:
    """One group's line: the sum over its partitions; unknown where one of them is."""
    if group is None:
        return Found(name, kind or None, (), None, members)
    topics = tuple(sorted({partition.topic for partition in group.offsets}))
    left = [logs.left(partition, at) for partition, at in group.offsets.items()]
    failed = next((item for item in left if isinstance(item, ClearerError)), None)
    error = group.error or (str(failed) if failed else None)
    known = [item for item in left if isinstance(item, int)]
    backlog = sum(known) if error is None and len(known) == len(left) else None
    return Found(name, kind or None, topics, backlog, members, error)


def _aged(
    reach: KafkaOptions, listed: Sequence[Found], stored: Mapping[str, _Group], logs: _Logs
) -> list[Found]:
    """The groups with the times of their oldest messages; the largest backlogs are asked for first.

    Groups at the same offset of a partition share a request. Raises `BrokerError`.
    """
    behind = sorted((item for item in listed if item.backlog), key=lambda item: -(item.backlog or 0))
    firsts = {
        item.name: [
            logs.first(partition, at)
            for partition, at in stored[item.name].offsets.items()
            if logs.left(partition, at)
        ]
        for item in behind
    }
    times = batch_times(reach, list(dict.fromkeys(at for group in firsts.values() for at in group)))
    return [
        replace(item, oldest=_oldest(firsts.get(item.name, ()), times)) if item.backlog else item
        for item in listed
    ]


def _oldest(firsts: Sequence[Wanted], times: Mapping[Wanted, datetime]) -> datetime | None:
    return oldest_known((None, times.get(place)) for place in firsts)


class ClusterAdmin(GroupAdmin):
    """Requests about all groups of a cluster."""

    def committed_offsets(self, groups: Sequence[str]) -> dict[str, _Group]:
        """What each group has committed, of all topics that the user may see."""
        stored: dict[str, _Group] = {}
        for at in range(0, len(groups), _AT_A_TIME):
            futures: dict[str, Future[Any]] = {}
            for group in groups[at : at + _AT_A_TIME]:  # one group a call, all at the same time
                futures.update(
                    self._client.list_consumer_group_offsets(
                        [ConsumerGroupTopicPartitions(group)], request_timeout=REQUEST_TIMEOUT_S
                    )
                )
            found, failed = self._answers(futures, "fetching the offsets of the groups")
            for group, answer in found.items():
                failures = [item.error for item in answer.topic_partitions if item.error is not None]
                stored[group] = _Group(
                    {
                        Partition(item.topic, item.partition): item.offset
                        for item in answer.topic_partitions
                        if item.error is None and item.offset >= 0
                    },
                    self._text(failures[0]) if failures else None,
                )
            stored.update({group: _Group({}, self._text(error)) for group, error in failed.items()})
        return stored

    def member_counts(self, groups: Sequence[str]) -> dict[str, int]:
        """How many members each group has; a group that cannot be described is left out."""
        counts: dict[str, int] = {}
        for at in range(0, len(groups), _AT_A_TIME):
            futures = self._client.describe_consumer_groups(
                list(groups[at : at + _AT_A_TIME]), request_timeout=REQUEST_TIMEOUT_S
            )
            found, failed = self._answers(futures, "describing the groups")
            counts.update({name: len(group.members) for name, group in found.items()})
            gone = [name for name, error in failed.items() if _is_gone(error)]
            counts.update(dict.fromkeys(gone, 0))
        return counts


def _is_gone(error: KafkaError) -> bool:
    return bool(error.code() == KafkaError.GROUP_ID_NOT_FOUND)

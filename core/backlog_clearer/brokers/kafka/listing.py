"""Which consumer groups of a cluster have a backlog, in few requests whatever their number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.coordinator import ListedGroup, groups_at
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, translate
from backlog_clearer.brokers.kafka.figures import Figures
from backlog_clearer.brokers.kafka.leaders import Address
from backlog_clearer.brokers.kafka.librdkafka import REQUEST_TIMEOUT_S
from backlog_clearer.brokers.kafka.list_options import KafkaListOptions
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import socket_settings
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import BrokerError, ClearerError
from backlog_clearer.model import Found, Listing, Partition
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.text import counted

_AT_A_TIME = 500  # requests that a coordinator gets at the same time
_OWN_OFFSETS = frozenset({"", "classic", "consumer"})  # kinds whose offsets OffsetFetch returns


class _Group(NamedTuple):
    """What is known of one group."""

    offsets: Mapping[Partition, int]
    error: str | None = None


def list_groups(options: SystemOptions) -> Listing:
    """The groups that the options' pattern matches; see `registry.Lister`."""
    assert isinstance(options, KafkaListOptions)  # noqa: S101 the registry pairs them
    reach = options.reach()
    admin = ClusterAdmin(reach)
    found, silent = admin.groups()
    kinds = {name: group for name, group in found.items() if fnmatchcase(name, options.matching)}
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
    ends = admin.log_end(wanted)
    members = admin.member_counts(asked)
    listed = [
        _found(name, group.kind, stored.get(name), ends, members.get(name))
        for name, group in kinds.items()
        if not options.topic or name not in stored or stored[name].offsets or stored[name].error
    ]
    others = sum(group.kind not in _OWN_OFFSETS for group in kinds.values())
    notes = list(silent)
    if others:
        notes.append(
            f"The backlog of {counted(others, 'group')} of other kinds (share, streams) is unknown."
        )
    place = f"Kafka at {','.join(options.bootstrap_servers)}"
    return Listing(place, "offsets", tuple(listed), tuple(notes), complete=not silent)


def _found(name: str, kind: str, group: _Group | None, ends: Figures, members: int | None) -> Found:
    """One group's line: the sum over its partitions; unknown where one of them is."""
    if group is None:
        return Found(name, kind or None, (), None, members)
    topics = tuple(sorted({partition.topic for partition in group.offsets}))
    offsets, errors = ends
    failed = next((errors[p] for p in group.offsets if p in errors), None)
    error = group.error or (str(failed) if failed else None)
    unknown = error is not None or any(p not in offsets for p in group.offsets)
    backlog = None if unknown else sum(max(0, offsets[p] - at) for p, at in group.offsets.items())
    return Found(name, kind or None, topics, backlog, members, error)


class ClusterAdmin(GroupAdmin):
    """Requests about all groups of a cluster."""

    def __init__(self, options: KafkaOptions) -> None:
        """`options`: how to reach it; the group in them is not used."""
        super().__init__(options)
        self._reach = options

    def groups(self) -> tuple[dict[str, ListedGroup], list[str]]:
        """Every group that the user may see, sorted by name, and which brokers did not answer.

        Raises `BrokerError` where none did.
        """
        doing = "listing the brokers"
        cluster = self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)
        described, failed = self._answers({doing: cluster}, doing)
        if doing in failed:
            raise translate(failed[doing], doing, self._reach)
        try:
            socket_settings(self._reach)
        except HeadersUnsupportedError:  # settings that only librdkafka supports: it tells no kinds
            return {name: ListedGroup("", "") for name in self.group_names()}, []
        addresses = [Address(node.host, node.port) for node in described[doing].nodes]
        answers = in_parallel(addresses, lambda: lambda at: groups_at(self._reach, at))
        found: dict[str, ListedGroup] = {}
        silent = []
        for answer in answers:
            if isinstance(answer, ClearerError):
                silent.append(answer)
            else:
                found.update(answer)
        if len(silent) == len(answers):
            raise next(iter(silent), BrokerError("Kafka reported no broker."))
        lines = [f"Groups of one broker are missing from the list: {error}" for error in silent]
        return dict(sorted(found.items())), lines

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
                stored[group] = _Group(
                    {
                        Partition(item.topic, item.partition): item.offset
                        for item in answer.topic_partitions
                        if item.error is None and item.offset >= 0
                    }
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

"""Requests to a group's coordinator that librdkafka has not, or not safely.

What kind a group is, forgetting offsets, and fetching offsets as an admin does: librdkafka's own admin request
for that ends the process where the coordinator has moved (confluentinc/librdkafka#5397).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from confluent_kafka import KafkaError

from backlog_clearer.brokers.kafka.connection import MOST_DECODED, Connection
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, is_transient, translate
from backlog_clearer.brokers.kafka.leaders import Address, first_answer, open_connection
from backlog_clearer.brokers.kafka.library import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    ListGroupsRequest,
    ListGroupsResponse,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import partition_error
from backlog_clearer.brokers.kafka.socket_settings import SocketSettings, socket_settings
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Partition

_GROUP = 0  # the kind of coordinator that is asked for
_STABLE = 7  # version of OffsetFetch that can ask for stable offsets (KIP-447); the last with one group
_ALL = 2  # first version that can ask for all topics
_METADATA_BYTES = 4200  # of a committed offset: 4,096 by default, and its other fields
_TO_FORGET = "READ on the topic and DELETE on the group"  # permissions (OffsetDelete, KIP-496)
_TYPES = 5  # first version of ListGroups with types (KIP-848)


class ListedGroup(NamedTuple):
    """A group as its coordinator lists it."""

    kind: str  # "classic", "consumer", "share", "streams"; "": the broker has no kinds
    state: str  # "Empty", "Stable", …


class FetchedOffset(NamedTuple):
    """What the coordinator answers about one partition, as it stands in the answer."""

    offset: int  # -1: nothing is stored
    error: int  # the error code; 0: none
    metadata: str
    leader_epoch: int | None


@contextmanager
def _coordinator(options: KafkaOptions) -> Iterator[Connection]:
    """A connection to the group's coordinator, for a `with` block.

    Raises `TransientError`, `BrokerError`, or `HeadersUnsupportedError` for settings that only
    librdkafka supports.
    """
    settings = socket_settings(options)
    address = find_coordinator(options, settings)
    with closing(open_connection(address, options, settings)) as connection:
        yield connection


def find_coordinator(options: KafkaOptions, settings: SocketSettings) -> Address:
    """Where the group's coordinator listens; raises `TransientError` or `BrokerError`."""
    address = first_answer(options, settings, lambda made: _found(made, options.group_id, options))
    assert address is not None  # noqa: S101 narrows the type
    return address


def _found(
    connection: Connection, group: str, options: KafkaOptions, *, or_none: bool = False
) -> Address | None:
    """Where a group's coordinator listens; where it is not known, raises or returns None (`or_none`)."""
    version = connection.version(FindCoordinatorRequest, 0, 2)
    request = FindCoordinatorRequest(version=version, key=group, key_type=_GROUP)
    answer = connection.call(request, FindCoordinatorResponse, version)
    if not answer.error_code:
        return Address(answer.host, answer.port)
    if or_none:
        return None
    doing = f"finding the coordinator of group {group}"
    raise translate(KafkaError(answer.error_code), doing, options)


def unstable(options: KafkaOptions, partitions: Sequence[Partition]) -> set[Partition]:
    """The partitions for which an open transaction has an offset of the group pending (KIP-447).

    None where the broker is older than 2.5, or only librdkafka can connect. Raises `TransientError` or
    `BrokerError`.
    """
    if not partitions:
        return set()
    try:
        with _coordinator(options) as connection:
            found = fetched_offsets(connection, options.group_id, partitions, options, oldest=_STABLE)
    except HeadersUnsupportedError:
        return set()
    return {p for p, item in found.items() if item.error == KafkaError.UNSTABLE_OFFSET_COMMIT}


def offsets_of(
    options: KafkaOptions, groups: Sequence[str], partitions: Sequence[Partition]
) -> dict[str, dict[Partition, int]]:
    """What other groups have committed for these partitions; a group that cannot be asked is left out.

    Raises `TransientError`, `BrokerError` or `HeadersUnsupportedError`.
    """
    settings = socket_settings(options)
    addresses = first_answer(
        options,
        settings,
        lambda made: {name: _found(made, name, options, or_none=True) for name in groups},
    )
    stored: dict[str, dict[Partition, int]] = {}
    for address in sorted({found for found in addresses.values() if found is not None}):
        with closing(open_connection(address, options, settings)) as connection:
            for group in (name for name in groups if addresses[name] == address):
                with suppress(BrokerError):
                    found = fetched_offsets(connection, group, partitions, options)
                    stored[group] = {
                        p: item.offset
                        for p, item in found.items()
                        if not item.error and item.offset >= 0
                    }
    return stored


def committed_anywhere(options: KafkaOptions) -> set[Partition]:
    """Partitions of any topic for which the group has an offset.

    Kafka leaves out topics that the user may not describe, so this is never all that there may be. Raises
    `TransientError`, `BrokerError` or `HeadersUnsupportedError`.
    """
    with _coordinator(options) as connection:
        return set(fetched_offsets(connection, options.group_id, None, options, oldest=_ALL))


def fetched_offsets(
    connection: Connection,
    group: str,
    partitions: Sequence[Partition] | None,
    options: KafkaOptions,
    *,
    oldest: int = 1,
    stable: bool = True,
) -> dict[Partition, FetchedOffset]:
    """What a group has committed, of all topics where `partitions` is None.

    `oldest`: version of the request that suffices; `stable`: an offset that an open transaction has pending is
    an error, where the broker can tell. Raises like `Connection.call` and `Connection.version`.
    """
    version = connection.version(OffsetFetchRequest, oldest, _STABLE)
    topic_of = OffsetFetchRequest.OffsetFetchRequestTopic
    numbers: dict[str, list[int]] = {}
    for partition in partitions or ():
        numbers.setdefault(partition.topic, []).append(partition.number)
    topics = [
        topic_of(version=version, name=topic, partition_indexes=found)
        for topic, found in numbers.items()
    ]
    answer = connection.call(
        OffsetFetchRequest(
            version=version,
            group_id=group,
            topics=None if partitions is None else topics,
            require_stable=stable and version >= _STABLE,
        ),
        OffsetFetchResponse,
        version,
        most=MOST_DECODED + _METADATA_BYTES * len(partitions or ()),
    )
    if version >= _ALL and answer.error_code:
        doing = f"fetching the offsets of group {group}"
        raise translate(KafkaError(answer.error_code), doing, options)
    return {
        Partition(topic.name, part.partition_index): FetchedOffset(
            part.committed_offset,
            part.error_code,
            part.metadata or "",
            part.committed_leader_epoch if part.committed_leader_epoch >= 0 else None,
        )
        for topic in answer.topics
        for part in topic.partitions
    }


def listed_group(options: KafkaOptions) -> ListedGroup | None:
    """How the coordinator lists the group, of whatever kind; None: it does not exist.

    DescribeGroups reports share and streams groups as dead, as it does a group that does not exist.
    Raises `TransientError`, `BrokerError` or `HeadersUnsupportedError`.
    """
    with _coordinator(options) as connection:
        return _listed(connection, options).get(options.group_id)


def all_groups(
    options: KafkaOptions, brokers: Sequence[Address]
) -> tuple[dict[str, ListedGroup], list[ClearerError]]:
    """The groups that the brokers coordinate, sorted by name, and why one of them did not answer.

    One request to each. Raises like `listed_group`, where none answers.
    """
    settings = socket_settings(options)

    def ask(address: Address) -> dict[str, ListedGroup]:
        with closing(open_connection(address, options, settings)) as connection:
            return _listed(connection, options)

    found: dict[str, ListedGroup] = {}
    silent: list[ClearerError] = []
    for answer in in_parallel(brokers, lambda: ask, where=f"Kafka at {options.place}"):
        if isinstance(answer, ClearerError):
            silent.append(answer)
        else:
            found.update(answer)
    if len(silent) == len(brokers):
        raise next(iter(silent), BrokerError("Kafka reported no broker."))
    return dict(sorted(found.items())), silent


def _listed(connection: Connection, options: KafkaOptions) -> dict[str, ListedGroup]:
    version = connection.version(ListGroupsRequest, 0, _TYPES)
    answer = connection.call(
        ListGroupsRequest(version=version, states_filter=[], types_filter=[]),
        ListGroupsResponse,
        version,
        most=MOST_DECODED,
    )
    if answer.error_code:
        raise translate(KafkaError(answer.error_code), "listing the groups", options)
    return {
        group.group_id: ListedGroup(
            (group.group_type or "").lower() if version >= _TYPES else "",
            group.group_state if version >= 4 else "",  # noqa: PLR2004 KIP-518
        )
        for group in answer.groups
    }


def cannot_forget(options: KafkaOptions) -> str | None:
    """Why the offset of one partition cannot be forgotten; None: it can; "": the broker lacks the request.

    The request is OffsetDelete (KIP-496), which brokers have from 2.4 on. Raises `TransientError`: a receipt
    must not record for good that a partition cannot be restored because a connection broke.
    """
    try:
        with _coordinator(options) as connection:
            return None if _forgets(connection) else ""
    except TransientError:
        raise
    except (BrokerError, HeadersUnsupportedError) as reason:
        return str(reason)


def _forgets(connection: Connection) -> bool:
    try:
        connection.version(OffsetDeleteRequest, 0, 0)
    except HeadersUnsupportedError:
        return False
    return True


def forget(
    options: KafkaOptions, partitions: Sequence[Partition]
) -> dict[Partition, str | None] | None:
    """Delete the group's committed offsets of exactly these partitions, in one request (KIP-496).

    By partition, why it was refused, or None; as a whole None where the broker lacks the request. Raises
    `TransientError`, `BrokerError` or `HeadersUnsupportedError`.
    """
    topic_of = OffsetDeleteRequest.OffsetDeleteRequestTopic
    numbers: dict[str, list[int]] = {}
    for partition in partitions:
        numbers.setdefault(partition.topic, []).append(partition.number)
    request = OffsetDeleteRequest(
        version=0,
        group_id=options.group_id,
        topics=[
            topic_of(
                version=0,
                name=topic,
                partitions=[
                    topic_of.OffsetDeleteRequestPartition(version=0, partition_index=number)
                    for number in found
                ],
            )
            for topic, found in numbers.items()
        ],
    )
    with _coordinator(options) as connection:
        if not _forgets(connection):
            return None
        answer = connection.call(request, OffsetDeleteResponse, 0)
    if answer.error_code:
        error = KafkaError(answer.error_code)
        if error.code() == KafkaError.GROUP_ID_NOT_FOUND:  # nothing is stored for any partition
            return dict.fromkeys(partitions)
        if is_transient(error):
            raise translate(error, f"forgetting offsets of group {options.group_id}", options)
        return dict.fromkeys(partitions, partition_error(error, options, _TO_FORGET))
    outcomes: dict[Partition, str | None] = dict.fromkeys(
        partitions, "the broker did not answer for it"
    )
    for topic in answer.topics:
        for part in topic.partitions:
            code = part.error_code
            error_text = partition_error(KafkaError(code), options, _TO_FORGET) if code else None
            outcomes[Partition(topic.name, part.partition_index)] = error_text
    return outcomes

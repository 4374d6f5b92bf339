"""Which consumer groups of an Iggy server have a backlog, and which of the consumers that are asked for.

For each topic its description, its groups, the first message of each partition, and the stored offsets of
all of them, which are under way at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.cuts import stored_times
from backlog_clearer.brokers.iggy.list_options import IggyListOptions
from backlog_clearer.brokers.iggy.logs import Offsets, TopicLogs, described_stream, listed_one
from backlog_clearer.brokers.iggy.positions import LogFacts, left_after
from backlog_clearer.brokers.iggy.wire import StoredOffset
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import (
    Found,
    Listing,
    Partition,
    PartitionState,
    oldest_known,
    total_known,
)
from backlog_clearer.options.base import SystemOptions

_CONSUMERS = (
    "Iggy lists groups, but not single consumers: --consumer-ids asks for those whose numbers or names are"
    " known."
)
_GAPS = (
    "Some partitions have gaps in their offsets, as a restarted server leaves them: a backlog there is the"
    " most that there can be."
)


def list_iggy(options: SystemOptions) -> Listing:
    """The groups and consumers whose names match; see `registry.Lister`."""
    assert isinstance(options, IggyListOptions)  # noqa: S101 the registry pairs them
    found: list[Found] = []
    notes = [_CONSUMERS]
    failures: list[BrokerError] = []
    gaps = False
    with closing(IggyCluster(options)) as client:
        topics = list(_topics(client, options))
        for logs in topics:
            listing = _TopicListing(logs, options)
            try:
                found += listing.found()
            except BrokerError as error:
                failures.append(error)
                notes.append(f"The groups of {logs.title} are not known: {error}")
            gaps = gaps or listing.gaps
        if failures and len(failures) == len(topics):
            raise failures[0]
        where = "/".join(filter(None, (options.stream_id, options.topic_id)))
        place = f"Iggy at {client.address}" + (f", {where}" if where else "")
    if gaps:
        notes.append(_GAPS)
    return Listing(place, "messages", tuple(found), tuple(notes), complete=not failures)


def _topics(client: IggyCluster, options: IggyListOptions) -> Iterator[TopicLogs]:
    """Each topic to look at; raises `UsageError` for a stream that does not exist."""
    if options.topic_id:
        yield TopicLogs(client, options)
        return
    if options.stream_id:
        streams = [TopicLogs(client, options).stream]
    else:
        streams = [listed_one(item) for item in client.call(lambda iggy: iggy.get_streams())]
    for stream in streams:
        for topic in described_stream(client, stream.sdk, stream.name).topics:
            names = {"stream_id": stream.name, "topic_id": topic.name}
            yield TopicLogs(client, options.model_copy(update=names), stream, listed_one(topic))


class _TopicListing:
    """The groups and consumers of one topic."""

    def __init__(self, logs: TopicLogs, options: IggyListOptions) -> None:
        self._logs = logs
        self._options = options
        self._facts: dict[Partition, LogFacts | BrokerError] = {}
        self.gaps = False

    def found(self) -> list[Found]:
        """A line for each; raises `UsageError` if the topic does not exist, and `BrokerError`."""
        logs, options = self._logs, self._options
        self._facts = {Partition(logs.title, id_): log for id_, log in logs.described().items()}
        usable = {key: log for key, log in self._facts.items() if isinstance(log, LogFacts)}
        self._facts |= logs.looked_at(usable)
        self.gaps = any(isinstance(log, LogFacts) and log.extent.gaps for log in self._facts.values())
        partitions = list(self._facts)
        groups = [
            self._found(group.name, "group", stored, group.members_count)
            for group, stored in logs.stored_by_groups(partitions)
            if options.matches(group.name)
        ]
        consumers = [
            self._found(name, "consumer", stored, None)
            for name, stored in zip(
                options.consumer_ids,
                logs.stored_by_consumers(options.consumer_ids, partitions),
                strict=True,
            )
            if any(isinstance(at, StoredOffset) for at in stored.values())
        ]
        return groups + consumers

    def _found(self, name: str, kind: str, stored: Offsets, members: int | None) -> Found:
        """One line: the sum over the partitions; unknown where one of them is."""
        left = {key: left_after(log, stored[key]) for key, log in self._facts.items()}
        failed = next((item for item in left.values() if isinstance(item, BrokerError)), None)
        counts = {key: item if isinstance(item, int) else None for key, item in left.items()}
        states = [
            self._state(key, log, stored[key], counts[key])
            for key, log in self._facts.items()
            if isinstance(log, LogFacts) and counts[key]
        ]
        oldest = None
        if self._options.ages and states and failed is None:
            times = stored_times(self._logs, states, self._facts)
            oldest = oldest_known((count, times.get(key)) for key, count in counts.items())
        return Found(
            name,
            kind,
            (self._logs.title,),
            total_known(counts.values()),
            members,
            None if failed is None else str(failed),
            oldest,
        )

    @staticmethod
    def _state(
        key: Partition, log: LogFacts, stored: StoredOffset | BrokerError | None, backlog: int | None
    ) -> PartitionState:
        position = stored.offset if isinstance(stored, StoredOffset) else None
        return PartitionState(key, position, log.extent.first, log.extent.end, backlog)

"""What an Iggy server reports about a topic's partitions, its groups, and the offsets of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from apache_iggy import StreamDetails

from backlog_clearer.brokers.iggy import topic_wire, wire
from backlog_clearer.brokers.iggy.client import IggyCluster
from backlog_clearer.brokers.iggy.connection import IggyRequest, Reply
from backlog_clearer.brokers.iggy.errors import is_not_found, is_offset_not_found
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.poll_wire import Polled, PollWalk
from backlog_clearer.brokers.iggy.positions import LogFacts, checked_extent
from backlog_clearer.brokers.iggy.topic_wire import DescribedGroup, DescribedTopic, GroupMember
from backlog_clearer.brokers.iggy.wire import StoredOffset
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import Partition
from backlog_clearer.options.base import suggestion
from backlog_clearer.text import listed

_MANY = 20  # names in a list of what exists

_Found = TypeVar("_Found")

Offsets: TypeAlias = dict[Partition, StoredOffset | BrokerError | None]
"""Stored offsets by partition; None: there is none; an error: why it is not known."""


class Named(NamedTuple):
    """A stream, topic or group as the user named it."""

    sdk: int | str  # for the SDK, which takes every number for an id
    wire: bytes  # for requests: one created again under the same name or number is found, too
    name: str


def listed_one(item: Any) -> Named:
    """What the server listed, by its id: its name may be the id of another one."""
    return Named(item.id, wire.identifier(item.id), item.name)


def _is_number(asked: str) -> bool:
    return asked.isascii() and asked.isdecimal()


def _number_or_name(asked: str) -> int | str:
    return int(asked) if _is_number(asked) else asked


def named(asked: str, what: str, lister: Callable[[], Iterable[Any]]) -> Named:
    """A number is an id, or the name of what has no such id; raises `UsageError` where it may be two things.

    `lister` fetches what exists; a user who may not list it gives ids only.
    """
    if not _is_number(asked):
        return Named(asked, wire.identifier(asked), asked)
    number = int(asked)
    try:
        known = {item.id: item.name for item in lister()}
    except TransientError:
        raise
    except BrokerError:
        known = {}
    namesakes = [id_ for id_, name in known.items() if name == asked and id_ != number]
    if namesakes and number in known:
        raise UsageError(
            f"{what.capitalize()} {asked} may be the one with this id, named {known[number]!r}, or the one with"
            f" this name, which has id {namesakes[0]}: give the other name or the other id."
        )
    if namesakes:
        return Named(namesakes[0], wire.identifier(asked), asked)
    return Named(number, wire.identifier(number), known.get(number, asked))


def existing(asked: str, what: str, known: Iterable[Any]) -> str:
    """A sentence with the names that exist, and a question where one of them is likely meant."""
    names = sorted(item.name for item in known)
    if not names:
        return f"No {what} exists there."
    return f"Existing: {listed(names, _MANY)}.{suggestion(asked, names)}"


def described_stream(client: IggyCluster, stream: int | str, asked: str) -> StreamDetails:
    """A stream with its topics; raises `UsageError` where it does not exist, with those that do."""
    found = client.call(lambda iggy: iggy.get_stream(stream))
    if found is not None:
        return found
    known = client.call(lambda iggy: iggy.get_streams())
    raise UsageError(
        f"There is no stream {asked} at {client.address}. {existing(asked, 'stream', known)}"
    )


class TopicLogs:
    """Partitions of the topic, and stored offsets in them. Changes nothing; shared by threads."""

    def __init__(
        self,
        client: IggyCluster,
        options: IggyOptions,
        stream: Named | None = None,
        topic: Named | None = None,
    ) -> None:
        """`stream` and `topic`: those that the server listed, where the names in the options are not enough."""
        self._client = client
        self._options = options
        self._stream = stream
        self._topic = topic
        self._group: Named | None = None

    @property
    def stream(self) -> Named:
        """The stream; looked up once where it was given by a number."""
        if self._stream is None:
            call = self._client.call
            self._stream = named(
                self._options.stream_id, "stream", lambda: call(lambda iggy: iggy.get_streams())
            )
        return self._stream

    @property
    def topic(self) -> Named:
        """The topic, like `stream`."""
        if self._topic is None:
            stream, call = self.stream.sdk, self._client.call
            self._topic = named(
                self._options.topic_id, "topic", lambda: call(lambda iggy: iggy.get_topics(stream))
            )
        return self._topic

    @property
    def consumer(self) -> Named:
        """The consumer or the group."""
        options = self._options
        if options.group_id is None:
            ident = _number_or_name(options.consumer)
            return Named(ident, wire.identifier(ident), options.consumer)
        if self._group is None:
            self._group = named(options.group_id, "group", self.groups)
        return self._group

    @property
    def place(self) -> bytes:
        """The stream and the topic of a request."""
        return self.stream.wire + self.topic.wire

    @property
    def reader(self) -> bytes:
        """How polls begin: as a single consumer, also for a group, as which only its members may poll."""
        return wire.subject(wire.CONSUMER, wire.identifier(0), self.place)

    @property
    def who(self) -> bytes:
        """How requests about the stored offsets begin."""
        kind = wire.CONSUMER if self._options.group_id is None else wire.GROUP
        return wire.subject(kind, self.consumer.wire, self.place)

    def described(self) -> dict[int, LogFacts | TransientError]:
        """The topic's partitions by id, with their figures or why those cannot be used.

        Raises `UsageError` if the topic does not exist.
        """
        return self._facts(self._details())

    def _facts(self, found: DescribedTopic) -> dict[int, LogFacts | TransientError]:
        logs: dict[int, LogFacts | TransientError] = {}
        for part in found.partitions:
            figures = part.current, part.messages, part.size
            try:
                extent = checked_extent(Partition(self.title, part.id), *figures)
            except TransientError as error:
                logs[part.id] = error
                continue
            # The server uses ids again, but not with the same time of creation.
            incarnation = f"{found.id}@{found.created_at}/{part.id}@{part.created_at}"
            logs[part.id] = LogFacts(incarnation, extent)
        return logs

    @property
    def title(self) -> str:
        """The topic by its names, also where it was given by numbers."""
        return f"{self.stream.name}/{self.topic.name}"

    def _read(self, code: int, payload: bytes, parse: Callable[[bytes], _Found]) -> _Found | None:
        """What the server describes; None: it does not exist."""
        (reply,) = self._client.answers([IggyRequest(None, code, payload)])
        return self._parsed(reply, parse)

    def _parsed(self, reply: Reply | BrokerError, parse: Callable[[bytes], _Found]) -> _Found | None:
        if isinstance(reply, BrokerError):
            if is_not_found(reply):
                return None
            raise reply
        try:
            return parse(reply.body) if reply.body else None
        except wire.ReplyError as error:
            raise TransientError(f"{self._client.where(None)}: {error}.") from None

    def _details(self) -> DescribedTopic:
        client, options = self._client, self._options
        found = self._read(topic_wire.GET_TOPIC, self.place, topic_wire.topic)
        if found is not None:
            return found
        asked = self.stream.sdk
        self._stream = self._topic = None  # a number may be another one's by now
        stream = described_stream(client, asked, options.stream_id)
        raise UsageError(
            f"There is no topic {options.topic_id} in stream {options.stream_id} at {client.address}."
            f" {existing(options.topic_id, 'topic', stream.topics)}"
        )

    def groups(self) -> list[DescribedGroup]:
        """The topic's consumer groups."""
        return self._read(topic_wire.GET_GROUPS, self.place, topic_wire.groups) or []

    def members(self) -> tuple[GroupMember, ...]:
        """The members of the group; raises `UsageError` if there is no such group."""
        whose = self.place + self.consumer.wire
        found = self._read(topic_wire.GET_GROUP, whose, topic_wire.group)
        if found is None:
            asked = self._options.consumer
            raise UsageError(
                f"There is no consumer group {asked} on {self.title}; nothing was created."
                f" {existing(asked, 'consumer group', self.groups())}"
            )
        return found.members

    def stored(self, partitions: Sequence[Partition]) -> Offsets:
        """The stored offsets (None: there is none), or why one is not known. Raises `BrokerError`."""
        return self._stored_by([self.who], partitions)[0]

    def stored_by_groups(
        self, partitions: Sequence[Partition], but: str | None = None
    ) -> list[tuple[DescribedGroup, Offsets]]:
        """The same for each group of the topic `but` one, with the group. Raises `BrokerError`."""
        groups = [group for group in self.groups() if group.name != but]
        whos = [wire.subject(wire.GROUP, wire.identifier(group.name), self.place) for group in groups]
        return list(zip(groups, self._stored_by(whos, partitions), strict=True))

    def stored_by_consumers(
        self, consumers: Sequence[str], partitions: Sequence[Partition]
    ) -> list[Offsets]:
        """The same for single consumers, each given by its number or its name. Raises `BrokerError`."""
        idents = [wire.identifier(_number_or_name(item)) for item in consumers]
        whos = [wire.subject(wire.CONSUMER, ident, self.place) for ident in idents]
        return self._stored_by(whos, partitions)

    def _stored_by(self, whos: Sequence[bytes], partitions: Sequence[Partition]) -> list[Offsets]:
        asked = [_offset_request(who, partition) for who in whos for partition in partitions]
        replies = iter(self._client.answers(asked))
        return [{key: self.stored_in(key, next(replies)) for key in partitions} for _ in whos]

    def stored_in(
        self, partition: Partition, reply: Reply | BrokerError
    ) -> StoredOffset | BrokerError | None:
        """The stored offset in a reply, None, or why it is not known."""
        if isinstance(reply, BrokerError):
            return None if is_offset_not_found(reply) else reply
        try:
            found = wire.stored(reply.body)
        except wire.ReplyError as error:
            return self._unusable(partition, str(error))
        if found is not None and found.partition != partition.number:
            return self._unusable(partition, f"the answer is about partition {found.partition}")
        return found

    def _unusable(self, partition: Partition, reason: str) -> TransientError:
        return TransientError(f"{self._client.where(partition)}: {reason}.", partition)

    def looked(
        self, partitions: Sequence[Partition]
    ) -> tuple[dict[Partition, LogFacts | BrokerError], Offsets]:
        """The partitions' present facts with their first messages, or why one has none; and stored offsets.

        All requests are under way at once. Raises `BrokerError`.
        """
        who = self.who
        asked = [
            IggyRequest(None, topic_wire.GET_TOPIC, self.place),
            *(self._first_request(partition) for partition in partitions),
            *(_offset_request(who, partition) for partition in partitions),
        ]
        described, *replies = self._client.answers(asked)
        topic = self._parsed(described, topic_wire.topic)
        logs = self._chosen(partitions, self._facts(topic)) if topic else self.figures(partitions)
        firsts = dict(zip(partitions, replies, strict=False))
        offsets = zip(partitions, replies[len(partitions) :], strict=True)
        seen = {
            partition: self._with_first(partition, log, firsts[partition])
            for partition, log in logs.items()
        }
        return seen, {partition: self.stored_in(partition, reply) for partition, reply in offsets}

    def offset_request(self, partition: Partition) -> IggyRequest:
        """What asks for the stored offset; `stored_in` reads the reply."""
        return _offset_request(self.who, partition)

    def figures(self, partitions: Sequence[Partition]) -> dict[Partition, LogFacts | BrokerError]:
        """The partitions' present facts without the first messages, or why one has none.

        One request for all of them. Raises `BrokerError`.
        """
        try:
            known = self.described()
        except UsageError as error:  # it was deleted meanwhile
            return {partition: BrokerError(str(error), partition) for partition in partitions}
        return self._chosen(partitions, known)

    @staticmethod
    def _chosen(
        partitions: Sequence[Partition], known: Mapping[int, LogFacts | TransientError]
    ) -> dict[Partition, LogFacts | BrokerError]:
        found: dict[Partition, LogFacts | BrokerError] = {}
        for partition in partitions:
            log = known.get(partition.number)
            found[partition] = log or BrokerError(f"{partition} does not exist any more.", partition)
        return found

    def looked_at(self, logs: Mapping[Partition, LogFacts]) -> dict[Partition, LogFacts | BrokerError]:
        """The same facts, with what the first message of each partition shows.

        Raises `BrokerError`.
        """
        filled = [partition for partition, facts in logs.items() if facts.extent.messages]
        replies = self._client.answers([self._first_request(partition) for partition in filled])
        return dict(logs) | {
            partition: self._with_first(partition, logs[partition], reply)
            for partition, reply in zip(filled, replies, strict=True)
        }

    def _first_request(self, partition: Partition) -> IggyRequest:
        payload = wire.poll_first(self.reader, partition.number)
        return IggyRequest(partition, wire.POLL, payload, PollWalk(1))

    def _with_first(
        self, partition: Partition, log: LogFacts | BrokerError, reply: Reply | BrokerError
    ) -> LogFacts | BrokerError:
        """The facts with the first message, which an empty partition does not have."""
        if isinstance(log, BrokerError) or not log.extent.messages:
            return log
        try:
            first = self._polled(partition, reply)
        except BrokerError as error:
            return error
        return replace(log, extent=replace(log.extent, begin=first.first), mark=first.mark)

    def _polled(self, partition: Partition, reply: Reply | BrokerError) -> Polled:
        if isinstance(reply, BrokerError):
            raise reply
        polled = reply.polled
        if polled is None or polled.partition != partition.number:
            raise self._unusable(partition, "the server did not read this partition")
        return polled

    def firsts(
        self, partitions: Sequence[Partition], payload: Callable[[int], bytes]
    ) -> dict[Partition, Polled | BrokerError]:
        """The answers to one poll for a message of each partition, whose `payload` its number gives."""
        asked = [IggyRequest(key, wire.POLL, payload(key.number), PollWalk(1)) for key in partitions]
        found: dict[Partition, Polled | BrokerError] = {}
        for partition, reply in zip(partitions, self._client.answers(asked), strict=True):
            try:
                found[partition] = self._polled(partition, reply)
            except BrokerError as error:
                found[partition] = error
        return found

    def after(self, partition: Partition, offset: int) -> Polled:
        """The first message after an offset; raises `BrokerError`."""
        payload = wire.poll(self.reader, partition.number, offset + 1, 1)
        (reply,) = self._client.answers([IggyRequest(partition, wire.POLL, payload, PollWalk(1))])
        return self._polled(partition, reply)


def _offset_request(who: bytes, partition: Partition) -> IggyRequest:
    return IggyRequest(partition, wire.GET_OFFSET, wire.of_partition(who, partition.number))

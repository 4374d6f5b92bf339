"""Requests about topics, groups and offsets, and the writes that need no reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # it is documented there

from backlog_clearer.brokers.kafka.coordinator import ListedGroup, all_groups
from backlog_clearer.brokers.kafka.errors import (
    DENIED,
    NO_SUCH_TOPIC,
    HeadersUnsupportedError,
    is_transient,
    kafka_error,
    reason,
    translate,
)
from backlog_clearer.brokers.kafka.figures import OffsetFigures, Stored, checked
from backlog_clearer.brokers.kafka.leaders import Address
from backlog_clearer.brokers.kafka.librdkafka import REQUEST_TIMEOUT_S, Complaints, open_admin
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import AT_A_TIME, partition_error
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.model import Partition

_K = TypeVar("_K")

_STALE = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""A broker's answers about an existing partition that it does not lead, not yet or no longer."""

_NO_MESSAGE = -1  # ListOffsets by time: no message has this time or a later one
_BUSY_S = 4.0  # how long a lane waits until another one's request is answered
_AFTER_LOSS_S = 2.0  # how long a coordinator's answer is awaited after a connection was lost


class Topics(NamedTuple):
    """What the cluster has of the topics asked for."""

    partitions: Mapping[Partition, str | None]  # sorted; with the incarnation of each one's topic
    errors: Mapping[str, BrokerError]  # by topic: why nothing is known of it


def _incarnation(topic: Any) -> str | None:
    """A topic's id, as Kafka's tools print it; None where the broker has none."""
    text = str(topic.topic_id) if topic.topic_id is not None else ""
    if not text.strip("A"):  # all bits zero: the broker is older than topic ids
        return None
    return text.replace("+", "-").replace("/", "_")


class GroupAdmin:
    """An admin client for one group; calls from several threads wait for one another."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._complaints = Complaints(options)
        self._client = open_admin(options, self._complaints)
        self._lock = threading.RLock()

    def topics(self) -> Topics:
        """The partitions of the topics; raises `UsageError` where none of the topics exists.

        A topic that is missing or may not be described is a separate error where others are there.
        """
        names = list(self._options.topic)
        found, failed = self._described(names)
        missing = [name for name, error in failed.items() if error.code() in NO_SUCH_TOPIC]
        if len(missing) == len(names):
            raise UsageError(self._missing_text(missing))
        errors: dict[str, BrokerError] = {
            name: BrokerError(self._missing_text([name]))
            if name in missing
            else translate(error, f"describing topic {name}", self._options)
            for name, error in failed.items()
        }
        if not found:
            raise next(iter(errors.values()))
        partitions = {
            Partition(name, info.id): _incarnation(topic)
            for name, topic in found.items()
            for info in topic.partitions
        }
        return Topics(dict(sorted(partitions.items())), errors)

    def incarnations(self, topics: Iterable[str]) -> dict[str, str | BrokerError | None]:
        """The topic id of each topic that exists (KIP-516), or why the user does not get it.

        None where the broker has no ids. Raises `TransientError` or `BrokerError` where nothing is known.
        """
        found, failed = self._described(sorted(set(topics)))
        ids: dict[str, str | BrokerError | None] = {
            name: _incarnation(topic) for name, topic in found.items()
        }
        for name, error in failed.items():
            if error.code() in NO_SUCH_TOPIC:
                continue
            fault = translate(error, f"describing topic {name}", self._options)
            if error.code() not in DENIED:
                raise fault
            ids[name] = fault
        return ids

    def _described(self, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, KafkaError]]:
        doing = f"describing {','.join(names)}"
        if not self._lock.acquire(
            timeout=_BUSY_S
        ):  # lanes must not queue up behind a broker that is silent
            raise TransientError(f"Another request was not answered in time, before {doing}.")
        try:
            futures = self._client.describe_topics(
                TopicCollection(list(names)), request_timeout=REQUEST_TIMEOUT_S
            )
            return self._answers(futures, doing)
        finally:
            self._lock.release()

    def _missing_text(self, missing: Sequence[str]) -> str:
        """Which topics are missing, and the existing topics with similar names."""
        from difflib import get_close_matches  # noqa: PLC0415 only a mistake needs it

        try:
            known = sorted(self._client.list_topics(timeout=REQUEST_TIMEOUT_S).topics)
        except KafkaException:
            known = []
        lines = []
        for name in missing:
            near = get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            lines.append(
                f"There is no topic {name!r} on Kafka at {','.join(self._options.bootstrap_servers)},"
                f" or the user is not allowed to see it; it was not created.{hint}"
            )
        return "\n".join(lines)

    def cluster_id(self) -> str:
        """The cluster's id; "" where the broker has none (before 0.10.1).

        Raises where the broker did not answer: the identity must not lack it without a reason.
        """
        doing = "describing the cluster"
        with self._lock:
            # not `AdminClient.cluster_id`, which confluent-kafka has only from 2.16 on
            answer = self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)
            found, failed = self._answers({doing: answer}, doing)
        if doing in failed:
            raise translate(failed[doing], doing, self._options)
        return found[doing].cluster_id or ""

    def members(self) -> tuple[str, ...] | None:
        """The group's members by name; None where Kafka describes it as dead or does not find it."""
        group = self._options.group_id
        doing = f"describing group {group}"
        with self._lock:
            futures = self._client.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S)
            found, failed = self._answers(futures, doing, to_coordinator=True)
        error = failed.get(group)
        if error is not None and error.code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise translate(error, doing, self._options)
        described = found.get(group)
        if described is None:
            return None
        if described.members:
            return tuple(
                f"{member.client_id} at {member.host} ({member.member_id})"
                for member in described.members
            )
        state = described.state.name
        if state == "DEAD":
            return None
        return (
            () if state == "EMPTY" else (f"a group in state {state} whose members are not known yet",)
        )

    def groups(self) -> tuple[dict[str, ListedGroup], list[ClearerError]]:
        """Every group that the user may see, sorted by name, and why a broker did not list its groups.

        Raises `BrokerError` where none did.
        """
        doing = "listing the brokers"
        with self._lock:
            cluster = self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)
            described, failed = self._answers({doing: cluster}, doing)
        if doing in failed:
            raise translate(failed[doing], doing, self._options)
        try:
            return all_groups(
                self._options, [Address(node.host, node.port) for node in described[doing].nodes]
            )
        except HeadersUnsupportedError:  # settings that only librdkafka supports: it has no kinds
            return dict.fromkeys(self._names_by_library(), ListedGroup("", "")), []

    def _names_by_library(self) -> list[str]:
        doing = "listing the groups"
        with self._lock:
            answer = self._client.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S)
            found, failed = self._answers({doing: answer}, doing)
        if doing in failed:
            raise translate(failed[doing], doing, self._options)
        return sorted({listing.group_id for listing in found[doing].valid})

    def offsets_of(
        self, groups: Sequence[str], partitions: Sequence[Partition]
    ) -> dict[str, dict[Partition, int]]:
        """As `coordinator.offsets_of`, for settings that only librdkafka supports.

        librdkafka ends the process where a coordinator has moved meanwhile (confluentinc/librdkafka#5397).
        """
        stored: dict[str, dict[Partition, int]] = {}
        wanted = [TopicPartition(p.topic, p.number) for p in partitions]
        with self._lock:
            futures: dict[str, Future[Any]] = {}
            for group in groups:  # one group a call, all at the same time
                asked = [ConsumerGroupTopicPartitions(group, wanted)]
                futures.update(
                    self._client.list_consumer_group_offsets(asked, request_timeout=REQUEST_TIMEOUT_S)
                )
            found, _ = self._answers(futures, "fetching the offsets of other groups")
        for group, answer in found.items():
            stored[group] = {
                Partition(item.topic, item.partition): item.offset
                for item in answer.topic_partitions
                if item.error is None and item.offset >= 0
            }
        return stored

    def log_start(self, partitions: Iterable[Partition]) -> OffsetFigures:
        """The first retained offset of each partition."""
        return self._list_offsets(partitions, "log start", OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # the library lacks it

    def log_end(self, partitions: Iterable[Partition]) -> OffsetFigures:
        """The high watermark of each partition.

        Read uncommitted: messages of an open transaction are backlog, too.
        """
        return self._list_offsets(partitions, "log end", OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the library lacks it

    def first_from(self, partitions: Iterable[Partition], when_ms: int) -> OffsetFigures:
        """The first offset of a message with this time or a later one; none where no message is so young.

        `when_ms`: milliseconds since 1970, as messages have them.
        """
        spec = OffsetSpec.for_timestamp(when_ms)
        return self._list_offsets(partitions, "first offset of a time", spec, absent=_NO_MESSAGE)

    def _list_offsets(
        self,
        partitions: Iterable[Partition],
        name: str,
        spec: OffsetSpec,
        *,
        absent: int | None = None,
    ) -> OffsetFigures:
        """Offsets by partition; `absent` is the figure of partitions that have none."""
        wanted = [TopicPartition(p.topic, p.number) for p in partitions]
        if not wanted:
            return {}, {}
        with self._lock:
            futures: dict[TopicPartition, Future[Any]] = {}
            for at in range(0, len(wanted), AT_A_TIME):  # all of them at the same time
                futures.update(
                    self._client.list_offsets(
                        dict.fromkeys(wanted[at : at + AT_A_TIME], spec),
                        isolation_level=IsolationLevel.READ_UNCOMMITTED,
                        request_timeout=REQUEST_TIMEOUT_S,
                    )
                )
            found, failed = self._answers(futures, "listing offsets")
            offsets, errors = checked(
                {
                    Partition(tp.topic, tp.partition): info.offset
                    for tp, info in found.items()
                    if info.offset != absent
                },
                name,
            )
            if errors or any(error.code() in _STALE for error in failed.values()):
                self._forget_leaders()
        errors.update(
            {Partition(tp.topic, tp.partition): self._fault(error) for tp, error in failed.items()}
        )
        return offsets, errors

    def _forget_leaders(self) -> None:
        """Ask for the leaders again, for the next request: librdkafka keeps old answers for minutes."""
        for name in self._options.topic:
            try:
                self._client.list_topics(name, timeout=REQUEST_TIMEOUT_S)
            except KafkaException:
                return

    def alter(self, offsets: Mapping[Partition, Stored]) -> dict[Partition, str | None]:
        """Write the group's offsets in one request; by partition, why it was refused, or None."""
        group = self._options.group_id
        doing = f"writing the offsets of group {group}"
        wanted = [
            TopicPartition(p.topic, p.number, offset, metadata, -1 if epoch is None else epoch)
            for p, (offset, metadata, epoch) in offsets.items()
        ]
        if not wanted:
            return {}
        with self._lock:
            futures = self._client.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=REQUEST_TIMEOUT_S
            )
            found, failed = self._answers(futures, doing)
        if group in failed:
            if is_transient(failed[group]):
                raise translate(failed[group], doing, self._options)
            return dict.fromkeys(offsets, partition_error(failed[group], self._options))
        # A partition that the answer leaves out may not be written.
        written: dict[Partition, str | None] = dict.fromkeys(
            offsets, "the broker did not answer for it"
        )
        for item in found[group].topic_partitions:
            error = item.error
            written[Partition(item.topic, item.partition)] = (
                partition_error(error, self._options) if error else None
            )
        return written

    def delete_group(self) -> str | None:
        """Delete the group with all its offsets; why that was refused, or None."""
        group = self._options.group_id
        with self._lock:
            futures = self._client.delete_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S)
            _, failed = self._answers(futures, f"deleting group {group}")
        return self._text(failed[group]) if group in failed else None

    def _answers(
        self, futures: Mapping[_K, Future[Any]], doing: str, *, to_coordinator: bool = False
    ) -> tuple[dict[_K, Any], dict[_K, KafkaError]]:
        """Wait for all answers: (results, errors).

        Raises `BrokerError` as soon as a login is refused, and where the broker is not reached. A read
        `to_coordinator` whose connection breaks is given up soon after: librdkafka often does not send
        it again before it times out, and a new client is answered at once.
        """
        begun = time.monotonic()
        deadline = begun + REQUEST_TIMEOUT_S + 1
        pending = list(futures.values())
        while pending and time.monotonic() < deadline:
            if to_coordinator and self._complaints.last_at > begun:
                deadline = min(deadline, self._complaints.last_at + _AFTER_LOSS_S)
            wait(pending[-1:], timeout=0.05)  # not all of them: there may be thousands
            while pending and pending[-1].done():
                pending.pop()
            self._client.poll(0)  # runs error_cb
            self._complaints.raise_refusal()
        if pending:
            raise self._unreachable(doing)
        found: dict[_K, Any] = {}
        failed: dict[_K, KafkaError] = {}
        for key, future in futures.items():
            failure = future.exception()
            if failure is None:
                found[key] = future.result()
            elif isinstance(failure, KafkaException):
                failed[key] = kafka_error(failure)
            else:
                raise TransientError(f"Kafka failed at {doing}: {type(failure).__name__}.")
        codes = {error.code() for error in failed.values()}
        local = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT}  # noqa: SLF001 librdkafka's public names
        if codes and not found and codes <= local:
            raise self._unreachable(doing)
        return found, failed

    def _unreachable(self, doing: str) -> TransientError:
        """The error of a request without an answer; the next one is asked on new connections."""
        error = self._complaints.unreachable(doing)
        self._complaints = Complaints(self._options)
        self._client = open_admin(self._options, self._complaints)
        return error

    def _fault(self, error: KafkaError) -> BrokerError:
        """The error of one partition of an existing topic; `TransientError` if it may pass."""
        passing = is_transient(error) or error.code() in _STALE
        return (TransientError if passing else BrokerError)(self._text(error))

    def _text(self, error: KafkaError) -> str:
        return reason(error)

    def close(self) -> None:
        """Release the client, which has no `close`: its threads use the processor for as long as it lives."""
        with suppress(AttributeError):  # closed before
            del self._client

"""Requests about topics, groups and offsets, and the writes that need no reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from difflib import get_close_matches
from typing import Any, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # it is documented there

from backlog_clearer.brokers.kafka.errors import is_transient, kafka_error, reason, redact, translate
from backlog_clearer.brokers.kafka.figures import NOTHING_STORED, Figures, checked
from backlog_clearer.brokers.kafka.librdkafka import REQUEST_TIMEOUT_S, Complaints, open_admin
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.positions import partition_error
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import Partition

_K = TypeVar("_K")

_NO_SUCH_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION})
_STALE = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""A broker's answers about an existing partition that it does not lead, not yet or no longer."""

_AFTER_LOSS_S = 2.0  # how long a coordinator's answer is awaited after a connection was lost
_NO_MEMBERS = frozenset({"EMPTY", "DEAD"})


class GroupAdmin:
    """An admin client for one group; calls from several threads wait for one another."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._complaints = Complaints(options)
        self._client = open_admin(options, self._complaints)
        self._lock = threading.RLock()

    def topics(self) -> list[Partition]:
        """Every partition of the topics; raises `UsageError` for topics that do not exist."""
        names = list(self._options.topic)
        with self._lock:
            futures = self._client.describe_topics(
                TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S
            )
            found, failed = self._answers(futures, f"describing {','.join(names)}")
            missing = [name for name, error in failed.items() if error.code() in _NO_SUCH_TOPIC]
            if missing:
                raise UsageError(self._missing_text(missing))
        for name, error in failed.items():
            raise translate(error, f"describing topic {name}", self._options)
        return sorted(
            Partition(name, info.id) for name, topic in found.items() for info in topic.partitions
        )

    def _missing_text(self, missing: Sequence[str]) -> str:
        """Which topics are missing, and the existing topics with similar names."""
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

    def cluster_id(self) -> str | None:
        """The cluster's id; None where the broker has none."""
        doing = "describing the cluster"
        with self._lock:
            # not `AdminClient.cluster_id`, which confluent-kafka has only from 2.16 on
            answer = self._client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)
            found, _ = self._answers({doing: answer}, doing)
            return (found[doing].cluster_id or None) if found else None

    def members(self) -> tuple[str, ...]:
        """The group's members by name; empty if it has none or does not exist."""
        group = self._options.group_id
        with self._lock:
            futures = self._client.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S)
            found, failed = self._answers(futures, f"describing group {group}", to_coordinator=True)
            error = failed.get(group)
            if error is not None and error.code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise translate(error, f"describing group {group}", self._options)
            described = found.get(group)
            if described is not None and described.members:
                return tuple(
                    f"{member.client_id} at {member.host} ({member.member_id})"
                    for member in described.members
                )
            state = described.state.name if described is not None else "DEAD"
            if state not in _NO_MEMBERS:
                return (f"a group in state {state} whose members are not known yet",)
            return ()

    def log_start(self, partitions: Iterable[Partition]) -> Figures:
        """The first retained offset of each partition."""
        return self._list_offsets(partitions, "log start", OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # the library lacks it

    def log_end(self, partitions: Iterable[Partition]) -> Figures:
        """The high watermark of each partition.

        Read uncommitted: messages of an open transaction are backlog, too.
        """
        return self._list_offsets(partitions, "log end", OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the library lacks it

    def _list_offsets(self, partitions: Iterable[Partition], name: str, spec: OffsetSpec) -> Figures:
        wanted = {TopicPartition(p.topic, p.number): spec for p in partitions}
        if not wanted:
            return {}, {}
        with self._lock:
            futures = self._client.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            found, failed = self._answers(futures, "listing offsets")
            offsets, errors = checked(
                {Partition(tp.topic, tp.partition): info.offset for tp, info in found.items()}, name
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

    def committed(self) -> Figures:
        """Everything the group has committed, on any topic."""
        group = self._options.group_id
        doing = f"fetching the offsets of group {group}"
        with self._lock:
            futures = self._client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=REQUEST_TIMEOUT_S
            )
            found, failed = self._answers(futures, doing, to_coordinator=True)
        if group in failed:
            if failed[group].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}, {}
            raise translate(failed[group], doing, self._options)
        failures: dict[Partition, BrokerError] = {}
        stored: dict[Partition, int] = {}
        for item in found[group].topic_partitions:
            partition = Partition(item.topic, item.partition)
            if item.error is not None:
                failures[partition] = self._fault(item.error)
            elif item.offset != NOTHING_STORED:
                stored[partition] = item.offset
        offsets, errors = checked(stored, "committed offset")
        return offsets, {**errors, **failures}

    def alter(self, offsets: Mapping[Partition, int]) -> dict[Partition, str | None]:
        """Write the group's offsets in one request; by partition, why it was refused, or None."""
        group = self._options.group_id
        doing = f"writing the offsets of group {group}"
        wanted = [TopicPartition(p.topic, p.number, offset) for p, offset in offsets.items()]
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
        pending: set[Future[Any]] = set(futures.values())
        while pending and time.monotonic() < deadline:
            if to_coordinator and self._complaints.last_at > begun:
                deadline = min(deadline, self._complaints.last_at + _AFTER_LOSS_S)
            pending = wait(pending, timeout=0.05).not_done
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
        return redact(reason(error), self._options)

    def close(self) -> None:
        """Nothing to flush: the client is released with its last reference."""

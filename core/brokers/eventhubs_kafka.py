"""Azure Event Hubs through its Kafka endpoint: this project's Kafka lane, with checkpoints for commits.

An event's Kafka offset is its sequence number (so say the service's maintainers:
github.com/Azure/azure-event-hubs-for-kafka/issues/130); this is proved for each Event Hub before it is
relied on. The AMQP offset, which a checkpoint needs, cannot be told from a Kafka record. At the target
it is known from the start; for a checkpoint on the way, the event is fetched once over AMQP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.brokers.eventhubs_checkpoints import Checkpoints
from core.brokers.eventhubs_links import (
    PartitionProperties,
    position_of,
    read_partitions,
    sequence_number,
)
from core.brokers.kafka_admin import GroupAdmin
from core.errors import BrokerError, ClearerError, TransientError
from core.model import Advance, Claim, Partition, PartitionState, Position, Settled
from core.options.base import RunOptions
from core.options.eventhubs import EventHubsOptions
from core.options.kafka import KafkaOptions
from core.source import Lane

_PORT = 9093


def kafka_options(options: EventHubsOptions) -> KafkaOptions:
    """The same Event Hub as a topic: SASL PLAIN with the connection string for a password."""
    assert options.connection_string is not None  # noqa: S101 the options' model requires it
    host = options.namespace.partition(":")[0]
    settings = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "$ConnectionString",
        "sasl.password": options.connection_string.get_secret_value(),
    }
    if options.connection_verify:
        settings["ssl.ca.location"] = options.connection_verify
    return KafkaOptions(
        bootstrap_servers=(options.kafka_bootstrap_servers or f"{host}:{_PORT}",),
        topic=(options.hub,),
        group_id=options.consumer_group,
        settings=settings,
    )


def kafka_offset(position: Position | None) -> int | None:
    """The offset of the event after a position."""
    number = sequence_number(position)
    return None if number is None else number + 1


class KafkaEndpoint:
    """The Kafka endpoint of one namespace, checked once and then read through by every lane."""

    def __init__(self, options: EventHubsOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._kafka = kafka_options(options)

    @property
    def address(self) -> str:
        """Where it listens."""
        return ",".join(self._kafka.bootstrap_servers)

    def check(self, found: Mapping[int, PartitionProperties]) -> None:
        """Prove that offsets here are sequence numbers there, for every partition.

        `found` was asked before; the end may have moved on since, and must not have moved past what
        is asked now. Raises `BrokerError` if the endpoint is not to be reached or does not fit.
        """
        topic = self._options.hub
        partitions = [Partition(topic, number) for number in sorted(found)]
        admin = GroupAdmin(self._kafka)
        try:
            starts, start_errors = admin.log_start(partitions)
            ends, end_errors = admin.log_end(partitions)
        finally:
            admin.close()
        for text in (*start_errors.values(), *end_errors.values()):
            raise BrokerError(text)
        later = read_partitions(self._options, sorted(found))
        for partition in partitions:
            before, after = found[partition.number], later[partition.number]
            if isinstance(after, ClearerError):
                raise after
            start, end = starts.get(partition), ends.get(partition)
            if not fits(before, after, start, end):
                raise BrokerError(
                    f"{partition} has the Kafka offsets {start} to {end} and the sequence numbers"
                    f" {before.begin} to {after.last}: they do not correspond",
                    partition,
                )

    def open_lane(self, claims: Sequence[Claim], checkpoints: Checkpoints | None) -> Lane:
        """A lane that reads here and writes checkpoints there."""
        return KafkaReaderLane(self._options, self._kafka, claims, checkpoints, self._run)


def fits(
    before: PartitionProperties, after: PartitionProperties, start: int | None, end: int | None
) -> bool:
    """Whether Kafka offsets asked between two looks at the sequence numbers are those."""
    if start is None or end is None:
        return False
    if before.empty and after.empty:
        return True  # nothing to read
    return before.begin <= start <= after.begin and before.last < end <= after.last + 1


def kafka_claim(claim: Claim) -> Claim:
    """A claim in Kafka's terms: offsets for positions."""
    state = claim.state
    return Claim(
        PartitionState(
            state.partition,
            kafka_offset(state.position),
            kafka_offset(state.start),
            kafka_offset(state.end),
            state.backlog,
        ),
        kafka_offset(claim.resume),
        kafka_offset(claim.target),
    )


class CheckpointCommitter:
    """Takes the offsets that a Kafka lane would commit, and writes checkpoints."""

    def __init__(
        self, options: EventHubsOptions, claims: Sequence[Claim], checkpoints: Checkpoints | None
    ) -> None:
        self._options = options
        self._targets = {claim.partition: claim.target for claim in claims}
        self._checkpoints = checkpoints
        self.positions: dict[Partition, Position] = {}  # as last written

    def commit(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str | None]:
        """Write a checkpoint for each next offset; per partition why it was refused, or None.

        Raises `TransientError` if it may succeed when tried again.
        """
        refused: dict[Partition, str | None] = dict.fromkeys(offsets)
        for partition, offset in offsets.items():
            try:
                position = self._position(partition, offset - 1)
                if self._checkpoints is not None:
                    self._checkpoints.write(partition.number, position)
                self.positions[partition] = position
            except TransientError:
                raise
            except ClearerError as error:
                refused[partition] = str(error)
        return refused

    def _position(self, partition: Partition, number: int) -> Position:
        target = self._targets[partition]
        if target is not None and sequence_number(target) == number:
            return target
        if self._checkpoints is None:  # nothing is written: the number is enough to go on from
            return {"offset": None, "sequence_number": number}
        position = position_of(self._options, partition, number)
        if sequence_number(position) != number:
            raise BrokerError(
                f"there is no event with the sequence number {number} any more", partition
            )
        return position

    def close(self) -> None:
        """Close the checkpoint store."""
        if self._checkpoints is not None:
            self._checkpoints.close()


class KafkaReaderLane:
    """A lane that reads through the Kafka endpoint; see `core.source.Lane`."""

    def __init__(
        self,
        options: EventHubsOptions,
        kafka: KafkaOptions,
        claims: Sequence[Claim],
        checkpoints: Checkpoints | None,
        run: RunOptions,
    ) -> None:
        self._committer = CheckpointCommitter(options, claims, checkpoints)
        raise NotImplementedError

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `core.source.Lane`."""
        return self._lane.read(max_wait_s, max_messages)

    def settle(self) -> Sequence[Settled]:
        """Write checkpoints where the Kafka lane would commit; see `core.source.Lane`."""
        return [
            item._replace(position=self._committer.positions.get(item.partition))
            for item in self._lane.settle()
        ]

    def close(self) -> None:
        """See `core.source.Lane`."""
        self._lane.close()
        self._committer.close()

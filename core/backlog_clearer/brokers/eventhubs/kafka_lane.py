"""Azure Event Hubs through its Kafka endpoint: this project's Kafka lanes read, checkpoints are written.

An event's Kafka offset is its sequence number (according to the service's maintainers:
github.com/Azure/azure-event-hubs-for-kafka/issues/130); this is checked for every partition first. A Kafka
record does not contain the AMQP offset, which a checkpoint needs. For the target it is known from the
survey; for a checkpoint before it, that one event is fetched over AMQP. Nothing is ever committed to
Kafka: the group id given to it does not exist.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from backlog_clearer.brokers.eventhubs.access import position_of
from backlog_clearer.brokers.eventhubs.admin import read_partitions
from backlog_clearer.brokers.eventhubs.ledger import Ledger
from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.eventhubs.positions import PartitionProperties, sequence_number
from backlog_clearer.brokers.kafka import source as kafka
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Advance, Claim, Partition, Position, Settled
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane

_PORT = 9093
_NEVER = (
    1 << 62
)  # the target of a claim that has none: the lane's `left` gives the offset only with one


def kafka_options(options: EventHubsOptions) -> KafkaOptions:
    """The same Event Hub as a topic: SASL PLAIN with the connection string for a password."""
    assert options.connection_string is not None  # noqa: S101 the options' model requires it
    settings = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "$ConnectionString",
        "sasl.password": options.connection_string.get_secret_value(),
    }
    if options.connection_verify:
        settings["ssl.ca.location"] = options.connection_verify
    host = options.namespace.partition(":")[0]
    return KafkaOptions(
        bootstrap_servers=(options.kafka_bootstrap_servers or f"{host}:{_PORT}",),
        topic=(options.hub,),
        group_id=f"backlog-clearer-{uuid.uuid4()}",
        settings=settings,
    )


def kafka_offset(position: Position | None) -> int | None:
    """The offset of the event after a position."""
    number = sequence_number(position)
    return None if number is None else number + 1


def kafka_claim(claim: Claim) -> Claim:
    """A claim in Kafka's terms: offsets for positions."""
    state = claim.state
    return Claim(
        replace(
            state,
            position=kafka_offset(state.position),
            start=kafka_offset(state.start),
            end=kafka_offset(state.end),
            incarnation=None,  # of the Event Hub, not of the topic
        ),
        kafka_offset(claim.resume),
        _NEVER if claim.target is None else kafka_offset(claim.target),
    )


def fits(before: PartitionProperties, after: PartitionProperties, start: object, end: object) -> bool:
    """Whether Kafka offsets are the sequence numbers, which were read `before` and `after` them."""
    if not isinstance(start, int) or not isinstance(end, int):
        return False
    if before.empty and after.empty:
        return True  # nothing to read
    return before.begin <= start <= after.begin and before.last < end <= after.last + 1


class KafkaEndpoint:
    """The Kafka endpoint of one namespace, checked once and then read through by every lane."""

    def __init__(self, options: EventHubsOptions, run: RunOptions) -> None:
        self._options = options
        settings = kafka_options(options)
        self.address = ",".join(settings.bootstrap_servers)
        self._source = kafka.open_source(settings, run, "")

    def check(self, before: Mapping[int, PartitionProperties]) -> None:
        """Check for every partition that Kafka offsets are sequence numbers.

        `before` was read before this call. Raises `BrokerError` if the endpoint does not answer or fit.
        """
        found = {state.partition.number: state for state in self._source.survey().partitions}
        after = read_partitions(self._options, sorted(before))
        for number, old in before.items():
            state, new = found.get(number), after[number]
            if isinstance(new, ClearerError):
                raise new
            if state is None or not fits(old, new, state.start, state.end):
                offsets = f"{state.start} to {state.end}" if state else "none"
                raise BrokerError(
                    f"the Kafka offsets of {Partition(self._options.hub, number)} ({offsets}) are not"
                    f" its sequence numbers ({old.begin} to {new.last})"
                )

    def open_lane(self, claims: Sequence[Claim], ledger: Ledger) -> Lane:
        """A lane that reads through Kafka and writes checkpoint blobs."""
        try:
            lane = self._source.open_lane([kafka_claim(claim) for claim in claims])
        except ClearerError:
            ledger.close()
            raise
        return KafkaReaderLane(self._options, claims, lane, ledger)

    def close(self) -> None:
        """Close the admin client."""
        self._source.close()


class KafkaReaderLane:
    """A Kafka lane whose settlements are checkpoints; see `source.Lane`."""

    throttled_s = 0.0

    def __init__(
        self,
        options: EventHubsOptions,
        claims: Sequence[Claim],
        lane: Lane,
        ledger: Ledger,
    ) -> None:
        self._options = options
        self._claims = {claim.partition: claim for claim in claims}
        self._lane = lane
        self._ledger = ledger
        self._unsettled: dict[Partition, tuple[int, int]] = {}  # messages, next offset

    def read(self, max_wait_s: float, max_messages: int | None) -> Sequence[Advance]:
        """See `source.Lane`."""
        return [self._noted(advance) for advance in self._lane.read(max_wait_s, max_messages)]

    def _noted(self, advance: Advance) -> Advance:
        """Remember how far a partition was read, computed from what the Kafka lane reports as left."""
        partition, messages, left, _ = advance
        target = kafka_offset(self._claims[partition].target)
        if left is None:
            raise BrokerError(f"{partition}: the Kafka endpoint did not report an offset", partition)
        offset = (_NEVER if target is None else target) - left
        if offset < 0:
            raise TransientError(f"{partition}: the Kafka endpoint reported offset {offset}", partition)
        before, _ = self._unsettled.get(partition, (0, 0))
        if messages or before or left == 0:
            self._unsettled[partition] = before + messages, offset
        if target is not None:
            return advance
        end = kafka_offset(self._claims[partition].state.end)
        return advance._replace(left=None if end is None else max(0, end - offset))

    def settle(self) -> Sequence[Settled]:
        """Write a checkpoint for each partition; see `source.Lane`."""
        done = []
        reached: dict[Partition, tuple[int, Position]] = {}
        for partition, (messages, offset) in self._unsettled.items():
            try:
                position = self._position(partition, offset - 1)
                if messages:
                    reached[partition] = messages, position
            except TransientError:
                raise
            except ClearerError as error:
                done.append(Settled(partition, 0, None, str(error)))
        done += self._ledger.settle(reached)
        self._unsettled.clear()
        return done

    def _position(self, partition: Partition, number: int) -> Position:
        """The position of the event with a sequence number, in AMQP's terms."""
        target = self._claims[partition].target
        if target is not None and sequence_number(target) == number:
            return target
        if not self._ledger.stores:  # nothing is written: the number is enough to resume
            return {"offset": None, "sequence_number": number}
        position = position_of(self._options, partition, number)
        if sequence_number(position) != number:
            raise BrokerError(f"the event with sequence number {number} no longer exists", partition)
        return position

    def close(self) -> None:
        """See `source.Lane`."""
        self._lane.close()
        self._ledger.close()

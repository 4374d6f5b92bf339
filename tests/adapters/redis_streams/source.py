"""A consumer group on a Redis stream: `Source` for Redis 7.0 or later.

Entries stay in a stream after they are acknowledged, so that moving a group's last delivered id back
delivers them again, unless they were trimmed or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import (
    Claim,
    Mode,
    Outcome,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Remaining,
    Survey,
    Traits,
)
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.text import counted
from tests.adapters.redis_streams import groups
from tests.adapters.redis_streams.connection import open_client, translated
from tests.adapters.redis_streams.lane import RedisLane
from tests.adapters.redis_streams.options import RedisOptions
from tests.adapters.redis_streams.positions import START, Place, parse_id, place_of

_TRAITS = Traits(unit="messages", settle_interval_s=1.0)


class RedisSource:
    """One group on one stream, which is one partition."""

    def __init__(self, options: RedisOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._client = open_client(options)
        self._partition = Partition(options.stream, 0)

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return _TRAITS

    def survey(self) -> Survey:
        """Stream, group, pending entries, consumers: five requests; see `source.Source`."""
        options, client = self._options, self._client
        with translated(options, "surveying"):
            end = groups.stream_end(client, options)
            group = groups.group_info(client, options)
            place = groups.group_place(client, options)
            consumers = client.xinfo_consumers(options.stream, options.group)
            first = client.xinfo_stream(options.stream)["first-entry"]
        lag, pending = group["lag"], int(group["pending"])
        if place.id >= end.id:
            lag = 0
        notes = []
        if lag is None:
            notes.append("Entries were deleted from the stream, so that the server reports no lag.")
        if pending:
            notes.append(
                f"{counted(pending, 'message')} pending at consumers will be acknowledged; an undo delivers"
                " everything after the oldest of them again."
            )
        state = PartitionState(
            self._partition,
            position=place.position(),
            start=Place(parse_id(first[0]).before() if first else end.id, None).position(),
            end=end.position(),
            backlog=None if lag is None else int(lag) + pending,
        )
        idle_ms = options.live_idle_seconds * 1000
        return Survey(
            subscription=f"group {options.group} on stream {options.stream}",
            identity={"db": str(options.db), "stream": options.stream, "group": options.group},
            partitions=(state,),
            live=tuple(str(each["name"]) for each in consumers if int(each["idle"]) < idle_ms),
            notes=tuple(notes),
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to prepare: the place in the receipt is all that a restore needs."""

    def open_lane(self, claims: Sequence[Claim]) -> RedisLane:
        """See `source.Source`; a lane has a separate client."""
        with translated(self._options, "opening a lane"):
            return RedisLane(self._options, claims, self._run.batch_size)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `source.Source`: 0 only if the group is past the target and nothing before it is pending."""
        with translated(self._options, "asking what is left"):
            return [self._remaining(partition, target) for partition, target in targets.items()]

    def _remaining(self, partition: Partition, target: Position | None) -> Remaining:
        options, client = self._options, self._client
        end = groups.stream_end(client, options) if target is None else place_of(target)
        place = groups.group_place(client, options)
        pending = len(groups.pending_up_to(client, options, end.id)) if place.oldest else 0
        if place.id >= end.id:
            left: int | None = pending
        elif place.entries is None or end.entries is None:
            left = None
        else:
            left = max(0, end.entries - place.entries) + pending
        return Remaining(partition, place.position(), left)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """See `source.Source`: one request, and one for each 1,000 pending entries."""
        return [self._skipped(claim) for claim in claims]

    def _skipped(self, claim: Claim) -> Outcome:
        options, client = self._options, self._client
        if claim.target is None:
            return Outcome(claim.partition, None, "a skip needs a target")
        target = place_of(claim.target)
        try:
            with translated(options, "skipping"):
                groups.advance(client, options, target)
                groups.acknowledge(client, options, groups.pending_up_to(client, options, target.id))
        except TransientError:
            raise
        except BrokerError as error:
            return Outcome(claim.partition, None, str(error))
        return Outcome(claim.partition, claim.target)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """See `source.Source`: everything after the oldest entry that was pending is delivered again."""
        outcomes = []
        for partition, position, *_ in recorded:
            place = Place(START, 0) if position is None else place_of(position)
            if place.oldest is not None:
                place = Place(min(place.id, place.oldest.before()), None)
            try:
                with translated(self._options, "restoring"):
                    groups.put(self._client, self._options, place)
            except TransientError:
                raise
            except BrokerError as error:
                outcomes.append(Outcome(partition, None, str(error)))
            else:
                outcomes.append(Outcome(partition, place.position()))
        return outcomes

    def close(self) -> None:
        """See `source.Source`."""
        self._client.close()


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> RedisSource:
    """Open a group's source; connects at the first request."""
    del run_id  # nothing on the server is named after the run
    if not isinstance(options, RedisOptions):
        raise UsageError("redis needs RedisOptions.")
    return RedisSource(options, run)

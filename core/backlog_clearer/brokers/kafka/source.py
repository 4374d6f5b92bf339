"""A consumer group's backlog on Apache Kafka and brokers that speak its protocol.

The acknowledged position is an offset per partition: reading changes nothing, and consume and skip
end in the same state. No group is joined: partitions are read by assignment
and offsets are committed from outside, which Kafka permits while the group has no members.

Everything is read uncommitted. The target is the high watermark, so that the backlog includes open
transactions. Messages are data records, aborted ones included, transaction markers excluded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.client_lane import ClientLane
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError
from backlog_clearer.brokers.kafka.figures import (
    Figures,
    contradiction,
    not_an_offset,
    offsets_left,
    position_notes,
)
from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.brokers.kafka.socket_settings import socket_settings
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
from backlog_clearer.source import Lane

_LOG = logging.getLogger("backlog_clearer")

_TRAITS = Traits(
    unit="offsets",
    empty_units="transaction markers and records removed by compaction take offsets, too",
    settle_interval_s=1.0,
)

_INVISIBLE = (
    "Consumers that use assign() instead of joining the group cannot be seen: make sure that none runs."
)

NEVER = (
    "nothing is committed for it yet, and a commit can be removed only by deleting the whole group,"
    " which has offsets of other partitions"
)
"""Why a partition without a committed offset cannot be restored."""


class KafkaSource:
    """One group on one or more topics."""

    def __init__(self, options: KafkaOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._admin = GroupAdmin(options)
        self._stored = GroupOffsets(options)  # only reads; lanes have separate ones
        self._lock = threading.Lock()
        self._opened: set[Partition] = set()
        self._partitions = 1
        self._use_headers = options.reader != Reader.CLIENT

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return _TRAITS

    def survey(self) -> Survey:
        """Topics, group, offsets: six requests; see `source.Source`."""
        options, admin = self._options, self._admin
        partitions = admin.topics()
        live = admin.members()
        committed, errors = admin.committed()
        starts, start_errors = admin.log_start(partitions)
        # The end last: offsets committed meanwhile must not seem to lie beyond it.
        ends, end_errors = admin.log_end([p for p in partitions if p not in start_errors])
        errors = {**errors, **start_errors, **end_errors}
        self._partitions = max(1, len(partitions))
        states = [
            self._state(partition, committed, starts, ends, errors.get(partition))
            for partition in partitions
        ]
        identity = {"topic": ",".join(sorted(options.topic)), "group_id": options.group_id}
        cluster = admin.cluster_id()
        return Survey(
            subscription=f"group {options.group_id} on topic {','.join(options.topic)}",
            identity={**({"cluster_id": cluster} if cluster else {}), **identity},
            partitions=tuple(states),
            live=live,
            notes=(*position_notes(states), _INVISIBLE),
            skip_requests=1,
        )

    @staticmethod
    def _state(
        partition: Partition,
        committed: Mapping[Partition, int],
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        error: BrokerError | None,
    ) -> PartitionState:
        position, start, end = (each.get(partition) for each in (committed, starts, ends))
        left = None
        if error is None and (start is None or end is None):
            error = not_an_offset(partition, None, "log end" if end is None else "log start")
        elif error is None and start is not None and end is not None:
            error = contradiction(partition, position, start, end)
            left = None if error else offsets_left(position, start, end)
        return PartitionState(
            partition,
            position=position,
            start=start,
            end=end,
            backlog=left,
            undo=NEVER if position is None and committed else None,
            error=None if error is None else str(error),
            passing=isinstance(error, TransientError),
        )

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to prepare: a restore needs only the old offsets in the receipt."""

    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """A lane of the reader chosen; see `source.Source`."""
        claims = self._resumed(claims)
        lanes = min(self._run.workers, self._partitions)
        if self._use_headers:
            try:
                return HeaderLane(
                    self._options,
                    claims,
                    socket_settings(self._options),
                    lanes=lanes,
                    give_up=self._give_up,
                )
            except HeadersUnsupportedError as reason:
                failure = self._give_up(str(reason))
                if self._use_headers:
                    raise failure from None
        return ClientLane(self._options, claims, batch_size=self._run.batch_size, lanes=lanes)

    def _give_up(self, reason: str) -> BrokerError:
        """Headers cannot be read here: librdkafka reads instead, unless the user excluded it."""
        if self._options.reader == Reader.HEADERS:
            return BrokerError(
                f"--reader headers is not possible here: {reason}. Use --reader auto or client."
            )
        with self._lock:
            first, self._use_headers = self._use_headers, False
        if first:
            _LOG.warning("Reading with librdkafka: %s.", reason)
        return TransientError(f"Headers cannot be read: {reason}.")

    def _resumed(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        """Claims that continue at the committed offset, if a lane was open for them before.

        A commit whose answer was lost may still have been written.
        """
        with self._lock:
            again = any(claim.partition in self._opened for claim in claims)
            self._opened.update(claim.partition for claim in claims)
        if not again:
            return claims
        committed, _ = self._committed(claim.partition for claim in claims)
        starts, _ = self._admin.log_start([claim.partition for claim in claims])
        fresh = []
        for claim in claims:
            known = [
                offset
                for offset in (
                    claim.resume,
                    claim.state.position,
                    committed.get(claim.partition),
                    starts.get(claim.partition),
                )
                if isinstance(offset, int)
            ]
            fresh.append(replace(claim, resume=max(known, default=None)))
        return fresh

    def _committed(self, partitions: Iterable[Partition]) -> Figures:
        """See `GroupOffsets.committed`; safe from any thread."""
        with self._lock:
            return self._stored.committed(partitions)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Committed offsets read afresh against the targets and the log; see `source.Source`."""
        committed, errors = self._committed(targets)
        starts, start_errors = self._admin.log_start(targets)
        ends, end_errors = self._admin.log_end([p for p in targets if p not in start_errors])
        errors = {**errors, **start_errors, **end_errors}
        found = []
        for partition, target in targets.items():
            state = self._state(partition, committed, starts, ends, errors.get(partition))
            text, end = state.error, state.end if target is None else target
            if text is None and not (isinstance(end, int) and end >= 0):
                text = f"The target {target!r} is not an offset."
            if text is None and isinstance(state.start, int) and isinstance(end, int):
                left = offsets_left(committed.get(partition), state.start, end)
                found.append(Remaining(partition, state.position, left))
            else:
                found.append(Remaining(partition, state.position, None, text))
        return found

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """One request for all partitions; see `source.Source`."""
        committed, errors = self._committed(claim.partition for claim in claims)
        wanted = {
            claim.partition: claim.target
            for claim in claims
            if isinstance(claim.target, int)
            and claim.target >= 0
            and claim.partition not in errors
            and committed.get(claim.partition, -1) < claim.target
        }
        refused = self._admin.alter(wanted)
        outcomes = []
        for claim in claims:
            partition = claim.partition
            if partition in errors:
                outcomes.append(Outcome(partition, None, str(errors[partition])))
            elif not isinstance(claim.target, int) or claim.target < 0:
                outcomes.append(
                    Outcome(partition, None, f"The target {claim.target!r} is not an offset.")
                )
            elif partition not in wanted:  # the position is there or further already
                outcomes.append(Outcome(partition, committed.get(partition)))
            else:
                error = refused[partition]
                outcomes.append(Outcome(partition, None if error else wanted[partition], error))
        return outcomes

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Write the old offsets, one request; a group that had none is deleted.

        librdkafka has no request that deletes the offset of one partition.
        """
        positions = {item.partition: item.position for item in recorded}
        committed, errors = self._admin.committed()
        offsets = {p: position for p, position in positions.items() if isinstance(position, int)}
        forget = {p for p, position in positions.items() if position is None and p in committed}
        refused = dict(self._admin.alter(offsets))
        if forget:
            whole = not offsets and not errors and forget == set(committed)
            error = self._admin.delete_group() if whole else NEVER
            refused.update(dict.fromkeys(forget, error))
        outcomes = []
        for partition in positions:
            failed = errors.get(partition)
            error = refused.get(partition) or (str(failed) if failed else None)
            outcomes.append(Outcome(partition, None if error else offsets.get(partition), error))
        return outcomes

    def close(self) -> None:
        """See `source.Source`."""
        self._admin.close()
        self._stored.close()


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> KafkaSource:
    """Open a group's source; connects at the first request.

    Raises `UsageError` for settings that librdkafka does not accept.
    """
    del run_id  # nothing on the broker is named after the run
    if not isinstance(options, KafkaOptions):
        raise UsageError("kafka needs KafkaOptions.")
    return KafkaSource(options, run)

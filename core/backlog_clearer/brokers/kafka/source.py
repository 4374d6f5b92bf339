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
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from backlog_clearer.brokers.kafka.admin import GroupAdmin
from backlog_clearer.brokers.kafka.client_lane import (
    QUEUE_BYTES,
    QUEUE_MESSAGES,
    ClientLane,
    fetch_settings,
)
from backlog_clearer.brokers.kafka.commits import IdCommits
from backlog_clearer.brokers.kafka.cuts import NOTE, cuts, oldest_times
from backlog_clearer.brokers.kafka.errors import HeadersUnsupportedError, lets_out_only_ours
from backlog_clearer.brokers.kafka.fetch_size import LARGEST
from backlog_clearer.brokers.kafka.figures import (
    OffsetFigures,
    Stored,
    contradiction,
    cut_since,
    not_an_offset,
    offset_of,
    offsets_left,
    position_notes,
)
from backlog_clearer.brokers.kafka.groups import attached, others, pending_notes, subscription
from backlog_clearer.brokers.kafka.header_lane import HeaderLane
from backlog_clearer.brokers.kafka.incarnations import Incarnations, expected
from backlog_clearer.brokers.kafka.lane_offsets import skip_target
from backlog_clearer.brokers.kafka.leader_epochs import ReadUpTo
from backlog_clearer.brokers.kafka.metadata import SharedMetadata
from backlog_clearer.brokers.kafka.options import KafkaOptions, Reader
from backlog_clearer.brokers.kafka.positions import GroupOffsets
from backlog_clearer.brokers.kafka.shared_offsets import LaneOfShared, SharedOffsets
from backlog_clearer.brokers.kafka.socket_settings import socket_settings
from backlog_clearer.brokers.kafka.undo import restored, undo_fault, undo_notes, with_undo
from backlog_clearer.errors import BrokerError, TransientError, UsageError
from backlog_clearer.model import (
    Bound,
    Claim,
    Cut,
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
from backlog_clearer.source import Lane, failed_state

_LOG = logging.getLogger("backlog_clearer")

_TRAITS = Traits(
    unit="offsets",
    empty_units="transaction markers and records removed by compaction take offsets, too",
    repeats=True,
    settle_interval_s=1.0,
)

_INVISIBLE = (
    "Consumers that use assign() instead of joining the group cannot be seen: make sure that none runs."
)


_NO_IDS = (
    "This broker has no topic ids (Kafka before 2.8): a topic that is deleted and created again is noticed"
    " only where its log ends before the committed offset."
)


class KafkaSource:
    """One group on one or more topics."""

    def __init__(self, options: KafkaOptions, run: RunOptions) -> None:
        self._options = options
        self._run = run
        self._admin = GroupAdmin(options)
        self._metadata = SharedMetadata(options, self._admin)
        self._logs = Incarnations(self._metadata)
        self._commits = IdCommits(options, self._logs, self._metadata.commits_by_id)
        self._stored = GroupOffsets(options)  # only reads
        self._shared = SharedOffsets(options)  # for the survey and header lanes
        self._lock = threading.Lock()
        self._opened: set[Partition] = set()
        self._partitions = 1
        self._use_headers = options.reader != Reader.CLIENT

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return _TRAITS

    @lets_out_only_ours("the survey")
    def survey(self) -> Survey:
        """Topics, group, offsets: seven requests; see `source.Source`."""
        options, admin = self._options, self._admin
        topics = admin.topics()
        partitions = list(topics.partitions)
        # First: a user who may not see the group gets that as the reason; librdkafka would only time out.
        members = admin.members()
        stored, errors = self._stored_for(partitions)
        live = attached(members, options, stored=bool(stored))
        starts, start_errors = admin.log_start(partitions)
        # The end last: offsets committed meanwhile must not seem to lie beyond it.
        ends, end_errors = admin.log_end([p for p in partitions if p not in start_errors])
        if self._freezes():
            self._logs.surveyed(partitions)
        errors = {**errors, **start_errors, **end_errors}
        self._partitions = max(1, len(partitions))
        undo = undo_fault(options) if len(stored) < len(partitions) else None
        states = [
            replace(
                self._state(p, stored.get(p), starts, ends, errors.get(p)),
                incarnation=incarnation,
                epoch=self._logs.epoch(p),
            )
            for p, incarnation in topics.partitions.items()
        ]
        states = [with_undo(state, undo) for state in states]
        notes = [*position_notes(states), *pending_notes(options, partitions)]
        found = None if stored or errors else others(admin, options, states)
        states += [failed_state(Partition(name, 0), error) for name, error in topics.errors.items()]
        return Survey(
            subscription=subscription(options),
            identity={
                "cluster_id": admin.cluster_id(),
                "topic": ",".join(sorted(options.topic)),
                "group_id": options.group_id,
            },
            partitions=tuple(sorted(states, key=lambda state: state.partition)),
            live=live,
            notes=(
                *([found.note] if found else []),
                *notes,
                *undo_notes(options),
                *([_NO_IDS] if None in topics.partitions.values() else []),
                _INVISIBLE,
            ),
            skip_requests=1,
            doubt=found.doubt if found else None,
        )

    def partitions(self) -> Sequence[Partition]:
        """See `source.Enumerable`: one request."""
        topics = self._admin.topics()
        return [*topics.partitions, *(Partition(name, 0) for name in topics.errors)]

    def _state(
        self,
        partition: Partition,
        stored: Stored | None,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        error: BrokerError | None,
        *,
        lower: bool | None = None,
    ) -> PartitionState:
        """A partition's state; `lower`: an offset beyond the end is not an error."""
        start, end, left = starts.get(partition), ends.get(partition), None
        offset = None if stored is None else stored.offset
        lower = self._options.lower_to_end if lower is None else lower
        if error is None and (start is None or end is None):
            error = not_an_offset(partition, None, "log end" if end is None else "log start")
        elif error is None and start is not None and end is not None:
            error = contradiction(partition, None if lower else offset, start, end)
            left = None if error else offsets_left(offset, start, end)
        return PartitionState(
            partition,
            position=None if stored is None else stored.position,
            start=start,
            end=end,
            backlog=left,
            error=None if error is None else str(error),
            passing=isinstance(error, TransientError),
        )

    def _freezes(self) -> bool:
        """Whether the ends that are surveyed become targets: a status asks for no leader epochs."""
        run = self._run
        return not run.dry_run and (run.mode is Mode.SKIP or (run.stop_when_empty and not run.follow))

    @lets_out_only_ours("asking for frozen targets")
    def lost(self, frozen: Sequence[Recorded]) -> Mapping[Partition, BrokerError]:
        """By the leader epochs; see `source.Replicated`."""
        targets = {item.partition: (offset_of(item.position), item.epoch) for item in frozen}
        reads = {
            partition: ReadUpTo(offset, epoch, seen=False)
            for partition, (offset, epoch) in targets.items()
            if offset is not None and epoch is not None
        }
        return {
            p: fault if isinstance(fault, TransientError) else cut_since(p, reads[p].offset)
            for p, fault in self._logs.lost(reads).items()
        }

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> None:
        """Nothing to prepare: a restore needs only the old offsets in the receipt."""

    @lets_out_only_ours("opening a client")
    def open_lane(self, claims: Sequence[Claim]) -> Lane:
        """A lane of the reader chosen; see `source.Source`."""
        topics = self._logs.sound(claims)
        self._find_beyond(claims)
        again, claims = self._resumed(claims)
        lanes = min(self._run.workers, self._partitions)
        if self._use_headers:
            try:
                return HeaderLane(
                    self._options,
                    claims,
                    socket_settings(self._options),
                    self._logs,
                    LaneOfShared(self._shared, self._commits, expected(claims)),
                    lanes=lanes,
                    give_up=self._give_up,
                    fetch_bytes=self._run.ahead_bytes(LARGEST, lanes),
                    # After a failure a lane asks for itself: the broker that answered may lag behind.
                    topics=None if again else topics,
                )
            except HeadersUnsupportedError as reason:
                failure = self._give_up(str(reason))
                if self._use_headers:
                    raise failure from None
        return ClientLane(
            self._options,
            claims,
            self._logs,
            self._commits,
            batch_size=self._run.batch_size,
            fetching=fetch_settings(
                max(1, len(claims)),
                lanes,
                queue_messages=self._run.ahead_messages(QUEUE_MESSAGES, 1),
                queue_bytes=self._run.ahead_bytes(QUEUE_BYTES, 1),
            ),
            sized=self._run.rate is not None and self._run.rate.of_bytes,
        )

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

    def _find_beyond(self, claims: Sequence[Claim]) -> None:
        """Which claims are to be lowered to the end: their committed offsets lie beyond it still."""
        surveyed = {
            claim.partition: (offset_of(claim.state.position), offset_of(claim.state.end))
            for claim in claims
            if self._options.lower_to_end and claim.resume is None
        }
        asked = [
            p for p, (at, end) in surveyed.items() if at is not None and end is not None and at > end
        ]
        if asked:
            ends, _ = self._admin.log_end(asked)
            self._logs.beyond.update({p: end for p, end in ends.items() if end < (surveyed[p][0] or 0)})

    def _resumed(self, claims: Sequence[Claim]) -> tuple[bool, Sequence[Claim]]:
        """Whether a lane was open for any of the claims before; if so, they continue at the committed offset.

        A commit whose answer was lost may still have been written. Raises `BrokerError` for a committed
        offset that vanished or was moved back.
        """
        with self._lock:
            again = any(claim.partition in self._opened for claim in claims)
            self._opened.update(claim.partition for claim in claims)
            for claim in claims:
                self._logs.begin(claim)
        if not again:
            return False, claims
        committed, errors = self._committed(claim.partition for claim in claims)
        starts, _ = self._admin.log_start([claim.partition for claim in claims])
        fresh = []
        for claim in claims:
            partition = claim.partition
            before, now = self._logs.committed.get(partition), committed.get(partition)
            if partition in self._logs.beyond:
                fresh.append(claim)
                continue
            fault = None if partition in errors else self._logs.set_back(partition, now)
            if fault is not None:
                raise fault
            known = (offset_of(claim.resume), before, now, starts.get(partition))
            if partition not in errors:
                self._logs.resumed(partition, now)
            resume = max((offset for offset in known if offset is not None), default=None)
            fresh.append(replace(claim, resume=resume))
        return True, fresh

    def _committed(self, partitions: Iterable[Partition]) -> OffsetFigures:
        """See `GroupOffsets.committed`; safe from any thread."""
        with self._lock:
            return self._stored.committed(partitions)

    def _stored_for(
        self, partitions: Iterable[Partition]
    ) -> tuple[dict[Partition, Stored], dict[Partition, BrokerError]]:
        """See `SharedOffsets.stored`; safe from any thread.

        Through librdkafka only where the broker or the login needs it: it copies the text that was committed
        with an offset without a terminating zero, and confluent-kafka sometimes reads beyond its end.
        """
        asked = list(partitions)
        with suppress(HeadersUnsupportedError):
            return self._shared.stored(asked)
        with self._lock:
            return self._stored.stored(asked)

    @lets_out_only_ours("the verification")
    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """Committed offsets read afresh against the targets and the log; see `source.Source`."""
        faults = self._logs.faults(dict.fromkeys(targets), read=self._logs.read)
        asked = [partition for partition in targets if partition.topic in self._logs.ids]
        stored, errors = self._stored_for(asked)
        starts, start_errors = self._admin.log_start(asked)
        ends, end_errors = self._admin.log_end([p for p in asked if p not in start_errors])
        errors = {**errors, **start_errors, **end_errors, **faults}
        answers = []
        for partition, target in targets.items():
            state = self._state(
                partition, stored.get(partition), starts, ends, errors.get(partition), lower=False
            )
            text, end = state.error, offset_of(state.end if target is None else target)
            left = None
            if text is None and end is None:
                text = f"The target {target!r} is not an offset."
            elif text is None and end is not None:
                left = offsets_left(offset_of(state.position), starts[partition], end)
            incarnation = self._logs.ids.get(partition.topic)
            answers.append(Remaining(partition, state.position, left, text, incarnation))
        return answers

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """By what commits were sent, and what is committed; see `source.Accountable`."""
        return self._logs.unreported({p: offset_of(position) for p, position in stored.items()})

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """One ListOffsets request a leader; see `source.Bounded`."""
        return cuts(states, bound, self._admin.first_from)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        return (NOTE,) if bound.until is not None else ()

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """One batch of each partition; see `source.Dated`."""
        return oldest_times(self._options, states)

    def between(self, partition: Partition, first: Position, last: Position) -> int | None:
        """Offsets; see `source.Countable`."""
        del partition
        one, other = offset_of(first), offset_of(last)
        return None if one is None or other is None else other - one

    @lets_out_only_ours("the skip")
    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """One request for all partitions; see `source.Source`."""
        partitions = [claim.partition for claim in claims]
        stored, errors = self._committed(partitions)
        ends, end_errors = self._admin.log_end(partitions)
        # The incarnation last: as near to the write as can be.
        faults = self._logs.faults(expected(claims), read=self._logs.skipped(claims))
        errors = {**end_errors, **errors, **faults}
        outcomes: dict[Partition, Outcome] = {}
        wanted: dict[Partition, Stored] = {}
        for claim in claims:
            partition, now = claim.partition, stored.get(claim.partition)
            if partition in errors:
                outcomes[partition] = Outcome(partition, None, str(errors[partition]))
                continue
            lower = self._options.lower_to_end
            target = skip_target(claim, now, ends[partition], lower=lower)
            if isinstance(target, str):
                outcomes[partition] = Outcome(partition, None, target)
            elif now == target:
                outcomes[partition] = Outcome(partition, now)
            else:
                wanted[partition] = Stored(target)
        written = self._commits.write(wanted, expected(claims))
        for partition, error in (self._written(wanted) if written is None else written).items():
            position = None if error else wanted[partition].position
            outcomes[partition] = Outcome(partition, position, error)
        return [outcomes[partition] for partition in partitions]

    @lets_out_only_ours("the restore")
    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Write the old offsets in one request, forget the others in another; see `source.Source`."""
        stored, errors = self._committed(item.partition for item in recorded)
        committed = (stored, errors)
        return restored(
            self._options, self._admin, self._commits, recorded, committed, by_name=self._written
        )

    def _written(self, offsets: Mapping[Partition, Stored]) -> Mapping[Partition, str | None]:
        """Commit by the topics' names; not through librdkafka, for the reason in `_stored_for`."""
        with suppress(HeadersUnsupportedError):
            return self._shared.write(offsets)
        return self._admin.alter(offsets)

    def close(self) -> None:
        """See `source.Source`."""
        self._admin.close()
        self._metadata.close()
        self._shared.close()
        self._stored.close()


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> KafkaSource:
    """Open a group's source; connects at the first request.

    Raises `UsageError` for settings that librdkafka does not accept.
    """
    del run_id  # nothing on the broker is named after the run
    if not isinstance(options, KafkaOptions):
        raise UsageError("kafka needs KafkaOptions.")
    return KafkaSource(options, run)

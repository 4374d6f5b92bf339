"""One subscription of Google Cloud Pub/Sub, which has neither offsets nor a count.

Its backlog is one partition, named by the subscription. The position that a receipt records is a
snapshot, taken before the first change; the target is the time at which the run started.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any, TypeVar, cast

import grpc
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import GetSubscriptionRequest, Subscription

from backlog_clearer.brokers.googlepubsub.acks import PERMISSION, Requests
from backlog_clearer.brokers.googlepubsub.client import (
    emulator_address,
    open_subscriber,
    subscriptions,
)
from backlog_clearer.brokers.googlepubsub.clock import ServiceClock
from backlog_clearer.brokers.googlepubsub.credentials import google_credentials
from backlog_clearer.brokers.googlepubsub.cuts import BY_TIME, cut_at, oldest_time
from backlog_clearer.brokers.googlepubsub.errors import Call, code_of, to_broker_error, unreachable
from backlog_clearer.brokers.googlepubsub.kinds import DELETED_TOPIC, incarnation, obstacle
from backlog_clearer.brokers.googlepubsub.lane import SharedLeases, StreamLane
from backlog_clearer.brokers.googlepubsub.monitoring import Figures, Monitoring, described, proven_left
from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.brokers.googlepubsub.snapshots import RunSnapshots
from backlog_clearer.errors import (
    BrokerError,
    ClearerError,
    RecreatedError,
    RefusedError,
    TransientError,
    UsageError,
)
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
from backlog_clearer.options.addresses import plain_address
from backlog_clearer.options.base import SystemOptions, suggestion
from backlog_clearer.options.run import RunOptions

_LOG = logging.getLogger("backlog_clearer")

TIMEOUT_S = 10.0  # of every request except a stream
_LOOKED_AT = 1000  # names of subscriptions: one page of a list
_SETTLE_S = 0.2  # acknowledgements are sent with every read, and counted this often
SNAPSHOT_LIFE = timedelta(days=7)  # minus the age of the oldest unacknowledged message
_PROOF_WAIT_S = 300.0  # a sampling period, its lag of two minutes, and another period in between

_SEEK_UNKNOWN = (
    "Whether the seek took effect is not known, and it is not repeated: look with cleaner.py status."
)

_TRAITS = Traits(
    unit="messages",
    fixed=True,
    competing=True,
    repeats=True,
    skip_once=True,
    proof="use --verify-seconds 300, or look with status 4 minutes after the run",
    settle_interval_s=_SETTLE_S,
)

_Answer = TypeVar("_Answer")


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> PubSubSource:
    """A source for one subscription; see `backlog_clearer.registry`."""
    return PubSubSource(cast("PubSubOptions", options), run, run_id)


def rfc3339(moment: datetime) -> str:
    """A time in UTC as positions have it: 2026-11-23T21:45:00.123456Z."""
    return f"{moment.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"


def expiry(figures: Figures, now: datetime) -> datetime:
    """The latest time at which a snapshot taken now expires."""
    age = figures.oldest.value if figures.oldest else 0
    return now + SNAPSHOT_LIFE - timedelta(seconds=age)


class PubSubSource:
    """See `source.Source`."""

    def __init__(self, options: PubSubOptions, run: RunOptions, run_id: str) -> None:
        self._options = options
        self._run = run
        self._name = options.subscription
        self._partition = Partition(self._name, 0)
        self._clock = ServiceClock()
        self._shared = SharedLeases(self._clock)
        self._opened_at = datetime.now(timezone.utc)  # by this machine's clock
        self._changed_at: datetime | None = None  # by the service's
        self._emulator = emulator_address()
        self._credentials = None if self._emulator else google_credentials(options.credentials_file)
        self._client = self._connect()
        host: str = self._client.transport.host
        self._host = f"the emulator at {host} (PUBSUB_EMULATOR_HOST)" if self._emulator else host
        self._metadata = Requests(self._client, self._name).metadata
        self._snapshots = RunSnapshots(self._client, self._name, self._call, self._ask)
        self._snapshot = self._snapshots.name_of(run_id)
        self._monitoring: Monitoring | None = None
        if options.monitoring_endpoint or not self._emulator:
            self._monitoring = Monitoring(
                options.project,
                self._name.rsplit("/", 1)[-1],
                credentials=self._credentials,
                endpoint=options.monitoring_endpoint,
            )
        self._settings: Subscription | None = None  # at the survey; None: they may not be read
        self._last_figures = Figures()  # at the survey
        self._counted = False  # whether Monitoring gave a count
        self._closed = False

    @property
    def traits(self) -> Traits:
        """See `source.Source`."""
        return replace(_TRAITS, proof_wait_s=_PROOF_WAIT_S if self._counted else 0.0)

    def _connect(self) -> SubscriberClient:
        """A client of the official library, on a separate connection."""
        return open_subscriber(self._emulator, self._credentials, self._options.api_endpoint)

    def _ask(self, call: Call, request: Callable[..., _Answer], **arguments: Any) -> _Answer:
        """One request, sent once; raises `AlreadyExists`, or an error in this project's terms."""
        try:
            return request(request=arguments, timeout=TIMEOUT_S, retry=None)
        except AlreadyExists:
            raise
        except (GoogleAPICallError, GoogleAuthError, grpc.RpcError) as error:
            raise to_broker_error(error, call) from error

    def _call(self, what: str, permission: str, resource: str | None = None) -> Call:
        return Call(what, resource or self._name, permission, self._host)

    def survey(self) -> Survey:
        """See `source.Source`."""
        found, notes = self._subscription()
        now = self._clock.now()
        figures = self._last_figures = self._figures(now)
        self._counted = figures.count is not None
        skew = self._clock.note()
        if skew:
            notes.append(skew)
        elif not self._clock.known and not self._emulator:
            notes.append(
                "Pub/Sub's answer has no time: the target and the proof are by this machine's clock."
            )
        if self._emulator:
            notes.append(
                f"PUBSUB_EMULATOR_HOST is set: this is the emulator at {self._emulator}, not Google"
                " Cloud."
            )
        notes.append(described(figures, now))
        notes.append("Pub/Sub does not report whether other consumers are attached.")
        notes += self._undo_notes(figures, now)
        if found.dead_letter_policy.dead_letter_topic:
            notes.append(
                "Messages beyond the target, or beyond --max-messages, are given back once at the end,"
                " which counts as one of the"
                f" {found.dead_letter_policy.max_delivery_attempts} delivery attempts before"
                f" {found.dead_letter_policy.dead_letter_topic} gets them; cleared messages are not affected."
            )
        if found.topic == DELETED_TOPIC:
            notes.append("The topic of this subscription is deleted.")
        identity = {"subscription": self._name}
        if found.topic and found.topic != DELETED_TOPIC:
            identity["topic"] = found.topic
        if self._emulator:
            identity["emulator"] = plain_address(self._emulator)
        state = PartitionState(
            self._partition,
            position=self._position(figures, now),
            start=None,
            end=rfc3339(now),
            backlog=figures.count.value if figures.count else None,
            undo="no snapshot is taken, because of --no-snapshot"
            if self._options.no_snapshot
            else None,
            error=obstacle(found, self._run.mode),
            incarnation=incarnation(found),
        )
        return Survey(
            subscription=f"subscription {self._name}"
            + (f" of topic {found.topic}" if found.topic else "")
            + (f" on the emulator at {self._emulator}" if self._emulator else ""),
            identity=identity,
            partitions=(state,),
            notes=tuple(notes),
            skip_requests=1 if self._options.no_snapshot else 2,
        )

    def _subscription(self) -> tuple[Subscription, list[str]]:
        """The subscription's settings, as far as the credentials may read them, with notes."""
        try:
            found = self._settings = self._look_up()
        except BrokerError as error:
            if _is(error, grpc.StatusCode.NOT_FOUND):
                raise UsageError(
                    f"There is no subscription {self._name} at {self._host}.{self._similar()}"
                ) from None
            if not _is(error, grpc.StatusCode.PERMISSION_DENIED):
                raise unreachable(error, self._host) from error
            # Reading and seeking need only pubsub.subscriptions.consume (roles/pubsub.subscriber).
            note = f"Its topic, kind and dead-letter policy are unknown: {error}"
            return Subscription(name=self._name), [note]
        return found, []

    def _look_up(self) -> Subscription:
        """The subscription's settings; raises `BrokerError`. Its answer also sets the clock."""
        transport: Any = self._client.transport
        request = GetSubscriptionRequest(subscription=self._name)
        sent = datetime.now(timezone.utc)
        try:
            found, call = transport.get_subscription.with_call(
                request, timeout=TIMEOUT_S, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise to_broker_error(error, self._call("look-up", "pubsub.subscriptions.get")) from error
        self._clock.learn(call.initial_metadata() or (), sent, datetime.now(timezone.utc))
        return cast("Subscription", found)

    def _incarnation(self) -> str | None:
        """What distinguishes the subscription from another one now; None: the credentials may not see it."""
        try:
            return incarnation(self._look_up())
        except BrokerError as error:
            if _is(error, grpc.StatusCode.PERMISSION_DENIED):
                return None
            raise

    def _similar(self) -> str:
        """' Did you mean …?', if the credentials may list subscriptions; otherwise ''."""
        found = subscriptions(self._client, self._options.project, self._host)
        try:
            names = [item.name for item in islice(found, _LOOKED_AT)]
        except ClearerError:
            return ""
        return suggestion(self._name, names)

    def _figures(self, now: datetime) -> Figures:
        if self._monitoring is None:
            return Figures(problem="an emulator does not have it")
        return self._monitoring.figures(now)

    def _position(self, figures: Figures, now: datetime) -> Position:
        """The position for the receipt: the snapshot that `prepare_undo` takes, if it takes one."""
        if self._options.no_snapshot:
            return {"snapshot": None}
        return {"snapshot": self._snapshot, "expires_by": rfc3339(expiry(figures, now))}

    def _undo_notes(self, figures: Figures, now: datetime) -> list[str]:
        if self._options.no_snapshot:
            return []
        which = (
            "A run takes a snapshot before its first change. Taken now, it would expire by"
            if self._run.dry_run  # a status, too
            else f"The snapshot {self._snapshot} is taken before the first change. It expires by"
        )
        text = (
            f"{which} {expiry(figures, now):%Y-%m-%dT%H:%MZ} (7 days after the oldest unacknowledged message"
            " was published). Restoring it delivers again all messages that are unacknowledged now and"
            " all that are published from now on, even if they were acknowledged since."
        )
        return [text]

    def prepare_undo(self, partitions: Sequence[Partition], mode: Mode) -> str | None:
        """Take the snapshot that the receipt names; see `source.Source`."""
        del partitions, mode  # a subscription is one partition, and both modes are undone alike
        if self._options.no_snapshot:
            return None
        try:
            expires = self._snapshots.take(self._snapshot)
        except BrokerError as error:
            kind = TransientError if isinstance(error, TransientError) else RefusedError
            raise kind(
                f"No snapshot could be taken, so this run could not be undone, and nothing was"
                f" changed: {error} Snapshots also need {PERMISSION} on the subscription, and are"
                " refused where the oldest message is older than 6 days and 23 hours. To proceed"
                " without an undo, use --no-snapshot."
            ) from error
        when = rfc3339(expires) if expires else "an unknown time"
        return f"The snapshot {self._snapshot} expires at {when}."

    def open_lane(self, claims: Sequence[Claim]) -> StreamLane:
        """A stream on a separate client; see `source.Source`."""
        return StreamLane(self._connect(), claims[0], self._options, self._run, self._shared)

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """What Monitoring can prove; see `monitoring.proven_left` and `source.Source`."""
        log = self._incarnation()
        figures = self._figures(self._clock.now())
        changes = (self._changed_at, self._shared.changed_at, self._clock.latest(self._opened_at))
        changed_at = max(moment for moment in changes if moment is not None)
        found = []
        for partition, target in targets.items():
            until = None if target is None else datetime.fromisoformat(_isoformat(target))
            left = proven_left(figures, changed_at=changed_at, target=until)
            # Figures that are never available are unknown; those that failed now are an error.
            error = figures.problem if left is None and figures.passing else None
            found.append(Remaining(partition, None, left, error, log))
        return found

    def unreported(self, stored: Mapping[Partition, Position | None]) -> Mapping[Partition, int | None]:
        """Unknown where an acknowledgement had no answer; see `source.Accountable`."""
        del stored
        return {self._partition: None} if self._shared.doubtful else {}

    def cut(self, states: Sequence[PartitionState], bound: Bound) -> Sequence[Cut]:
        """See `source.Bounded`; asks nothing."""
        end = rfc3339(bound.until) if bound.until else ""
        return cut_at(states, bound, self._run.mode, self._settings, end)

    def bound_notes(self, bound: Bound) -> Sequence[str]:
        """See `source.Bounded`."""
        del bound
        return (BY_TIME,)

    def oldest(self, states: Sequence[PartitionState]) -> Mapping[Partition, datetime]:
        """See `source.Dated`: from the figures of the survey."""
        del states
        return oldest_time(self._partition, self._last_figures)

    def skip(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """Seek to the target, which acknowledges all messages published before it; see `source.Source`.

        Sent only once: a second seek to that time would deliver messages again that were published after
        it and acknowledged since.
        """
        done = []
        for claim in claims:
            try:
                self._refuse_another(claim.partition, claim.state.incarnation)
            except BrokerError as error:
                done.append(Outcome(claim.partition, None, str(error)))
                continue
            call = self._call("seek", PERMISSION)
            moment = datetime.fromisoformat(_isoformat(claim.target))
            try:
                self._ask(call, self._client.seek, subscription=self._name, time=moment)
                done.append(Outcome(claim.partition, claim.target))
            except TransientError as error:
                done.append(Outcome(claim.partition, claim.target, f"{error} {_SEEK_UNKNOWN}"))
            except BrokerError as error:
                done.append(Outcome(claim.partition, None, str(error)))
            self._changed_at = self._clock.latest()
        return done

    def _refuse_another(self, partition: Partition, expected: str | None) -> None:
        """Raise `RecreatedError` where the subscription is another one, `BrokerError` where it is gone."""
        found = self._incarnation() if expected is not None else None
        if None not in (found, expected) and found != expected:
            raise RecreatedError(partition)

    def restore(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Seek to the snapshot; see `source.Source`.

        First takes the snapshot that the receipt of this restore names, so that it can be undone too.
        Pub/Sub does not report a subscription's position, so none is returned. Raises `TransientError`
        where the whole call may be repeated.
        """
        done = []
        for partition, position, expected, *_ in recorded:
            name = position.get("snapshot") if isinstance(position, Mapping) else None
            if not name:
                error = "the run took no snapshot (--no-snapshot), so it cannot be undone"
                done.append(Outcome(partition, None, error))
                continue
            try:
                self._refuse_another(partition, expected)
                self.prepare_undo([partition], self._run.mode)
                self._seek_to_snapshot(str(name))
                done.append(Outcome(partition, None))
            except TransientError:
                raise
            except ClearerError as error:
                done.append(Outcome(partition, None, str(error)))
            finally:
                self._changed_at = self._clock.latest()
        return done

    def _seek_to_snapshot(self, name: str) -> None:
        call = self._call("seek", f"{PERMISSION}, or pubsub.snapshots.seek on {name},")
        try:
            self._ask(call, self._client.seek, subscription=self._name, snapshot=name)
        except BrokerError as error:
            if _is(error, grpc.StatusCode.NOT_FOUND):
                raise BrokerError(
                    f"The snapshot {name} does not exist any more: it expired or was deleted. List the"
                    f" existing ones with: gcloud pubsub snapshots list --project {self._options.project}"
                ) from error
            raise
        if self._options.delete_snapshot:
            try:
                self._snapshots.delete(name)
            except BrokerError as error:  # not transient: the seek is done, and must not be repeated
                raise BrokerError(
                    f"The subscription was restored, but its snapshot was not deleted: {error}"
                ) from error

    def kept_notes(self) -> Sequence[str]:
        """The snapshots that runs left; see `source.Keeping`."""
        return self._snapshots.notes()

    def discard(self, recorded: Sequence[Recorded]) -> Sequence[Outcome]:
        """Delete the snapshots of runs; see `source.Keeping`."""
        done = []
        for partition, position, *_ in recorded:
            name = position.get("snapshot") if isinstance(position, Mapping) else None
            error = None
            try:
                if name:
                    self._snapshots.delete_own(str(name))
            except BrokerError as problem:
                error = None if _is(problem, grpc.StatusCode.NOT_FOUND) else str(problem)
            done.append(Outcome(partition, None, error))
        return done

    def close(self) -> None:
        """Give back the messages that lanes left; see `source.Source`."""
        if self._closed:
            return
        self._closed = True
        unread, held = self._shared.take()
        ids = [one for batch in [*unread, *held] for one in batch.ids]
        if ids:
            requests = Requests(self._client, self._name)
            failed = [error for _, error in requests.set_deadline(ids, 0) if error]
            if failed:
                _LOG.warning(
                    "Messages could not be given back; they are delivered again within %d s: %s",
                    self._options.stream_ack_deadline_seconds,
                    to_broker_error(failed[0], requests.call("give back")),
                )
        transport: Any = self._client.transport
        transport.close()
        if self._monitoring:
            self._monitoring.close()


def _isoformat(target: object) -> str:
    """A target in the format that Python 3.10 can parse."""
    return re.sub("Z$", "+00:00", str(target))


def _is(error: BrokerError, code: grpc.StatusCode) -> bool:
    """Whether the service answered with this code."""
    return isinstance(error.__cause__, Exception) and code_of(error.__cause__) is code

"""The drain: workers that read and acknowledge until a stop rule applies, and their figures added up.

A worker (`engine.worker`) is one thread with one lane; `engine.crew` decides who has which claim. The
calling thread only watches: it adds up what the workers publish, asks the broker what is left where the
lanes cannot determine it, looks for partitions that were added meanwhile, and applies `engine.stop`.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backlog_clearer.engine.crew import Crew
from backlog_clearer.engine.share import Share
from backlog_clearer.engine.stop import Moment, decide
from backlog_clearer.engine.worker import Worker
from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Claim, Partition, StopReason, total_known
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source

_LOG = logging.getLogger("backlog_clearer")

TICK_S = 0.1  # how often the watching thread looks
PROBE_FIRST_S = 1.0  # silence before the broker is asked what is left; doubles up to…
PROBE_LAST_S = 10.0
GROW_S = 30.0  # how often partitions are looked for that were added while the drain runs


class Halt:
    """Asks every worker to stop; may be signalled from a signal handler or another thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signalled = False

    def signal(self) -> None:
        """Ask for an orderly stop: acknowledge the messages that were read, then end."""
        self.signalled = True
        self.event.set()

    def renew(self) -> None:
        """Make it usable for another drain: the end of one has set its event. A signal stays."""
        self.event = threading.Event()
        if self.signalled:  # also one that came between the two lines
            self.event.set()


@dataclass(frozen=True, slots=True)
class Drained:
    """The effect of a drain on one partition."""

    messages: int  # acknowledged
    unacknowledged: int  # read but not acknowledged: they stay in the backlog
    bytes: int
    error: str | None
    reached: bool = False  # its target, by what was read and acknowledged
    doubted: bool = False  # a settle failed: more may be acknowledged
    unfinished: bool = False  # its worker did not stop in time: the figures are not the last ones


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A drain as seen at one moment, for a progress display."""

    seconds: float
    messages: int  # read so far
    bytes: int
    left: int | None  # in the source's unit; None: unknown
    backlog: int | None  # at the start, in the source's unit
    retries: int
    throttled_s: float = 0.0  # for how long the broker asked lanes to wait, all of them together
    quiet_s: float = 0.0  # for how long no message has arrived
    troubled: bool = False  # partitions have errors, and are tried again


@dataclass(frozen=True, slots=True)
class Drain:
    """How a drain ended."""

    reason: StopReason
    seconds: float
    retries: int
    workers: int
    partitions: dict[Partition, Drained] = field(default_factory=dict)
    error: str | None = None  # where it FAILED: the first error of those that ended it
    notes: tuple[str, ...] = ()  # facts that the user should know, one sentence each
    joined: tuple[Claim, ...] = ()  # claims that were added while it ran


def spread(claims: Sequence[Claim], workers: int, *, competing: bool) -> list[list[Claim]]:
    """Deal claims to lanes: the largest backlog first, to the lane with the least so far.

    Never more lanes than claims, unless lanes may compete for one; never a lane without a claim.
    """
    if not claims:
        return []
    lanes: list[list[Claim]] = [[] for _ in range(min(workers, len(claims)))]
    load = [(0, index) for index in range(len(lanes))]
    for claim in sorted(claims, key=lambda claim: (-(claim.state.backlog or 0), claim.partition)):
        weight, index = heapq.heappop(load)
        lanes[index].append(claim)
        heapq.heappush(load, (weight + max(1, claim.state.backlog or 0), index))
    if competing:
        lanes.extend([claims[index % len(claims)]] for index in range(len(lanes), workers))
    return lanes


def drain(
    source: Source,
    claims: Sequence[Claim],
    run: RunOptions,
    *,
    halt: Halt | None = None,
    observe: Callable[[Snapshot], None] = lambda _: None,
    grow: Callable[[], Sequence[Claim]] | None = None,
    figures: bool = True,
) -> Drain:
    """Read and acknowledge the claims until a stop rule applies; never raises a broker's error.

    `observe` is called about ten times a second from the calling thread. So is `grow`, every 30 s: it
    returns claims that the drain is to take on, each partition once. A partition that fails for good
    ends with its error, and the others continue. Without `figures` the broker is not asked what is left,
    since that may be in the hands of another drain: this one ends once nothing comes.
    """
    halt = halt or Halt()
    crew = Crew(source, run, halt.event, spread(claims, run.workers, competing=source.traits.competing))
    watch = _Watch(source, claims, run, crew, grow, figures=figures)
    crew.start()
    while True:
        crew.event.clear()
        moment = watch.look(signalled=halt.signalled)
        observe(watch.snapshot(moment))
        reason = decide(moment, run)
        if reason:
            break
        crew.event.wait(TICK_S)
    return watch.conclude(reason, crew.stop(lambda: halt.signalled))


@dataclass(slots=True)
class _Silence:
    """For how long a worker has received nothing, apart from the time that it was asked to wait."""

    since: float
    excused_s: float = 0.0  # of the worker, just before it received something last
    last_s: float = 0.0  # of the worker, when it was looked at last

    def seconds(self, worker: Worker, now: float) -> float:
        """The silence so far."""
        latest = max(worker.progress_at, worker.opened_at)
        if latest > self.since:  # an answer with messages may itself throttle
            self.since, self.excused_s = latest, self.last_s
        self.last_s = worker.excused_s
        return max(0.0, now - self.since - (self.last_s - self.excused_s))


class _Watch:
    """The calling thread's view of the workers."""

    def __init__(
        self,
        source: Source,
        claims: Sequence[Claim],
        run: RunOptions,
        crew: Crew,
        grow: Callable[[], Sequence[Claim]] | None,
        *,
        figures: bool,
    ) -> None:
        self.source = source
        self.figures = figures
        self.frozen = all(claim.target is not None for claim in claims)
        self.run = run
        self.crew = crew
        self.grow = grow
        self.joined: list[Claim] = []
        self.started = time.monotonic()
        self.grown_at = self.started
        self.backlog = total_known(claim.state.backlog for claim in claims)
        self.silences: dict[str, _Silence] = {}
        self.probed_at = self.started
        self.probed = False
        self.probed_left: int | None = None
        self.probe_wait = PROBE_FIRST_S

    def look(self, *, signalled: bool) -> Moment:
        """Add up the workers; asks the broker what is left where the lanes cannot determine it."""
        now = time.monotonic()
        if self.grow is not None and now - self.grown_at >= GROW_S and not signalled:
            self._grow(self.grow)
        workers, shares = self.crew.all, self.crew.shares
        progress_at = max((worker.progress_at for worker in workers), default=self.started)
        quiet_s = min((self._silence(worker, now) for worker in workers), default=now - self.started)
        if progress_at > self.probed_at:
            self.probed, self.probed_left, self.probe_wait = False, None, PROBE_FIRST_S
        left = total_known(0 if share.reached else share.left for share in shares if not share.over)
        if self._should_probe(left, now - max(progress_at, self.started), now - self.probed_at):
            self._probe()
        if left == 0 and not self.frozen and self.probed and self.probed_left is None:
            left = None  # the broker does not confirm what the lanes report
        over = all(share.over for share in shares)
        errors = any(share.error is not None for share in shares)
        return Moment(
            elapsed_s=now - self.started,
            quiet_s=quiet_s,
            messages=sum(share.read for share in shares),
            charged=sum(share.charged for share in shares),
            empty=(over and self.frozen and not errors) or self.probed_left == 0,
            left=self.probed_left if left is None else left,
            starting=any(not share.tried and not share.over for share in shares),
            troubled=any(share.troubled and not share.over for share in shares),
            signalled=signalled,
            failed=over and errors and not self.crew.halt.is_set(),
        )

    def _silence(self, worker: Worker, now: float) -> float:
        silence = self.silences.setdefault(worker.name, _Silence(self.started))
        return silence.seconds(worker, now)

    def _should_probe(self, left: int | None, idle_s: float, since_probe_s: float) -> bool:
        """Whether only the broker can show if this is the end, and it is time to ask it."""
        if not self.run.stop_when_empty or since_probe_s < self.probe_wait:
            return False
        return (left is None and idle_s >= self.probe_wait) or (left == 0 and not self.frozen)

    def _probe(self) -> None:
        targets = {
            share.claim.partition: share.claim.target
            for share in self.crew.shares
            if share.error is None
        }
        try:
            found = self.source.remaining(targets) if self.figures else ()
        except ClearerError as error:
            _LOG.warning("The broker did not report what is left: %s", error)
            found = ()
        answered = {item.partition: item.left for item in found}
        self.probed_left = total_known(answered.get(partition) for partition in targets)
        self.probed = True
        self.probed_at = time.monotonic()
        self.probe_wait = min(PROBE_LAST_S, self.probe_wait * 2)

    def _grow(self, grow: Callable[[], Sequence[Claim]]) -> None:
        """Take on what was added to the subscription meanwhile."""
        try:
            claims = grow()
        except ClearerError as error:
            _LOG.warning("Partitions that were added meanwhile could not be looked for: %s", error)
            claims = ()
        self.joined += claims
        self.crew.add(claims)
        self.grown_at = time.monotonic()

    def snapshot(self, moment: Moment) -> Snapshot:
        """The moment for a progress display; an untouched claim still has all of its backlog."""
        left = moment.left
        given_up = [share for share in self.crew.shares if share.error is not None]
        if left is None and not self.source.traits.competing:
            left = total_known(_left(share) for share in self.crew.shares)
        elif left is not None and given_up:
            left = total_known((left, *map(_left, given_up)))
        return Snapshot(
            seconds=moment.elapsed_s,
            messages=moment.messages,
            bytes=sum(share.bytes for share in self.crew.shares),
            left=left,
            backlog=self.backlog,
            retries=sum(worker.retries for worker in self.crew.all),
            throttled_s=sum(worker.throttled_s for worker in self.crew.all),
            quiet_s=moment.quiet_s,
            troubled=moment.troubled,
        )

    def conclude(self, reason: StopReason, late: Sequence[Worker]) -> Drain:
        """Add up what the workers did, after they ended; `late` are those that did not in time."""
        drained: dict[Partition, Drained] = {}
        behind = {id(share) for worker in late for share in list(worker.shares.values())}
        for share in self.crew.shares:
            partition = share.claim.partition
            old = drained.get(partition, Drained(0, 0, 0, None))
            drained[partition] = Drained(
                old.messages + share.settled,
                old.unacknowledged + share.read - share.settled,
                old.bytes + share.bytes,
                old.error or share.error,
                old.reached or share.done,
                old.doubted or share.doubted,
                old.unfinished or id(share) in behind,
            )
        errors = [item.error for item in drained.values() if item.error]
        unfinished = [
            f"{worker.name} did not stop in time; its last messages may be unacknowledged"
            for worker in late
        ]
        if (unfinished and reason is not StopReason.SIGNAL) or (errors and reason.done):
            reason = StopReason.FAILED
        failed = reason is StopReason.FAILED
        throttled_s = sum(worker.throttled_s for worker in self.crew.all)
        notes = [*self.crew.notes()]
        if throttled_s >= 1:
            notes.append(
                f"The broker throttled this run: lanes waited for {throttled_s:,.0f} s in total."
            )
        return Drain(
            reason=reason,
            seconds=time.monotonic() - self.started,
            retries=sum(worker.retries for worker in self.crew.all),
            workers=len(self.crew.workers),
            partitions=drained,
            error=next(iter((*unfinished, *(errors if failed else ()))), None),
            notes=tuple(notes),
            joined=tuple(self.joined),
        )


def _left(share: Share) -> int | None:
    """What is left of a claim; all of its backlog where nothing was read of it."""
    if share.reached or share.yielded:
        return 0
    return share.claim.state.backlog if share.left is None and not share.read else share.left

"""The drain: lanes on threads, one place for retries, counts that add up, an end with a reason.

A worker is one thread with one lane. The calling thread only watches: it adds up what the workers
publish, asks the broker when nobody can know whether anything is left, and applies `engine.stop`.
Every number has exactly one writer, so the hot path takes no lock.

What is counted is what was acknowledged. A lane that fails settles what it has read and is opened
again where it settled; what it could not settle is dropped from the count and read again.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import tenacity

from backlog_clearer.engine.stop import Moment, decide
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Claim, Partition, Position, StopReason
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane, Source

_LOG = logging.getLogger("backlog_clearer")

READ_WAIT_S = 0.25  # how long a read may wait; also how soon a worker notices that it must stop
GRANTED_WAIT_S = 0.05  # the same where it holds a part of max_messages that others may have a use for
GRANT_POLL_S = 0.01  # between two looks for a part that somebody gave back
TICK_S = 0.1  # how often the watching thread looks
PROBE_FIRST_S = 1.0  # silence before the broker is asked what is left; doubles up to…
PROBE_LAST_S = 10.0
JOIN_S = 30.0  # longest wait for workers to settle and close


class Halt:
    """Tells every worker to stop; may be signalled from a signal handler or another thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signalled = False

    def signal(self) -> None:
        """Ask for an orderly stop: settle what was read, then end."""
        self.signalled = True
        self.event.set()


@dataclass(slots=True)
class Share:
    """What one worker has done of one claim; written by that worker alone."""

    claim: Claim
    read: int = 0  # messages read, including those settled
    settled: int = 0  # messages acknowledged
    bytes: int = 0
    left: int | None = None
    reached: bool = False  # read up to the target, not necessarily settled
    done: bool = False  # reached and settled
    error: str | None = None
    resume: Position | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did to one partition."""

    messages: int  # acknowledged
    unacknowledged: int  # read, but not acknowledged: they stay in the backlog
    bytes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A drain as seen at one moment, for a progress display."""

    seconds: float
    messages: int  # read so far
    bytes: int
    left: int | None  # in the source's unit; None: unknown
    backlog: int | None  # at the start, in the source's unit
    retries: int


@dataclass(frozen=True, slots=True)
class Drain:
    """How a drain ended."""

    reason: StopReason
    seconds: float
    retries: int
    workers: int
    partitions: dict[Partition, Drained] = field(default_factory=dict)
    error: str | None = None  # of a worker as a whole, where no partition is to blame


class Budget:
    """`max_messages`, shared by workers without any of them exceeding it."""

    def __init__(self, limit: int, workers: int) -> None:
        self._left = limit
        self._workers = workers
        self._lock = threading.Lock()

    def take(self) -> int:
        """Reserve a fair part of what is left; 0 when all of it is reserved or used."""
        with self._lock:
            grant = -(-self._left // self._workers)
            self._left -= grant
            return grant

    def refund(self, unused: int) -> None:
        """Give back what was reserved and not used."""
        with self._lock:
            self._left += unused


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


class _Worker(threading.Thread):
    """One thread with one lane at a time."""

    def __init__(
        self,
        name: str,
        source: Source,
        claims: Iterable[Claim],
        *,
        options: RunOptions,
        halt: threading.Event,
        ended: threading.Event,
        budget: Budget | None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.source = source
        self.shares = {claim.partition: Share(claim, resume=claim.resume) for claim in claims}
        self.options = options
        self.halt = halt
        self.ended = ended
        self.budget = budget
        self.progress_at = time.monotonic()
        self.retries = 0
        self.troubled = False  # between a transient error and the next read that works
        self.failure: str | None = None
        self._unsettled = False

    def run(self) -> None:
        """Clear the claims; a failure is kept for the watching thread, which stops the others."""
        try:
            while not self.halt.is_set() and any(not share.done for share in self.shares.values()):
                self._retrying()
        except ClearerError as error:
            partition = error.partition if isinstance(error, BrokerError) else None
            share = self.shares.get(partition) if partition else None
            if share:
                share.error = share.error or str(error)
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001 an adapter's bug must end the run, not hang it
            _LOG.exception("%s failed", self.name)
            self.failure = f"{self.name} failed: {type(error).__name__}: {error}"
        finally:
            self.ended.set()

    def _retrying(self) -> None:
        """Run lanes until one has got further than the last, or retries are used up."""

        def report(state: tenacity.RetryCallState) -> None:
            self.retries += 1
            error = state.outcome.exception() if state.outcome else None
            wait = state.next_action.sleep if state.next_action else 0
            _LOG.warning("Trying again in %.1f s: %s", wait, error)

        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.options.max_retries + 1)
            | tenacity.stop_when_event_set(self.halt),
            wait=tenacity.wait_random_exponential(multiplier=0.2, min=0.2, max=8.0),
            sleep=tenacity.sleep_using_event(self.halt),
            before_sleep=report,
            reraise=True,
        )(self._session)

    def _session(self) -> None:
        """One lane from open to close; returns early after a transient error if it got further."""
        self._forget_unsettled()
        before = sum(share.settled for share in self.shares.values())
        claims = [
            replace(share.claim, resume=share.resume)
            for share in self.shares.values()
            if not share.done
        ]
        lane = self.source.open_lane(claims)
        try:
            try:
                self._read(lane)
            except ClearerError:
                self._settle_what_can_be(lane)
                raise
            self._settle(lane)
        except TransientError as error:
            self.troubled = True
            if self.halt.is_set() or sum(s.settled for s in self.shares.values()) == before:
                raise
            self.retries += 1
            _LOG.warning("Going on from what was acknowledged: %s", error)
            self.halt.wait(0.2)
        finally:
            lane.close()

    def _read(self, lane: Lane) -> None:
        """The hot loop: nothing here runs once per message, and little once per batch."""
        shares, read, halted, now = self.shares, lane.read, self.halt.is_set, time.monotonic
        budget = self.budget
        wait = GRANTED_WAIT_S if budget else READ_WAIT_S
        interval = self.source.traits.settle_interval_s
        settle_at = now() + interval
        waiting = sum(not share.reached for share in shares.values())
        while waiting and not halted():
            grant = budget.take() if budget else None
            if grant == 0:  # all of max_messages is reserved; somebody may give some back
                self.halt.wait(GRANT_POLL_S)
                continue
            got = 0
            try:
                advances = read(wait, grant)
                for partition, messages, left, size in advances:
                    share = shares[partition]
                    share.read += messages
                    share.bytes += size
                    share.left = left
                    got += messages
                    if left == 0 and share.claim.target is not None:
                        share.reached = True
                        waiting -= 1
            finally:
                if budget and grant is not None:
                    budget.refund(grant - got)
            if budget and not got:  # who has messages at hand, and no grant, must get its turn
                self.halt.wait(2 * GRANT_POLL_S)
            at = now()
            self.troubled = False
            if advances:
                self.progress_at = at
                self._unsettled = True
            if self._unsettled and at >= settle_at:
                self._settle(lane)
                settle_at = now() + interval

    def _settle(self, lane: Lane) -> None:
        """Acknowledge; raises `BrokerError` for a partition that the broker refuses for good."""
        refused = None
        for partition, messages, position, error in lane.settle():
            share = self.shares[partition]
            share.settled += messages
            if position is not None:
                share.resume = position
            if error is not None:
                share.error = error
                refused = partition
        self._unsettled = False
        for share in self.shares.values():
            share.done = share.reached and share.error is None
        if refused is not None:
            raise BrokerError(f"{refused}: {self.shares[refused].error}", refused)

    def _settle_what_can_be(self, lane: Lane) -> None:
        """After a failed read: acknowledge what was read before it, if the broker still answers."""
        if self._unsettled:
            try:
                self._settle(lane)
            except ClearerError as error:
                _LOG.warning("What was read last could not be acknowledged: %s", error)

    def _forget_unsettled(self) -> None:
        """Drop from the count what no lane can acknowledge any more: it will be read again."""
        for share in self.shares.values():
            lost = share.read - share.settled
            share.read = share.settled
            share.reached = share.done
            if lost and self.budget:
                self.budget.refund(lost)
        self._unsettled = False


def drain(
    source: Source,
    claims: Sequence[Claim],
    options: RunOptions,
    *,
    halt: Halt | None = None,
    observe: Callable[[Snapshot], None] = lambda _: None,
) -> Drain:
    """Read and acknowledge the claims until a stop rule applies; never raises a broker's error.

    `observe` is called about ten times a second from the calling thread.
    """
    halt = halt or Halt()
    ended = threading.Event()
    lanes = spread(claims, options.workers, competing=source.traits.competing)
    budget = Budget(options.max_messages, len(lanes)) if options.max_messages and lanes else None
    workers = [
        _Worker(
            f"worker-{index}",
            source,
            lane,
            options=options,
            halt=halt.event,
            ended=ended,
            budget=budget,
        )
        for index, lane in enumerate(lanes)
    ]
    watch = _Watch(source, claims, options, workers)
    for worker in workers:
        worker.start()
    while True:
        ended.clear()
        moment = watch.look(signalled=halt.signalled)
        observe(watch.snapshot(moment))
        reason = decide(moment, options)
        if reason:
            break
        ended.wait(TICK_S)
    halt.event.set()
    deadline = time.monotonic() + JOIN_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return watch.conclude(reason)


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, or None if any part of it is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


class _Watch:
    """The calling thread's view of the workers."""

    def __init__(
        self,
        source: Source,
        claims: Sequence[Claim],
        options: RunOptions,
        workers: Sequence[_Worker],
    ) -> None:
        self.source = source
        self.targets = {claim.partition: claim.target for claim in claims}
        self.frozen = all(target is not None for target in self.targets.values())
        self.options = options
        self.workers = workers
        self.shares = [share for worker in workers for share in worker.shares.values()]
        self.started = time.monotonic()
        self.backlog = _sum(claim.state.backlog for claim in claims)
        self.probed_at = self.started
        self.probed_left: int | None = None
        self.probe_wait = PROBE_FIRST_S

    def look(self, *, signalled: bool) -> Moment:
        """What is known now; asks the broker where the lanes cannot know."""
        now = time.monotonic()
        ended = not any(worker.is_alive() for worker in self.workers)  # before reading their figures
        progress_at = max((worker.progress_at for worker in self.workers), default=self.started)
        quiet_s = now - max(progress_at, self.started)
        if progress_at > self.probed_at:
            self.probed_left, self.probe_wait = None, PROBE_FIRST_S
        left = _sum(0 if share.reached else share.left for share in self.shares)
        if self._should_probe(left, quiet_s, now - self.probed_at):
            self._probe()
        finished = ended and self.frozen and all(share.done for share in self.shares)
        return Moment(
            elapsed_s=now - self.started,
            quiet_s=quiet_s,
            messages=sum(share.read for share in self.shares),
            empty=finished or self.probed_left == 0,
            left=self.probed_left if left is None else left,
            troubled=any(worker.troubled for worker in self.workers),
            signalled=signalled,
            failed=any(worker.failure for worker in self.workers),
        )

    def _should_probe(self, left: int | None, quiet_s: float, since_probe_s: float) -> bool:
        """Whether only the broker can say if this is the end, and it is time to ask."""
        if not self.options.stop_when_empty or since_probe_s < self.probe_wait:
            return False
        return (left is None and quiet_s >= self.probe_wait) or (left == 0 and not self.frozen)

    def _probe(self) -> None:
        try:
            found = self.source.remaining(self.targets)
        except ClearerError as error:
            _LOG.warning("The broker did not say what is left: %s", error)
            found = []
        answered = {item.partition: item.left for item in found}
        self.probed_left = _sum(answered.get(partition) for partition in self.targets)
        self.probed_at = time.monotonic()
        self.probe_wait = min(PROBE_LAST_S, self.probe_wait * 2)

    def snapshot(self, moment: Moment) -> Snapshot:
        """The moment for a progress display; an untouched claim still has all of its backlog."""
        left = moment.left
        if left is None and not self.source.traits.competing:
            left = _sum(
                share.claim.state.backlog if share.left is None and not share.read else share.left
                for share in self.shares
            )
        return Snapshot(
            seconds=moment.elapsed_s,
            messages=moment.messages,
            bytes=sum(share.bytes for share in self.shares),
            left=left,
            backlog=self.backlog,
            retries=sum(worker.retries for worker in self.workers),
        )

    def conclude(self, reason: StopReason) -> Drain:
        """Add up what the workers did, after they ended."""
        drained: dict[Partition, Drained] = {}
        for share in self.shares:
            partition = share.claim.partition
            old = drained.get(partition, Drained(0, 0, 0, None))
            drained[partition] = Drained(
                old.messages + share.settled,
                old.unacknowledged + share.read - share.settled,
                old.bytes + share.bytes,
                old.error or share.error,
            )
        errors = [worker.failure for worker in self.workers if worker.failure]
        errors += [
            f"{worker.name} did not stop within {JOIN_S:.0f} s; what it read last may be unacknowledged"
            for worker in self.workers
            if worker.is_alive()
        ]
        return Drain(
            reason=StopReason.FAILED if errors else reason,
            seconds=time.monotonic() - self.started,
            retries=sum(worker.retries for worker in self.workers),
            workers=len(self.workers),
            partitions=drained,
            error=errors[0] if errors else None,
        )

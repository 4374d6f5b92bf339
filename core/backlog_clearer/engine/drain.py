"""The drain: workers that read and acknowledge until a stop rule applies, and their figures added up.

A worker (`engine.worker`) is one thread with one lane. The calling thread only watches: it adds up
what the workers publish, asks the broker what is left where the lanes cannot know it, and applies
`engine.stop`.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backlog_clearer.engine.stop import Moment, decide
from backlog_clearer.engine.worker import Budget, Worker
from backlog_clearer.errors import ClearerError
from backlog_clearer.model import Claim, Partition, StopReason, total_known
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source

_LOG = logging.getLogger("backlog_clearer")

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
        """Ask for an orderly stop: acknowledge the messages that were read, then end."""
        self.signalled = True
        self.event.set()


@dataclass(frozen=True, slots=True)
class Drained:
    """The effect of a drain on one partition."""

    messages: int  # acknowledged
    unacknowledged: int  # read but not acknowledged: they stay in the backlog
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
    error: str | None = None  # of a worker as a whole, where no partition is at fault


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
) -> Drain:
    """Read and acknowledge the claims until a stop rule applies; never raises a broker's error.

    `observe` is called about ten times a second from the calling thread.
    """
    halt = halt or Halt()
    ended = threading.Event()
    lanes = spread(claims, run.workers, competing=source.traits.competing)
    budget = Budget(run.max_messages, len(lanes)) if run.max_messages and lanes else None
    workers = [
        Worker(
            f"worker-{index}",
            source,
            lane,
            run=run,
            halt=halt.event,
            ended=ended,
            budget=budget,
        )
        for index, lane in enumerate(lanes)
    ]
    watch = _Watch(source, claims, run, workers)
    for worker in workers:
        worker.thread.start()
    while True:
        ended.clear()
        moment = watch.look(signalled=halt.signalled)
        observe(watch.snapshot(moment))
        reason = decide(moment, run)
        if reason:
            break
        ended.wait(TICK_S)
    halt.event.set()
    deadline = time.monotonic() + JOIN_S
    for worker in workers:
        worker.thread.join(max(0.0, deadline - time.monotonic()))
    return watch.conclude(reason)


class _Watch:
    """The calling thread's view of the workers."""

    def __init__(
        self,
        source: Source,
        claims: Sequence[Claim],
        run: RunOptions,
        workers: Sequence[Worker],
    ) -> None:
        self.source = source
        self.targets = {claim.partition: claim.target for claim in claims}
        self.frozen = all(target is not None for target in self.targets.values())
        self.run = run
        self.workers = workers
        self.shares = [share for worker in workers for share in worker.shares.values()]
        self.started = time.monotonic()
        self.backlog = total_known(claim.state.backlog for claim in claims)
        self.probed_at = self.started
        self.probed_left: int | None = None
        self.probe_wait = PROBE_FIRST_S

    def look(self, *, signalled: bool) -> Moment:
        """The state now; asks the broker where the lanes cannot know it."""
        now = time.monotonic()
        ended = not any(
            worker.thread.is_alive() for worker in self.workers
        )  # before reading their figures
        progress_at = max((worker.progress_at for worker in self.workers), default=self.started)
        quiet_s = now - max(progress_at, self.started)
        if progress_at > self.probed_at:
            self.probed_left, self.probe_wait = None, PROBE_FIRST_S
        left = total_known(0 if share.reached else share.left for share in self.shares)
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
        """Whether only the broker can show if this is the end, and it is time to ask it."""
        if not self.run.stop_when_empty or since_probe_s < self.probe_wait:
            return False
        return (left is None and quiet_s >= self.probe_wait) or (left == 0 and not self.frozen)

    def _probe(self) -> None:
        try:
            found = self.source.remaining(self.targets)
        except ClearerError as error:
            _LOG.warning("The broker did not report what is left: %s", error)
            found = []
        answered = {item.partition: item.left for item in found}
        self.probed_left = total_known(answered.get(partition) for partition in self.targets)
        self.probed_at = time.monotonic()
        self.probe_wait = min(PROBE_LAST_S, self.probe_wait * 2)

    def snapshot(self, moment: Moment) -> Snapshot:
        """The moment for a progress display; an untouched claim still has all of its backlog."""
        left = moment.left
        if left is None and not self.source.traits.competing:
            left = total_known(
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
            f"{worker.name} did not stop within {JOIN_S:.0f} s; its last messages may be unacknowledged"
            for worker in self.workers
            if worker.thread.is_alive()
        ]
        return Drain(
            reason=StopReason.FAILED if errors else reason,
            seconds=time.monotonic() - self.started,
            retries=sum(worker.retries for worker in self.workers),
            workers=len(self.workers),
            partitions=drained,
            error=errors[0] if errors else None,
        )

"""A model of many slices on one platform and one broker: how long they take, and what that costs.

Events in order of time, nothing random. A platform starts slices at its pace and runs so many at once;
each needs its start-up, then reads at its own rate or at its share of the broker's, whichever is less
(processor sharing). One that meets the deadline ends, and the rest is queued again, as
`backlog_clearer.fanout.dispatch` does. All slices that read have the same rate at any moment, so what
each has read since it began is a difference of one virtual clock: a run of n invocations takes
O(n log n).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_NEXT = 1e-9  # of a token or a poll: the error of rounding
_NOTHING = 1e-3  # of a message, likewise: the clock counts to 10^12


@dataclass(frozen=True, slots=True)
class Platform:
    """How a platform starts slices: how fast, how many, at what price. `math.inf`: no limit; None: unknown."""

    name: str
    most_slices: float  # that one run can have
    at_once: float  # slices that run at the same time
    cold_s: float  # seconds from the decision to start an instance until its process begins
    starts_per_s: float = math.inf  # sustained, a token bucket
    burst: float = math.inf  # starts that the full bucket holds
    poll_s: float = 0.0  # starts happen only at multiples of it; the dispatch comes just after one
    starts_per_poll: float = math.inf
    keeps_instances: bool = False  # a slice takes an instance that has become free, without cold start
    paces_instances: bool = False  # the pace applies only to new instances, not to every slice
    deadline_s: float = math.inf  # of draining in one invocation
    again_s: float = 0.0  # seconds from the deadline until the slice waits for its next start
    bills_cold: bool = True
    least_billed_s: float = 0.0  # of one invocation
    vcpus: float = 1.0  # of one slice
    gib: float = 2.0
    usd_vcpu_s: float | None = None
    usd_gib_s: float | None = None
    usd_invocation: float | None = None

    def cost(self, billed_s: float, invocations: int) -> float | None:
        """US dollars of so many slice-seconds; None where a price is unknown."""
        if self.usd_vcpu_s is None or self.usd_gib_s is None or self.usd_invocation is None:
            return None
        second = self.vcpus * self.usd_vcpu_s + self.gib * self.usd_gib_s
        return second * billed_s + self.usd_invocation * invocations


class Bound(str, Enum):
    """The limit that kept a run from being faster."""

    BROKER = "broker"  # it sends all it can
    CONCURRENCY = "concurrency"  # slices wait, and no more may run
    START_RATE = "start rate"  # slices wait for the platform to start them
    START_UP = "start-up"  # nothing reads yet
    SLICES = "slices"  # every slice reads at its own rate, and none waits


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    seconds: float  # from the dispatch until the last slice has ended
    messages: float  # read in all
    billed_s: float  # slice-seconds
    invocations: int
    requeues: int  # of the slice that was put on again most often
    busiest: int  # instances in use at once
    cost: float | None  # US dollars; None: unknown
    bound: Bound  # the limit for most of the run's time


def shares(partitions: Sequence[float], slices: int) -> list[float]:
    """Messages of each slice: every `slices`-th partition, as `backlog_clearer.fanout.platform` deals them."""
    return [sum(partitions[index::slices]) for index in range(slices)]


class _Pace:
    """When the next start is allowed."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tokens = platform.burst
        self._since = 0.0
        self._poll, self._used = 0, 0

    def earliest(self, at: float) -> float:
        """The first moment from `at` on at which a start is allowed."""
        platform = self._platform
        if math.isfinite(platform.starts_per_s):
            have = self._at(at)
            if have < 1 - _NEXT:
                at += (1 - have) / platform.starts_per_s
        if platform.poll_s:
            at = self._poll_from(at) * platform.poll_s
        return at

    def take(self, at: float) -> None:
        """Start one at a moment that `earliest` gave."""
        platform = self._platform
        if math.isfinite(platform.starts_per_s):
            self._tokens, self._since = self._at(at) - 1, at
        if platform.poll_s:
            number = self._poll_from(at)
            self._used = self._used + 1 if number == self._poll else 1
            self._poll = number

    def _at(self, at: float) -> float:
        platform = self._platform
        return min(platform.burst, self._tokens + (at - self._since) * platform.starts_per_s)

    def _poll_from(self, at: float) -> int:
        number = max(1, math.ceil(at / self._platform.poll_s - _NEXT))
        full = number == self._poll and self._used >= self._platform.starts_per_poll
        return number + 1 if full else number


class _Run:
    """The state of one simulation."""

    def __init__(
        self, platform: Platform, work: Sequence[float], rate: float, capacity: float, startup_s: float
    ) -> None:
        self.platform, self.rate, self.capacity = platform, rate, capacity
        self.startup_s = startup_s
        self.left = list(work)
        self.pace = _Pace(platform)
        self.now = self.clock = 0.0  # seconds; messages that a slice which always read would have
        self.waiting = [(0.0, index) for index in range(len(work))]  # a heap: sorted already
        self.events: list[tuple[float, int, int]] = []  # when, slice, its invocation
        self.ends: list[tuple[float, int, int]] = []  # the clock's value, slice, its invocation
        self.reading: dict[int, float] = {}  # the clock's value at which each slice has read all
        self.begun = [0.0] * len(work)  # when the invocation's bill begins
        self.started = [0] * len(work)  # invocations of each slice
        self.busy = self.free = self.busiest = 0
        self.billed = self.messages = 0.0
        self.spent = dict.fromkeys(Bound, 0.0)

    def run(self) -> Outcome:
        """Until no slice is left."""
        while self.waiting or self.busy:
            self._drop_stale()
            ends = self._end_at()
            event = self.events[0][0] if self.events else math.inf
            start = self._start_at()
            self._advance(min(ends, event, start))
            if ends <= min(event, start):
                self._end(heapq.heappop(self.ends)[1])
            elif event <= start:
                self._happen(*heapq.heappop(self.events)[1:])
            else:
                self._start(heapq.heappop(self.waiting)[1])
        invocations = sum(self.started)
        return Outcome(
            seconds=self.now,
            messages=self.messages,
            billed_s=self.billed,
            invocations=invocations,
            requeues=max(self.started) - 1,
            busiest=self.busiest,
            cost=self.platform.cost(self.billed, invocations),
            bound=max(self.spent, key=lambda bound: self.spent[bound]),
        )

    def _drop_stale(self) -> None:
        """Forget deadlines of slices that came to their end, and ends of those that met a deadline."""
        for heap in (self.events, self.ends):
            while heap and not self._current(*heap[0][1:]):
                heapq.heappop(heap)

    def _current(self, index: int, invocation: int) -> bool:
        return self.started[index] == invocation and self.begun[index] >= 0

    def _speed(self) -> float:
        """Messages a second of each slice that reads."""
        return min(self.rate, self.capacity / len(self.reading)) if self.reading else 0.0

    def _end_at(self) -> float:
        if not self.ends:
            return math.inf
        return self.now + max(0.0, self.ends[0][0] - self.clock) / self._speed()

    def _warm(self) -> bool:
        return self.platform.keeps_instances and self.free > 0

    def _start_at(self) -> float:
        if not self.waiting or self.busy >= self.platform.at_once:
            return math.inf
        at = max(self.now, self.waiting[0][0])
        return at if self._warm() and self.platform.paces_instances else self.pace.earliest(at)

    def _advance(self, at: float) -> None:
        passed = at - self.now
        self.spent[self._bound()] += passed
        self.clock += passed * self._speed()
        self.messages += passed * self._speed() * len(self.reading)
        self.now = at

    def _bound(self) -> Bound:
        if len(self.reading) * self.rate > self.capacity:
            return Bound.BROKER
        if self.waiting and self.waiting[0][0] <= self.now:
            full = self.busy >= self.platform.at_once
            return Bound.CONCURRENCY if full else Bound.START_RATE
        return Bound.SLICES if self.reading else Bound.START_UP

    def _start(self, index: int) -> None:
        warm = self._warm()
        if warm:
            self.free -= 1
        if not (warm and self.platform.paces_instances):
            self.pace.take(self.now)
        cold = 0.0 if warm else self.platform.cold_s
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        self.started[index] += 1
        self.begun[index] = self.now + (0.0 if self.platform.bills_cold else cold)
        begins = self.now + cold + self.startup_s
        heapq.heappush(self.events, (begins, index, self.started[index]))

    def _happen(self, index: int, invocation: int) -> None:
        """A slice begins to read, or meets its deadline."""
        if index not in self.reading:
            self.reading[index] = self.clock + self.left[index]
            heapq.heappush(self.ends, (self.reading[index], index, invocation))
            if math.isfinite(self.platform.deadline_s):
                deadline = self.now + self.platform.deadline_s
                heapq.heappush(self.events, (deadline, index, invocation))
            return
        self.left[index] = self.reading[index] - self.clock
        self._end(index)
        if self.left[index] > _NOTHING:
            heapq.heappush(self.waiting, (self.now + self.platform.again_s, index))

    def _end(self, index: int) -> None:
        """An invocation ends."""
        del self.reading[index]
        billed = self.now - self.begun[index]
        self.billed += max(self.platform.least_billed_s, billed)
        self.begun[index] = -1.0
        self.busy -= 1
        self.free += 1


def simulate(
    platform: Platform, work: Sequence[float], *, rate: float, capacity: float, startup_s: float
) -> Outcome:
    """Run slices with so many messages each.

    `rate`: messages a second that one slice reads at most; `capacity`: that the broker sends at most;
    `startup_s`: seconds that a process needs besides reading. Raises `ValueError` where nothing can run.
    """
    if not work or len(work) > platform.most_slices:
        raise ValueError(
            f"{platform.name} takes 1 to {platform.most_slices:,} slices, not {len(work):,}"
        )
    if not (rate > 0 and capacity > 0 and platform.at_once >= 1 and platform.deadline_s > 0):
        raise ValueError("rate, capacity, at_once and deadline_s must be positive")
    return _Run(platform, work, rate, capacity, startup_s).run()
